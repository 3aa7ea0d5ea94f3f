"""The items of one flow: a list for each key, sorted by rank."""

from __future__ import annotations

import heapq
import itertools
from bisect import bisect_left, insort
from collections.abc import Hashable, Iterator, Sequence
from typing import Generic

from penstock.engine.batching.flows.item import Item, Payload, Rank, rank_of


class Line(Generic[Payload]):
    """Items that wait, the lowest rank first. A line whose `lists` are empty is empty."""

    __slots__ = ("lists",)

    def __init__(self) -> None:
        self.lists: dict[Hashable, list[Item[Payload]]] = {}
        """Never an empty list."""

    def __iter__(self) -> Iterator[Item[Payload]]:
        return itertools.chain.from_iterable(self.lists.values())

    def push(self, item: Item[Payload]) -> None:
        """Add an item by its rank."""
        items = self.lists.get(item.key)
        if items is None:
            self.lists[item.key] = [item]
        elif items[-1].rank < item.rank:  # the usual case: requests of one priority and one timeout
            items.append(item)
        else:
            insort(items, item, key=rank_of)

    def first(self) -> Item[Payload]:
        """The item of the lowest rank."""
        lists = self.lists
        if len(lists) == 1:
            return next(iter(lists.values()))[0]
        return min([items[0] for items in lists.values()], key=rank_of)

    def take(self, most: int) -> list[Item[Payload]]:
        """Remove the first item and the following ones of its key, of at most so many rows if there are several."""
        first = self.first()
        items = self.lists[first.key]
        count, rows = 1, first.rows
        for item in itertools.islice(items, 1, None):
            rows += item.rows
            if rows > most:
                break
            count += 1
        batch = items[:count]
        del items[:count]
        if not items:
            del self.lists[first.key]
        return batch

    def place(self, item: Item[Payload]) -> int | None:
        """The index of an item in the list of its key; None if it does not wait here."""
        items = self.lists.get(item.key)
        if items is None:
            return None
        index = bisect_left(items, item.rank, key=rank_of)
        return None if index == len(items) or items[index] is not item else index

    def remove(self, item: Item[Payload]) -> bool:
        """Remove an item; False if it does not wait here."""
        index = self.place(item)
        if index is None:
            return False
        items = self.lists[item.key]
        del items[index]
        if not items:
            del self.lists[item.key]
        return True

    def rows_before(self, rank: Rank, rows: int) -> int:
        """Rows of lower rank, of the `rows` that wait here."""
        lists = self.lists.values()
        if all(items[-1].rank < rank for items in lists):
            return rows
        return sum([item.rows for items in lists for item in items[: bisect_left(items, rank, key=rank_of)]])

    def from_last(self) -> Iterator[Item[Payload]]:
        """The items, the highest rank first; lazily, as mostly few of many are asked for."""
        lists: Sequence[list[Item[Payload]]] = list(self.lists.values())
        if len(lists) == 1:
            return reversed(lists[0])
        return heapq.merge(*map(reversed, lists), key=rank_of, reverse=True)
