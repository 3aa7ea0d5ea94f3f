"""Reads the archives of PyTorch, and copies a `.pt2` program so that PyTorch can load it without running parts of it.

`torch.export.load` unpickles: the sample inputs (a refused pickle is tried again without protection), objects among the
constants, weights marked so. The copy has none of these: it holds what a program needs, and an archive that needs more
is refused. The program itself is code, which PyTorch evaluates, and needs that trust.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from penstock.errors import IntegrityError, UnsupportedFormat
from penstock.scan.archive import Archive, opened
from penstock.scan.findings import Refused
from penstock.scan.memory_map import mapped
from penstock.scan.pt2 import NATIVE

PROGRAM = "models/model.json"
_SAMPLE_INPUTS = "data/sample_inputs/model.pt"
_CONFIGS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
_KEPT = re.compile(
    r"archive_format|archive_version|byteorder|\.data/(version|serialization_id)"
    rf"|{re.escape(PROGRAM)}|{'|'.join(map(re.escape, _CONFIGS))}"
    r"|data/weights/weight_\d+|data/constants/tensor_\d+"
)
_DROPPED = re.compile(rf"{re.escape(_SAMPLE_INPUTS)}|extra/.*")
_PAYLOAD = re.compile(r"(weight|tensor)_\d+")


@contextmanager
def open_archive(path: Path, member: str, what: str) -> Iterator[Archive]:
    """An archive that holds `member` below its one directory; else raises IntegrityError: not a `what`."""
    try:
        with mapped(path) as data, opened(data) as archive:
            if member not in archive.below_root():
                raise Refused(f"it has no member {member}")
            yield archive
    except Refused:
        raise IntegrityError(f"{path}: the file is damaged or not {what}") from None


def copy_program(path: Path, archive: Archive, target: Path) -> None:
    """Write the program of `archive` and its tensors, and nothing else, to `target`.

    Raises UnsupportedFormat for a program that needs pickles, native code or custom objects, IntegrityError for one
    whose descriptions are not JSON. `path` is used in errors only.
    """
    found = archive.below_root()
    _require_plain(path, found)
    for config in _CONFIGS:
        _require_tensors(path, _json(path, archive, found.get(config)))
    _json(path, archive, found[PROGRAM])
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as copy:
        for name, member in found.items():
            if _KEPT.fullmatch(name):
                with copy.open(f"model/{name}", "w", force_zip64=True) as sink:
                    for block in archive.blocks(member):
                        sink.write(block)
        copy.writestr(f"model/{_SAMPLE_INPUTS}", b"")


def _require_plain(path: Path, found: dict[str, str]) -> None:
    if any(name.startswith(NATIVE) for name in found):
        raise UnsupportedFormat(f"{path}: it holds native code; its format is aoti, not pt2")
    if PROGRAM not in found:
        raise UnsupportedFormat(f"{path}: it has no program named model; save one with torch.export.save")
    strange = next((name for name in found if not _KEPT.fullmatch(name) and not _DROPPED.fullmatch(name)), None)
    if strange is not None:
        raise UnsupportedFormat(
            f"{path}: it holds {strange!r}, which is not part of a plain program; export the model again with a "
            "current PyTorch, without custom objects"
        )


def _json(path: Path, archive: Archive, member: str | None) -> Any:
    try:
        return json.loads(archive.read(member)) if member is not None else {}
    except (ValueError, RecursionError):
        raise IntegrityError(f"{path}: {member} in it is not JSON") from None


def _require_tensors(path: Path, config: Any) -> None:
    """Every payload must be a tensor as raw bytes: no pickle, no object."""
    entries = config.get("config", {}) if isinstance(config, dict) else None
    if not isinstance(entries, dict):
        raise IntegrityError(f"{path}: its list of tensors is invalid")
    for name, entry in entries.items():
        plain = isinstance(entry, dict) and not entry.get("use_pickle") and entry.get("tensor_meta")
        if not plain or not _PAYLOAD.fullmatch(str(entry.get("path_name"))):
            raise UnsupportedFormat(f"{path}: {name} in it is an object, not a plain tensor; it is not unpickled")
