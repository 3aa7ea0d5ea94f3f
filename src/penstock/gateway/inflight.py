"""The requests being answered: counted for the drain, and given up when nobody waits for them any more."""

from __future__ import annotations

import asyncio
import contextlib
import time

from penstock.errors import ModelNotReady
from penstock.gateway.http import Call
from penstock.gateway.problems import CLOSE, Refusal

SWEEP_EVERY_S = 0.05
BODY_GRACE_S = 1.0
"""How long a draining server waits for bodies that are on their way."""
WATCH_AFTER_S = 0.25
"""Only a request that takes this long is worth the cost of watching its connection (as much as half a prediction)."""


class Inflight:
    """Who is inside. Entering and leaving cost a dictionary entry; everything else happens in a sweep."""

    def __init__(self) -> None:
        self._calls: dict[asyncio.Task[None], tuple[Call, float]] = {}
        self._watchers: dict[asyncio.Task[None], asyncio.Task[None]] = {}
        self._sweeper: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._calls)

    def enter(self, call: Call) -> asyncio.Task[None]:
        """The current task answers `call` from now on."""
        task: asyncio.Task[None] = asyncio.current_task()  # type: ignore[assignment]
        self._calls[task] = (call, time.monotonic())
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().call_later(SWEEP_EVERY_S, self._sweep)
        return task

    def leave(self, task: asyncio.Task[None]) -> None:
        """It is answered, or given up."""
        del self._calls[task]
        if self._watchers:
            watcher = self._watchers.pop(task, None)
            if watcher is not None:
                watcher.cancel()

    def _sweep(self) -> None:
        """Look after those who have been inside for long. In order of entry, so it ends at the first young one."""
        now = time.monotonic()
        for task, (call, entered) in self._calls.items():
            if now - entered < WATCH_AFTER_S:
                break
            if call.reading:
                if now - entered > call.limits.timeout_s:
                    _give_up(task, call, Refusal(408, "the body did not arrive in time", headers=(CLOSE,)))
            elif task not in self._watchers:
                self._watchers[task] = asyncio.create_task(_cancel_when_gone(call, task))
        again = asyncio.get_running_loop().call_later(SWEEP_EVERY_S, self._sweep) if self._calls else None
        self._sweeper = again

    async def drain(self, timeout_s: float) -> bool:
        """Wait until nobody is inside; after `timeout_s` give up those who are, and return False.

        Whoever is still sending a body is given up sooner: it would be refused when it has arrived.
        """
        started = time.monotonic()
        while self._calls:
            waited = time.monotonic() - started
            in_time = waited < timeout_s
            for task, (call, _) in list(self._calls.items()):
                if not in_time or (call.reading and waited >= BODY_GRACE_S):
                    _give_up(task, call, ModelNotReady("the server is shutting down; ask another replica"))
            if not in_time:
                await asyncio.sleep(0)
                return False
            await asyncio.sleep(0.01)
        return True

    def close(self) -> None:
        """Stop watching."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        for watcher in self._watchers.values():
            watcher.cancel()


def _give_up(task: asyncio.Task[None], call: Call, verdict: Exception) -> None:
    """End a request; `verdict` is what its client is told."""
    call.verdict = verdict
    task.cancel()


async def _cancel_when_gone(call: Call, task: asyncio.Task[None]) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        await call.gone()
        task.cancel()
