"""What waits in a queue: an item, its rank, and who waits for its outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from penstock.engine.batching.flows.flow import Flow

Payload = TypeVar("Payload")

Rank: TypeAlias = "tuple[int, float, float]"
"""Order of the items of a flow: higher priority, then earlier deadline, then arrival. The lowest rank is next."""

rank_of = attrgetter("rank")


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
    flow: Flow | None = None
    rank: Rank = field(init=False)
