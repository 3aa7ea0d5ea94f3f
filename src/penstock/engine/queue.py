"""The batcher's decisions without threads or clocks: what is let in, and what runs together."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from typing import Any

from penstock.errors import Overloaded
from penstock.tensors import Arrays, group_key, nbytes


class Item:
    """One request in the queue: its inputs, the caller's future and when it must be done."""

    __slots__ = ("arrays", "bytes", "deadline", "entered", "future", "key", "loop", "order", "queued", "rows")

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
        self.queued = False
        self.order = 0


class BatchQueue:
    """A queue bounded by rows and by bytes. One line per `group_key`; the oldest head goes first.

    Not thread-safe: its owner holds a lock. `rows` and `bytes` count what waits, and nothing that was dropped.
    """

    def __init__(self, *, max_batch_rows: int, max_rows: int, max_bytes: int) -> None:
        self.max_batch_rows = max_batch_rows
        self.max_rows = max_rows
        self.max_bytes = max_bytes
        self.rows = 0
        self.bytes = 0
        self._lines: dict[Any, deque[Item]] = {}
        self._order = itertools.count()

    def check_room(self, rows: int, size: int, retry_after_s: float) -> None:
        """Raise Overloaded when `rows` of `size` bytes do not fit. An empty queue takes any one request."""
        if self.rows and (self.rows + rows > self.max_rows or self.bytes + size > self.max_bytes):
            what = f"{self.max_rows} rows" if self.rows + rows > self.max_rows else f"{self.max_bytes} bytes"
            raise Overloaded(f"the queue is full ({what}); try again later", retry_after_s=retry_after_s)

    def push(self, item: Item) -> None:
        """Add a request that `check_room` let in."""
        item.order = next(self._order)
        item.queued = True
        self.rows += item.rows
        self.bytes += item.bytes
        line = self._lines.get(item.key)
        if line is None:
            line = self._lines[item.key] = deque()
        line.append(item)

    def drop(self, item: Item) -> bool:
        """Free the room of a request nobody waits for any more; False when it had left the queue already."""
        if not item.queued:
            return False
        item.queued = False
        self.rows -= item.rows
        self.bytes -= item.bytes
        return True

    def head(self) -> Item | None:
        """The request that waits longest. Forgets the dropped ones on the way."""
        oldest: Item | None = None
        for key in list(self._lines):
            line = self._lines[key]
            while line and not line[0].queued:
                line.popleft()
            if not line:
                del self._lines[key]
            elif oldest is None or line[0].order < oldest.order:
                oldest = line[0]
        return oldest

    def take(self) -> list[Item]:
        """The next batch: the oldest request and those behind it that can share its run, within the row limit."""
        head = self.head()
        if head is None:
            return []
        line = self._lines[head.key]
        batch: list[Item] = []
        rows = 0
        while line:
            item = line[0]
            if not item.queued:
                line.popleft()
                continue
            if batch and rows + item.rows > self.max_batch_rows:
                break
            line.popleft()
            self.drop(item)
            batch.append(item)
            rows += item.rows
        return batch

    def clear(self) -> list[Item]:
        """Everything that still waits, taken out."""
        waiting = [item for line in self._lines.values() for item in line if self.drop(item)]
        self._lines.clear()
        return waiting
