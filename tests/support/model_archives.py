"""Archives as TorchServe's users have them: made by the upstream archivers, and by hand."""

from __future__ import annotations

import io
import json
import tarfile
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore", ResourceWarning)  # they leave a file open
    import workflow_archiver.workflow_packaging
    from model_archiver import model_packaging

HANDLER = """
class Handler:
    def initialize(self, context):
        self.model_dir = context.system_properties.get("model_dir")

    def handle(self, data, context):
        return [row.get("data") or row.get("body") for row in data]
"""
CONFIG = "minWorkers: 1\nmaxWorkers: 2\nbatchSize: 8\nmaxBatchDelay: 20\nhandler:\n  profile: true\n"
WORKFLOW = "models:\n  min-workers: 1\n  m1:\n    url: m1.mar\ndag:\n  pre: [m1]\n"


def manifest(**model: Any) -> bytes:
    """A manifest as upstream writes it, with these fields of its model."""
    document = {
        "createdOn": "22/04/2023 23:03:58",
        "runtime": "python",
        "model": {"modelName": "m", "handler": "handler.py", "modelVersion": "1.0", **model},
        "archiverVersion": "0.12.0",
    }
    return json.dumps(document, indent=2).encode()


FILES: dict[str, bytes] = {"handler.py": HANDLER.encode(), "data/words.txt": b"a\nb\n", "empty": b""}
MODEL = {**FILES, "MAR-INF/MANIFEST.json": manifest()}


def zipped(path: Path, files: Mapping[str, bytes | tuple[zipfile.ZipInfo, bytes]]) -> Path:
    """A zip archive with these members."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            if isinstance(content, tuple):
                archive.writestr(*content)
            else:
                archive.writestr(name, content)
    return path


def tarred(path: Path, files: Mapping[str, bytes | tarfile.TarInfo], format: int = tarfile.PAX_FORMAT) -> Path:
    """A `.tar.gz` with these members."""
    with tarfile.open(path, "w:gz", format=format, compresslevel=1) as archive:
        for name, content in files.items():
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
                continue
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def written(directory: Path, files: Mapping[str, bytes]) -> Path:
    """A directory with these files."""
    for name, content in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)
    return directory


def contents(path: Path) -> dict[str, bytes]:
    """What an archive of any form holds, read by Python's own readers; of a `.tar.gz` below its first directory."""
    if path.is_dir():
        return {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()}
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}
    with tarfile.open(path) as tar:
        members = [member for member in tar.getmembers() if member.isfile()]
        return {member.name.partition("/")[2]: tar.extractfile(member).read() for member in members}  # type: ignore[union-attr]


class Upstream:
    """The archivers of PyTorch, called as their commands are."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, scratch: Path) -> None:
        self._monkeypatch = monkeypatch
        monkeypatch.setattr("tempfile.tempdir", str(scratch))

    def model(self, *arguments: object) -> None:
        """`torch-model-archiver`."""
        self._monkeypatch.setattr("sys.argv", ["torch-model-archiver", *map(str, arguments)])
        model_packaging.generate_model_archive()

    def workflow(self, *arguments: object) -> None:
        """`torch-workflow-archiver`."""
        self._monkeypatch.setattr("sys.argv", ["torch-workflow-archiver", *map(str, arguments)])
        workflow_archiver.workflow_packaging.generate_workflow_archive()
