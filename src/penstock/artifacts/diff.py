"""The differences of two manifests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from penstock.artifacts.manifest import Manifest
from penstock.artifacts.variant import FileEntry

PARTS = ("task", "signature", "metrics", "variants", "files", "golden", "policies", "training_data", "lineage", "other")
"""`other` are the unknown fields of a newer schema version."""

_IDENTITY = ("schema_version", "name", "version")
_POLICIES = {"batching", "padding", "ranges", "more_tasks"}
_NAMED_BY = ("name", "path")


class Change(NamedTuple):
    """One field that differs; None for the side that does not have it. `part` is one of PARTS."""

    part: str
    field: str
    a: Any
    b: Any


def changes(a: Manifest, b: Manifest) -> list[Change]:
    """Every field that differs, in the order of PARTS; names and versions are not compared."""
    left, right = dict(_fields(a)), dict(_fields(b))
    keys = sorted({*left, *right}, key=lambda key: (PARTS.index(key[0]), key[1]))
    found = (Change(part, field, left.get((part, field)), right.get((part, field))) for part, field in keys)
    return [change for change in found if change.a != change.b]


def _fields(manifest: Manifest) -> Iterator[tuple[tuple[str, str], Any]]:
    document = {field: value for field, value in manifest.to_json().items() if field not in _IDENTITY}
    files: dict[str, Any] = {}
    for variant, entry in zip(document["variants"], manifest.variants, strict=True):
        for file in variant.pop("files"):
            files |= _file(file)
        variant["name"] = entry.name
    if document["golden"] is not None:
        files |= _file(document["golden"].pop("file"))
    if document["card"] is not None:
        files |= _file(document["card"])
    known = type(manifest).model_fields
    tables = {
        **{part: document[part] for part in PARTS if part in known},
        "files": files,
        "policies": {name: document[name] for name in sorted(_POLICIES) if document.get(name)},
        "lineage": {"created_at": document["created_at"], **document["lineage"]},
        "other": {name: value for name, value in document.items() if name not in known},
    }
    for part, table in tables.items():
        for field, value in _flat("", table):
            yield (part, field), value


def _file(entry: dict[str, Any]) -> dict[str, Any]:
    """One file by its path, and the unknown fields of its entry."""
    path = entry["path"]
    unknown = {f"{path}.{name}": value for name, value in entry.items() if name not in FileEntry.model_fields}
    return {path: f"{entry['sha256'][:12]} ({entry['size']} bytes)", **unknown}


def _flat(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The leaves of a document by their paths; members of a list by their names if they have one."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(f"{path}.{key}" if path else str(key), inner)
    elif isinstance(value, list) and value and all(_name(one) is not None for one in value):
        for one in value:
            inner = {key: field for key, field in one.items() if key not in _NAMED_BY}
            yield from _flat(f"{path}.{_name(one)}" if path else str(_name(one)), inner)
    elif value is not None:
        yield path, value


def _name(value: Any) -> str | None:
    if not isinstance(value, Mapping):
        return None
    return next((str(value[key]) for key in _NAMED_BY if key in value), None)
