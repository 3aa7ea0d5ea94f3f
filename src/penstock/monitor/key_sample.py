"""A sample of the clients that a version has answered: small, and the same in whatever order it is put together.

It holds the distinct keys whose hash lies below a bound. The bound is halved when there are too many, so the sample is
always all keys below it. Samples of several processes, or of several versions, agree once they have the same bound.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

MOST = 4096
"""Keys in a sample."""
_BITS = 32


@dataclass
class KeySample:
    """The hashes of keys below 2 to the power of (32 - `halvings`)."""

    halvings: int = 0
    hashes: set[int] = field(default_factory=set)

    def add(self, keys: Iterable[str]) -> None:
        """Take the keys of requests."""
        below = 1 << (_BITS - self.halvings)
        # a fast hash: which version a key gets depends on another one
        self.hashes.update(found for key in keys if (found := zlib.crc32(key.encode("utf-8", "surrogatepass"))) < below)
        self._shrink()

    def merge(self, other: KeySample) -> None:
        """Take the keys of another sample."""
        halvings = max(self.halvings, other.halvings)
        self.hashes = self.below(halvings) | other.below(halvings)
        self.halvings = halvings
        self._shrink()

    def below(self, halvings: int) -> set[int]:
        """The hashes that remain after so many halvings, at least those of the sample."""
        bound = 1 << (_BITS - halvings)
        return {each for each in self.hashes if each < bound}

    def _shrink(self) -> None:
        while len(self.hashes) > MOST:
            self.halvings += 1
            self.hashes = self.below(self.halvings)

    @property
    def count(self) -> int:
        """About how many distinct keys there were."""
        return len(self.hashes) << self.halvings

    def to_document(self) -> dict[str, Any]:
        """The sample as JSON can carry it."""
        packed = np.array(sorted(self.hashes), "<u4").tobytes()
        return {"halvings": self.halvings, "hashes": base64.b64encode(packed).decode()}

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """The sample of a document."""
        packed = base64.b64decode(document.get("hashes", ""))
        return cls(document.get("halvings", 0), set(np.frombuffer(packed, "<u4").tolist()))
