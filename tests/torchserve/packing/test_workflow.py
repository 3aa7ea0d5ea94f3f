"""Archives of workflows, as upstream's archiver writes them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from model_archives import HANDLER, WORKFLOW, Upstream, contents, written

from penstock.errors import InvalidInput
from penstock.torchserve.archives.archive import open_archive
from penstock.torchserve.packing.workflow import WorkflowFiles, pack_workflow

MANIFEST = "WAR-INF/MANIFEST.json"


def test_an_archive_holds_what_upstreams_holds(
    tmp_path: Path, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(written(tmp_path, {"w/spec.yaml": WORKFLOW.encode(), "w/h.py": HANDLER.encode(), "x": b"1"}))
    Path("theirs").mkdir()
    upstream.workflow(
        "--workflow-name", "w", "--spec-file", "w/spec.yaml", "--handler", "w/h.py", "--extra-files", "x",
        "--export-path", "theirs",
    )  # fmt: skip
    mine = pack_workflow(WorkflowFiles("w", Path("w/spec.yaml"), Path("w/h.py"), "x")).path
    ours, theirs = contents(mine), contents(Path("theirs/w.war"))
    manifests = [json.loads(files.pop(MANIFEST)) for files in (ours, theirs)]
    assert ours == theirs
    assert manifests[0]["workflow"] == manifests[1]["workflow"]
    assert list(manifests[0]) == list(manifests[1])
    for path in (mine, Path("theirs/w.war")):
        archive = open_archive(path)
        assert (archive.is_workflow, archive.default_name, archive.warnings) == (True, "w", [])


def test_a_workflow_of_models_alone_needs_no_handler(tmp_path: Path) -> None:
    written(tmp_path, {"spec.yaml": WORKFLOW.encode()})
    archive = open_archive(pack_workflow(WorkflowFiles("w", tmp_path / "spec.yaml"), tmp_path).path)
    assert (archive.members.keys(), archive.warnings) == ({"spec.yaml", MANIFEST}, [])


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="spec_file: there is no file"):
        pack_workflow(WorkflowFiles("w", tmp_path / "none.yaml"), tmp_path)
    with pytest.raises(InvalidInput, match="workflow_name: 'a b' should begin"):
        pack_workflow(WorkflowFiles("a b", tmp_path / "none.yaml"), tmp_path)
    assert list(tmp_path.iterdir()) == []
