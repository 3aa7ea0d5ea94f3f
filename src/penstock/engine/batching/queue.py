"""The batcher's decisions without threads or clocks: what is admitted, what goes first and what runs together."""

from __future__ import annotations

import asyncio
import itertools
import math
from bisect import bisect_left, insort
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

Payload = TypeVar("Payload")

Rank: TypeAlias = "tuple[int, float, float]"
"""Order of the queue: higher priority, then earlier deadline, then arrival. The lowest rank is next."""

_rank = attrgetter("rank")


class Waiter(Protocol):
    """Who waits for the outcome of an item: a future, or the bundle of requests that the item holds."""

    def done(self) -> bool:
        """True if the outcome is known, or of no more interest."""

    def set_result(self, outcome: Any) -> None:
        """Take the outcome."""


@dataclass(slots=True, eq=False)
class Item(Generic[Payload]):
    """One request in the queue, one part of it, or a bundle of requests. Times are in `time.monotonic()` seconds.

    Items of one `key` can share a run. The batcher resolves `waiter`, on its `loop`.
    """

    payload: Payload
    key: Hashable
    rows: int
    bytes: int
    waiter: Waiter
    loop: asyncio.AbstractEventLoop
    entered: float
    deadline: float | None = None
    priority: int = 0
    rank: Rank = field(init=False)


class BatchQueue(Generic[Payload]):
    """A queue bounded by rows and by bytes. Items wait in one list per `key`, sorted by `Rank`; the best item is next.

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
        self._lists: dict[Hashable, list[Item[Payload]]] = {}
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

    def exceeded_limit(self, rows: int) -> str:
        """The limit that a request of `rows` would exceed, for an error message."""
        return f"{self.max_rows} rows" if self.rows + rows > self.max_rows else f"{self.max_bytes} bytes"

    def can_evict(self, priority: int) -> bool:
        """True if a queued request of lower priority can be evicted."""
        return any(items[-1].priority < priority for items in self._lists.values())

    def offer(self, items: Sequence[Item[Payload]], rows: int, size: int) -> Sequence[Item[Payload]] | None:
        """Add one request, whole or in parts, of `rows` and `size` bytes.

        Returns the items of lower priority evicted for it, or None if the queue is full and nothing changed.
        """
        evicted: Sequence[Item[Payload]] = ()
        if self.rows and (self.rows + rows > self.max_rows or self.bytes + size > self.max_bytes):
            evicted = self._evict(rows, size, items[0].priority)
            if not evicted:
                return None
        for item in items:
            self._push(item)
        return evicted

    def _evict(self, rows: int, size: int, priority: int) -> Sequence[Item[Payload]]:
        """Remove items of lower priority, the last in rank first, until a request of `rows` and `size` fits.

        Removes none if all of them together are not enough.
        """
        lower = sorted(
            (item for items in self._lists.values() for item in items if item.priority < priority),
            key=_rank,
            reverse=True,
        )
        excess_rows, excess_bytes = self.rows + rows - self.max_rows, self.bytes + size - self.max_bytes
        for count, item in enumerate(lower, 1):
            excess_rows -= item.rows
            excess_bytes -= item.bytes
            if (excess_rows <= 0 and excess_bytes <= 0) or count == self.requests:
                for each in lower[:count]:
                    self.remove(each)
                return lower[:count]
        return ()

    def _push(self, item: Item[Payload]) -> None:
        deadline = item.deadline
        rank = item.rank = (-item.priority, math.inf if deadline is None else deadline, next(self._arrivals))
        self.requests += 1
        self.rows += item.rows
        self.bytes += item.bytes
        items = self._lists.get(item.key)
        if items is None:
            self._lists[item.key] = [item]
        elif items[-1].rank < rank:  # the usual case: requests of one priority and one timeout
            items.append(item)
        else:
            insort(items, item, key=_rank)

    def rows_before(self, priority: int, deadline: float) -> int:
        """Number of rows that would run before a request that arrives now with this priority and deadline."""
        rank = (-priority, deadline, math.inf)
        if all(items[-1].rank < rank for items in self._lists.values()):
            return self.rows
        return sum(item.rows for items in self._lists.values() for item in items[: bisect_left(items, rank, key=_rank)])

    # Removal

    def replace(self, item: Item[Payload], payload: Payload, rows: int, size: int) -> bool:
        """Give a waiting item a smaller payload; False if it had left the queue already."""
        if self._place(item) is None:
            return False
        self.rows -= item.rows - rows
        self.bytes -= item.bytes - size
        item.payload, item.rows, item.bytes = payload, rows, size
        return True

    def remove(self, item: Item[Payload]) -> bool:
        """Remove a cancelled or expired request; False if it had left the queue already."""
        index = self._place(item)
        if index is None:
            return False
        items = self._lists[item.key]
        del items[index]
        self._account_removed(item.key, items, (item,))
        return True

    def _place(self, item: Item[Payload]) -> int | None:
        """The index of an item in the list of its key; None if it has left the queue."""
        items = self._lists.get(item.key)
        if items is None:
            return None
        index = bisect_left(items, item.rank, key=_rank)
        return None if index == len(items) or items[index] is not item else index

    def fill_until(self, max_wait_s: float) -> float:
        """The earliest end of the time that a queued request may wait to fill a batch; infinity if the queue is empty.

        A request waits for `max_wait_s`, but at most for half of the time to its deadline.
        """
        return min(
            (
                item.entered
                + (max_wait_s if item.deadline is None else min(max_wait_s, (item.deadline - item.entered) / 2))
                for items in self._lists.values()
                for item in items
            ),
            default=math.inf,
        )

    def take(self) -> list[Item[Payload]]:
        """The next batch: the best request and the following ones of its key, within the row limit. Empty if none."""
        lists = self._lists
        if not lists:
            return []
        first = next(iter(lists.values()))[0]
        if len(lists) > 1:
            first = min((items[0] for items in lists.values()), key=_rank)
        items = lists[first.key]
        batch = [first]
        rows = first.rows
        if self._shared:
            most = self.max_batch_rows
            for item in itertools.islice(items, 1, None):
                rows += item.rows
                if rows > most:
                    break
                batch.append(item)
        del items[: len(batch)]
        self._account_removed(first.key, items, batch)
        return batch

    def _account_removed(self, key: Hashable, items: list[Item[Payload]], removed: Iterable[Item[Payload]]) -> None:
        if not items:
            del self._lists[key]
        for item in removed:
            self.requests -= 1
            self.rows -= item.rows
            self.bytes -= item.bytes

    def clear(self) -> list[Item[Payload]]:
        """Remove and return everything that waits."""
        waiting = [item for items in self._lists.values() for item in items]
        self._lists.clear()
        self.requests = self.rows = self.bytes = 0
        return waiting
