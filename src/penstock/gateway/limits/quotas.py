"""What is left of the quotas of keys: counted here for each request, and once a second with the other servers."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

from penstock.errors import PenstockError
from penstock.registry.access.quota import Period, Quota

log = logging.getLogger(__name__)

SAVE_EVERY_S = 1.0

Counted: TypeAlias = tuple[str, Period]
Save: TypeAlias = Callable[[Mapping[Counted, int], Iterable[Counted]], Mapping[Counted, int]]
"""Adds requests to those in the database, and tells the requests of the keys and periods that are wanted."""


class KeyQuota:
    """The quota of one key. For the event loop of a process."""

    __slots__ = ("_quota", "_seen", "key", "left", "period", "unsaved")

    def __init__(self, key: str, quota: Quota, now: float) -> None:
        self.key = key
        self._quota = quota
        self._seen = 0
        self.unsaved = Counter[Counted]()
        """Requests of periods that are over, which are not in the database yet."""
        self.period = quota.period(now)
        self.left = quota.requests
        """Requests that it may still send in this period; a request that is admitted takes one."""

    @property
    def requests(self) -> int:
        """How many it may send in a period."""
        return self._quota.requests

    def wait(self, now: float) -> float:
        """0 if there is something left, else the seconds until the next day or month begins."""
        if self.left > 0:
            return 0.0
        self.turn(now)  # a period that has ended is noticed at once by who waits for it
        return 0.0 if self.left > 0 else self.period.ends_at - now

    def turn(self, now: float) -> None:
        """Begin the next period if this one is over; the clock may also have been set back."""
        period = self._quota.period(now)
        if period != self.period:
            self._keep()
            self.period, self.left, self._seen = period, self.requests, 0

    def take_unsaved(self) -> Counter[Counted]:
        """The requests that are not in the database yet, which count as written from now on."""
        self._keep()
        taken, self.unsaved = self.unsaved, Counter()
        return taken

    def saw(self, used: int) -> None:
        """So many requests of this period are in the database, of all servers together."""
        since = self._since
        self._seen = used
        self.left = self.requests - used - since

    @property
    def _since(self) -> int:
        """Requests that were admitted here since the last time."""
        return self.requests - self._seen - self.left

    def _keep(self) -> None:
        """Count the requests since the last time among those that are to be written."""
        if since := self._since:
            self.unsaved[self.key, self.period] += since
            self._seen += since


class Quotas:
    """Those of every key that has one."""

    def __init__(self, save: Save, clock: Callable[[], float] = time.time) -> None:
        """`save` writes and reads the database, in a thread; `clock` counts the seconds since 1970."""
        self._save = save
        self._clock = clock
        self._error = ""
        self._saved_at = 0.0
        self._saving = asyncio.Lock()
        self.of: dict[str, KeyQuota] = {}
        """By the id of the key."""
        self._gone: list[KeyQuota] = []

    def of_key(self, key: str, quota: Quota | None) -> KeyQuota | None:
        """That of a key from now on."""
        before = self.of.pop(key, None)
        if before is not None:
            self._gone.append(before)  # what it has counted is still to be written
        if quota is None:
            return None
        made = self.of[key] = KeyQuota(key, quota, self._clock())
        return made

    def due(self) -> bool:
        """True if the figures should be written and read."""
        return bool(self.of or self._gone) and time.monotonic() - self._saved_at >= SAVE_EVERY_S

    async def save(self) -> None:
        """Write what was counted here, and read what others have counted; errors are logged once."""
        async with self._saving:
            await self._save_now()

    async def _save_now(self) -> None:
        self._saved_at = time.monotonic()
        quotas, gone, self._gone = list(self.of.values()), self._gone, []
        for quota in quotas:
            quota.turn(self._clock())
        taken = [(quota, quota.take_unsaved()) for quota in (*quotas, *gone)]
        counts = Counter[Counted]()
        for _, each in taken:
            counts.update(each)
        wanted = {(quota.key, quota.period): quota for quota in quotas}
        try:
            used = await asyncio.to_thread(self._save, counts, list(wanted))
        except Exception as error:
            for quota, each in taken:
                quota.unsaved.update(each)
            self._gone += [quota for quota in gone if quota.unsaved]
            self._failed(error)
            return
        self._failed(None)
        for counted, quota in wanted.items():
            if (quota.key, quota.period) == counted:  # else it has turned meanwhile
                quota.saw(used[counted])

    def _failed(self, error: Exception | None) -> None:
        """Log state changes only."""
        text = "" if error is None else str(error) or type(error).__name__
        if text and not self._error:
            trace = None if isinstance(error, PenstockError) else error
            message = "the quotas of API keys are counted here alone until they can be saved: %s"
            log.warning(message, text, exc_info=trace)
        elif self._error and not text:
            log.warning("the quotas of API keys are saved again")
        self._error = text
