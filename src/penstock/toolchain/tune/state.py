"""What an interrupted run has measured, kept in the registry's cache until the run is finished."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from penstock.backends.cache_dir import private_directory
from penstock.toolchain.tune.capacity import Capacity, Figures
from penstock.toolchain.tune.configuration import Configuration

KEPT_S = 24 * 3600.0
"""Older figures are measured again: the machine may do something else by now."""


class State:
    """The capacities measured so far, in one file. A directory that cannot be written keeps nothing."""

    def __init__(self, directory: Path, of: Mapping[str, Any]) -> None:
        """`of` is all that the figures depend on: model, objective, machine, other settings."""
        key = hashlib.sha256(json.dumps(of, sort_keys=True, default=str).encode()).hexdigest()[:24]
        self._path = directory / f"{key}.json"
        self._known = _read(self._path)

    def __len__(self) -> int:
        return len(self._known)

    def get(self, configuration: Configuration) -> Capacity | None:
        """What was measured before the interruption."""
        found = self._known.get(str(configuration))
        return None if found is None else _capacity(found)

    def put(self, configuration: Configuration, capacity: Capacity) -> None:
        """Keep a capacity, in case of an interruption."""
        best = None if capacity.best is None else list(capacity.best)
        self._known[str(configuration)] = {"best": best, "runs": [list(run) for run in capacity.runs]}
        if private_directory(self._path.parent) is None:
            return
        with suppress(OSError):
            aside = self._path.with_suffix(f".{os.getpid()}")
            aside.write_text(json.dumps(self._known), encoding="utf-8")
            aside.replace(self._path)

    def forget(self) -> None:
        """The run is finished: the next one measures anew."""
        self._known.clear()
        with suppress(OSError):
            self._path.unlink()


def _read(path: Path) -> dict[str, Any]:
    """The kept figures; none if there are none, if they are old, or if the file is damaged."""
    with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        if time.time() - path.stat().st_mtime < KEPT_S:
            known = json.loads(path.read_text(encoding="utf-8"))
            for found in known.values():
                _capacity(found)
            return dict(known)
    return {}


def _capacity(found: Mapping[str, Any]) -> Capacity:
    best = None if found["best"] is None else Figures(*found["best"])
    return Capacity(best, tuple(Figures(*run) for run in found["runs"]))
