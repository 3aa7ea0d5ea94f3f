"""Content encodings of request bodies: gzip, deflate and zstd, unpacked in pieces, so that a bomb is never held."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

from penstock.errors import shortened
from penstock.gateway.problems import Refusal, body_too_large
from penstock.libraries import zstd

TAKEN = ("gzip", "deflate", "zstd")
MOST_ENCODINGS = 5
ZSTD_WINDOW_LOG = 23
"""8 MiB, the largest window of zstd in HTTP (RFC 9659); a larger one takes its memory for a few bytes of input."""
INLINE = 64 * 1024
"""Bodies of more bytes than this, packed or unpacked, are unpacked in a thread."""

_PIECE = 64 * 1024
_ROUND = 1 << 20
"""Unpacked in a thread before the memory of all bodies is checked again."""
_FEW_MEMBERS = 64
_LEAST_MEMBER = 512
"""Bytes of input for each further member; many empty ones only take time."""

Source: TypeAlias = Callable[[], bytes]
"""The next bytes; none at the end."""


@lru_cache(maxsize=64)
def encodings_in(header: str) -> tuple[str, ...]:
    """The encodings of a Content-Encoding header, in the order in which they were applied.

    Raises Refusal: 415 for an unknown one, 400 for a very long list.
    """
    names = [name.strip().lower().removeprefix("x-") for name in header.split(",")]
    found = tuple(name for name in names if name not in ("", "identity"))
    for name in found:
        if name not in TAKEN:
            listed = ", ".join(TAKEN)
            detail = (
                f"Content-Encoding: {shortened(name, 50)} is not taken here; send the body as it is, or as {listed}"
            )
            raise Refusal(415, detail, headers=[("accept-encoding", listed)])
    if len(found) > MOST_ENCODINGS:
        raise Refusal(400, f"Content-Encoding: a body may be encoded {MOST_ENCODINGS} times at most")
    return found


async def unpack(body: bytes, encodings: Sequence[str], limit: int, reserve: Callable[[int], None]) -> bytes:
    """The body without its encodings, at most `limit` bytes. Large ones are unpacked in a thread.

    `reserve` is called on the event loop with the memory that the body takes so far, and may raise. Raises Refusal:
    413 beyond the limit, 400 for a body that is damaged, cut short or followed by other data.
    """
    source = unpacked(body, encodings, limit)
    pieces: list[bytes] = []
    size = 0
    if len(body) <= INLINE and len(encodings) == 1:
        pieces.append(_read(source, INLINE))
        size = len(pieces[0])
        if size < INLINE:
            return pieces[0]
    while piece := await asyncio.to_thread(_read, source, _ROUND):
        pieces.append(piece)
        size += len(piece)
        reserve(len(body) + size)
    return await asyncio.to_thread(b"".join, pieces)


def unpacked(body: bytes, encodings: Sequence[str], limit: int) -> Source:
    """The body without its encodings, piece by piece."""
    pieces = _slices(body)
    source: Source = lambda: next(pieces, b"")  # noqa: E731
    for name in reversed(encodings):
        source = _Stage(name, source, limit).read
    return source


def _slices(body: bytes) -> Iterator[bytes]:
    for start in range(0, len(body), _PIECE):
        yield body[start : start + _PIECE]


def _read(source: Source, size: int) -> bytes:
    """About `size` bytes; fewer only at the end."""
    pieces: list[bytes] = []
    while size > 0 and (piece := source()):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


class _Stage:
    """Takes one encoding off."""

    def __init__(self, name: str, source: Source, limit: int) -> None:
        self._name = name
        self._source = source
        self._limit = limit
        self._decoder: Any = None
        self._waiting = b""
        self._size = self._taken = self._members = 0

    def read(self) -> bytes:
        """The next bytes; none at the end. Raises Refusal."""
        while self._decoder is not None or self._begin():
            piece = self._step()
            self._size += len(piece)
            if self._size > self._limit:
                raise body_too_large(self._limit, "once it is unpacked")
            if piece:
                return piece
        return b""

    def _begin(self) -> bool:
        """Start with the next member of the body, of which gzip and zstd may have several; False at the end."""
        while len(self._waiting) < 2 and (more := self._next()):
            self._waiting += more
        if not self._waiting and self._members:
            return False
        if self._members and self._name == "deflate":
            raise self._damaged("other data follows")
        if self._members > _FEW_MEMBERS + self._taken // _LEAST_MEMBER:
            raise self._damaged("it has too many parts")
        self._members += 1
        self._decoder = _decoder(self._name, self._waiting)
        return True

    def _step(self) -> bytes:
        decoder = self._decoder
        if not self._waiting and decoder.needs_input:
            self._waiting = self._next()
            if not self._waiting:
                raise self._damaged("it is cut short")
        try:
            piece: bytes = decoder.decompress(self._waiting, _PIECE)
        except (zlib.error, zstd().ZstdError):
            raise self._damaged("it is damaged, or other data follows") from None
        self._waiting = decoder.unused_data
        if decoder.eof:
            self._decoder = None
        return piece

    def _next(self) -> bytes:
        more = self._source()
        self._taken += len(more)
        return more

    def _damaged(self, why: str) -> Refusal:
        return Refusal(400, f"the body is not valid {self._name}, its Content-Encoding: {why}")


class _Inflate:
    """zlib's decompressor with the interface of zstd's."""

    def __init__(self, bits: int) -> None:
        self._zlib = zlib.decompressobj(bits)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data if self._zlib.eof else self._zlib.unconsumed_tail

    def decompress(self, data: bytes, size: int) -> bytes:
        piece = self._zlib.decompress(data, size)
        self.needs_input = len(piece) < size
        return piece


def _decoder(name: str, start: bytes) -> Any:
    if name == "zstd":
        module = zstd()
        return module.ZstdDecompressor(options={module.DecompressionParameter.window_log_max: ZSTD_WINDOW_LOG})
    if name == "gzip":
        return _Inflate(31)
    wrapped = len(start) > 1 and start[0] & 15 == 8 and int.from_bytes(start[:2]) % 31 == 0
    return _Inflate(15 if wrapped else -15)  # "deflate" means zlib's format; many send what is in it
