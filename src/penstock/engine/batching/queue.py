"""The batcher's decisions without threads or clocks: what is let in, what goes first and what runs together."""

from __future__ import annotations

import asyncio
import itertools
import math
from bisect import bisect_left, insort
from operator import attrgetter
from typing import Any, TypeAlias

from penstock.tensors import Arrays, group_key, nbytes

Rank: TypeAlias = "tuple[int, float, float]"
"""What goes first: the higher priority, then the earlier deadline, then who came first. The least rank is the next."""

_rank = attrgetter("rank")


class Item:
    """One request in the queue: its inputs, the caller's future and when it must be done.

    `key` is equal for requests that can share a run; among them the higher `priority` goes first.
    """

    __slots__ = ("arrays", "bytes", "deadline", "entered", "future", "key", "loop", "priority", "rank", "rows")

    rank: Rank

    def __init__(
        self,
        arrays: Arrays,
        rows: int,
        future: asyncio.Future[Any],
        loop: asyncio.AbstractEventLoop,
        entered: float,
        deadline: float | None = None,
        priority: int = 0,
        key: Any = None,
    ) -> None:
        self.arrays = arrays
        self.rows = rows
        self.future = future
        self.loop = loop
        self.entered = entered
        self.deadline = deadline
        self.priority = priority
        self.bytes = nbytes(arrays)
        self.key = group_key(arrays) if key is None else key


class BatchQueue:
    """A queue bounded by rows and by bytes. One line per `key`, in the order of `Rank`; the best head goes first.

    Not thread-safe: its owner holds a lock. `rows` and `bytes` count what waits; what was dropped is gone at once.
    """

    def __init__(self, *, max_batch_rows: int, max_rows: int, max_bytes: int, join: bool = True) -> None:
        """Without `join` every request runs alone."""
        self.max_batch_rows = max_batch_rows
        self.max_rows = max_rows
        self.max_bytes = max_bytes
        self.rows = 0
        self.bytes = 0
        self._join = join
        self._lines: dict[Any, list[Item]] = {}
        self._order = itertools.count()

    def __bool__(self) -> bool:
        """True while somebody waits, be it with no rows."""
        return bool(self._lines)

    # Letting in

    def has_room(self, rows: int, size: int = 0) -> bool:
        """Whether a request of `rows` and `size` bytes may come in. An empty queue takes any one request."""
        return not self.rows or (self.rows + rows <= self.max_rows and self.bytes + size <= self.max_bytes)

    def full_of(self, rows: int) -> str:
        """Which limit a request of `rows` that has no room would break, for people."""
        return f"{self.max_rows} rows" if self.rows + rows > self.max_rows else f"{self.max_bytes} bytes"

    def gives_way(self, priority: int) -> bool:
        """Whether somebody waits whom a request of this priority may put out."""
        return any(line[-1].priority < priority for line in self._lines.values())

    def put_out(self, rows: int, size: int, priority: int) -> list[Item]:
        """Take out those of lower priority, the last in rank first, until a request of `rows` and `size` has room.

        Nobody is taken out, and the list is empty, when all of them together would not make room.
        """
        lower = sorted(
            (item for line in self._lines.values() for item in line if item.priority < priority),
            key=_rank,
            reverse=True,
        )
        everybody = len(self)
        rows_over, bytes_over = self.rows + rows - self.max_rows, self.bytes + size - self.max_bytes
        for count, item in enumerate(lower, 1):
            rows_over -= item.rows
            bytes_over -= item.bytes
            if (rows_over <= 0 and bytes_over <= 0) or count == everybody:
                gone = lower[:count]
                for each in gone:
                    self.drop(each)
                return gone
        return []

    def __len__(self) -> int:
        """How many requests wait."""
        return sum(map(len, self._lines.values()))

    def push(self, item: Item) -> None:
        """Add a request that has room; it stands behind those of a better rank."""
        deadline = item.deadline
        rank = item.rank = (-item.priority, math.inf if deadline is None else deadline, next(self._order))
        self.rows += item.rows
        self.bytes += item.bytes
        line = self._lines.get(item.key)
        if line is None:
            self._lines[item.key] = [item]
        elif line[-1].rank < rank:  # the usual case: everybody has the same priority and the same patience
            line.append(item)
        else:
            insort(line, item, key=_rank)

    def rows_before(self, priority: int, deadline: float) -> int:
        """How many rows would run before a request that comes now with this priority and deadline."""
        rank = (-priority, deadline, math.inf)
        if all(line[-1].rank < rank for line in self._lines.values()):
            return self.rows
        return sum(item.rows for line in self._lines.values() for item in line[: bisect_left(line, rank, key=_rank)])

    # Letting out

    def drop(self, item: Item) -> bool:
        """Take out a request nobody waits for any more; False when it had left the queue already."""
        line = self._lines.get(item.key)
        if line is None:
            return False
        place = bisect_left(line, item.rank, key=_rank)
        if place == len(line) or line[place] is not item:
            return False
        del line[place]
        self._left(item.key, line, (item,))
        return True

    def head(self) -> Item | None:
        """The request that goes next."""
        lines = self._lines
        if not lines:
            return None
        heads = [line[0] for line in lines.values()]
        return heads[0] if len(heads) == 1 else min(heads, key=_rank)

    def patient_until(self, max_wait_s: float) -> float:
        """When the first of those who wait has waited long enough for company: at most half of the time it has.

        Infinity when nobody waits.
        """
        return min(
            (
                item.entered
                + (max_wait_s if item.deadline is None else min(max_wait_s, (item.deadline - item.entered) / 2))
                for line in self._lines.values()
                for item in line
            ),
            default=math.inf,
        )

    def take(self) -> list[Item]:
        """The next batch: the best request and those behind it that can share its run, within the row limit."""
        head = self.head()
        if head is None:
            return []
        line = self._lines[head.key]
        batch = [head]
        rows = head.rows
        if self._join:
            most = self.max_batch_rows
            for item in itertools.islice(line, 1, None):
                rows += item.rows
                if rows > most:
                    break
                batch.append(item)
        del line[: len(batch)]
        self._left(head.key, line, batch)
        return batch

    def _left(self, key: Any, line: list[Item], items: list[Item] | tuple[Item, ...]) -> None:
        """Write off items that left their line."""
        if not line:
            del self._lines[key]
        for item in items:
            self.rows -= item.rows
            self.bytes -= item.bytes

    def clear(self) -> list[Item]:
        """Everything that still waits, taken out."""
        waiting = [item for line in self._lines.values() for item in line]
        self._lines.clear()
        self.rows = self.bytes = 0
        return waiting
