"""Removes the records of a key or a request from a prediction log, also while servers write it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from penstock.errors import ConfigError
from penstock.libraries import zstd
from penstock.monitor.prediction_log.reading import lines_of
from penstock.monitor.prediction_log.records import Record, Unreadable, record_of
from penstock.monitor.prediction_log.segments import OPEN, changing, clean, recover, replace, segments
from penstock.monitor.prediction_log.writing import ROTATE

COMPLETE_S = 15.0
"""How long a server may take to complete its segment."""
LOCK_S = 60.0


class Forgotten(NamedTuple):
    """What was removed: records, and lines that nobody could read any more."""

    records: int
    damaged: int
    segments: int
    """That were rewritten or removed."""


def forget(directory: Path, goes: Callable[[Record], bool]) -> Forgotten:
    """Remove the records of which `goes` is true, and all that was logged before this call is looked at.

    Each segment is replaced at once: after a crash in between the log is valid, and the call can be repeated. Raises
    ConfigError if a server does not complete its segment, OSError if one cannot be replaced.
    """
    _complete_all(directory)
    with changing(directory, LOCK_S) as mine:
        if not mine:
            raise ConfigError(f"{directory}: another process changes this prediction log; try again later")
        clean(directory)
        done = [_rewrite(path, goes) for path in segments(directory, opened=False)]
    return Forgotten(*(sum(part) for part in zip(*done, strict=True))) if done else Forgotten(0, 0, 0)


def _complete_all(directory: Path) -> None:
    """Have every server begin a new segment."""
    recover(directory)
    waiting = [path for path in segments(directory) if path.name.endswith(OPEN)]
    if not waiting:
        return
    (directory / ROTATE).touch()
    os.utime(directory / ROTATE, ns=(time.time_ns(), time.time_ns()))
    until = time.monotonic() + COMPLETE_S
    while any(path.exists() for path in waiting):
        if time.monotonic() > until:
            left = next(path for path in waiting if path.exists())
            raise ConfigError(f"{left}: its server does not complete it; nothing was removed, try again later")
        time.sleep(0.05)


def _rewrite(path: Path, goes: Callable[[Record], bool]) -> Forgotten:
    """One segment without those records, if it has any; an empty one is removed."""
    counts = {"kept": 0, "gone": 0, "damaged": 0}
    for _ in _kept(path, goes, counts):
        pass
    gone, damaged = counts["gone"], counts["damaged"]
    if not gone and not damaged:
        return Forgotten(0, 0, 0)
    if counts["kept"]:
        replace(path, _kept(path, goes, counts), path)
    else:
        path.unlink()
    return Forgotten(gone, damaged, 1)


def _kept(path: Path, goes: Callable[[Record], bool], counts: dict[str, int]) -> Iterator[bytes]:
    try:
        for line in lines_of(path):
            kind = _kind(line, goes)
            counts[kind] += 1
            if kind == "kept":
                yield line + b"\n"
    except (EOFError, zstd().ZstdError):
        counts["damaged"] += 1


def _kind(line: bytes, goes: Callable[[Record], bool]) -> str:
    try:
        return "gone" if goes(record_of(line)) else "kept"
    except Unreadable:
        return "damaged"
