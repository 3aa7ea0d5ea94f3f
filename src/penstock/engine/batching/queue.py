"""The batcher's decisions without threads or clocks: what is admitted, what goes first and what runs together."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Generic

from penstock.engine.batching.flows import eviction
from penstock.engine.batching.flows.fair_order import FairOrder
from penstock.engine.batching.flows.flow import Flow
from penstock.engine.batching.flows.item import Item, Payload
from penstock.engine.batching.flows.line import Line

PARTS = 4
"""Bundles in a run where several flows wait: one that does not fit beside another's leaves a part of the run empty."""
MIXED = 256
"""So many bundles are cut like that after several flows have waited."""


class BatchQueue(Generic[Payload]):
    """A queue bounded by rows and by bytes. The items of one flow wait in a line, the best one is next; those of
    several flows are in a `FairOrder`.

    Not thread-safe: its owner holds a lock. `requests`, `rows` and `bytes` count what waits.
    """

    def __init__(self, *, max_batch_rows: int, max_rows: int, max_bytes: int, shared: bool = True) -> None:
        """Without `shared` every request runs alone."""
        self.max_batch_rows = max_batch_rows
        self.max_rows = max_rows
        self.max_bytes = max_bytes
        self.requests = 0
        self.rows = 0
        self.bytes = 0
        self._shared = shared
        self._flow: Flow | None = None
        self._line: Line[Payload] = Line()
        """What waits, while it is all of `_flow`."""
        self._fair: FairOrder[Payload] | None = None
        """What waits, while it is of several flows, or one of several still has a debt."""
        self._mixed = 0
        """So many bundles to come are cut as if several flows waited."""
        self._arrivals = itertools.count()

    # Capacity and eviction

    def has_capacity(self, rows: int, size: int = 0) -> bool:
        """True if a request of `rows` and `size` bytes fits. An empty queue takes any one request."""
        return not self.rows or (self.rows + rows <= self.max_rows and self.bytes + size <= self.max_bytes)

    def free_rows(self) -> int:
        """Rows that fit now, one by one. An empty queue takes any one request."""
        if self.bytes >= self.max_bytes:
            return 0
        return max(self.max_rows - self.rows, 0 if self.rows else 1)

    def bundle_rows(self) -> int:
        """Rows that the next bundle has at most: those of a run, or of a part of one where several flows wait."""
        if not self._mixed:
            return self.max_batch_rows
        self._mixed -= 1
        return max(1, self.max_batch_rows // PARTS)

    def exceeded_limit(self, rows: int) -> str:
        """The limit that a request of `rows` would exceed, for an error message."""
        return f"{self.max_rows} rows" if self.rows + rows > self.max_rows else f"{self.max_bytes} bytes"

    def can_evict(self, priority: int, flow: Flow | None = None, rows: int = 1) -> bool:
        """True if a queued request can be evicted: of lower priority, or of a flow with more than this one's share."""
        return self._has_lower(priority) or self._has_more(flow, rows)

    def _has_lower(self, priority: int) -> bool:
        if self._fair is not None:
            return self._fair.has_lower(priority)
        return any(items[-1].priority < priority for items in self._line.lists.values())

    def owes(self, rows: int, size: int, priority: int, flow: Flow | None) -> bool:
        """True if flows that have more in the queue than this one have to make room for its request."""
        return self._has_more(flow, rows) and bool(self._giving_way(rows, size, priority, flow))

    def _has_more(self, flow: Flow | None, rows: int) -> bool:
        """True if another flow has more in the queue than this one would have with so many more rows."""
        if self._fair is None and flow is self._flow:
            return False
        return eviction.has_more(self._backlog(), rows, flow)

    def most_rows(self, wanted: int, priority: int, flow: Flow | None) -> int:
        """How many of so many requests of at least one row would be taken now, one by one."""
        free = self.free_rows()
        if free >= wanted or self._has_lower(priority):
            return wanted
        if self._fair is None and flow is self._flow:
            return free
        return eviction.most_rows(self._backlog(), free, wanted, flow)

    def _backlog(self) -> Mapping[Flow | None, int]:
        return {self._flow: self.rows} if self._fair is None else self._fair.backlog

    def offer(self, items: Sequence[Item[Payload]], rows: int, size: int) -> Sequence[Item[Payload]] | None:
        """Add one request, whole or in parts, of `rows` and `size` bytes.

        Returns the items evicted for it, or None if the queue is full and nothing changed.
        """
        evicted: Sequence[Item[Payload]] = ()
        if self.rows and (self.rows + rows > self.max_rows or self.bytes + size > self.max_bytes):
            evicted = self._giving_way(rows, size, items[0].priority, items[0].flow)
            if not evicted:
                return None
            for item in evicted:
                self.remove(item)
        for item in items:
            self._push(item)
        return evicted

    def _giving_way(self, rows: int, size: int, priority: int, flow: Flow | None) -> Sequence[Item[Payload]]:
        """The items to evict for a request of `rows` and `size` bytes; none if all that may be are not enough."""
        if not self.can_evict(priority, flow, rows):
            return ()
        excess_rows, excess_bytes = self.rows + rows - self.max_rows, self.bytes + size - self.max_bytes
        going: list[Item[Payload]] = []
        priorities = {item.priority for item in self._items()}
        for item in eviction.candidates(priorities, self._backlog(), self._line_of, (rows, priority, flow)):
            going.append(item)
            excess_rows -= item.rows
            excess_bytes -= item.bytes
            if (excess_rows <= 0 and excess_bytes <= 0) or len(going) == self.requests:
                return going
        return ()

    def _line_of(self, priority: int, flow: Flow | None) -> Line[Payload] | None:
        """What waits of a flow with this priority, perhaps with others."""
        if self._fair is not None:
            return self._fair.line(priority, flow)
        return self._line if flow is self._flow else None

    def _push(self, item: Item[Payload]) -> None:
        deadline = item.deadline
        item.rank = (-item.priority, math.inf if deadline is None else deadline, next(self._arrivals))
        if item.flow is not self._flow and self._fair is None:
            if self.requests:
                self._fair, self._mixed = FairOrder(self._flow, self._line), MIXED
            else:
                self._flow = item.flow
        self.requests += 1
        self.rows += item.rows
        self.bytes += item.bytes
        (self._line if self._fair is None else self._fair).push(item)

    def rows_before(self, priority: int, deadline: float, flow: Flow | None = None) -> int:
        """Number of rows that would run before a request that arrives now with this priority, deadline and flow."""
        if self._fair is not None:
            return self._fair.rows_before(priority, deadline, flow)
        if flow is self._flow or not self.requests:
            return self._line.rows_before((-priority, deadline, math.inf), self.rows)
        higher = self._line.rows_before((-priority, -math.inf, -1), self.rows)
        return min(self.rows, higher + 1)  # of this priority, the flows take turns

    # Removal

    def replace(self, item: Item[Payload], payload: Payload, rows: int, size: int) -> bool:
        """Give a waiting item a smaller payload; False if it had left the queue already."""
        line = self._line_of(item.priority, item.flow)
        if line is None or line.place(item) is None:
            return False
        if self._fair is not None:
            self._fair.resize(item, rows)
        self.rows -= item.rows - rows
        self.bytes -= item.bytes - size
        item.payload, item.rows, item.bytes = payload, rows, size
        return True

    def remove(self, item: Item[Payload]) -> bool:
        """Remove a cancelled or expired request; False if it had left the queue already."""
        if not (self._line if self._fair is None else self._fair).remove(item):
            return False
        self._removed((item,))
        return True

    def fill_until(self, max_wait_s: float) -> float:
        """The earliest end of the time that a queued request may wait to fill a batch; infinity if the queue is empty.

        A request waits for `max_wait_s`, but at most for half of the time to its deadline.
        """
        return min(
            (
                item.entered
                + (max_wait_s if item.deadline is None else min(max_wait_s, (item.deadline - item.entered) / 2))
                for item in self._items()
            ),
            default=math.inf,
        )

    def take(self) -> list[Item[Payload]]:
        """The next batch: the best request and the following ones of its key, within the row limit. Empty if none."""
        if not self.requests:
            return []
        if self._fair is not None:
            batch = self._fair.take(self.max_batch_rows, alone=not self._shared)
            self._removed(batch)
            return batch
        batch = self._line.take(self.max_batch_rows if self._shared else -1)
        self.requests -= len(batch)
        for item in batch:
            self.rows -= item.rows
            self.bytes -= item.bytes
        return batch

    def _removed(self, items: Iterable[Item[Payload]]) -> None:
        for item in items:
            self.requests -= 1
            self.rows -= item.rows
            self.bytes -= item.bytes
        if self._fair is None:
            return
        if not self.requests:
            self._flow, self._line, self._fair = None, Line(), None
        elif (lone := self._fair.lone()) is not None:
            self._flow, self._line, self._fair = lone.flow, lone, None

    def _items(self) -> Iterable[Item[Payload]]:
        return self._line if self._fair is None else self._fair

    def clear(self) -> list[Item[Payload]]:
        """Remove and return everything that waits."""
        waiting = list(self._items())
        self.requests = self.rows = self.bytes = 0
        self._flow, self._line, self._fair = None, Line(), None
        return waiting
