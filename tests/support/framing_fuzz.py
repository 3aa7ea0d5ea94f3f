"""`python tests/support/framing_fuzz.py --count N [--processes P] [--seed S]`: mutated byte streams for the server.

A finding is printed with what reproduces it, and ends the run.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import multiprocessing
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h11
import uvloop
from framing_cases import cases
from framing_driver import Driver, Finding, Outcome

LONGEST_SEED = 5000

TOKENS = (
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"\t",
    b":",
    b";",
    b",",
    b"\x0b",
    b"\x80",
    b"\xff",
    b'"',
    b"0",
    b"1",
    b"f",
    b"%00",
    b"\r\n\r\n",
    b"0\r\n\r\n",
    b"1\r\nx\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length: 0\r\n",
    b"HTTP/1.0",
    b"HTTP/1.1",
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: close\r\n",
    b"Connection: keep-alive\r\n",
    b"chunked",
    b"identity",
    b"Connection: upgrade\r\nUpgrade: x\r\n",
    b"Expect: 100-continue\r\n",
    b"Host: x\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nlater",
    b"HEAD",
    b"POST",
    b"CONNECT",
    b"PRI * HTTP/2.0\r\n\r\n",
    b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
)


def seeds() -> list[bytes]:
    """The streams of the table, but the longest."""
    return [case.sent for case in cases() if len(case.sent) <= LONGEST_SEED]


def mutated(random: random.Random, pool: list[bytes]) -> bytes:
    """One stream: one to three of the pool in a row, with a few changes."""
    stream = bytearray(b"".join(random.choices(pool, k=random.choice((1, 1, 1, 2, 3)))))
    for _ in range(random.choice((0, 1, 1, 2, 3, 6))):
        at = random.randrange(len(stream) + 1)
        kind = random.randrange(6)
        if kind == 0:
            stream[at:at] = random.choice(TOKENS)
        elif kind == 1:
            stream[at : at + len(token)] = (token := random.choice(TOKENS))
        elif kind == 2:
            stream[at : at + 1] = bytes((random.randrange(256),))
        elif kind == 3:
            del stream[at : at + random.choice((1, 1, 2, 5, 20))]
        elif kind == 4:
            other = random.choice(pool)
            start = random.randrange(len(other))
            stream[at:at] = other[start : start + random.choice((1, 5, 20, 100))]
        else:
            stream[at:at] = stream[at : at + random.choice((1, 2, 10, 60))]
    return bytes(stream)


def split(random: random.Random, stream: bytes) -> list[bytes]:
    """The stream in pieces."""
    if random.random() < 0.1:
        return [stream[i : i + 1] for i in range(len(stream))]
    places = sorted(random.sample(range(len(stream) + 1), min(len(stream), random.randrange(1, 8))))
    return [piece for a, b in zip([0, *places], [*places, len(stream)], strict=True) if (piece := stream[a:b])]


def as_h11_reads(stream: bytes) -> list[tuple[bytes, bytes]]:
    """Method and body of each request before the first that h11 refuses."""
    found: list[tuple[bytes, bytes]] = []
    connection = h11.Connection(h11.SERVER)
    try:
        connection.receive_data(stream)
        request, body = None, b""
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request):
                request, body = event, b""
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage) and request is not None:
                found.append((request.method, body))
                connection.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
                connection.send(h11.EndOfMessage())
                connection.start_next_cycle()
            else:
                return found
    except h11.ProtocolError:
        return found


def check_against_h11(stream: bytes, outcome: Outcome) -> None:
    """What both read, both must read in the same way. Raises Finding."""
    ours = [body.split(b" ", 1)[0::1] for status, body in outcome.replies if status == 200]
    for own, (method, body) in zip(ours, as_h11_reads(stream), strict=False):
        if method in (b"HEAD", b"CONNECT"):
            return
        if own[0] != method or not own[1].endswith(body):
            raise Finding(f"read as {own}, by h11 as {(method, body)}")


class _Errors(logging.Handler):
    """Errors of the server in the log are findings."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(self.format(record))


async def fuzz(seed: int, count: int, folder: Path, on_progress: Any = None) -> None:
    """Run `count` streams. Raises Finding with the stream and its pieces."""
    errors = _Errors()
    logging.getLogger("penstock").addHandler(errors)
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: errors.found.append(repr(context)))
    driver, pool = Driver(folder), seeds()
    chance = random.Random(seed)
    try:
        for index in range(count):
            stream = mutated(chance, pool)
            pieces = [stream]
            try:
                whole = await driver.run(pieces)
                if index % 4 == 0:
                    pieces = split(chance, stream)
                    parted = await driver.run(pieces)
                    if parted != whole:
                        raise Finding(f"in one piece: {whole}, in several: {parted}")
                if index % 8 == 0:
                    check_against_h11(stream, whole)
                if errors.found:
                    raise Finding(errors.found[0])
            except Exception as error:
                raise Finding(f"seed {seed}, stream {index}: {error!r}\n{stream!r}\n{pieces!r}") from error
            if on_progress is not None and index % 10_000 == 9_999:
                on_progress(index + 1)
    finally:
        logging.getLogger("penstock").removeHandler(errors)


def _process(seed: int, count: int, done: Any) -> None:
    def progress(index: int) -> None:
        done[seed % len(done)] = index

    with tempfile.TemporaryDirectory() as folder:
        uvloop.run(fuzz(seed, count, Path(folder), progress))
    progress(count)


def _watch(processes: list[Any], done: Any) -> Iterator[str]:
    started = time.monotonic()
    while any(process.is_alive() for process in processes):
        time.sleep(10)
        yield f"{sum(done):,} streams in {time.monotonic() - started:.0f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    done = multiprocessing.Array("q", arguments.processes)
    each = arguments.count // arguments.processes
    processes = [
        multiprocessing.Process(target=_process, args=(arguments.seed * arguments.processes + index, each, done))
        for index in range(arguments.processes)
    ]
    for process in processes:
        process.start()
    for line in _watch(processes, done):
        print(line, flush=True)
    sys.exit(any(process.exitcode for process in processes))


if __name__ == "__main__":
    main()
