"""When a refused request is sent again: with full jitter, not before `Retry-After`, and within a budget.

The budget is what keeps clients from making an overload worse: each request earns a share of a retry, so that however
much is refused, retries add no more than that share to the load.
"""

from __future__ import annotations

import random
import threading

from penstock.errors import ConfigError

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 2.0
BURST = 10.0
"""Retries that a client has at most at once, and at its start."""


class RetryBudget:
    """A token bucket: a request puts `share` of a token in, a retry takes one out. Thread-safe."""

    def __init__(self, share: float, burst: float = BURST) -> None:
        self._share, self._burst = share, burst
        self._tokens = burst
        self._lock = threading.Lock()

    def earn(self) -> None:
        """A request is sent for the first time."""
        with self._lock:
            self._tokens = min(self._burst, self._tokens + self._share)

    def spend(self) -> bool:
        """True if one more retry is within the budget."""
        with self._lock:
            if self._tokens < 1.0:
                return False
            self._tokens -= 1.0
            return True


class Retries:
    """How often, how soon and how many."""

    def __init__(self, most: int, share: float, chance: random.Random | None = None) -> None:
        """Up to `most` for each request, and over all requests `share` of their number. Raises ConfigError."""
        if most < 0:
            raise ConfigError(f"retries={most}: give 0 or more")
        if not 0.0 <= share <= 1.0:
            raise ConfigError(f"retry_budget={share}: give a share of the requests, from 0 to 1")
        self._most = most
        self._chance = chance or random.Random()  # noqa: S311  it spreads load and keeps no secret
        self.budget = RetryBudget(share)

    def pause_s(self, attempt: int, retry_after_s: float, left_s: float) -> float | None:
        """How long to wait before the next attempt, None if there is none; `attempt` counts from 0.

        A random part of a limit that doubles (full jitter) comes after what the server asked for. A wait that would
        take all the time that is `left_s` is not begun, and costs nothing of the budget.
        """
        if attempt >= self._most:
            return None
        jitter = self._chance.uniform(0.0, min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0**attempt))
        pause = retry_after_s + jitter
        return pause if pause < left_s and self.budget.spend() else None
