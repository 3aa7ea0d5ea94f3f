"""`penstock log`."""

from __future__ import annotations

import contextlib
import csv
import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from small_disks import small_disk
from typer.testing import CliRunner, Result

from penstock.cli.main import app
from penstock.libraries import zstd
from penstock.monitor.prediction_log.keys import digest_of, salt_of
from penstock.monitor.prediction_log.records import Record, line_of
from penstock.registry.database.feedback import FeedbackStore, Prediction


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/registry/registry.db")
    log = tmp_path / "log"
    log.mkdir()
    alice = digest_of("alice", salt_of(log))
    words = np.array([["naïve", b"\xff"]], object)
    records = [
        Record(at=1.7e9, request_id="r0", model="m", version="1", outcome="ok", rows=1, key=alice, total_ms=1.25,
               inputs={"x": np.array([[1.5, np.nan]], np.float32)}, outputs={"y": np.array([[7]])}),
        Record(at=1.7e9 + 1, request_id="r1", model="m", version="2", outcome="ok", rows=1, outputs={"text": words}),
        Record(at=1.7e9 + 2, request_id="r2", model="other", version="1", outcome="error", key=alice),
    ]  # fmt: skip
    (log / "predictions.1.1.jsonl").write_bytes(b"".join(map(line_of, records)) + b"rubbish\n")
    return log


def test_the_newest_records_are_shown(log: Path) -> None:
    shown = run("log", "show", log, "--limit", 2)
    assert shown.exit_code == 0
    assert "r0" not in shown.stdout
    assert shown.stdout.index("r1") < shown.stdout.index("r2")
    assert "1 damaged line skipped" in shown.stderr
    lines = [json.loads(line) for line in run("log", "show", log, "--json", "--model", "m:1").stdout.splitlines()]
    assert [(line["request_id"], line["inputs"]) for line in lines] == [("r0", {"x": [[1.5, None]]})]


