"""Compressed replies: for clients that ask for them, where it is worth it."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator
from functools import lru_cache
from typing import Any, TypeAlias

from penstock.libraries import zstd

Headers: TypeAlias = list[tuple[str, str]]
Body: TypeAlias = bytes | AsyncIterator[bytes]

OFFERED = ("zstd", "gzip", "deflate")
"""The best first."""
INLINE = 16 * 1024
"""Replies of more bytes than this are compressed in a thread."""

VARY = ("vary", "Accept-Encoding")

_PLAIN = ("text/", "application/json", "application/javascript", "application/xml", "image/svg+xml")
_ZSTD_LEVEL, _ZLIB_LEVEL = 1, 1
"""A prediction is compressed once and sent once: speed counts more than the last tenth of the size."""


@lru_cache(maxsize=256)
def encoding_for(accept: str) -> str | None:
    """The encoding that an Accept-Encoding header asks for; None for a reply as it is."""
    found = weights(accept)
    best = max(OFFERED, key=lambda name: found.get(name, found.get("*", 0.0)))
    weight = found.get(best, found.get("*", 0.0))
    return best if weight > 0 and weight >= found.get("identity", 0.0) else None


def accepts(accept: str, encoding: str) -> bool:
    """True if an Accept-Encoding header allows this encoding."""
    found = weights(accept)
    return found.get(encoding, found.get("*", 0.0)) > 0


@lru_cache(maxsize=256)
def refuses_plain(accept: str) -> bool:
    """True if a reply as it is does not do: `identity;q=0`, or `*;q=0` without identity."""
    found = weights(accept)
    return found.get("identity", found.get("*", 1.0)) <= 0


def weights(accept: str) -> dict[str, float]:
    """The weight of each name in a header such as Accept-Encoding; what is not valid has the weight 0."""
    found: dict[str, float] = {}
    for part in accept.lower().split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        if name:
            name = "gzip" if name == "x-gzip" else name
            found[name] = max(found.get(name, 0.0), _weight(parameters))
    return found


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                weight = float(value)
            except ValueError:
                return 0.0
            return weight if 0 <= weight <= 1 else 0.0
    return 1.0


def _is_plain(headers: Headers) -> bool:
    """True for text that is not compressed yet."""
    kind = ""
    for name, value in headers:
        if name == "content-encoding":
            return False
        if name == "content-type":
            kind = value.lower()
    return kind.startswith(_PLAIN) or kind.partition(";")[0].rstrip().endswith(("+json", "+xml"))


def negotiated(body: Body, headers: Headers, accept: str) -> str | None:
    """The encoding that an Accept-Encoding header asks for; `headers` get what says so. None for the body as it is.

    That is so for a type that is not worth it, and for one that is compressed already.
    """
    if not body or not _is_plain(headers):
        return None
    if not any(name == "vary" and "accept-encoding" in value.lower() for name, value in headers):
        headers.append(VARY)
    encoding = encoding_for(accept)
    if encoding is not None:
        headers.append(("content-encoding", encoding))
    return encoding


async def compressed(body: Body, headers: Headers, accept: str) -> Body:
    """The body of a reply as an Accept-Encoding header asks for it; `headers` get what says so."""
    encoding = negotiated(body, headers, accept)
    if encoding is None:
        return body
    if not isinstance(body, bytes):
        return _Compressed(body, encoding)
    return packed(body, encoding) if len(body) <= INLINE else await asyncio.to_thread(packed, body, encoding)


def packed(body: bytes, encoding: str) -> bytes:
    """The whole body in one encoding."""
    if encoding == "zstd":
        return zstd().compress(body, _ZSTD_LEVEL)  # type: ignore[no-any-return]
    packer = _packer(encoding)
    return packer.compress(body) + packer.flush()  # type: ignore[no-any-return]


def _packer(encoding: str) -> Any:
    if encoding == "zstd":
        return zstd().ZstdCompressor(_ZSTD_LEVEL)
    return zlib.compressobj(_ZLIB_LEVEL, wbits=31 if encoding == "gzip" else 15)


class _Compressed:
    """A stream whose chunks can each be read as soon as they arrive."""

    def __init__(self, chunks: AsyncIterator[bytes], encoding: str) -> None:
        self._chunks = chunks
        self._packer = _packer(encoding)
        self._flush = zstd().ZstdCompressor.FLUSH_BLOCK if encoding == "zstd" else zlib.Z_SYNC_FLUSH
        self._ended = False

    def __aiter__(self) -> _Compressed:
        return self

    async def __anext__(self) -> bytes:
        if self._ended:
            raise StopAsyncIteration
        try:
            chunk = await anext(self._chunks)
        except StopAsyncIteration:
            self._ended = True
            return self._packer.flush()  # type: ignore[no-any-return]
        return self._pack(chunk) if len(chunk) <= INLINE else await asyncio.to_thread(self._pack, chunk)

    def _pack(self, chunk: bytes) -> bytes:
        return self._packer.compress(chunk) + self._packer.flush(self._flush)  # type: ignore[no-any-return]

    async def aclose(self) -> None:
        """Close the stream that is compressed."""
        aclose = getattr(self._chunks, "aclose", None)
        if aclose is not None:
            await aclose()
