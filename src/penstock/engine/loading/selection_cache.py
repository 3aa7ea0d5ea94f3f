"""Variant selections of earlier loads on this machine: one small file for each artifact and set of options."""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import secrets
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from penstock.artifacts.artifact import Artifact, Variant
from penstock.backends.devices import cpu_flags, usable_cores
from penstock.errors import is_full, not_written
from penstock.formats import FORMATS, runtime_version
from penstock.options import BackendOptions

log = logging.getLogger(__name__)

_SCHEMA = 1


class SelectionResult(NamedTuple):
    """Whether a variant is selected on this machine, and one phrase that says why."""

    variant: str
    taken: bool
    reason: str


def in_manifest_order(artifact: Artifact, results: Iterable[SelectionResult]) -> tuple[SelectionResult, ...]:
    """The results in the order of the artifact's variants."""
    order = [variant.name for variant in artifact.variants]
    return tuple(sorted(results, key=lambda result: order.index(result.variant)))


def selection_path(
    directory: Path, artifact: Artifact, options: BackendOptions, batch_rows: int, candidates: Iterable[Variant]
) -> Path:
    """The file for the selection among `candidates` with these options, on this machine and with its runtimes.

    Everything the selection depends on is hashed into the name: a new CPU, runtime version or option means a new file.
    """
    candidates = list(candidates)
    options_read = (FORMATS[each.format].options for each in candidates if each.format in FORMATS)
    relevant = {"trust", "precision"}.union(*options_read) - {"cache_dir"}
    runtimes = sorted((variant.name, runtime_version(variant.format)) for variant in candidates)
    machine = [platform.machine(), sorted(cpu_flags()), usable_cores()]
    facts = [
        _SCHEMA,
        artifact.digest,
        machine,
        batch_rows,
        options.model_dump(mode="json", include=relevant),
        runtimes,
    ]
    return directory / f"{hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]}.json"


def read_selection(path: Path, digest: str, *, thorough: bool = False) -> tuple[SelectionResult, ...] | None:
    """The results of an earlier selection, or None; `thorough` accepts only one that measured every variant.

    A file that is damaged or belongs to another artifact is ignored.
    """
    try:
        data = json.loads(path.read_bytes())
        if data["schema"] != _SCHEMA or data["artifact"] != digest or (thorough and not data["thorough"]):
            return None
        results = tuple(
            SelectionResult(str(name), taken is True, str(reason)) for name, taken, reason in data["verdicts"]
        )
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    return results if sum(result.taken for result in results) == 1 else None


def write_selection(path: Path, digest: str, results: Iterable[SelectionResult], *, thorough: bool) -> None:
    """Keep a selection for the next load. If it cannot be written, the next load selects again."""
    data = {"schema": _SCHEMA, "artifact": digest, "thorough": thorough, "verdicts": [list(r) for r in results]}
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        level = logging.WARNING if is_full(error) else logging.DEBUG
        log.log(level, "the selection of a variant is not kept: %s", not_written(error, path.parent))
        with suppress(OSError):
            temporary.unlink()


def delete_selection(path: Path) -> None:
    """Delete a selection whose variant no longer loads."""
    with suppress(OSError):
        path.unlink()
