"""A cache of model outputs by the model version and variant that computed them and a digest of their inputs.

It holds the model's outputs, and responses are made from them as from fresh ones. An identity
(`LoadedModel.cache_identity`) stands for one load of one variant of one version: no other model, and no other content
under the same name, shares it. Its entries are dropped when it is unloaded.
"""

from __future__ import annotations

import hashlib
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from penstock.engine.batching.outcome import Batched
from penstock.engine.single_flight import SingleFlight
from penstock.errors import DeadlineExceeded, InferenceError
from penstock.tensors import Arrays, nbytes

DEFAULT_BYTES = 256 * 2**20
"""The limit in bytes where only the number of entries is limited."""

_OVERHEAD = 400
"""Bytes that an entry takes in addition to its arrays: its key, its dictionary, its place in the order of use."""


class CacheFigures(NamedTuple):
    """Entries and bytes now, hits and misses since the start."""

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
        self._flights: SingleFlight[bytes, Arrays] = SingleFlight()
        self._bytes = self._hits = self._misses = 0
        self._lock = threading.Lock()

    @staticmethod
    def key(identity: str, inputs: Arrays) -> bytes:
        """A digest over `identity` (the model's `cache_identity`) and each input's name, dtype, shape and bytes."""
        digest = hashlib.blake2b(identity.encode(), digest_size=20)
        for name, array in inputs.items():
            # The character, not the number: numpy has two numbers for the same 64-bit integers.
            digest.update(f"\0{name}\0{array.dtype.char}{array.itemsize}{array.shape}\0".encode())
            # An object array has no contiguous bytes of its text: repr() separates the elements.
            digest.update(repr(array.tolist()).encode() if array.dtype.hasobject else array.tobytes())
        return digest.digest()

    def get(self, key: bytes) -> Arrays | None:
        """A copy of the cached outputs, or None."""
        with self._lock:
            found = self._entries.get(key)
            if found is None:
                self._misses += 1
                return None
            self._hits += 1
            self._entries.move_to_end(key)
        return _copied(found.outputs)

    def put(self, key: bytes, outputs: Arrays, identity: str = "") -> None:
        """Keep a copy of `outputs` (views would keep the whole batch alive) and evict the least recently used entries.

        An entry larger than an eighth of the cache is not kept: it would evict too many others.
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
        """Drop all entries of one loaded model."""
        with self._lock:
            for key in list(self._owned.get(identity, ())):
                self._drop(key)

    def clear(self) -> None:
        """Drop all entries."""
        with self._lock:
            self._entries.clear()
            self._owned.clear()
            self._bytes = 0

    def figures(self) -> CacheFigures:
        """Entries and bytes now, hits and misses since the start."""
        return CacheFigures(len(self._entries), self._bytes, self._hits, self._misses)

    def _drop(self, key: bytes) -> None:
        """Drop one entry, lock held."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        self._bytes -= entry.bytes
        owned = self._owned[entry.identity]
        owned.discard(key)
        if not owned:
            del self._owned[entry.identity]

    async def outputs(
        self, identity: str, key: bytes, deadline: float, run: Callable[[], Awaitable[Batched[Arrays]]]
    ) -> Batched[Arrays]:
        """The cached outputs, or else those of `run`; equal requests at once, on any event loop, share one run.

        `batch_rows` is 0 for a request that did not run itself. All equal requests get an error of the input
        (InferenceError). If the caller who runs is cancelled, refused or too late, another one runs in its place.
        Raises DeadlineExceeded at this caller's own deadline.
        """
        found = self.get(key)
        if found is not None:
            return Batched(found, 0, 0.0, 0.0)
        started = time.monotonic()
        own: list[Batched[Arrays]] = []

        async def run_and_keep() -> Arrays:
            own.append(await run())
            outputs = _copied(own[0].outputs)  # before this caller's task can change them
            self._keep(key, outputs, identity)
            return outputs

        try:
            outputs = await self._flights.run_async(key, run_and_keep, deadline=deadline, shared_errors=InferenceError)
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed before the model answered an equal request") from None
        if own:
            return own[0]
        with self._lock:
            self._hits += 1
            self._misses -= 1
        return Batched(_copied(outputs), 0, time.monotonic() - started, 0.0)


def _copied(outputs: Arrays) -> Arrays:
    return {name: array.copy() for name, array in outputs.items()}
