"""The admin key: generated once, kept private, followed when it changes."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from penstock.errors import ConfigError
from penstock.registry.admin_key import AdminKey, key_file, read_key
from penstock.settings import Settings

KEY = "a-key-of-enough-letters"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "registry" / "admin.key"


@pytest.fixture
def written(file: Path) -> Path:
    file.parent.mkdir()
    file.write_text(f"{KEY}\n")
    file.chmod(0o600)
    return file


@pytest.mark.parametrize(
    ("database", "place"),
    [
        (None, "/srv/models/admin.key"),
        ("sqlite:////var/lib/penstock/registry.db", "/var/lib/penstock/admin.key"),
        ("sqlite+pysqlite:////var/lib/r.db?timeout=5", "/var/lib/admin.key"),
        ("sqlite://", "/srv/models/admin.key"),
        ("sqlite:///:memory:", "/srv/models/admin.key"),
        ("postgresql://user:secret@host/sqlite:///x", "/srv/models/admin.key"),
        ("postgresql+psycopg://host/registry", "/srv/models/admin.key"),
    ],
)
def test_the_file_lies_beside_the_database_of_the_registry(database: str | None, place: str) -> None:
    assert key_file(Path("/srv/models"), database) == Path(place)


def test_paths_are_relative_to_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert key_file(Path("registry"), None) == tmp_path / "registry" / "admin.key"
    assert key_file(Path("registry"), "sqlite:///data/registry.db") == tmp_path / "data" / "admin.key"


def test_a_key_is_generated_once_and_only_its_owner_may_read_it(file: Path) -> None:
    first = AdminKey(None, file)
    assert first.prepare() == f"the admin key is in {file}"
    key = first.current()
    assert key is not None
    assert len(key) >= 40
    assert file.stat().st_mode & 0o777 == 0o600
    assert AdminKey(None, file).prepare() == first.prepare()
    assert AdminKey(None, file).current() == read_key(file) == key
    assert [path.name for path in file.parent.iterdir()] == ["admin.key"]


def test_without_prepare_nothing_is_written_and_nobody_is_admitted(file: Path) -> None:
    assert AdminKey(None, file).current() is None
    assert not file.parent.exists()


def test_a_key_of_the_settings_writes_no_file(file: Path) -> None:
    key = AdminKey.of(Settings(registry=file.parent, admin_key=KEY))
    assert key.prepare() == "the admin key is the setting admin_key"
    assert key.current() == KEY
    assert not file.parent.exists()


def test_many_processes_that_start_at_once_have_the_same_key(file: Path) -> None:
    code = f"""
from pathlib import Path
from penstock.registry.admin_key import AdminKey
key = AdminKey(None, Path({str(file)!r}))
input()
key.prepare()
print(key.current())
"""
    pipe = subprocess.PIPE
    many = [subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True) for _ in range(3)]
    for process in many:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    keys = {process.communicate()[0] for process in many}
    assert keys == {f"{read_key(file)}\n"}


def test_a_file_system_without_hard_links_keeps_a_key_too(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    AdminKey(None, file).prepare()
    assert len(read_key(file)) >= 40
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_key_that_was_replaced_or_removed_counts_at_once(written: Path) -> None:
    key = AdminKey(None, written)
    assert key.current() == KEY
    written.write_text("another-key-of-enough-letters")
    assert key.current() == "another-key-of-enough-letters"
    written.unlink()
    assert key.current() is None
    assert key.prepare().startswith("the admin key is in")
    assert key.current() == read_key(written)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o606, 0o777])
def test_a_file_that_others_may_read_is_closed_with_one_warning(
    written: Path, mode: int, caplog: pytest.LogCaptureFixture
) -> None:
    written.chmod(mode)
    key = AdminKey(None, written)
    key.prepare()
    assert [key.current(), key.current()] == [KEY, KEY]
    assert written.stat().st_mode & 0o777 == 0o600
    assert [record.getMessage() for record in caplog.records] == [
        f"{written} was open to other users (mode {mode:o}) and is 600 now; to replace the key, remove the file and "
        "restart a server"
    ]


def test_a_file_that_cannot_be_closed_to_others_is_not_used(
    written: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    written.chmod(0o644)
    monkeypatch.setattr(os, "fchmod", lambda *_: None)  # as on a file system without modes
    key = AdminKey(None, written)
    assert key.current() is None
    assert "set PENSTOCK_ADMIN_KEY" in key.prepare()
    assert [record.getMessage() for record in caplog.records] == [
        f"{written} is open to other users (mode 644) and is not used; make it 600"
    ]


@pytest.mark.parametrize("text", ["", "\n", "short", " " * 40, "ключ-из-многих-букв", "a\nkey-of-enough-letters"])
def test_an_empty_or_weak_key_admits_nobody_and_stays_for_its_owner(
    written: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    written.write_text(text)
    key = AdminKey(None, written)
    assert key.current() is None
    assert key.prepare() == (
        f"the admin routes are closed: there is no usable key in {written}; set PENSTOCK_ADMIN_KEY"
    )
    assert written.read_text() == text
    assert len(caplog.records) == 1
    assert "holds no admin key" in caplog.text


def test_a_link_a_directory_and_a_pipe_are_not_keys(file: Path, written: Path, tmp_path: Path) -> None:
    link, pipe = tmp_path / "link.key", tmp_path / "pipe.key"
    link.symlink_to(written)
    os.mkfifo(pipe)
    for path, why in (
        (link, "symbolic link"),
        (pipe, "not a file"),
        (tmp_path, "not a file"),
        (tmp_path / "x", "No such"),
    ):
        with pytest.raises(ConfigError, match=why):
            read_key(path)


def test_where_no_key_can_be_kept_the_sentence_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "registry").write_text("a file")
    file = tmp_path / "registry" / "admin.key"
    assert AdminKey(None, file).prepare() == (
        f"the admin routes are closed: {file} cannot be written (File exists); set PENSTOCK_ADMIN_KEY"
    )


def test_the_key_is_not_logged(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    key = AdminKey(None, file)
    said = key.prepare()
    file.chmod(0o644)
    assert key.current() is not None
    assert str(key.current()) not in caplog.text + said + repr(key)
