"""Rates over several hosts, by Redis: each admits by what it knows, and they tell each other ten times a second.

So a request never waits for Redis, and while Redis is away each host counts alone. Several hosts may admit what reaches
them within the same tenth of a second beyond a rate.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from penstock.errors import ConfigError, type_and_message

if TYPE_CHECKING:
    from penstock.gateway.limits.slots import Limit, Slots

log = logging.getLogger(__name__)

TELL_EVERY_S = 0.1
ANSWER_S = 1.0
AGAIN_S = 2.0
"""How long Redis is left alone after a failure."""

_TAKE: Final = """
local t = redis.call('TIME')
local now = t[1] + t[2] / 1000000
local full_at = tonumber(redis.call('GET', KEYS[1])) or 0
if not (full_at > now) then full_at = now end
full_at = math.min(full_at + ARGV[1] * ARGV[2], now + ARGV[3])
local left_ms = math.ceil((full_at - now) * 1000) + 1
redis.call('SET', KEYS[1], string.format('%.6f', full_at), 'PX', string.format('%d', left_ms))
return string.format('%.6f', full_at - now)
"""
"""Take so many requests of an interval each from a bucket, and tell in how many seconds it is full again.

Times are those of Redis, since the clocks of hosts differ.
"""


class Hosts:
    """What the limits of this host have admitted, and what the others have. For the event loop of a process."""

    def __init__(self, url: str, clock: Callable[[], float] = time.monotonic) -> None:
        """Nothing is connected yet. Raises ConfigError without the package redis."""
        try:
            from redis.asyncio import Redis
        except ImportError:
            raise ConfigError("rate_limit_store needs the extra redis: pip install 'penstock[redis]'") from None
        self._clock = clock
        self._redis = Redis.from_url(url, socket_timeout=ANSWER_S, socket_connect_timeout=ANSWER_S)
        self._take: Callable[..., Awaitable[Any]] = self._redis.register_script(_TAKE)
        self._error = ""

    async def run(self, slots: Slots) -> None:
        """Tell and hear for ever."""
        slots.taken = {}
        try:
            while True:
                await asyncio.sleep(TELL_EVERY_S if not self._error else AGAIN_S)
                await self.tell(slots)
        finally:
            slots.taken = None
            await self.close()

    async def tell(self, slots: Slots) -> None:
        """Tell what was admitted since the last time, and take over what others have; errors are logged once."""
        taken, slots.taken = slots.taken or {}, {}
        if not taken:
            return
        try:
            async with asyncio.timeout(ANSWER_S):
                left = await self._told(taken)
        except Exception as error:  # of the library, of the network
            self._failed(type_and_message(error))
            return
        self._failed("")
        now = self._clock()
        for limit, seconds in zip(taken, left, strict=True):
            limit.raise_to(now + float(seconds))

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    async def _told(self, taken: dict[Limit, int]) -> list[bytes]:
        """For each limit, in how many seconds its bucket is full."""
        async with self._redis.pipeline(transaction=False) as pipeline:
            for limit, count in taken.items():
                interval_s, longest_s = limit.rate
                await self._take(
                    keys=[f"penstock:limit:{limit.tag:016x}"], args=[count, interval_s, longest_s], client=pipeline
                )
            found: list[bytes] = await pipeline.execute()
        return found

    def _failed(self, error: str) -> None:
        """Log state changes only."""
        if error and not self._error:
            log.warning("rate_limit_store cannot be used, and this host counts alone until it can: %s", error)
        elif self._error and not error:
            log.warning("rate_limit_store is used again")
        self._error = error
