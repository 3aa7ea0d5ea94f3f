"""Windows of one model version: counts by parts of windows, which processes add up, and the verdicts on closed ones.

A part is a twelfth of a window, numbered from the start of the machine's clock, so that the parts of all processes of a
server are the same. A window with too few rows goes on through the next ones, up to `LONGEST` of them.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from penstock.artifacts.reference.reference import Reference
from penstock.monitor.drift.verdicts import Rules, data_quality, judge
from penstock.tensors import Array

Snapshot: TypeAlias = dict[str, Any]
Parts: TypeAlias = dict[int, Array]

PARTS = 12
LONGEST = 24
KEPT = 24
"""Verdicts that are kept."""
GRACE_S = 1.5
"""After the end of a window, until the counts of the other processes are known here."""


class Windows:
    """The windows of one version in this process."""

    def __init__(self, reference: Reference, rules: Rules, now: float) -> None:
        self.reference = reference
        self.rules = rules
        self.parts: Parts = {}
        self.closed: list[dict[str, Any]] = []
        self.pending = int(now // rules.window_s)
        """The first window that is not closed, as a number of windows since the start of the clock."""

    def add(self, counts: Array, now: float) -> None:
        """Count sampled rows."""
        part = int(now * PARTS // self.rules.window_s)
        self.parts[part] = self.parts[part] + counts if part in self.parts else counts

    def snapshot(self) -> Snapshot:
        """What the other processes need."""
        return {
            "pending": self.pending,
            "closed": self.closed,
            "parts": {str(part): _packed(counts) for part, counts in list(self.parts.items())},
        }

    def advance(self, others: Sequence[Mapping[str, Any]], now: float) -> list[dict[str, Any]]:
        """Close the windows that have ended, with the counts of the other processes; the verdicts that are new here."""
        before = {(one["from"], one["to"]): one for one in self.closed}
        known = {(one["from"], one["to"]): one for each in others for one in each["closed"]}
        self.closed = sorted((known | before).values(), key=lambda one: one["to"])[-KEPT:]
        self.pending = min([self.pending, *(one["pending"] for one in others)])
        self.pending = max(self.pending, *(one["to"] for one in self.closed)) if self.closed else self.pending
        parts = merged(self, others)
        last = int((now - GRACE_S) // self.rules.window_s)
        while (end := self._end(parts, last)) is not None:
            self._close(parts, end)
        self._forget()
        return [one for one in self.closed if (one["from"], one["to"]) not in before]

    def _end(self, parts: Parts, last: int) -> int | None:
        """Where the pending window ends, None if it goes on; `last` has not ended. Windows without rows are passed."""
        filled = sorted({part // PARTS for part in parts if self.pending <= part // PARTS < last})
        self.pending = filled[0] if filled else max(self.pending, last)
        rows = 0
        for window in filled:
            rows += sum(self._rows(counts) for part, counts in parts.items() if part // PARTS == window)
            if rows >= self.rules.min_rows or window - self.pending + 1 >= LONGEST:
                return window + 1
        return self.pending + LONGEST if filled and last - self.pending >= LONGEST else None

    def _close(self, parts: Parts, end: int) -> None:
        mine = [parts[part] for part in sorted(parts) if self.pending <= part // PARTS < end]
        result = {"from": self.pending, "to": end, **judge(self.reference, mine, self.rules)}
        self.pending = end
        self.closed = [*self.closed, result][-KEPT:]

    def _rows(self, counts: Array) -> int:
        return int(counts[self.reference.slices[0]].sum())

    def _forget(self) -> None:
        """Drop the counts of closed windows, but for the last, which another process may still have to close."""
        first = self.pending - 1
        if self.closed and self.closed[-1]["to"] >= first:
            first = min(first, self.closed[-1]["from"])
        self.parts = coarse(
            {part: counts for part, counts in self.parts.items() if part // PARTS >= first}, self.pending
        )

    def open_window(self, others: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The window that is not closed yet: its rows, and what its values show already."""
        parts = merged(self, others)
        mine = [counts for part, counts in parts.items() if part // PARTS >= self.pending]
        quality = data_quality(self.reference, mine, self.rules)
        return {
            "from": self.pending,
            "verdict": "alarm" if quality else "no_verdict",
            "rows": sum(map(self._rows, mine)),
            "needed": self.rules.min_rows,
            "data_quality": quality,
        }


def merged(own: Windows, others: Iterable[Mapping[str, Any]]) -> Parts:
    """The parts of all processes."""
    total = dict(own.parts)
    size = len(own.reference.counts)
    for other in others:
        for name, text in other["parts"].items():
            counts = _counts(text)
            if len(counts) == size:
                part = int(name)
                total[part] = total[part] + counts if part in total else counts
    return coarse(total, own.pending)


def coarse(parts: Parts, pending: int) -> Parts:
    """Parts of a window that goes on for long, as one for each window but the last two: that bounds the memory."""
    if not parts:
        return parts
    newest = max(parts) // PARTS
    found: Parts = {}
    for part, counts in parts.items():
        window = part // PARTS
        place = window * PARTS if pending <= window < newest - 1 else part
        found[place] = found[place] + counts if place in found else counts
    return found


def _packed(counts: Array) -> str:
    return base64.b64encode(counts.astype("<i4").tobytes()).decode()


def _counts(text: str) -> Array:
    return np.frombuffer(base64.b64decode(text), "<i4").astype(np.int64)
