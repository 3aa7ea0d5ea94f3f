"""Copies of some requests to the new version, off the clients' path, to compare its answers with those they got.

The copies are tensors and go past the tasks, so that nothing is stored or sent for them. They wait in a queue of their
own, one at a time, at the lowest priority, and not at all while the queue of clients is more than half full.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, Self

from penstock.engine.observation import Observation
from penstock.errors import ModelNotReady, Overloaded, PenstockError
from penstock.rollouts.evidence import Shadowed
from penstock.rollouts.shadow.comparison import Difference, compare
from penstock.rollouts.shadow.examples import Keep, example
from penstock.tensors import Arrays

log = logging.getLogger(__name__)

MOST_WAITING = 64
"""Copies that wait; further ones are left out and counted."""
MOST_BYTES = 64 * 2**20
"""What waiting copies may hold."""
PAUSE_S = 0.05
PRIORITY = -1_000_000
"""Below every client's."""


@dataclass(frozen=True)
class Copy:
    """One request, with arrays of its own: its tensors, and the outputs that its client got from the version `stable`.

    `canary` and `step` are those of the canary that it is made for.
    """

    seen: Observation
    inputs: Arrays
    outputs: Arrays
    to: str
    canary: str = ""
    step: int = 0

    @classmethod
    def of(cls, seen: Observation, to: str, canary: str = "", step: int = 0) -> Self | None:
        """A copy of an answered request for the version `to`, with arrays of its own; None if it has none."""
        if seen.inputs is None or seen.outputs is None:
            return None
        inputs, outputs = (
            {name: array.copy() for name, array in arrays.items()} for arrays in (seen.inputs, seen.outputs)
        )
        return cls(replace(seen, inputs=inputs, outputs=outputs), inputs, outputs, to, canary, step)

    @property
    def name(self) -> str:
        """The model, whose route it took."""
        return self.seen.route

    @property
    def stable(self) -> str:
        """The version that its client's answer is from."""
        return self.seen.arm

    @property
    def request_id(self) -> str:
        """The id of the request."""
        return self.seen.request_id

    @property
    def bytes(self) -> int:
        """What it holds in memory."""
        return sum(array.nbytes for arrays in (self.inputs, self.outputs) for array in arrays.values())


class Answering(Protocol):
    """What runs a copy."""

    async def answer(self, copy: Copy) -> Arrays:
        """The outputs of the new version. Raises PenstockError."""

    def is_busy(self, name: str) -> bool:
        """True while the queue of clients of a model is more than half full."""

    def labels(self, name: str, version: str) -> Sequence[str] | None:
        """The names of the classes of a version in the order of its outputs, None if it has none."""


class Shadow:
    """The waiting copies of one process. `put` is for the event loop, as everything else here."""

    def __init__(self, answering: Answering, record: Callable[[Copy, Shadowed], None], keep: Keep) -> None:
        """`record` takes what each copy has shown, `keep` the disagreements."""
        self._answering = answering
        self._record = record
        self._keep = keep
        self._waiting: deque[Copy] = deque()
        self._bytes = 0
        self._arrived = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def put(self, copy: Copy) -> None:
        """Let a copy wait, unless there are too many."""
        if len(self._waiting) >= MOST_WAITING or self._bytes + copy.bytes > MOST_BYTES:
            self._record(copy, Shadowed(skipped=1))
            return
        self._waiting.append(copy)
        self._bytes += copy.bytes
        self._arrived.set()

    def start(self) -> None:
        """Answer copies from now on."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="penstock-shadow")

    async def close(self) -> None:
        """Drop what waits."""
        self._waiting.clear()
        self._bytes = 0
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self) -> None:
        while True:
            await self._arrived.wait()
            while self._waiting:
                if self._answering.is_busy(self._waiting[0].name):
                    await asyncio.sleep(PAUSE_S)
                    continue
                copy = self._waiting.popleft()
                self._bytes -= copy.bytes
                await self._answer(copy)
            self._arrived.clear()

    async def _answer(self, copy: Copy) -> None:
        try:
            outputs = await self._answering.answer(copy)
        except PenstockError as error:
            seen = Shadowed(skipped=1) if _is_passing(error) else Shadowed(failures=1)
            self._record(copy, seen)
            return
        except Exception:
            log.exception("a copy of a request to %s:%s failed", copy.name, copy.to)
            self._record(copy, Shadowed(failures=1))
            return
        labels = [self._answering.labels(copy.name, version) for version in (copy.stable, copy.to)]
        found = await asyncio.to_thread(compare, copy.outputs, outputs, labels[0], labels[1])
        kept = not found.agrees and self._keep(copy.seen, copy.to, outputs)
        self._record(copy, shadowed(copy, found, with_inputs=kept and not copy.canary))


def shadowed(copy: Copy, found: Difference, *, with_inputs: bool) -> Shadowed:
    """One comparison as evidence. That of a canary is stored in the database, which is no place for inputs."""
    seen = Shadowed(compared=1, disagreed=int(not found.agrees), max_abs=found.max_abs)
    if found.kl is not None:
        seen.kl, seen.kl_count = found.kl, 1
    seen.differences[_exponent(found.max_abs)] = 1
    if not found.agrees:
        shown = example(copy.inputs) if with_inputs else {}
        seen.worst = [{"request_id": copy.request_id, "max_abs": found.max_abs, "kl": found.kl, **shown}]
    return seen


def _is_passing(error: PenstockError) -> bool:
    """True if the server had no time for the copy, which says nothing about the version."""
    return isinstance(error, Overloaded | ModelNotReady)


def _exponent(value: float) -> int:
    """The decimal exponent of a difference, -99 for none and 99 for an infinite one."""
    if value == 0:
        return -99
    return 99 if not math.isfinite(value) else math.floor(math.log10(value))
