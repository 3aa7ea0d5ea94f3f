"""Answers remembered by the model version and variant that gave them and a digest of their inputs."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict

from penstock.tensors import Arrays


class PredictionCache:
    """The most recently used `max_entries` model outputs. Threads may share it."""

    def __init__(self, max_entries: int) -> None:
        self._max = max_entries
        self._entries: OrderedDict[bytes, Arrays] = OrderedDict()
        self._lock = threading.Lock()

    @staticmethod
    def key(identity: str, inputs: Arrays) -> bytes:
        """A digest over `identity` (the model's `cache_identity`) and each input's name, dtype, shape and bytes."""
        digest = hashlib.blake2b(identity.encode(), digest_size=16)
        for name, array in inputs.items():
            digest.update(f"\0{name}\0{array.dtype.str}\0{array.shape}\0".encode())
            # Text has no bytes of its own in an object array: repr() keeps every element apart from its neighbours.
            digest.update(repr(array.tolist()).encode() if array.dtype.hasobject else array.tobytes())
        return digest.digest()

    def get(self, key: bytes) -> Arrays | None:
        """A copy of the remembered outputs, or None."""
        with self._lock:
            found = self._entries.get(key)
            if found is None:
                return None
            self._entries.move_to_end(key)
        return {name: array.copy() for name, array in found.items()}

    def put(self, key: bytes, outputs: Arrays) -> None:
        """Remember a copy of `outputs` (views would keep the whole batch alive), forgetting the oldest use."""
        copies = {name: array.copy() for name, array in outputs.items()}
        with self._lock:
            self._entries[key] = copies
            self._entries.move_to_end(key)
            while len(self._entries) > self._max:
                self._entries.popitem(last=False)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._entries.clear()
