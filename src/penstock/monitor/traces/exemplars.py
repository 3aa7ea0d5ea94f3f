"""Exemplars: for each bucket of a histogram of times, the newest traced request that fell into it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

from penstock.engine.statistics import PHASES, SECONDS
from penstock.monitor.traces.trace import Seen

_BOUNDS_MS = tuple(bound * 1000 for bound in SECONDS)  # as the histograms are counted

Bucket: TypeAlias = tuple[str, str, int, int]
"""Model, version, the index of the phase in `PHASES`, the index of the bucket."""


class Exemplar(NamedTuple):
    """A traced request: its time in seconds, and when it ended, in seconds since 1970."""

    trace_id: str
    value: float
    at: float


class Exemplars:
    """Kept by the exporter's thread, read by those that render the page."""

    def __init__(self) -> None:
        self._newest: dict[Bucket, Exemplar] = {}

    def add(self, seen: Seen, trace_id: str, at: float) -> None:
        """Keep the times of a prediction that was answered."""
        if seen.outcome != "ok":
            return
        for phase, name in enumerate(PHASES):
            ms = getattr(seen, f"{name}_ms")
            key = (seen.model, seen.version, phase, bisect_left(_BOUNDS_MS, ms))
            self._newest[key] = Exemplar(trace_id, ms / 1000, at)

    def rows(self) -> list[list[object]]:
        """All of them, as JSON can carry them: the bucket, then the exemplar."""
        return [[*bucket, *exemplar] for bucket, exemplar in list(self._newest.items())]


def newest(rows: Iterable[list[object]]) -> dict[Bucket, Exemplar]:
    """The newest exemplar of each bucket, of those of several processes."""
    found: dict[Bucket, Exemplar] = {}
    for model, version, phase, bucket, trace_id, value, at in rows:
        key: Bucket = (str(model), str(version), int(str(phase)), int(str(bucket)))
        exemplar = Exemplar(str(trace_id), float(str(value)), float(str(at)))
        if key not in found or found[key].at < exemplar.at:
            found[key] = exemplar
    return found
