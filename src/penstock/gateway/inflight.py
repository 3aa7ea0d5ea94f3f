"""The requests being answered: counted by the drain, cancelled when the client disconnects or sends no body."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

from penstock.errors import ModelNotReady
from penstock.gateway.http import Call
from penstock.gateway.problems import CLOSE, Refusal

SWEEP_EVERY_S = 0.05
BODY_GRACE_S = 1.0
"""How long a draining server waits for bodies that are being sent."""
WATCH_AFTER_S = 0.25
"""Connections are watched from this age of a request on; watching costs as much as half a prediction."""


class Inflight:
    """The requests in flight. Adding or removing one is a dictionary operation; a sweep does the rest."""

    def __init__(self) -> None:
        self.calls: dict[Call, None] = {}
        self.watchers: dict[Call, asyncio.Task[None]] = {}
        self.abort: Callable[[Call, Exception], None] = cancel
        """Ends a request with an error."""
        self.sweeping = False
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self.calls)

    def start_sweeping(self) -> None:
        """Sweep until no request is in flight."""
        self.sweeping = True
        self._timer = asyncio.get_running_loop().call_later(SWEEP_EVERY_S, self._sweep)

    def stop_watching(self, call: Call) -> None:
        """The request has ended."""
        watcher = self.watchers.pop(call, None)
        if watcher is not None:
            watcher.cancel()

    def _sweep(self) -> None:
        """Check old requests. They are in order of entry: the first young one ends the sweep."""
        now = time.monotonic()
        for call in list(self.calls):
            if now - call.entered < WATCH_AFTER_S:
                break
            if call.reading:
                if now - call.entered > call.limits.timeout_s:
                    self.abort(call, Refusal(408, "the body did not arrive in time", headers=(CLOSE,)))
            elif call.watched and call.work is not None and call not in self.watchers:
                self.watchers[call] = asyncio.create_task(_cancel_when_disconnected(call, call.work))
        self.sweeping = bool(self.calls)
        if self.sweeping:
            self.start_sweeping()

    async def drain(self, timeout_s: float) -> bool:
        """Wait until no request is in flight; after `timeout_s` cancel those that are, and return False.

        A request whose body is still being sent is cancelled earlier: it would be refused anyway.
        """
        started = time.monotonic()
        while self.calls:
            waited = time.monotonic() - started
            in_time = waited < timeout_s
            for call in list(self.calls):
                if not in_time or (call.reading and waited >= BODY_GRACE_S):
                    self.abort(call, ModelNotReady("the server is shutting down; try another replica"))
            if not in_time:
                await asyncio.sleep(0)
                return False
            await asyncio.sleep(0.01)
        return True

    def close(self) -> None:
        """Stop sweeping and watching."""
        if self._timer is not None:
            self._timer.cancel()
        for watcher in self.watchers.values():
            watcher.cancel()


def cancel(call: Call, reason: Exception) -> None:
    """Cancel a request that has a task; `reason` is what its client is told."""
    if call.work is not None:
        call.abort_reason = reason
        call.work.cancel(reason)


async def _cancel_when_disconnected(call: Call, task: asyncio.Task[None]) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        await call.disconnected()
        task.cancel()