def test_the_directory_of_the_settings_is_the_default(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "name the directory" in str(run("log", "show").exception)
    monkeypatch.setenv("PENSTOCK_PREDICTION_LOG", str(log))
    assert "r2" in run("log", "show").stdout


def test_records_are_counted(log: Path) -> None:
    found = json.loads(run("log", "stats", log, "--json").stdout)
    assert (found["records"], found["with_inputs"], found["damaged_lines"]) == (3, 1, 1)
    assert found["models"][0] == {"model": "m", "version": "1", "outcome": "ok", "records": 1}
    assert "3 records from 2023-11-14T22:13:20.000Z" in run("log", "stats", log).stdout


def test_what_comes_before_a_damaged_place_of_a_compressed_segment_is_read(log: Path) -> None:
    plain = log / "predictions.1.1.jsonl"
    packed = zstd().compress(plain.read_bytes())
    plain.unlink()
    (log / "predictions.1.1.jsonl.zst").write_bytes(packed + b"rubbish")
    done = run("log", "stats", log, "--json")
    found = json.loads(done.stdout)
    assert (found["records"], found["damaged_segments"]) == (3, ["predictions.1.1.jsonl.zst"])


def test_a_full_disk_is_named_and_nothing_is_lost(log: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        shutil.copytree(log, disk / "log")
        with contextlib.suppress(OSError), (disk / "filling").open("wb", buffering=0) as filling:
            while True:
                filling.write(bytes(1024))
        done = run("log", "forget", disk / "log", "--key", "alice")
        assert str(done.exception).startswith(
            f"{disk / 'log'}: not all records could be removed: the disk that holds it is full; free space on it"
        )
        done = run("log", "export", disk / "out.jsonl", disk / "log")
        assert isinstance(done.exception, OSError)
        assert done.exception.filename == str(disk / "out.jsonl")
        assert json.loads(run("log", "stats", disk / "log", "--json").stdout)["records"] == 3
        (disk / "filling").unlink()
        assert run("log", "forget", disk / "log", "--key", "alice").stdout.startswith("2 records removed")


def test_a_directory_that_is_not_there_is_named(log: Path, tmp_path: Path) -> None:
    done = run("log", "export", tmp_path / "nowhere" / "out.csv", log)
    assert str(done.exception) == f"{tmp_path / 'nowhere'} is not a directory; create it first"


def test_records_are_exported_as_csv_and_jsonl(log: Path, tmp_path: Path) -> None:
    assert run("log", "export", tmp_path / "out.csv", log, "--outcome", "ok").stdout.startswith("2 records written")
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["request_id"] for row in rows] == ["r0", "r1"]
    assert json.loads(rows[1]["outputs"]) == {"text": [["naïve", "\ufffd"]]}
    assert run("log", "export", tmp_path / "out.txt", log, "--format", "jsonl").exit_code == 0
    assert len((tmp_path / "out.txt").read_text().splitlines()) == 3


def test_a_file_is_not_replaced_unless_that_is_asked_for(log: Path, tmp_path: Path) -> None:
    (tmp_path / "out.csv").write_text("mine")
    refused = run("log", "export", tmp_path / "out.csv", log)
    assert "--force" in str(refused.exception)
    assert (tmp_path / "out.csv").read_text() == "mine"
    assert run("log", "export", tmp_path / "out.csv", log, "--force").exit_code == 0
    assert "is none of jsonl, csv, parquet" in str(run("log", "export", tmp_path / "out.xls", log).exception)


@pytest.mark.skipif(importlib.util.find_spec("pyarrow") is not None, reason="pyarrow is installed")
def test_parquet_without_its_package_is_one_sentence(log: Path, tmp_path: Path) -> None:
    refused = run("log", "export", tmp_path / "out.parquet", log)
    assert "pip install 'penstock[parquet]'" in str(refused.exception)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log"]


@pytest.mark.skipif(importlib.util.find_spec("pyarrow") is None, reason="it needs pyarrow")
def test_parquet_has_every_record(log: Path, tmp_path: Path) -> None:
    from pyarrow import parquet

    assert run("log", "export", tmp_path / "out.parquet", log).exit_code == 0
    rows = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert [row["request_id"] for row in rows] == ["r0", "r1", "r2"]
    assert rows[0]["outputs"] == [{"name": "y", "dtype": "INT64", "shape": [1, 1], "values": [7.0], "texts": None}]
    assert rows[1]["outputs"][0]["texts"] == ["naïve".encode(), b"\xff"]


def test_a_key_is_forgotten_in_the_log_and_in_the_feedback(log: Path, tmp_path: Path) -> None:
    digest = digest_of("alice", salt_of(log))
    (tmp_path / "registry").mkdir()
    store = FeedbackStore(f"sqlite:///{tmp_path}/registry/registry.db")
    store.add([Prediction("r0", 0, 1, "m", "1", "", "", digest, 7, None, 0.5)])
    done = run("log", "forget", log, "--key", "alice")
    assert done.exit_code == 0
    assert "2 records removed" in done.stdout
    assert "1 predictions removed from the feedback" in done.stdout
    assert [json.loads(line)["request_id"] for line in run("log", "show", log, "--json").stdout.splitlines()] == ["r1"]
    assert store.totals() == []
    store.close()
    assert "0 records removed" in run("log", "forget", log, "--key", "alice").stdout
    assert "1 records removed" in run("log", "forget", log, "--request-id", "r1").stdout


def test_what_cannot_be_forgotten_is_said(log: Path, tmp_path: Path) -> None:
    assert "give --key or --request-id" in str(run("log", "forget", log).exception)
    assert "there is no prediction log" in str(run("log", "forget", tmp_path / "none", "--key", "a").exception)
    (log / "salt").unlink()
    assert "is missing" in str(run("log", "forget", log, "--key", "alice").exception)


@pytest.mark.parametrize("content", [b"", b"\0" * 1000, b"\x28\xb5\x2f\xfd rubbish", b"[1,2\n{}\n"])
@pytest.mark.parametrize("name", ["predictions.1.1.jsonl", "predictions.1.1.jsonl.zst", "predictions.1.1.jsonl.open"])
def test_rubbish_is_skipped(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    for command in ("show", "stats"):
        done = run("log", command, tmp_path)
        assert done.exit_code == 0, done.exception
