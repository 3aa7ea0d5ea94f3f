"""`python benchmarks/bursts.py [--count N] [--seconds S]`: bursts of good and bad requests, and of clients that leave.

Every answer is compared with one that was made before, alone. At the end nothing may be in flight.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
import time
from collections import Counter
from pathlib import Path

import hostile
import httpx
from hostile import build_registry, server

HEAD = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
GOOD = 50
PATIENCE_S = 20.0
DEPTH = 32
"""Requests that are sent ahead on one connection."""
BAD = (b'{"input_data":[1,2]}', b'{"input_data":[1,2,3,1e39]}', b"{", b'{"input_data":[[1]]}', b'{"input_data":[]}')


def message(body: bytes) -> bytes:
    """A prediction."""
    return HEAD % len(body) + body


class Bursts:
    """Sends bursts over many connections, and counts what was wrong."""

    def __init__(self, port: int, seed: int) -> None:
        self._port = port
        self._chance = random.Random(seed)
        numbers = random.Random(1)
        rows = [[numbers.uniform(-5, 5) for _ in range(4)] for _ in range(GOOD)]
        self._good = [json.dumps({"input_data": row}).encode() for row in rows]
        self._alone: list[tuple[object, object]] = []
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []

    async def prepare(self) -> None:
        """The answers to the good requests, alone."""
        for body in self._good:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            writer.write(message(body))
            status, answer = await self._answer(reader)
            assert status == 200, answer
            self._alone.append((answer["predictions"], answer["confidence_scores"]))
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader) -> tuple[int, dict]:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        body = await reader.readexactly(int(head.partition(b"content-length:")[2].split(b"\r\n")[0]))
        return int(head[9:12]), json.loads(body)

    async def connection(self, until: float, most: int) -> None:
        """Bursts on one connection after another."""
        while time.monotonic() < until and self.counts["sent"] < most:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            try:
                for _ in range(20):
                    async with asyncio.timeout(PATIENCE_S):
                        if not await self._burst(reader, writer):
                            break
            except (OSError, EOFError, TimeoutError) as error:
                self.wrong.append(repr(error))
            finally:
                writer.close()

    async def _burst(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One burst; False if this client has left."""
        chance = self._chance
        picks = [
            chance.randrange(GOOD) if chance.random() < 0.8 else -1 - chance.randrange(len(BAD)) for _ in range(DEPTH)
        ]
        data = b"".join(message(self._good[pick] if pick >= 0 else BAD[-1 - pick]) for pick in picks)
        self.counts["sent"] += DEPTH
        if chance.random() < 0.05:
            writer.write(data[: chance.randrange(len(data))])
            await asyncio.sleep(chance.choice((0, 0, 0.001, 0.01)))
            writer.transport.abort()
            self.counts["left"] += DEPTH
            return False
        writer.write(data)
        for pick in picks:
            status, answer = await self._answer(reader)
            self.counts[str(status)] += 1
            if status == 429:
                continue
            good = status == 200 and (answer["predictions"], answer["confidence_scores"]) == self._alone[pick]
            if not (good if pick >= 0 else status == 422):
                self.wrong.append(f"{status} {answer} to {pick}")
        return True


async def run(port: int, seconds: float, count: int, connections: int) -> Bursts:
    """Bursts until the time or the count is reached."""
    bursts = Bursts(port, 7)
    await bursts.prepare()
    until = time.monotonic() + seconds
    await asyncio.gather(*(bursts.connection(until, count) for _ in range(connections)))
    return bursts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--connections", type=int, default=16)
    arguments = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        build_registry(Path(folder))
        with server(Path(folder), []) as (port, pid):
            print(f"ready after {time.monotonic() - started:.0f} s")
            bursts = asyncio.run(run(port, arguments.seconds, arguments.count, arguments.connections))
            time.sleep(1)
            stats = httpx.get(f"http://127.0.0.1:{port}/stats").json()
            print(dict(bursts.counts), "wrong", len(bursts.wrong), bursts.wrong[:3])
            print({name: model["outcomes"] for name, model in stats["models"].items()})
            print("processing", stats["processing"], "queue", stats["queue_size"], f"{hostile.memory_mb(pid):.0f} MB")
            lines = httpx.get(f"http://127.0.0.1:{port}/metrics").text.splitlines()
            print([line for line in lines if line.startswith("penstock_inflight")])
            ended = time.monotonic()
    print(f"{ended - started:.0f} s, then {time.monotonic() - ended:.1f} s until the server had ended")


if __name__ == "__main__":
    main()
