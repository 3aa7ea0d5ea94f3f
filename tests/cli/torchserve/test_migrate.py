"""`penstock migrate torchserve`."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from model_archives import FILES, manifest, zipped

Penstock = Callable[..., Any]


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """An installation with one model, in the current directory."""
    (tmp_path / "store").mkdir()
    model = manifest(handler="base_handler", serializedFile="m.onnx")
    zipped(tmp_path / "store" / "m.mar", {**FILES, "m.onnx": b"1", "MAR-INF/MANIFEST.json": model})
    text = "inference_address=http://0.0.0.0:8080\nmodel_store=store\nload_models=all\nvmargs=-Xmx4g\n"
    (tmp_path / "config.properties").write_text(text)
    return tmp_path


def test_the_report_says_what_moves_and_the_settings_are_written(penstock: Penstock, installed: Path) -> None:
    done = penstock("migrate", "torchserve", "config.properties")
    assert done.code == 0
    for said in (
        "host = 0.0.0.0, port = 8080",
        "it tunes TorchServe's Java process",
        "penstock models import store/m.mar --name m --version 1.0\n",
        "Dockerfile: `FROM pytorch/torchserve` → `FROM python:3.12-slim`",
        "wrote penstock.toml\n",
    ):
        assert said in done.out
    assert tomllib.loads(Path("penstock.toml").read_text()) == {"host": "0.0.0.0", "port": 8080}
    shown = penstock("config", "show", "--json").json()
    assert shown["port"] == {"value": 8080, "source": "penstock.toml"}


def test_a_settings_file_is_kept_unless_told_otherwise(penstock: Penstock, installed: Path) -> None:
    Path("penstock.toml").write_text("port = 1\n")
    done = penstock("migrate", "torchserve", ".")
    assert (done.code, done.err) == (
        1,
        "penstock: penstock.toml already exists; --force overwrites it, --out FILE names another file\n",
    )
    assert Path("penstock.toml").read_text() == "port = 1\n"
    assert penstock("migrate", "torchserve", ".", "--out", "other.toml").code == 0
    assert penstock("migrate", "torchserve", ".", "--force").code == 0
    assert Path("penstock.toml").read_text() == Path("other.toml").read_text() != "port = 1\n"


def test_programs_get_the_report_as_json(penstock: Penstock, installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TS_JOB_QUEUE_SIZE", "7")
    with Path("config.properties").open("a") as file:
        file.write("enable_envvars_config=true")
    report = penstock("migrate", "torchserve", "config.properties", "--json", "--dry-run").json()
    states = {line["key"]: line["state"] for line in report["lines"]}
    assert states["vmargs"] == "not needed"
    assert states["job_queue_size"] == "moves"
    assert report["models"][0]["commands"] == ["penstock models import store/m.mar --name m --version 1.0"]
    assert report["out"] is None
    assert tomllib.loads(report["toml"])["max_queue_size"] == 7
    assert not Path("penstock.toml").exists()


def test_what_cannot_be_read_is_one_sentence(penstock: Penstock, installed: Path) -> None:
    Path("config.properties").write_text("models={")
    done = penstock("migrate", "torchserve", "config.properties")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("penstock: models in config.properties, line 1 is not JSON: ")
    assert not Path("penstock.toml").exists()
    assert penstock("migrate", "torchserve", "nowhere").code == 1
    assert penstock("migrate", "torchserve").code == 2
