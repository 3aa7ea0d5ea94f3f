"""An installation of TorchServe, moved: what becomes of each line, and settings that a server takes."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_archives import FILES, MODEL, Upstream, manifest, written, zipped

from penstock.errors import ConfigError
from penstock.settings import load_settings
from penstock.torchserve.migration.installation import read_installation, started_models
from penstock.torchserve.migration.keys import ATTENTION, KEYS, MOVES, NOT_NEEDED
from penstock.torchserve.migration.migration import Migration, migrate, write_settings
from penstock.torchserve.migration.rules import _RULES

SNAPSHOT = {
    "name": "startup.cfg",
    "modelCount": 1,
    "models": {
        "m": {
            "1.0": {
                "defaultVersion": True,
                "marName": "m.mar",
                "minWorkers": 1,
                "maxWorkers": 5,
                "batchSize": 4,
                "maxBatchDelay": 200,
                "responseTimeout": 60,
                "startupTimeout": 120,
                "runtimeType": "python",
            }
        }
    },
}


def moved(tmp_path: Path, text: str, environ: dict[str, str] | None = None, **more: Any) -> Migration:
    (tmp_path / "config.properties").write_text(text)
    return migrate(tmp_path / "config.properties", environ or {}, **more)


def becomes(migration: Migration, key: str) -> tuple[str, dict[str, Any]]:
    line = next(line for line in migration.lines if line.setting.key == key)
    return line.outcome.state, dict(line.outcome.settings)


def why(migration: Migration, key: str) -> str:
    return next(line.outcome.why for line in migration.lines if line.setting.key == key)


@pytest.mark.parametrize(
    ("line", "state", "expected"),
    [
        ("inference_address=http://0.0.0.0:8085", "moves", {"host": "0.0.0.0", "port": 8085}),
        ("inference_address=http\\://[::1]\\:9", "moves", {"host": "::1", "port": 9}),
        ("inference_address=http://localhost", "moves", {"host": "localhost", "port": 80}),
        ("inference_address=https://h:1", "attention", {"host": "h", "port": 1}),
        ("inference_address=https://h\ncertificate_file=c.pem", "moves", {"host": "h", "port": 443}),
        ("inference_address=unix:/run/ts.sock", "moves", {"uds": "/run/ts.sock"}),
        ("inference_address=http://h:99999", "attention", {}),
        ("inference_address=8080", "attention", {}),
        ("management_address=http://127.0.0.1:8080", "not needed", {}),
        ("management_address=http://127.0.0.1:8081", "attention", {}),
        ("metrics_address=http://127.0.0.1:8082", "attention", {}),
        ("job_queue_size=1000", "moves", {"max_queue_size": 1000}),
        ("job_queue_size=many", "attention", {}),
        ("default_response_timeout=120", "moves", {"request_timeout_ms": 120_000}),
        ("max_request_size=655350000", "moves", {"max_body_bytes": 655_350_000}),
        ("number_of_gpu=0", "moves", {"device": "cpu"}),
        ("number_of_gpu=1", "not needed", {}),
        ("number_of_gpu=4", "attention", {}),
        ("private_key_file=k.pem", "moves", {"tls_key": "k.pem"}),
        ("cors_allowed_origin=https://a.example", "moves", {"cors_origins": "https://a.example"}),
        ("cors_allowed_origin=nonsense://", "attention", {}),
        ("disable_token_authorization=true", "moves", {"require_auth": False}),
        ("disable_token_authorization=false", "attention", {}),
        ("default_workers_per_model=0", "not needed", {}),
        ("default_workers_per_model=8", "attention", {}),
        ("vmargs=-Xmx4g", "not needed", {}),
        ("grpc_inference_port=7070", "attention", {}),
        ("nonsense=1", "not needed", {}),
    ],
)
def test_each_setting_moves_or_says_why_not(tmp_path: Path, line: str, state: str, expected: dict[str, Any]) -> None:
    migration = moved(tmp_path, line)
    assert becomes(migration, line.partition("=")[0]) == (state, expected)
    assert expected.items() <= tomllib.loads(migration.toml).items()


def test_what_upstream_does_by_default_is_kept(tmp_path: Path) -> None:
    migration = moved(tmp_path, "")
    assert tomllib.loads(migration.toml) == {"host": "127.0.0.1", "port": 8080}
    assert becomes(migration, "disable_token_authorization") == ("attention", {})


def test_every_key_has_one_place() -> None:
    assert len(set(KEYS)) == len(KEYS) == len(MOVES) + len(NOT_NEEDED) + len(ATTENTION)
    assert set(_RULES) == set(MOVES)


def test_a_misspelt_key_gets_a_hint(tmp_path: Path) -> None:
    assert why(moved(tmp_path, "job_queue_szie=5"), "job_queue_szie") == (
        "TorchServe does not read it; it reads job_queue_size"
    )


def test_the_environment_takes_precedence_where_the_file_allows_it(tmp_path: Path) -> None:
    environ = {"TS_JOB_QUEUE_SIZE": "7", "TS_ALLOWED_URLS": "x", "TS_NUMBER_OF_GPU": "0"}
    assert becomes(moved(tmp_path, "job_queue_size=5", environ), "job_queue_size")[1] == {"max_queue_size": 5}
    migration = moved(tmp_path, "enable_envvars_config=true\njob_queue_size=5", environ)
    assert tomllib.loads(migration.toml).items() >= {"max_queue_size": 7, "device": "cpu"}.items()
    assert [(line.setting.value, line.outcome.why) for line in migration.lines if line.setting.line == 2] == [
        ("5", "environment TS_JOB_QUEUE_SIZE takes precedence")
    ]
    assert all(line.setting.key != "allowed_urls" for line in migration.lines)
    migration = moved(tmp_path, "enable_envvars_config=true\nuse_env_allowed_urls=true", environ)
    assert becomes(migration, "allowed_urls") == ("attention", {})


def test_variables_are_filled_in(tmp_path: Path) -> None:
    text = "inference_address=http://$$HOST_NAME$$:$$PORT1$$\njob_queue_size=$$QUEUE$$"
    migration = moved(tmp_path, text, {"HOST_NAME": "h", "PORT1": "81"})
    assert tomllib.loads(migration.toml) == {"host": "h", "port": 81}
    assert why(migration, "job_queue_size") == "the variable QUEUE is not set here; set it, and migrate again"


def test_of_a_key_that_is_set_twice_the_last_counts(tmp_path: Path) -> None:
    migration = moved(tmp_path, "job_queue_size=5\njob_queue_size=6")
    assert [(line.setting.line, line.outcome.why) for line in migration.lines[:2]] == [
        (1, "config.properties, line 2 takes precedence"),
        (2, "rows that wait for a model, where TorchServe counts requests"),
    ]
    assert tomllib.loads(migration.toml)["max_queue_size"] == 6


def test_passwords_are_not_shown(tmp_path: Path) -> None:
    migration = moved(tmp_path, "keystore_pass=geheim")
    assert "geheim" not in json.dumps(migration.to_json())


def test_the_models_of_a_snapshot_are_opened(tmp_path: Path, upstream: Upstream) -> None:
    written(tmp_path, {"h.py": FILES["handler.py"], "c.yaml": b"batchSize: 8\njobQueueSize: 9\n"})
    upstream.model("--model-name", "m", "-v", "1.0", "--handler", tmp_path / "h.py", "-c", tmp_path / "c.yaml",
                   "--export-path", tmp_path)  # fmt: skip
    migration = moved(tmp_path, f"model_store={tmp_path}\nmodel_snapshot={json.dumps(SNAPSHOT)}\nload_models=all")
    (model,) = migration.models
    assert (model.name, model.version, model.state) == ("m", "1.0", "attention")
    assert model.why == "its handler 'h.py' is Python, and handlers do not run yet"
    expected = {"batch_size": 8, "max_wait_ms": 200, "max_queue_size": 9, "request_timeout_ms": 60_000}
    assert tomllib.loads(migration.toml)["models"] == {"m": expected}
    assert model.notes == ("maxWorkers: one process answers many requests at once; workers are whole servers",)


@pytest.mark.parametrize(
    ("fields", "more", "state", "way", "says"),
    [
        ({"handler": "base_handler", "serializedFile": "m.onnx"}, {"m.onnx": b"1"}, "moves", "archive", "as it is"),
        ({"handler": "image_classifier", "serializedFile": "m.onnx"}, {"m.onnx": b"1"}, "attention", "import",
         "what image_classifier does around the model is described with preprocess={…} and labels=[…]"),
        ({"handler": "base_handler", "serializedFile": "m.pt"}, {"m.pt": b"1"}, "attention", "archive program",
         "it is a program: trust it"),
        ({"handler": "base_handler", "serializedFile": "m.pt", "modelFile": "net.py"}, {"m.pt": b"1", "net.py": b"2"},
         "attention", "export", "export it with its class in net.py"),
        ({"handler": "base_handler"}, {}, "attention", None, "it holds no model file"),
        ({"handler": "base_handler", "serializedFile": "m.bin"}, {"m.bin": b"1"}, "attention", None, "of a kind"),
        ({"handler": "../h.py"}, {}, "attention", None, "would leave the directory"),
        ({"configFile": "c.yaml"}, {"c.yaml": b"a: !!python/name:os.system ''"}, "attention", None, "it is not YAML"),
    ],
)  # fmt: skip
def test_the_way_of_a_model_follows_from_its_archive(
    tmp_path: Path, fields: dict[str, str], more: dict[str, bytes], state: str, way: str | None, says: str
) -> None:
    zipped(tmp_path / "m.mar", {**FILES, **more, "MAR-INF/MANIFEST.json": manifest(**fields)})
    (model,) = moved(tmp_path, "load_models=m.mar", model_store=tmp_path).models
    assert (model.state, model.way) == (state, way)
    assert says in model.why


def test_the_models_of_a_store_are_found(tmp_path: Path) -> None:
    store = tmp_path / "store"
    zipped(written(store, {"notes.txt": b""}) / "b.mar", MODEL)
    written(store / "a", MODEL)
    text = "model_store=store\nload_models={}\nmodels=" + json.dumps(
        {"x": {"1.0": {"marName": "b.mar", "batchSize": 2}}}
    )
    listed = {
        "all": [("m", "a"), ("x", "b.mar")],
        "c=b.mar, a": [("c", "b.mar"), ("m", "a")],
        "none": [("x", "b.mar")],
        "http://h/q.mar": [("q", "http://h/q.mar")],
        "z.mar": [("z", "z.mar")],
    }
    for wanted, expected in listed.items():
        models = moved(tmp_path, text.replace("{}", wanted, 1)).models
        assert [(model.name, model.archive) for model in models] == expected
    assert models[0].why == f"there is no {store / 'z.mar'}: copy it there"
    assert moved(tmp_path, "load_models=m.mar").models[0].why == "no model store is known: pass model_store=…"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("models={", r"models in config.properties, line 1 is not JSON"),
        ("models=[]", r"models in config.properties, line 1 should be a JSON object"),
        ('models={"m": 1}', r"line 1: m should be an object of versions"),
        ('model_snapshot={"models": []}', r"line 1: models should be a JSON object"),
        ("a=\\u12", r"line 1: \\u is not followed by four"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        moved(tmp_path, text)


def test_a_directory_is_that_of_its_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.properties: it cannot be read: No such file or directory; name"):
        migrate(tmp_path, {})
    (tmp_path / "config.properties").write_text("job_queue_size=3")
    assert tomllib.loads(migrate(tmp_path, {}).toml)["max_queue_size"] == 3


def test_settings_are_written_completely_or_not_at_all(tmp_path: Path) -> None:
    migration, out = moved(tmp_path, "job_queue_size=3"), tmp_path / "penstock.toml"
    write_settings(migration, out)
    assert load_settings(environ={}, directory=tmp_path).settings.max_queue_size == 3
    with pytest.raises(ConfigError, match="already exists; force=True overwrites it"):
        write_settings(moved(tmp_path, "job_queue_size=4"), out)
    assert load_settings(environ={}, directory=tmp_path).settings.max_queue_size == 3
    write_settings(moved(tmp_path, "job_queue_size=4"), out, force=True)
    assert load_settings(environ={}, directory=tmp_path).settings.max_queue_size == 4
    with pytest.raises(ConfigError, match="the settings cannot be written"):
        write_settings(migration, tmp_path / "none" / "penstock.toml")
    assert {path.name for path in tmp_path.iterdir()} == {"config.properties", "penstock.toml"}


VALUES = st.one_of(
    st.sampled_from(["true", "false", "0", "1", "7", "-1", "all", "http://h:1", "https://[::1]:2", "unix:/s", "*"]),
    st.text(st.characters(codec="latin-1", exclude_characters="\\\r\n"), max_size=12),
)


@settings(max_examples=80)
@given(given=st.dictionaries(st.sampled_from([key for key in KEYS if key not in ("models", "model_snapshot")]), VALUES))
def test_any_configuration_gives_settings_that_a_server_takes(
    given: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = tmp_path_factory.getbasetemp() / "any"
    place.mkdir(exist_ok=True)
    path = place / "config.properties"
    path.write_bytes("".join(f"{key}={value}\n" for key, value in given.items()).encode("latin-1"))
    first = migrate(path, {}, place)
    (place / "penstock.toml").write_text(first.toml)
    load_settings(environ={}, directory=place)
    assert migrate(path, {}, place) == first
    assert {line.setting.key for line in first.lines} >= set(given)


def test_the_options_of_a_model_are_those_of_its_default_version(tmp_path: Path) -> None:
    zipped(tmp_path / "m.mar", MODEL)
    versions = {
        "1.0": {"marName": "m.mar", "batchSize": 2, "defaultVersion": False},
        "2.0": {"marName": "m.mar", "batchSize": 4, "defaultVersion": True},
    }
    migration = moved(tmp_path, f"model_snapshot={json.dumps({'models': {'m': versions}})}", model_store=tmp_path)
    assert tomllib.loads(migration.toml)["models"] == {"m": {"batch_size": 4}}
    notes = [model.notes for model in migration.models]
    assert notes == [("its own options are left out: those of version 2.0 are for all versions",), ()]


def test_a_snapshot_with_several_versions_knows_its_default(tmp_path: Path) -> None:
    versions = {"1.0": {"marName": "m.mar"}, "2.0": {"marName": "m2.mar", "defaultVersion": True}}
    (tmp_path / "s.cfg").write_text(f"model_snapshot={json.dumps({'models': {'m': versions}})}")
    models = started_models(read_installation(tmp_path / "s.cfg", {}))
    assert [(each.version, each.archive, each.is_default) for each in models] == [
        ("1.0", "m.mar", False),
        ("2.0", "m2.mar", True),
    ]
