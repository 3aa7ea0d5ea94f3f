"""The settings file: what is tuned changes, and nothing else."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from penstock.errors import ConfigError
from penstock.toolchain.tune.settings_file import changed, read, sets_model, write

TUNED = {"workers": 2, "threads": 1, "batch_size": 8, "max_wait_ms": 2.5}
EXISTING = """\
# our server
host = "0.0.0.0"   # everywhere
cors_origins = [
  "https://app.example.org",
]
workers = 4  # as many as there were
threads = 3

[models.ranker]
batch_size = 128  # not ours
"""


def test_a_new_file_holds_the_settings_and_what_was_measured() -> None:
    text = changed("", TUNED, ("digits:v1.0 on 2 cores",))
    assert text.startswith("# penstock tune: digits:v1.0 on 2 cores\nworkers = 2\n")
    assert tomllib.loads(text) == TUNED


def test_an_existing_file_keeps_everything_else() -> None:
    text = changed(EXISTING, TUNED)
    expected = tomllib.loads(EXISTING) | TUNED
    assert tomllib.loads(text) == expected
    for kept in ("# our server", "# everywhere", "workers = 2  # as many as there were", "# not ours"):
        assert kept in text


def test_a_setting_that_goes_back_to_its_default_is_removed() -> None:
    text = changed(EXISTING, TUNED | {"threads": None})
    assert "threads" not in tomllib.loads(text)


def test_tuning_again_replaces_the_comment_and_the_values() -> None:
    once = changed(EXISTING, TUNED, ("first",))
    twice = changed(once, TUNED | {"workers": 1}, ("second",))
    assert twice.count("# penstock tune") == 1
    assert "second" in twice
    assert tomllib.loads(twice)["workers"] == 1
    assert changed(twice, TUNED | {"workers": 1}, ("second",)) == twice


def test_a_table_of_the_model_is_changed_too_where_it_would_take_precedence() -> None:
    assert sets_model(EXISTING, "ranker")
    assert not sets_model(EXISTING, "digits")
    text = changed(EXISTING, TUNED, model="ranker")
    assert tomllib.loads(text)["models"] == {"ranker": {"batch_size": 8, "max_wait_ms": 2.5}}
    added = changed(EXISTING, TUNED, model="digits")
    assert tomllib.loads(added)["models"]["digits"] == {"batch_size": 8, "max_wait_ms": 2.5}
    assert tomllib.loads(added)["models"]["ranker"] == {"batch_size": 128}


@pytest.mark.parametrize(
    "text",
    [
        "models = { ranker = { batch_size = 128 } }\n",
        'redact_patterns = ["""\nworkers = 4\n"""]\n',
    ],
)
def test_a_file_that_cannot_be_changed_line_by_line_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="write another file, out=…"):
        changed(text, TUNED, model="ranker")


def test_values_in_quoted_keys_are_changed() -> None:
    assert tomllib.loads(changed('"workers" = 3\n', TUNED)) == TUNED


def test_a_file_that_is_no_toml_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "penstock.toml"
    assert read(path) == ""
    path.write_text("workers = = 2")
    with pytest.raises(ConfigError, match="is not valid TOML"):
        read(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read(tmp_path)


def test_a_file_is_written_as_a_whole_and_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "penstock.toml"
    path.write_text("old")
    path.chmod(0o600)
    write(path, "workers = 1\n")
    assert path.read_text() == "workers = 1\n"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_directory_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere/penstock.toml: the settings cannot be written"):
        write(tmp_path / "nowhere" / "penstock.toml", "")
