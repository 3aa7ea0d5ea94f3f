"""What a `.pt2` archive holds, and a copy of it that PyTorch can load without running anything from it.

`torch.export.load` unpickles: the sample inputs (a refused pickle is tried again without protection), objects among the
constants, weights marked so. It evaluates expressions about shapes, and looks operators up by any dotted name. The copy
has none of these: what a program needs is taken over, and an archive that needs more is refused.
"""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path
from typing import Any

from penstock.backends.torch.archives import members
from penstock.errors import IntegrityError, UnsupportedFormat
from penstock.scan.pt2 import complaints

PROGRAM = "models/model.json"
NATIVE = "data/aotinductor/"
_SAMPLE_INPUTS = "data/sample_inputs/model.pt"
_CONFIGS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
_KEPT = re.compile(
    r"archive_format|archive_version|byteorder|\.data/(version|serialization_id)"
    rf"|{re.escape(PROGRAM)}|{'|'.join(map(re.escape, _CONFIGS))}"
    r"|data/weights/weight_\d+|data/constants/tensor_\d+"
)
_DROPPED = re.compile(rf"{re.escape(_SAMPLE_INPUTS)}|extra/.*")
_PAYLOAD = re.compile(r"(weight|tensor)_\d+")


def copy_program(path: Path, archive: zipfile.ZipFile, target: Path) -> None:
    """Write the program of `archive` and its tensors, and nothing else, to `target`.

    Raises UnsupportedFormat for one that needs pickles, native code or objects of its own, IntegrityError for one
    whose descriptions are not JSON. `path` is only named in errors.
    """
    found = members(archive)
    _require_plain(path, found)
    for config in _CONFIGS:
        _require_tensors(path, _json(path, archive, found.get(config)))
    _require_known(path, _json(path, archive, found.get(PROGRAM)))
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as copy:
        for name, member in found.items():
            if _KEPT.fullmatch(name):
                with archive.open(member) as source, copy.open(f"model/{name}", "w", force_zip64=True) as sink:
                    while block := source.read(1 << 20):
                        sink.write(block)
        copy.writestr(f"model/{_SAMPLE_INPUTS}", b"")


def _require_plain(path: Path, found: dict[str, zipfile.ZipInfo]) -> None:
    if any(name.startswith(NATIVE) for name in found):
        raise UnsupportedFormat(f"{path}: it holds native code; its format is aoti, not pt2")
    if PROGRAM not in found:
        raise UnsupportedFormat(f"{path}: it holds no program named model; save one with torch.export.save")
    strange = next((name for name in found if not _KEPT.fullmatch(name) and not _DROPPED.fullmatch(name)), None)
    if strange is not None:
        raise UnsupportedFormat(
            f"{path}: it holds {strange!r}, which is no part of a plain program; export the model again with a "
            "current PyTorch, without objects of its own"
        )


def _json(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo | None) -> Any:
    try:
        return json.loads(archive.read(member)) if member is not None else {}
    except (ValueError, RecursionError):
        raise IntegrityError(f"{path}: {member.filename if member else 'a member'} in it is not JSON") from None


def _require_tensors(path: Path, config: Any) -> None:
    """Every payload is a tensor as raw bytes: no pickle, no object."""
    entries = config.get("config", {}) if isinstance(config, dict) else None
    if not isinstance(entries, dict):
        raise IntegrityError(f"{path}: the list of tensors in it is not one")
    for name, entry in entries.items():
        plain = isinstance(entry, dict) and not entry.get("use_pickle") and entry.get("tensor_meta")
        if not plain or not _PAYLOAD.fullmatch(str(entry.get("path_name"))):
            raise UnsupportedFormat(f"{path}: {name} in it is no plain tensor but an object, which is not unpickled")


def _require_known(path: Path, program: Any) -> None:
    """Operators are those of PyTorch, and expressions are about lengths: both are looked up or evaluated at load."""
    for complaint in complaints(program):
        raise UnsupportedFormat(f"{path}: {complaint}")
