"""Choices of a variant that were made on this machine before, one small file for each artifact and way to run it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import platform
import secrets
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

from penstock.artifacts.artifact import Artifact, Variant
from penstock.backends.base import BackendOptions
from penstock.backends.catalog import runtime_of
from penstock.backends.devices import cpu_flags, usable_cores

log = logging.getLogger(__name__)

Effort = Literal["light", "all", "first"]
"""How much a load may spend to find the fastest variant.

`light` leaves out what would bring PyTorch (seconds, 250 MB) into a process that does without it, and opens no further
variant after two seconds. `all` measures every variant. `first` takes the first that works and measures nothing.
"""

_SCHEMA = 1


class Verdict(NamedTuple):
    """Whether a variant was taken on this machine, and one phrase that says why."""

    variant: str
    taken: bool
    reason: str


def place_of(
    directory: Path, artifact: Artifact, options: BackendOptions, batch_rows: int, usable: Iterable[Variant]
) -> Path:
    """The file that holds the choice for an artifact on this machine, run in this way by these runtimes.

    What the choice depends on is in the name: with another CPU, runtime or option there is just no such file.
    """
    facts: list[Any] = [_SCHEMA, artifact.digest, platform.machine(), sorted(cpu_flags()), usable_cores(), batch_rows]
    facts += [options.device, options.threads, options.precision, options.graph_optimization, options.trust]
    facts += [options.compile, options.compile_mode, options.shared_threads]
    facts += sorted((variant.name, _runtime_version(variant.format)) for variant in usable)
    return directory / f"{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]}.json"


def _runtime_version(format: str) -> str:
    with suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(runtime_of(format))
    return ""


def remembered(place: Path, digest: str, *, thorough: bool = False) -> tuple[Verdict, ...] | None:
    """The verdicts of an earlier choice, None without; `thorough` wants one that measured every variant.

    A file that is damaged or of another artifact counts as none.
    """
    try:
        data = json.loads(place.read_bytes())
        if data["schema"] != _SCHEMA or data["artifact"] != digest or (thorough and not data["thorough"]):
            return None
        verdicts = tuple(Verdict(str(name), taken is True, str(reason)) for name, taken, reason in data["verdicts"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    return verdicts if sum(verdict.taken for verdict in verdicts) == 1 else None


def remember(place: Path, digest: str, verdicts: Iterable[Verdict], *, thorough: bool) -> None:
    """Keep a choice for the next load. Where nothing can be written, it will be made again."""
    data = {"schema": _SCHEMA, "artifact": digest, "thorough": thorough, "verdicts": [list(v) for v in verdicts]}
    aside = place.with_name(f"{place.name}.{secrets.token_hex(4)}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
        aside.replace(place)
    except OSError as error:
        log.debug("the choice of a variant cannot be kept in %s: %s", place.parent, error)
        with suppress(OSError):
            aside.unlink()


def forget(place: Path) -> None:
    """Drop a choice that proved wrong."""
    with suppress(OSError):
        place.unlink()
