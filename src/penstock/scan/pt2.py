"""Scans programs of `torch.export` (`.pt2`) and AOTInductor packages, which are such archives with native code.

PyTorch's loader unpickles objects and sample inputs: both must be harmless before the loader reads the file. It also
evaluates text of the program as Python, which is not looked at: see "What may be loaded" in docs/security.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from penstock.errors import quoted
from penstock.scan.archive import Archive, opened, refuse_nested
from penstock.scan.checkpoint import scan as scan_weights
from penstock.scan.findings import Finding, Refused

NATIVE = "data/aotinductor/"
_BINARY = re.compile(
    r".*\.(so|dylib|dll|o|a|cpp|cc|c|h|cu|cuh|ptx|cubin|hsaco|spv|py|pyc|pyd|sh)(\.\d+)*", re.IGNORECASE
)
_OBJECT = re.compile(r"(opaque_obj|custom_obj)_.*")
_TENSOR = re.compile(r"(weight|tensor)_\d+")
_SAMPLES = re.compile(r"data/sample_inputs/[^/]+\.pt")
_CONFIG = re.compile(r"data/(weights|constants)/[^/]+_config\.json")


def scan(archive: Archive) -> Iterator[Finding]:
    """What a program or package could do."""
    archive.below_root()
    yield Finding("code", "loading a .pt2 program unpickles and evaluates parts of it")
    for name in archive.members:
        yield from _member(archive, name, name.partition("/")[2])
    parts = (n for n in archive.members if not re.search(r"/data/(weights|constants)/|/data/sample_inputs/", n))
    yield from refuse_nested(archive, (name for name in parts if not name.endswith("/")))


def _member(archive: Archive, name: str, inner: str) -> Iterator[Finding]:
    if inner.startswith(NATIVE):
        if _BINARY.fullmatch(inner):
            yield Finding("native", f"it holds native code, {quoted(inner)}")
    elif _BINARY.fullmatch(inner):
        yield Finding(None, f"it holds {quoted(inner)}, which is not part of a program")
    elif _OBJECT.fullmatch(inner.rpartition("/")[2]):
        yield Finding(None, f"it holds the object {quoted(inner)}, which would be unpickled")
    elif _CONFIG.fullmatch(inner):
        yield from _config(inner, _json(archive, name))
    elif _SAMPLES.fullmatch(inner):
        yield from _samples(inner, archive.read(name))
    elif inner.lower().endswith((".pkl", ".pickle", ".pt", ".pth")):
        yield Finding(None, f"it holds the pickle {quoted(inner)}")


def _json(archive: Archive, name: str) -> Any:
    try:
        return json.loads(archive.read(name).decode())
    except (ValueError, RecursionError):
        raise Refused(f"{quoted(name)} is not JSON") from None


def _config(member: str, content: Any) -> Iterator[Finding]:
    """Weights and constants must be tensors as raw bytes."""
    entries = content.get("config") if isinstance(content, dict) else None
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise Refused(f"{quoted(member)} is not a list of tensors")
    for name, entry in entries.items():
        if entry.get("use_pickle") is not False or not _TENSOR.fullmatch(str(entry.get("path_name"))):
            yield Finding(None, f"{member}: {quoted(name)} is not a plain tensor and would be unpickled")


def _samples(member: str, data: bytes) -> Iterator[Finding]:
    """Sample inputs must hold weights only: the loader retries a refused pickle without protection."""
    if not data:
        return
    with opened(memoryview(data)) as archive:
        for finding in scan_weights(archive):
            yield Finding(None, f"{member}: {finding.what}")
