"""The requests being answered: counted by the drain, cancelled when the client disconnects or sends no body."""

from __future__ import annotations

import asyncio
import contextlib
import time

from penstock.errors import ModelNotReady
from penstock.gateway.http import Call
from penstock.gateway.problems import CLOSE, Refusal

SWEEP_EVERY_S = 0.05
BODY_GRACE_S = 1.0
"""How long a draining server waits for bodies that are being sent."""
WATCH_AFTER_S = 0.25
"""Connections are watched from this age of a request on; watching costs as much as half a prediction."""


class Inflight:
    """The requests in flight by their task. Adding or removing one is a dictionary operation; a sweep does the rest."""

    def __init__(self) -> None:
        self.calls: dict[asyncio.Task[None], Call] = {}
        self.watchers: dict[asyncio.Task[None], asyncio.Task[None]] = {}
        self.sweeping = False
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self.calls)

    def start_sweeping(self) -> None:
        """Sweep until no request is in flight."""
        self.sweeping = True
        self._timer = asyncio.get_running_loop().call_later(SWEEP_EVERY_S, self._sweep)

    def stop_watching(self, task: asyncio.Task[None]) -> None:
        """The request of this task has ended."""
        watcher = self.watchers.pop(task, None)
        if watcher is not None:
            watcher.cancel()

    def _sweep(self) -> None:
        """Check old requests. They are in order of entry: the first young one ends the sweep."""
        now = time.monotonic()
        for task, call in self.calls.items():
            if now - call.entered < WATCH_AFTER_S:
                break
            if call.reading:
                if now - call.entered > call.limits.timeout_s:
                    _abort(task, call, Refusal(408, "the body did not arrive in time", headers=(CLOSE,)))
            elif task not in self.watchers:
                self.watchers[task] = asyncio.create_task(_cancel_when_disconnected(call, task))
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
            for task, call in list(self.calls.items()):
                if not in_time or (call.reading and waited >= BODY_GRACE_S):
                    _abort(task, call, ModelNotReady("the server is shutting down; try another replica"))
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


def _abort(task: asyncio.Task[None], call: Call, reason: Exception) -> None:
    """Cancel a request; `reason` is what its client is told."""
    call.abort_reason = reason
    task.cancel()


async def _cancel_when_disconnected(call: Call, task: asyncio.Task[None]) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        await call.disconnected()
        task.cancel()
