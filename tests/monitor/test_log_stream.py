"""Lines that nobody waits for."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import socket
import subprocess
import sys
import threading
import tty
from collections.abc import Iterator
from typing import TextIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from waiting import LONG_S

from penstock.monitor.log_stream import LogStream

HANGS = """
import asyncio, sys, time
from penstock.gateway.process.watchdog import Watchdog
from penstock.monitor.logs import configure_logging
from penstock.settings import Settings
import logging

configure_logging(Settings())
for number in range(2000):
    logging.getLogger("penstock").error("line %d", number)
print("written", flush=True)


async def hang():
    Watchdog(0.2, 0.0).start()
    time.sleep(600)


asyncio.run(hang())
"""


@pytest.fixture(params=["pipe", "pipe of others", "socket", "terminal"])
def ends(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, TextIO]]:
    """What reads, and the stream that is written to."""
    if request.param == "socket":
        reader, writer = (each.detach() for each in socket.socketpair())
    elif request.param == "terminal":
        reader, writer = pty.openpty()
        tty.setraw(writer)
    else:
        reader, writer = os.pipe()
    if request.param == "pipe of others":  # as in a container whose user is not the one that made the pipe
        opened = os.open

        def refuse(path: str, *args: int) -> int:
            if str(path).startswith("/proc/self/fd/"):
                raise PermissionError(13, "Permission denied", path)
            return opened(path, *args)

        monkeypatch.setattr(os, "open", refuse)
    with os.fdopen(writer, "w") as stream:
        yield reader, stream
    with contextlib.suppress(OSError):
        os.close(reader)


def read_until(reader: int, last: bytes) -> bytes:
    found = b""
    while not found.endswith(last):
        found += os.read(reader, 65536)
    return found


def test_lines_that_are_read_arrive_at_once(ends: tuple[int, TextIO]) -> None:
    reader, stream = ends
    lines = LogStream(stream)
    lines.write("one\n")
    assert os.read(reader, 100) == b"one\n"
    lines.write("zwei \udcff ü\n")
    assert os.read(reader, 100) == "zwei \\udcff ü\n".encode()


def test_lines_that_nobody_reads_are_kept_and_written_later_in_order(ends: tuple[int, TextIO]) -> None:
    reader, stream = ends
    lines = LogStream(stream)
    written = [f"{number} {'x' * 300}\n" for number in range(1000)] + ["y" * 20_000 + "\n", "last\n"]
    for line in written:
        lines.write(line)
    lines.flush(0.0)
    assert read_until(reader, b"last\n").decode() == "".join(written)
    lines.flush(LONG_S)
    lines.write("again\n")
    assert os.read(reader, 100) == b"again\n"


def test_what_is_too_much_to_keep_is_lost_and_counted(ends: tuple[int, TextIO]) -> None:
    reader, stream = ends
    lines = LogStream(stream, most_bytes=50_000)
    for number in range(5000):
        lines.write(f"{number:099d}\n")
    *kept, last = read_until(reader, b"since nobody read them\n").decode().splitlines()
    assert kept == [f"{number:099d}" for number in range(len(kept))]
    assert last == f"penstock: {5000 - len(kept)} log lines were lost, since nobody read them"
    assert 500 <= len(kept) < 5000


def test_a_reader_that_has_gone_ends_the_wait(ends: tuple[int, TextIO]) -> None:
    reader, stream = ends
    lines = LogStream(stream)
    for _ in range(2000):
        lines.write("x" * 99 + "\n")
    os.close(reader)
    lines.flush(LONG_S)
    with contextlib.suppress(OSError):
        lines.write("to nobody\n")
    assert [each.name for each in threading.enumerate() if each.name == "penstock-log"] == []


@given(sizes=st.lists(st.integers(0, 9000), max_size=40), reads=st.lists(st.integers(1, 70_000), max_size=40))
def test_nothing_is_reordered_or_torn_however_it_is_read(sizes: list[int], reads: list[int]) -> None:
    reader, writer = os.pipe()
    fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 4096)
    found = b""
    with os.fdopen(writer, "w") as stream, os.fdopen(reader, "rb", buffering=0) as source:
        lines = LogStream(stream)
        expected = "".join(f"{index} {'z' * size}\n" for index, size in enumerate(sizes)) + "end\n"
        for line, size in zip(expected.splitlines(keepends=True), [*reads, *[0] * len(sizes), 0], strict=False):
            lines.write(line)
            if size and len(found) < len(expected) - 4:
                found += source.read(size)
        while len(found) < len(expected):
            found += source.read(70_000)
        assert found.decode() == expected


def test_a_server_whose_log_nobody_reads_ends_when_it_hangs() -> None:
    process = subprocess.Popen([sys.executable, "-c", HANGS], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"written\n"
        assert process.wait(LONG_S) == 1
    finally:
        process.kill()
        process.communicate()
