"""Where settings come from, which source wins, and what a wrong one says."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import ConfigError
from penstock.option_types import parse_duration, parse_size
from penstock.settings import LoadedSettings, Settings, display, load_settings

Load = Callable[..., LoadedSettings]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """`load_settings` in an empty directory and an empty environment, with the files given."""

    def run(
        environ: Mapping[str, str] | None = None,
        *,
        dotenv: str | None = None,
        toml: str | None = None,
        overrides: Mapping[str, Any] | None = None,
        config_file: Path | None = None,
    ) -> LoadedSettings:
        if dotenv is not None:
            (tmp_path / ".env").write_text(dotenv, encoding="utf-8")
        if toml is not None:
            (tmp_path / "penstock.toml").write_text(toml, encoding="utf-8")
        return load_settings(overrides, config_file=config_file, environ=environ or {}, directory=tmp_path)

    return run


def refusal(load: Load, **where: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load(**where)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_without_any_source_everything_is_the_default(load: Load) -> None:
    loaded = load()
    assert loaded.settings == Settings()
    assert (loaded.settings.host, loaded.settings.port) == ("127.0.0.1", 8002)
    assert set(loaded.sources) == set(Settings.model_fields)
    assert set(loaded.sources.values()) == {"default"}


SOURCES: list[tuple[str, str, dict[str, Any]]] = [
    ("penstock.toml", "penstock.toml", {"toml": "port = 1"}),
    (".env alias", ".env API_PORT", {"dotenv": "API_PORT=2"}),
    (".env", ".env PENSTOCK_PORT", {"dotenv": "API_PORT=2\nPENSTOCK_PORT=3"}),
    ("environment alias", "environment API_PORT", {"environ": {"API_PORT": "4"}}),
    ("environment", "environment PENSTOCK_PORT", {"environ": {"API_PORT": "4", "PENSTOCK_PORT": "5"}}),
    ("command line", "command line", {"overrides": {"port": 6}}),
]


@pytest.mark.parametrize("rank", range(len(SOURCES)), ids=[name for name, _, _ in SOURCES])
def test_a_higher_source_wins_over_all_lower_ones(load: Load, rank: int) -> None:
    where: dict[str, Any] = {}
    for _, _, part in SOURCES[: rank + 1]:
        where.update(part)
    loaded = load(**where)
    assert loaded.settings.port == rank + 1
    assert loaded.sources["port"] == SOURCES[rank][1]
    assert loaded.sources["host"] == "default"


def test_an_option_that_was_not_given_does_not_hide_lower_sources(load: Load) -> None:
    assert load({"PENSTOCK_PORT": "9000"}, overrides={"port": None}).settings.port == 9000


@pytest.mark.parametrize("name", ["PENSTOCK_CORS_ORIGINS", "CORS_ORIGINS"])
def test_an_empty_value_counts_as_not_set(load: Load, name: str) -> None:
    loaded = load({name: ""}, dotenv="CORS_ORIGINS=http://a.example")
    assert loaded.settings.cors_origins == ("http://a.example",)


@pytest.mark.parametrize(
    ("name", "value", "field", "expected"),
    [
        ("MODEL_PATH", "m.onnx", "model_path", Path("m.onnx")),
        ("MODEL_TYPE", "ONNX", "model_type", "onnx"),
        ("DEVICE", "cuda:1", "device", "cuda:1"),
        ("BATCH_SIZE", "8", "batch_size", 8),
        ("USE_FP16", "true", "use_fp16", True),
        ("ENABLE_ONNX_OPTIMIZATION", "0", "enable_onnx_optimization", False),
        ("CACHE_SIZE", "7", "cache_size", 7),
        ("API_HOST", "0.0.0.0", "host", "0.0.0.0"),
        ("API_PORT", "80", "port", 80),
        (
            "CORS_ORIGINS",
            "http://a.example, https://b.example:8443,",
            "cors_origins",
            ("http://a.example", "https://b.example:8443"),
        ),
        ("DATABASE_URL", "postgresql://u@h/d", "database_url", "postgresql://u@h/d"),
        ("PENSTOCK_MAX_BYTES", "4GiB", "max_bytes", 4 * 2**30),
        ("PENSTOCK_MAX_BODY_BYTES", "1.5 MB", "max_body_bytes", 1_500_000),
        ("PENSTOCK_LOG_LEVEL", "DEBUG", "log_level", "debug"),
        ("PENSTOCK_MAX_WAIT_MS", "2.5", "max_wait_ms", 2.5),
        ("PENSTOCK_THREADS", "2", "threads", 2),
    ],
)
def test_every_kind_of_value_is_read_from_text(load: Load, name: str, value: str, field: str, expected: object) -> None:
    assert getattr(load({name: value}).settings, field) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [*((t, True) for t in ("1", "true", "Yes", "on")), *((t, False) for t in ("0", "FALSE", "no", "off"))],
)
def test_booleans_are_accepted_in_several_spellings(load: Load, text: str, expected: bool) -> None:
    assert load({"PENSTOCK_ACCESS_LOG": text}).settings.access_log is expected


def test_a_home_directory_is_expanded_where_no_shell_does_it(load: Load) -> None:
    assert load(toml='registry = "~/models"').settings.registry == Path.home() / "models"


def test_toml_values_keep_their_types(load: Load) -> None:
    lines = ["port = 81", "use_fp16 = true", 'max_bytes = "1GiB"', 'cors_origins = ["http://a.example", "*"]']
    settings = load(toml="\n".join([*lines, 'registry = "/srv/models"'])).settings
    assert (settings.port, settings.use_fp16, settings.max_bytes) == (81, True, 2**30)
    assert settings.cors_origins == ("http://a.example", "*")
    assert settings.registry == Path("/srv/models")


def test_another_configuration_file_is_named_as_the_source(load: Load, tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text("port = 82", encoding="utf-8")
    loaded = load(toml="port = 81", config_file=other)
    assert (loaded.settings.port, loaded.sources["port"]) == (82, str(other))


@pytest.mark.parametrize(
    ("where", "parts"),
    [
        ({"environ": {"PENSTOCK_PROT": "1"}}, ["PENSTOCK_PROT", "the environment", "did you mean PENSTOCK_PORT?"]),
        ({"dotenv": "PENSTOCK_PROT=1"}, ["PENSTOCK_PROT", ".env", "did you mean PENSTOCK_PORT?"]),
        ({"toml": "prot = 1"}, ["prot", "penstock.toml", "did you mean port?"]),
        ({"environ": {"PENSTOCK_ZZZZ": "1"}}, ["PENSTOCK_ZZZZ", "docs/settings.md"]),
        ({"environ": {"PENSTOCK_PORT": "abc"}}, ["PENSTOCK_PORT in the environment", "'abc'", "whole number"]),
        ({"environ": {"API_PORT": "70000"}}, ["API_PORT in the environment", "'70000'", "65535"]),
        ({"dotenv": "BATCH_SIZE=0"}, ["BATCH_SIZE in .env", "'0'", "greater than or equal to 1"]),
        ({"toml": "port = true"}, ["port in penstock.toml", "True", "number"]),
        ({"toml": "host = 5"}, ["host in penstock.toml", "5", "text"]),
        ({"toml": "[port]\nx = 1"}, ["port in penstock.toml", "whole number"]),
        ({"overrides": {"device": "tpu"}}, ["--device", "'tpu'", "auto, cpu, cuda, cuda:N or mps"]),
        ({"environ": {"MODEL_TYPE": "tflite"}}, ["MODEL_TYPE", "'onnx'", "'torchscript'", "'pytorch'"]),
        ({"environ": {"PENSTOCK_USE_FP16": "maybe"}}, ["PENSTOCK_USE_FP16", "'maybe'", "true or false"]),
        ({"environ": {"PENSTOCK_MAX_BYTES": "4 bananas"}}, ["PENSTOCK_MAX_BYTES", "'4 bananas'", "16MiB"]),
        ({"environ": {"PENSTOCK_MAX_WAIT_MS": "nan"}}, ["PENSTOCK_MAX_WAIT_MS", "'nan'", "finite"]),
        (
            {"environ": {"CORS_ORIGINS": "https://a.example/"}},
            ["CORS_ORIGINS", "'https://a.example/'", "without a path"],
        ),
        ({"toml": "port = = 1"}, ["penstock.toml", "not valid TOML"]),
        ({"config_file": Path("/nowhere/p.toml")}, ["/nowhere/p.toml", "cannot be read"]),
        ({"overrides": {"prot": 1}}, ["--prot", "did you mean port?"]),
    ],
)
def test_a_wrong_setting_is_refused_in_one_line_that_names_it(
    load: Load, where: dict[str, Any], parts: list[str]
) -> None:
    message = refusal(load, **where)
    assert [part for part in parts if part not in message] == [], message


def test_a_wrong_database_url_is_refused_without_showing_its_password(load: Load) -> None:
    message = refusal(load, environ={"DATABASE_URL": "mysql://u:hunter2@h/d"})
    assert "DATABASE_URL" in message
    assert "hunter2" not in message


@pytest.mark.parametrize("scheme", ["sqlite", "postgresql", "postgres", "postgresql+asyncpg"])
def test_database_urls_of_other_programs_are_accepted(load: Load, scheme: str) -> None:
    url = f"{scheme}://u:hunter2@h/d"
    assert load({"DATABASE_URL": url}).settings.database_url == url


def test_an_env_file_that_is_not_text_is_refused(load: Load, tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"PENSTOCK_PORT=\xff\xfe")
    assert "not UTF-8" in refusal(load)


def test_other_names_in_the_environment_and_the_env_file_are_ignored(load: Load) -> None:
    assert load({"PATH": "/bin", "PORT": "1"}, dotenv="SECRET=x\nDEBUG\n# c\n").settings == Settings()


def test_variables_set_by_kubernetes_for_a_service_named_penstock_are_ignored(load: Load) -> None:
    environ = {
        "PENSTOCK_SERVICE_HOST": "10.0.0.1",
        "PENSTOCK_SERVICE_PORT": "8002",
        "PENSTOCK_SERVICE_PORT_HTTP": "8002",
        "PENSTOCK_PORT": "tcp://10.0.0.1:8002",
        "PENSTOCK_PORT_8002_TCP": "tcp://10.0.0.1:8002",
        "PENSTOCK_PORT_8002_TCP_ADDR": "10.0.0.1",
        "PENSTOCK_CANARY_SERVICE_HOST": "10.0.0.2",
        "PENSTOCK_CANARY_PORT": "tcp://10.0.0.2:8002",
    }
    assert load(environ).sources["port"] == "default"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://user:hunter2@host:5432/db", "postgresql://user:***@host:5432/db"),
        ("postgresql://user:hun@ter2@host/db", "postgresql://user:***@host/db"),
        ("postgresql://host/db?user=u&password=hunter2&x=1", "postgresql://host/db?user=u&password=***&x=1"),
        ("sqlite:///registry/registry.db", "sqlite:///registry/registry.db"),
    ],
)
def test_a_password_is_never_shown(load: Load, url: str, shown: str) -> None:
    settings = load({"DATABASE_URL": url}).settings
    assert settings.database_url == url
    assert display("database_url", settings.database_url) == shown
    assert "ter2" not in repr(settings) + str(settings)


def test_settings_cannot_be_changed_after_loading(load: Load) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load().settings.port = 1  # type: ignore[misc]


@given(st.integers(min_value=0, max_value=2**50), st.sampled_from(["", "B", " B"]))
def test_any_number_of_bytes_is_parsed(size: int, unit: str) -> None:
    assert parse_size(f"{size}{unit}") == size == parse_size(size)


@given(st.text(max_size=12) | st.from_regex(r"\d{1,4}(\.\d)? ?[kmgt]?i?b?", fullmatch=True))
def test_a_size_is_parsed_or_raises_value_error(text: str) -> None:
    try:
        size = parse_size(text)
    except ValueError:
        return
    assert size >= 0
    assert any(char.isdigit() for char in text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("20ms", 0.02), ("90s", 90), ("2m", 120), ("1.5 h", 5400), ("3min", 180), ("500us", 0.0005), ("7", 7), (7, 7)],
)
def test_a_duration_is_a_number_with_a_unit(text: str | float, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


def test_a_number_alone_counts_in_the_unit_of_the_option() -> None:
    assert parse_duration("20", "ms") == parse_duration(20, "ms") == pytest.approx(0.02)


@pytest.mark.parametrize("value", ["", "0", "0ms", "-1s", "ten", "1 fortnight", "nan", "1e3s", True, None, "9999999h"])
def test_what_is_no_positive_duration_raises_value_error(value: Any) -> None:
    with pytest.raises(ValueError, match="should be"):
        parse_duration(value)


# Tables for single models


def test_a_model_has_its_own_table(load: Load) -> None:
    digits = 'batch_size = 8\n[models.digits]\nbatch_size = 64\nmax_queue_bytes = "1MiB"\n'
    toml = digits + '[models."my model"]\nmax_wait_ms = 2.5\n'
    settings = load(toml=toml).settings
    assert settings.batch_size == 8
    assert settings.models["digits"].batch_size == 64
    assert settings.models["digits"].max_queue_bytes == 2**20
    assert settings.models["digits"].max_wait_ms is None
    assert settings.models["my model"].max_wait_ms == 2.5
    assert display("models", settings.models) == {
        "digits": {"batch_size": 64, "max_queue_bytes": 2**20},
        "my model": {"max_wait_ms": 2.5},
    }


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("batchsize = 1", "batchsize in penstock.toml is not a setting; did you mean batch_size?"),
        ('batch_size = "many"', "batch_size in penstock.toml is 'many'; it should be a whole number"),
        ("max_wait_ms = -1", "max_wait_ms in penstock.toml is -1; it should be greater than or equal to 0"),
        ("max_queue_size = true", "max_queue_size in penstock.toml is True; it should be a number"),
    ],
)
def test_an_error_in_a_table_names_its_model(load: Load, line: str, sentence: str) -> None:
    assert refusal(load, toml=f"[models.digits]\n{line}") == f"models.digits.{sentence}"


@pytest.mark.parametrize(
    ("toml", "sentence"),
    [
        ("[models]\ndigits = 3", "models.digits in penstock.toml is 3; it should be a table"),
        ("models = 3", "models in penstock.toml is 3; it should be tables, such as [models.digits]"),
    ],
)
def test_a_value_that_is_not_a_table_is_refused(load: Load, toml: str, sentence: str) -> None:
    assert refusal(load, toml=toml) == sentence


def test_the_environment_is_flat_and_holds_no_tables(load: Load) -> None:
    assert "PENSTOCK_MODELS in the environment is not a setting" in refusal(load, environ={"PENSTOCK_MODELS": "{}"})


def test_the_admin_key_is_never_shown_and_must_not_be_short(load: Load) -> None:
    key = "a-key-of-16-letters://x"
    settings = load({"PENSTOCK_ADMIN_KEY": key}).settings
    assert settings.admin_key == key
    assert display("admin_key", key) == "***"
    assert key not in repr(settings)
    message = refusal(load, environ={"PENSTOCK_ADMIN_KEY": "short-key"})
    assert message == "PENSTOCK_ADMIN_KEY in the environment should have at least 16 characters"


@pytest.mark.parametrize(("value", "workers"), [("auto", "auto"), (" AUTO ", "auto"), ("3", 3), (256, 256), ("1", 1)])
def test_the_number_of_workers_may_be_left_to_the_machine(load: Load, value: object, workers: object) -> None:
    assert load(overrides={"workers": value}).settings.workers == workers


@pytest.mark.parametrize("value", ["0", 0, -1, 257, "many", "1.5", 2.0, True, "", "²"])
def test_a_number_of_workers_that_is_none_is_refused(load: Load, value: object) -> None:
    with pytest.raises(ConfigError, match=r"--workers is .*; it should be auto or a whole number from 1 to 256"):
        load(overrides={"workers": value})


def test_webhooks_are_a_list_of_addresses_of_which_only_the_host_is_shown(load: Load) -> None:
    secret = "https://me:hunter2@hooks.example.org:8443/T0/B0?token=hunter3, http://127.0.0.1:9/"
    settings = load(overrides={"alert_webhooks": f"{secret},http://127.0.0.1:9/"}).settings
    assert settings.alert_webhooks == tuple(secret.split(", "))
    shown = display("alert_webhooks", settings.alert_webhooks)
    assert shown == ("https://hooks.example.org:8443/***", "http://127.0.0.1:9/***")
    assert not re.search("hunter|T0", repr(settings))


@pytest.mark.parametrize(
    "address",
    [
        "ftp://hunter2/",
        "hunter2",
        "https://",
        "http://hunter2:99999/",
        "file:///hunter2",
        "http://h/hunter 2",
        "//hunter2",
    ],
)
def test_a_webhook_that_is_none_is_refused_without_being_shown(load: Load, address: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load(overrides={"alert_webhooks": f"http://good.example/,{address}"})
    assert str(refused.value) == (
        "--alert-webhooks should be a comma list of addresses such as https://example.org/hook; entry 2 is none"
    )
