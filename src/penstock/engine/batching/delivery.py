"""Hands the outcomes of a run to those who wait for them, each on its own event loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence

from penstock.engine.batching.collation import Payload
from penstock.engine.batching.flows.item import Item
from penstock.engine.batching.outcome import Outcome, Result

log = logging.getLogger(__name__)


def deliver(
    items: Sequence[Item[Payload]], outcomes: Sequence[Outcome[Result]], here: asyncio.AbstractEventLoop | None
) -> None:
    """Resolve the items on their own event loops, one call per loop; `here` is the running loop, if any."""
    loops = {item.loop for item in items}
    for loop in loops:
        pairs = zip(items, outcomes, strict=True)
        own = [pair for pair in pairs if pair[0].loop is loop] if len(loops) > 1 else pairs
        if loop is here:
            _resolve(own)
            continue
        try:
            loop.call_soon_threadsafe(_resolve, own)
        except RuntimeError:
            log.debug("an event loop closed before its results arrived")


def _resolve(resolved: Iterable[tuple[Item[Payload], Outcome[Result]]]) -> None:
    for item, outcome in resolved:
        if not item.waiter.done():
            item.waiter.set_result(outcome)
