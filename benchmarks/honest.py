"""An honest client: predictions at a constant rate over kept and over new connections, with the latency of each.

It is an open loop: a request that waits does not delay the next one, and one that fails counts as the longest.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time

HEAD = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
BODY = b'{"input_data":[1,2,3,4]}'
REQUEST = HEAD + b"Content-Length: 24\r\n\r\n" + BODY
KEPT_PER_S, NEW_PER_S = 150, 50
KEPT = 16
TIMEOUT_S = 10.0


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(REQUEST)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    if not head.startswith(b"http/1.1 200"):
        raise ConnectionError(head[:12])
    await reader.readexactly(int(head.partition(b"content-length:")[2].split(b"\r\n")[0]))


class Honest:
    """Latencies in seconds of the requests so far."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: asyncio.LifoQueue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.LifoQueue()
        self.kept: list[float] = []
        self.new: list[float] = []
        self.failed = 0

    async def run(self, seconds: float) -> None:
        """Send requests for so long, and wait for their answers."""
        for _ in range(KEPT):
            self._idle.put_nowait(await self._connect())
        await asyncio.gather(
            self._rate(KEPT_PER_S, seconds, self._kept_request), self._rate(NEW_PER_S, seconds, self._new_request)
        )

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self._port)

    async def _rate(self, per_s: int, seconds: float, request) -> None:
        started, tasks = time.perf_counter(), []
        for index in range(int(per_s * seconds)):
            due = started + index / per_s
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            tasks.append(asyncio.create_task(self._measured(request)))
        await asyncio.gather(*tasks)

    async def _measured(self, request) -> None:
        started = time.perf_counter()
        latencies = self.kept if request == self._kept_request else self.new
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await request()
            latencies.append(time.perf_counter() - started)
        except (OSError, TimeoutError, EOFError):
            self.failed += 1
            latencies.append(TIMEOUT_S)

    async def _kept_request(self) -> None:
        connection = await self._idle.get()
        try:
            await _answer(*connection)
        except BaseException:
            connection[1].close()
            connection = await self._connect()
            raise
        finally:
            self._idle.put_nowait(connection)

    async def _new_request(self) -> None:
        reader, writer = await self._connect()
        try:
            await _answer(reader, writer)
        finally:
            writer.close()


def _quantiles(latencies: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(latencies, n=100)
    return {"p50_ms": cuts[49] * 1000, "p99_ms": cuts[98] * 1000}


def main() -> None:
    port, seconds = sys.argv[1:]
    honest = Honest(int(port))
    asyncio.run(honest.run(float(seconds)))
    figures = {"kept": _quantiles(honest.kept), "new": _quantiles(honest.new), "failed": honest.failed}
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
