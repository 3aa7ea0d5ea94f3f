"""The differences of two manifests."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from penstock.artifacts.manifest import Manifest
from penstock.artifacts.variant import FileEntry, figures_by_batch

PARTS = (
    "task", "signature", "metrics", "errors", "speed", "size", "variants", "files", "golden", "policies",
    "training_data", "lineage", "other",
)  # fmt: skip
"""`errors` are the variants' measured differences from the reference, `speed` their benchmarks, `size` the bytes and
parameters of each and the bytes of all files; `other` are the unknown fields of a newer schema version."""

_IDENTITY = ("schema_version", "name", "version")
_POLICIES = {"batching", "log_inputs", "padding", "ranges", "more_tasks"}
_NAMED_BY = ("name", "path")
_ERRORS = ("max_abs_error", "errors", "batch_invariant")


class Change(NamedTuple):
    """One field that differs; None for the side that does not have it. `part` is one of PARTS."""

    part: str
    field: str
    a: Any
    b: Any

    @property
    def delta(self) -> float | None:
        """B minus A; None unless both are finite numbers."""
        return self.b - self.a if _is_number(self.a) and _is_number(self.b) else None

    @property
    def percent(self) -> float | None:
        """The change in percent of A; None where there is no such number, as from 0."""
        delta = self.delta
        return None if delta is None or not self.a else 100 * delta / abs(self.a)

    def to_json(self) -> dict[str, Any]:
        """Its fields, and `delta` and `percent` where both sides are numbers."""
        numbers = {"delta": self.delta, "percent": self.percent}
        return {**self._asdict(), **{name: value for name, value in numbers.items() if value is not None}}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def changes(a: Manifest, b: Manifest) -> list[Change]:
    """Every field that differs, in the order of PARTS; names and versions are not compared."""
    left, right = dict(_fields(a)), dict(_fields(b))
    keys = sorted({*left, *right}, key=lambda key: (PARTS.index(key[0]), _natural(key[1])))
    found = (Change(part, field, left.get((part, field)), right.get((part, field))) for part, field in keys)
    return [change for change in found if change.a != change.b]


def _natural(field: str) -> list[tuple[bool, int, str]]:
    """Numbers in a name in their order: a batch of 8 before one of 32."""
    return [(not part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in re.split(r"(\d+)", field)]


def _fields(manifest: Manifest) -> Iterator[tuple[tuple[str, str], Any]]:
    document = {field: value for field, value in manifest.to_json().items() if field not in _IDENTITY}
    files: dict[str, Any] = {}
    measured: dict[str, dict[str, Any]] = {"errors": {}, "speed": {}, "size": _sizes(manifest)}
    for variant, entry in zip(document["variants"], manifest.variants, strict=True):
        for file in variant.pop("files"):
            files |= _file(file)
        variant["name"] = entry.name
        variant.pop("num_parameters", None)
        measured["errors"][entry.name] = _errors({name: variant.pop(name, None) for name in _ERRORS})
        measured["speed"][entry.name] = _speed(variant.pop("benchmark", None) or {})
    if document["golden"] is not None:
        files |= _file(document["golden"].pop("file"))
    if document["card"] is not None:
        files |= _file(document["card"])
    if manifest.reference is not None:
        files |= _file(document["reference"]["file"])
    known = type(manifest).model_fields
    tables = {
        **{part: document[part] for part in PARTS if part in known},
        **measured,
        "files": files,
        "policies": {name: document[name] for name in sorted(_POLICIES) if document.get(name, []) not in (None, [])},
        "lineage": {"created_at": document["created_at"], **document["lineage"]},
        "other": {name: value for name, value in document.items() if name not in known},
    }
    for part, table in tables.items():
        for field, value in _flat("", table):
            yield (part, field), value


def _sizes(manifest: Manifest) -> dict[str, Any]:
    each = {
        variant.name: {"bytes": variant.size_bytes, "parameters": variant.num_parameters}
        for variant in manifest.variants
    }
    return {**each, "all files": {"bytes": sum(entry.size for entry in manifest.files())}}


def _errors(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The measured errors of a variant, each once: `errors.max_abs` repeats `max_abs_error`."""
    errors = dict(fields["errors"] or {})
    if errors.get("max_abs") == fields["max_abs_error"]:
        errors.pop("max_abs", None)
    return {**{name: value for name, value in fields.items() if name != "errors"}, **errors}


def _speed(benchmark: Mapping[str, Any]) -> dict[str, Any]:
    """A benchmark by figure and batch size, and what else it records."""
    batches = figures_by_batch(benchmark)
    figures = {f"{figure}.{batch}": value for batch, each in batches.items() for figure, value in each.items()}
    named = {figure for each in batches.values() for figure in each} | {"batches"}
    return {**figures, **{name: value for name, value in benchmark.items() if name not in named}}


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
