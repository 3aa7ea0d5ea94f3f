"""The order of items of several flows: by priority, then fairly between flows, then by rank within a flow."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Generic

from penstock.engine.batching.flows.flow import Flow
from penstock.engine.batching.flows.item import Item, Payload
from penstock.engine.batching.flows.line import Line
from penstock.engine.batching.flows.shares import Share, Shares


class FairOrder(Generic[Payload]):
    """What waits, of all priorities and flows. It begins with the line of the only flow so far."""

    def __init__(self, flow: Flow | None, line: Line[Payload]) -> None:
        self.backlog: dict[Flow | None, int] = {}
        """Rows that wait, by flow."""
        self._shares: dict[int, Shares[Payload]] = {}
        priorities = {item.priority for items in line.lists.values() for item in (items[0], items[-1])}
        if len(priorities) == 1:
            shares = self._shares[priorities.pop()] = Shares()
            shares.adopt(flow, line)
            self.backlog[flow] = shares.rows
        else:
            for item in line:
                self.push(item)

    def __iter__(self) -> Iterator[Item[Payload]]:
        return itertools.chain.from_iterable(self._shares.values())

    def push(self, item: Item[Payload]) -> None:
        """Add an item."""
        shares = self._shares.get(item.priority)
        if shares is None:
            shares = self._shares[item.priority] = Shares()
        shares.push(item)
        self._count(item.flow, item.rows)

    def _count(self, flow: Flow | None, rows: int) -> None:
        left = self.backlog.get(flow, 0) + rows
        if left:
            self.backlog[flow] = left
        else:
            self.backlog.pop(flow, None)

    def line(self, priority: int, flow: Flow | None) -> Share[Payload] | None:
        """What waits of a flow with this priority."""
        shares = self._shares.get(priority)
        return None if shares is None else shares.of.get(flow)

    def has_lower(self, priority: int) -> bool:
        """True if an item of lower priority waits."""
        return min(self._shares) < priority

    def remove(self, item: Item[Payload]) -> bool:
        """Remove an item that gets no service; False if it does not wait."""
        shares = self._shares.get(item.priority)
        if shares is None or not shares.remove(item):
            return False
        self._count(item.flow, -item.rows)
        if not shares.waiting:
            del self._shares[item.priority]
        return True

    def resize(self, item: Item[Payload], rows: int) -> None:
        """An item that waits is to have so many rows."""
        self._shares[item.priority].resize(item, rows)
        self._count(item.flow, rows - item.rows)

    def take(self, most: int, *, alone: bool) -> list[Item[Payload]]:
        """Remove the next batch: the best item, and those of its key that are next, of at most so many rows together.

        `alone` takes only the best item. A priority of which nothing waits any more is forgotten, with all debts in it.
        """
        batch: list[Item[Payload]] = []
        priorities = sorted(self._shares, reverse=True)
        first = self._shares[priorities[0]].first()
        room = max(most, first.rows)
        for priority in priorities:
            shares = self._shares[priority]
            room = shares.fill(batch, first.key, room, alone=alone)
            if not shares.waiting:
                del self._shares[priority]
            if alone or room < 0:
                break
        for item in batch:
            self._count(item.flow, -item.rows)
        return batch

    def rows_before(self, priority: int, deadline: float, flow: Flow | None) -> int:
        """Rows that would run before an item that arrives now."""
        rank = (-priority, deadline, float("inf"))
        rows = 0
        for other, shares in self._shares.items():
            if other > priority:
                rows += shares.rows
            elif other == priority:
                rows += shares.rows_before(rank, flow)
        return rows

    def lone(self) -> Share[Payload] | None:
        """The only flow there is to know of, if there is only one and it has one priority."""
        if len(self._shares) != 1:
            return None
        (shares,) = self._shares.values()
        return shares.lone()
