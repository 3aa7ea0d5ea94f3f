"""Reads the numbers of a small JSON body that has nothing else: `{"input_data": [1, 2, 3]}`.

It never rejects. For anything else the result is None, and the ordinary way decides.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from penstock.gateway.native.fast_json import simdjson
from penstock.tensors import Array

_UNSURE = (ValueError, TypeError, LookupError, AttributeError, RuntimeError)
"""Raised for documents of another structure and for invalid JSON."""


class NumberReader:
    """Reads the bodies of one field. Not thread-safe: the parser is used again."""

    def __init__(self, field: str) -> None:
        self._field = field
        self._keys = [field]
        self._starts = {f'{{"{field}":'.encode(), f'{{"{field}": '.encode()}
        self._parser: Any = None if simdjson is None else simdjson.Parser()

    def read(self, body: bytes) -> Array | None:
        """The numbers, flat and of float64; None if the body holds anything else."""
        first = body.find(b"[")
        # as_buffer() flattens nested arrays silently; simdjson skips a byte order mark, which is not JSON
        if self._parser is None or first < 0 or body.find(b"[", first + 1) >= 0 or body[:1] == b"\xef":
            return None
        try:
            document = self._parser.parse(body)
            # with its only bracket closed by the last one, `{"field": [` leaves no room for another key
            if (body[-2:] != b"]}" or body[:first] not in self._starts) and not self._is_only_key(document):
                return None
            numbers = np.frombuffer(document[self._field].as_buffer(of_type="d"))
            return numbers if numbers.size else None
        except _UNSURE:
            return None
        finally:
            document = None  # the parser cannot be used again while a document refers to it

    def _is_only_key(self, document: Any) -> bool:
        """True for an object with this key, once: a list of the keys shows one that is given twice."""
        return type(document) is simdjson.Object and list(document) == self._keys
