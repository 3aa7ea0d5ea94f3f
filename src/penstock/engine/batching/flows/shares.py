"""Start-time fair queueing: which flow is served next while several wait, without rates and without clocks.

Each flow has a start tag. The lowest one is served, and what it gets moves its tag on by rows / weight. The virtual
time is the start tag that was served last. A flow that was idle begins at the virtual time, so that it has earned no
credit, or at its own finish tag where that is later, so that it has lost no debt.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Hashable, Iterator
from typing import Generic, TypeAlias

from penstock.engine.batching.flows.flow import Flow, weight_of
from penstock.engine.batching.flows.item import Item, Payload, Rank
from penstock.engine.batching.flows.line import Line

_Entry: TypeAlias = "tuple[float, int, Share[Payload]]"

_STALE = 64
"""So many more than twice the entries in use may be stale."""


class Share(Line[Payload]):
    """The line of one flow among those of one priority."""

    __slots__ = ("entry", "finish", "flow", "rows", "start", "weight")

    def __init__(self, flow: Flow | None) -> None:
        super().__init__()
        self.flow = flow
        self.weight = weight_of(flow)
        self.rows = 0
        self.start = self.finish = 0.0
        self.entry: _Entry[Payload] | None = None
        """Its place in the order; None while it is empty."""


class Shares(Generic[Payload]):
    """The flows of one priority, those that wait and those that are idle and in debt."""

    def __init__(self) -> None:
        self.virtual = 0.0
        self.rows = 0
        self.of: dict[Flow | None, Share[Payload]] = {}
        self._order: list[_Entry[Payload]] = []  # a heap; entries that are not of their share any more are stale
        self._idle: list[_Entry[Payload]] = []  # a heap by finish tag
        self._numbers = itertools.count()

    def adopt(self, flow: Flow | None, line: Line[Payload]) -> None:
        """Take over what waits of the only flow so far."""
        share = self.of[flow] = Share(flow)
        share.lists = line.lists
        share.rows = sum([item.rows for item in share])
        self.rows += share.rows
        self._enter(share)

    def push(self, item: Item[Payload]) -> None:
        """Add an item to the line of its flow."""
        share = self.of.get(item.flow)
        if share is None:
            share = self.of[item.flow] = Share(item.flow)
        share.push(item)
        share.rows += item.rows
        self.rows += item.rows
        if share.entry is None:
            share.start = max(self.virtual, share.finish)
            self._enter(share)

    def _enter(self, share: Share[Payload]) -> None:
        share.entry = (share.start, next(self._numbers), share)
        if len(self._order) > 2 * len(self.of) + _STALE:  # of flows whose items were cancelled
            self._order = [share.entry for share in self.of.values() if share.entry is not None]
            heapq.heapify(self._order)
        else:
            heapq.heappush(self._order, share.entry)

    def remove(self, item: Item[Payload]) -> bool:
        """Remove an item that gets no service; False if it does not wait here."""
        share = self.of.get(item.flow)
        if share is None or not share.remove(item):
            return False
        share.rows -= item.rows
        self.rows -= item.rows
        if not share.lists:
            self._rest(share)
            self._forget()
        return True

    def resize(self, item: Item[Payload], rows: int) -> None:
        """An item that waits here is to have so many rows."""
        self.of[item.flow].rows += rows - item.rows
        self.rows += rows - item.rows

    @property
    def waiting(self) -> bool:
        """True if any flow waits."""
        return self._next() is not None

    def _next(self) -> Share[Payload] | None:
        """The flow that is served next."""
        order = self._order
        while order and order[0] is not order[0][2].entry:
            heapq.heappop(order)
        return order[0][2] if order else None

    def first(self) -> Item[Payload]:
        """The item that is served next. Of a priority that waits."""
        share: Share[Payload] = self._next()  # type: ignore[assignment]  # it waits
        return share.first()

    def fill(self, batch: list[Item[Payload]], key: Hashable, room: int, *, alone: bool = False) -> int:
        """Move items of one key into a batch, one after the other from the flow that is next; the room that is left.

        `alone` moves one. An item that does not fit ends it, with -1: smaller ones that come later do not overtake it.
        """
        others: list[_Entry[Payload]] = []
        while (share := self._next()) is not None:
            items = share.lists.get(key)
            if items is None:  # it waits for a run with another key, and keeps its place
                others.append(heapq.heappop(self._order))
                continue
            item = items[0]
            if item.rows > room:
                room = -1
                break
            room -= item.rows
            batch.append(item)
            self._serve(share, items, item)
            if alone:
                break
        for entry in others:
            heapq.heappush(self._order, entry)
        self._forget()
        return room

    def _serve(self, share: Share[Payload], items: list[Item[Payload]], item: Item[Payload]) -> None:
        del items[0]
        if not items:
            del share.lists[item.key]
        share.rows -= item.rows
        self.rows -= item.rows
        self.virtual = max(self.virtual, share.start)
        share.finish = share.start + (item.rows or 1) / share.weight
        if share.lists:
            share.start = share.finish
            share.entry = (share.start, next(self._numbers), share)
            heapq.heapreplace(self._order, share.entry)
        else:
            heapq.heappop(self._order)
            self._rest(share)

    def _rest(self, share: Share[Payload]) -> None:
        share.entry = None
        if len(self._idle) > 2 * len(self.of) + _STALE:
            self._idle = [(idle.finish, next(self._numbers), idle) for idle in self.of.values() if idle.entry is None]
            heapq.heapify(self._idle)
        else:
            heapq.heappush(self._idle, (share.finish, next(self._numbers), share))

    def _forget(self) -> None:
        """Forget the idle flows without debt."""
        while self._idle and self._idle[0][0] <= self.virtual:
            finish, _, share = heapq.heappop(self._idle)
            if share.entry is None and share.finish == finish and self.of.get(share.flow) is share:
                del self.of[share.flow]

    def rows_before(self, rank: Rank, flow: Flow | None) -> int:
        """Rows that would run before an item of this flow with this rank, as far as is known now."""
        own = self.of.get(flow)
        before = 0 if own is None else own.rows_before(rank, own.rows)
        start = self.virtual if own is None else own.start if own.entry else max(self.virtual, own.finish)
        start += before / weight_of(flow)
        for share in self.of.values():
            if share is not own and share.start <= start:
                before += min(share.rows, math.floor((start - share.start) * share.weight) + 1)
        return before

    def lone(self) -> Share[Payload] | None:
        """The only flow there is to know of, if it waits."""
        if len(self.of) != 1:
            return None
        (share,) = self.of.values()
        return share if share.entry else None

    def __iter__(self) -> Iterator[Item[Payload]]:
        return itertools.chain.from_iterable(self.of.values())
