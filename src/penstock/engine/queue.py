"""The batcher's decisions without threads or clocks: what is let in, and what runs together."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

from penstock.errors import Overloaded
from penstock.tensors import Arrays, group_key, nbytes


class Item:
    """One request in the queue: its inputs, the caller's future and when it must be done."""

    __slots__ = ("arrays", "bytes", "deadline", "entered", "future", "key", "loop", "order", "rows")

    def __init__(
        self,
        arrays: Arrays,
        rows: int,
        future: asyncio.Future[Any],
        loop: asyncio.AbstractEventLoop,
        entered: float,
        deadline: float | None = None,
    ) -> None:
        self.arrays = arrays
        self.rows = rows
        self.future = future
        self.loop = loop
        self.entered = entered
        self.deadline = deadline
        self.bytes = nbytes(arrays)
        self.key = group_key(arrays)
        self.order = 0


class BatchQueue:
    """A queue bounded by rows and by bytes. One line per `group_key`; the oldest head goes first.

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
        self._lines: dict[Any, dict[Item, None]] = {}
        self._order = itertools.count()

    def __bool__(self) -> bool:
        """True while somebody waits, be it with no rows."""
        return bool(self._lines)

    def has_room(self, rows: int, size: int = 0) -> bool:
        """Whether a request of `rows` and `size` bytes may come in. An empty queue takes any one request."""
        return not self.rows or (self.rows + rows <= self.max_rows and self.bytes + size <= self.max_bytes)

    def check_room(self, rows: int, size: int, retry_after_s: float) -> None:
        """Raise Overloaded when there is no room."""
        if not self.has_room(rows, size):
            what = f"{self.max_rows} rows" if self.rows + rows > self.max_rows else f"{self.max_bytes} bytes"
            raise Overloaded(f"the queue is full ({what}); try again later", retry_after_s=retry_after_s)

    def push(self, item: Item) -> None:
        """Add a request that `check_room` let in."""
        item.order = next(self._order)
        self.rows += item.rows
        self.bytes += item.bytes
        line = self._lines.get(item.key)
        if line is None:
            line = self._lines[item.key] = {}
        line[item] = None

    def drop(self, item: Item) -> bool:
        """Take out a request nobody waits for any more; False when it had left the queue already."""
        line = self._lines.get(item.key)
        if line is None or item not in line:
            return False
        del line[item]
        if not line:
            del self._lines[item.key]
        self.rows -= item.rows
        self.bytes -= item.bytes
        return True

    def head(self) -> Item | None:
        """The request that waits longest."""
        heads = [next(iter(line)) for line in self._lines.values()]
        return min(heads, key=lambda item: item.order) if heads else None

    def take(self) -> list[Item]:
        """The next batch: the oldest request and those behind it that can share its run, within the row limit."""
        head = self.head()
        if head is None:
            return []
        batch = [head]
        rows = head.rows
        if self._join:
            for item in itertools.islice(self._lines[head.key], 1, None):
                if rows + item.rows > self.max_batch_rows:
                    break
                batch.append(item)
                rows += item.rows
        for item in batch:
            self.drop(item)
        return batch

    def clear(self) -> list[Item]:
        """Everything that still waits, taken out."""
        waiting = [item for line in self._lines.values() for item in line]
        for item in waiting:
            self.drop(item)
        return waiting
