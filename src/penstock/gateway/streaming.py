"""Replies that are sent in chunks, at the pace at which the client reads them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

from penstock.gateway.http import Call, Disconnected, Reply, ReplyStream

log = logging.getLogger(__name__)


class OpenStream:
    """The chunks of a reply, the first of them already produced."""

    def __init__(self, chunks: AsyncIterator[bytes], first: bytes) -> None:
        self._chunks = chunks
        self._first = first

    def __aiter__(self) -> OpenStream:
        return self

    async def __anext__(self) -> bytes:
        if self._first:
            first, self._first = self._first, b""
            return first
        return await anext(self._chunks)

    async def aclose(self) -> None:
        """Close the iterator of the handler."""
        await _close(self._chunks)


async def open_stream(call: Call, reply: Reply) -> Reply:
    """Wait for the first chunk that is not empty: an error before it becomes an error reply with its status.

    A stream without any bytes becomes an empty body. HEAD asks for no chunk.
    """
    chunks: AsyncIterator[bytes] = reply.body  # type: ignore[assignment]  # the caller has checked
    try:
        first = b"" if call.method == "HEAD" else await _first(chunks)
    except BaseException:
        await _close(chunks)
        raise
    if not first:
        await _close(chunks)
    reply.body = b"" if first is None else OpenStream(chunks, first)
    return reply


async def _first(chunks: AsyncIterator[bytes]) -> bytes | None:
    async for chunk in chunks:
        if chunk:
            return chunk
    return None


async def send_stream(call: Call, reply: Reply) -> None:
    """Send an open stream. An error in the middle is logged and cuts the connection; the iterator is always closed."""
    chunks: OpenStream = reply.body  # type: ignore[assignment]  # the caller has checked
    if call.method == "HEAD":
        await call.send(reply, None)
        return
    try:
        stream = await call.start_stream(reply)
        await _copy(call, chunks, stream)
    finally:
        await chunks.aclose()


async def _copy(call: Call, chunks: OpenStream, stream: ReplyStream) -> None:
    try:
        async for chunk in chunks:
            if chunk:
                await stream.write(chunk)
                call.sent_bytes += len(chunk)
        await stream.finish()
    except Disconnected:
        stream.abort(connected=False)
    except asyncio.CancelledError:
        stream.abort(connected=call.abort_reason is not None)
    except Exception:
        log.exception("request %s failed after %d bytes of its reply", call.request_id, call.sent_bytes)
        stream.abort(connected=True)


async def _close(chunks: AsyncIterator[bytes]) -> None:
    aclose = getattr(chunks, "aclose", None)
    if aclose is not None:
        await aclose()
