"""Limits of batches and queues, from settings, artifacts and operators; and how long a request waits in a queue."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from penstock.artifacts.manifest import Manifest
from penstock.artifacts.policies import BatchingPolicy, PaddingPolicy
from penstock.engine.batching.flows.flow import Flow
from penstock.engine.batching.flows.item import Item
from penstock.engine.batching.outcome import Preempted
from penstock.engine.batching.queue import BatchQueue
from penstock.engine.batching.runner import BatchRunner
from penstock.errors import Overloaded


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Limits of one model's batches and queue. Times in milliseconds. Without `join` every request runs alone.

    `timeout_ms` is the longest time a request may take, if the model has a limit of its own. `padding` lets requests of
    several lengths share a run. A model that is `whole` runs each request alone, uncut and unpadded, whatever its rows;
    a request then counts as one row. `batchable` is what its manifest says.
    """

    batch_rows: int = 32
    queue_rows: int = 512
    queue_bytes: int = 256 * 1024 * 1024
    max_wait_ms: float = 0.0
    join: bool = True
    timeout_ms: float | None = None
    padding: tuple[PaddingPolicy, ...] = ()
    whole: bool = False
    batchable: bool | None = None

    def for_whole_requests(self) -> BatchLimits:
        """These limits for a model that runs each request alone and uncut."""
        return replace(self, batch_rows=1, whole=True)

    def of(self, manifest: Manifest) -> BatchLimits:
        """These limits, with those that an artifact sets for itself."""
        return replace(self, padding=manifest.padding, batchable=manifest.batchable).under(manifest.batching)

    def under(self, policy: BatchingPolicy | None) -> BatchLimits:
        """These limits, with those that a policy sets."""
        if policy is None:
            return self
        batch_rows = policy.max_batch_rows or self.batch_rows
        return replace(
            self,
            batch_rows=batch_rows,
            queue_rows=max(batch_rows, policy.max_queue_rows or self.queue_rows),
            queue_bytes=policy.max_queue_bytes or self.queue_bytes,
            max_wait_ms=self.max_wait_ms if policy.max_wait_ms is None else policy.max_wait_ms,
            timeout_ms=policy.timeout_ms or self.timeout_ms,
        )


Curve: TypeAlias = "Sequence[tuple[int, float]]"
"""Numbers of rows, ascending, with the time of a batch of so many as a share of that of a full one."""


def relative_curve(times: Mapping[int, float], full: int) -> Curve:
    """The curve of measured times of a batch by its rows; they are in proportion to the rows where nothing is known.

    Times that fall although there are more rows are noise: a larger batch takes at least as long.
    """
    known = {rows: time for rows, time in times.items() if 0 < rows <= full and time > 0}
    if full not in known or len(known) < 2:
        return ((full, 1.0),)
    curve: list[tuple[int, float]] = []
    for rows in sorted(known, reverse=True):
        curve.insert(0, (rows, min(known[rows] / known[full], curve[0][1] if curve else 1.0)))
    return curve


def full_batches(curve: Curve, rows: int) -> float:
    """How many times as long as a full batch so many rows take, one batch after another."""
    full, rest = divmod(rows, curve[-1][0])
    return full + share_of_full(curve, rest) if rest else full


def share_of_full(curve: Curve, rows: int) -> float:
    """The time of a batch of `rows`, as a share of that of a full one: between two measured sizes, on their line."""
    place = bisect_left(curve, (rows, 0.0))
    if place == len(curve):
        return 1.0
    right, share = curve[place]
    if place == 0:  # fewer rows than were measured
        return share if len(curve) > 1 else share * rows / right
    left, before = curve[place - 1]
    return before + (share - before) * (rows - left) / (right - left)


class Forecast:
    """Expected waits in one queue. Its methods are called with the queue's lock held."""

    def __init__(
        self, queue: BatchQueue[Any], runner: BatchRunner[Any, Any, Any], curve: Curve, concurrency: int
    ) -> None:
        """`curve`: times of a batch by its rows. `concurrency`: batches that run at once."""
        self.running_rows = 0
        self._queue = queue
        self._runner = runner
        self._curve = curve
        self._concurrency = concurrency

    def wait_s(self, rows: int) -> float:
        """Expected time until what runs and then so many rows have run."""
        return full_batches(self._curve, rows + self.running_rows) / self._concurrency * self._runner.full_s

    def check(self, left: float, deadline: float, priority: int, flow: Flow | None) -> None:
        """Raise Overloaded for a request whose deadline, in `left` seconds, would pass while it waits for its turn."""
        queue = self._queue
        if not queue.requests or left >= self.wait_s(queue.rows):
            return
        wait_s = self.wait_s(queue.rows_before(priority, deadline, flow))
        if left < wait_s:
            message = f"the wait is about {wait_s * 1000:.0f} ms, longer than the {left * 1000:.0f} ms left"
            raise Overloaded(message, retry_after_s=max(0.001, wait_s))

    def full(self, rows: int, priority: int, flow: Flow | None) -> Overloaded:
        """The refusal of a request of so many rows by a full queue."""
        message = f"the queue is full ({self._queue.exceeded_limit(rows)}); try again later"
        return Overloaded(message, retry_after_s=self._retry_after_s(priority, flow))

    def evicted(self, item: Item[Any], priority: int) -> Preempted:
        """What becomes of an item that gave way to a request of this priority."""
        by = "a higher priority" if priority > item.priority else "callers with fewer of them in the full queue"
        return Preempted(f"evicted by requests of {by}", retry_after_s=self._retry_after_s(item.priority, item.flow))

    def _retry_after_s(self, priority: int, flow: Flow | None) -> float:
        """The time in which what waits now of a flow, and what goes before it, will have run."""
        return max(0.001, self.wait_s(self._queue.rows_before(priority, math.inf, flow)))
