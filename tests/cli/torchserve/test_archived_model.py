"""`penstock models import` and `publish` of archives of TorchServe."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from model_archives import FILES, MODEL, WORKFLOW, manifest, tarred, written, zipped

from penstock.torchserve.archives.archive import open_archive
from penstock.torchserve.packing.model import ModelFiles, pack_model
from penstock.torchserve.packing.workflow import WorkflowFiles, pack_workflow

Penstock = Callable[..., Any]


@pytest.mark.parametrize("command", ["import", "publish"])
@pytest.mark.parametrize("archive_format", ["default", "tgz"])
def test_an_onnx_model_is_published_from_its_archive(
    penstock: Penstock, onnx_file: Path, command: str, archive_format: str
) -> None:
    path = pack_model(ModelFiles("fraud", "2.1", "base_handler", onnx_file), archive_format=archive_format).path
    done = penstock("models", command, path, "--json")
    assert done.code == 0, done.err
    shown = penstock("models", "show", "fraud:2.1", "--json").json()
    lineage = shown["manifest"]["lineage"]
    assert lineage["archive"] == path.name
    assert lineage["archive_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert lineage["archive_digest"] == open_archive(path).digest()
    answer = penstock("predict", "fraud:2.1", "-", stdin=json.dumps([0.1, 0.2, 0.3, 0.4]).encode())
    bare = penstock("predict", onnx_file, "-", stdin=json.dumps([0.1, 0.2, 0.3, 0.4]).encode())
    assert (answer.code, answer.json()["predictions"]) == (0, bare.json()["predictions"])
    assert penstock("models", command, path).code == 0  # once more, it is the same artifact


def test_a_name_and_a_version_that_are_given_count(penstock: Penstock, onnx_file: Path) -> None:
    path = pack_model(ModelFiles("fraud", "2.1", "base_handler", onnx_file)).path
    assert penstock("models", "import", path, "--name", "mine", "--version", "v3").code == 0
    assert penstock("models", "show", "mine:v3").code == 0


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (
            {"handler": "handler.py", "serializedFile": "m.onnx"},
            "its handler 'handler.py' does more than run",
        ),
        (
            {"handler": "image_classifier", "serializedFile": "m.onnx"},
            "`penstock archive unpack`, and import the",
        ),
        ({"handler": "base_handler", "serializedFile": "m.onnx", "modelFile": "net.py"}, "and the class in 'net.py'"),
        ({"handler": "base_handler"}, "it holds no model file"),
    ],
)
def test_a_model_that_needs_its_handler_is_refused(
    penstock: Penstock, tmp_path: Path, fields: dict[str, str], says: str
) -> None:
    files = {**FILES, "m.onnx": b"1", "net.py": b"2", "MAR-INF/MANIFEST.json": manifest(**fields)}
    done = penstock("models", "import", zipped(tmp_path / "m.mar", files))
    assert done.code == 1
    assert done.err.startswith(f"penstock: {tmp_path / 'm.mar'}: ")
    assert says in done.err


def test_workflows_and_hostile_archives_are_refused(penstock: Penstock, tmp_path: Path) -> None:
    written(tmp_path, {"w.yaml": WORKFLOW.encode()})
    done = penstock("models", "import", pack_workflow(WorkflowFiles("w", tmp_path / "w.yaml"), tmp_path).path)
    assert "it is a workflow; import the archives of its models" in done.err
    for path in (
        zipped(tmp_path / "m.mar", {**MODEL, "HANDLER.PY": b"1"}),
        tarred(tmp_path / "m.tar.gz", {**MODEL, "../evil.py": b"1"}),
    ):
        done = penstock("models", "import", path)
        assert (done.code, done.out) == (1, "")
        assert done.err.startswith(f"penstock: {path}: ")
