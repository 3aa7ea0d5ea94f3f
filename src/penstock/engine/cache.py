"""Answers remembered by the model version and variant that gave them and a digest of their inputs.

What is remembered are the model's outputs, so that answers are made of them as of fresh ones. An identity
(`LoadedModel.cache_identity`) stands for one load of one variant of one version: no other model, and no other content
under the same name, shares it, and what it remembered is forgotten with it.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import NamedTuple

from penstock.engine.batching.batcher import Batched
from penstock.errors import DeadlineExceeded, InferenceError
from penstock.tensors import Arrays, nbytes

DEFAULT_BYTES = 256 * 2**20
"""What answers may take together where only their number is limited."""

_OVERHEAD = 400
"""Bytes that an entry takes beside the numbers in it: its key, its dictionary, its places in the order of use."""


class CacheFigures(NamedTuple):
    """How much is remembered, and how often it was asked for."""

    entries: int
    bytes: int
    hits: int
    misses: int


class _Entry(NamedTuple):
    outputs: Arrays
    identity: str
    bytes: int


class PredictionCache:
    """The most recently used model outputs, at most `max_entries` in at most `max_bytes`. Threads may share it."""

    def __init__(self, max_entries: int | None = None, max_bytes: int | None = None) -> None:
        self._max_entries = max_entries or sys.maxsize
        self._max_bytes = max_bytes or DEFAULT_BYTES
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self._owned: dict[str, set[bytes]] = {}
        self._flights: dict[bytes, Future[Arrays]] = {}
        self._bytes = self._hits = self._misses = 0
        self._lock = threading.Lock()

    @staticmethod
    def key(identity: str, inputs: Arrays) -> bytes:
        """A digest over `identity` (the model's `cache_identity`) and each input's name, dtype, shape and bytes."""
        digest = hashlib.blake2b(identity.encode(), digest_size=20)
        for name, array in inputs.items():
            # The character, not the number: numpy has two numbers for the same 64-bit integers.
            digest.update(f"\0{name}\0{array.dtype.char}{array.itemsize}{array.shape}\0".encode())
            # Text has no bytes of its own in an object array: repr() keeps every element apart from its neighbours.
            digest.update(repr(array.tolist()).encode() if array.dtype.hasobject else array.tobytes())
        return digest.digest()

    def get(self, key: bytes) -> Arrays | None:
        """A copy of the remembered outputs, or None."""
        with self._lock:
            found = self._entries.get(key)
            if found is None:
                self._misses += 1
                return None
            self._hits += 1
            self._entries.move_to_end(key)
        return _copied(found.outputs)

    def put(self, key: bytes, outputs: Arrays, identity: str = "") -> None:
        """Remember a copy of `outputs` (views would keep the whole batch alive), forgetting the oldest uses.

        What is larger than an eighth of the cache is not worth what it would push out.
        """
        self._keep(key, _copied(outputs), identity)

    def _keep(self, key: bytes, outputs: Arrays, identity: str) -> None:
        size = nbytes(outputs) + _OVERHEAD
        if size > max(self._max_bytes // 8, _OVERHEAD):
            return
        with self._lock:
            self._drop(key)
            self._entries[key] = _Entry(outputs, identity, size)
            self._owned.setdefault(identity, set()).add(key)
            self._bytes += size
            while len(self._entries) > self._max_entries or self._bytes > self._max_bytes:
                self._drop(next(iter(self._entries)))

    def forget(self, identity: str) -> None:
        """Let go of everything that one loaded model answered."""
        with self._lock:
            for key in list(self._owned.get(identity, ())):
                self._drop(key)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._entries.clear()
            self._owned.clear()
            self._bytes = 0

    def figures(self) -> CacheFigures:
        """Entries and bytes now, hits and misses since the start."""
        return CacheFigures(len(self._entries), self._bytes, self._hits, self._misses)

    def _drop(self, key: bytes) -> None:
        """Forget one entry, lock held."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        self._bytes -= entry.bytes
        owned = self._owned[entry.identity]
        owned.discard(key)
        if not owned:
            del self._owned[entry.identity]

    async def answer(
        self, identity: str, key: bytes, deadline: float, run: Callable[[], Awaitable[Batched]]
    ) -> Batched:
        """The remembered outputs, or else what `run` gives; equal requests at once, on whatever loop, share one run.

        `batch_rows` is 0 for what this request did not run itself. An error that lies in the input (InferenceError) is
        everybody's. When the caller who runs gives up, is refused or comes too late, another one runs in its place.
        Raises DeadlineExceeded at this caller's own deadline.
        """
        found = self.get(key)
        if found is not None:
            return Batched(found, 0, 0.0, 0.0)
        started = time.monotonic()
        while True:
            mine: Future[Arrays] = Future()
            with self._lock:
                flight = self._flights.setdefault(key, mine)
            if flight is mine:
                return await self._lead(identity, key, mine, run)
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    outputs = await asyncio.shield(asyncio.wrap_future(flight))
            except TimeoutError:
                raise DeadlineExceeded("the deadline passed before the model answered an equal request") from None
            except _LeftAlone:
                continue
            with self._lock:
                self._hits += 1
                self._misses -= 1
            return Batched(_copied(outputs), 0, time.monotonic() - started, 0.0)

    async def _lead(
        self, identity: str, key: bytes, flight: Future[Arrays], run: Callable[[], Awaitable[Batched]]
    ) -> Batched:
        verdict: BaseException = _LeftAlone()
        try:
            batched = await run()
            outputs = _copied(batched.outputs)  # before this caller's task can change them
            self._keep(key, outputs, identity)
            flight.set_result(outputs)
        except InferenceError as error:
            verdict = error
            raise
        finally:
            with self._lock:
                del self._flights[key]
            if not flight.done():
                flight.set_exception(verdict)
        return batched


def _copied(outputs: Arrays) -> Arrays:
    return {name: array.copy() for name, array in outputs.items()}


class _LeftAlone(Exception):
    """The caller who ran has no answer to share."""
