"""Wait for another thread or task, without assuming how long it takes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

LONG_S = 60.0
"""Longer than anything here takes on a machine under load: a bound for what would otherwise hang."""


async def until(condition: Callable[[], object]) -> None:
    """Return when `condition()` is true."""
    ends = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < ends, "it never happened"
        await asyncio.sleep(0.005)


def wait_until(condition: Callable[[], object], pause_s: float = 0.01) -> None:
    """As `until`, for tests without an event loop."""
    ends = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < ends, "it never happened"
        time.sleep(pause_s)
