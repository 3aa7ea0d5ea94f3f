"""Clients that take too long or too much: what they get, and that others are served meanwhile."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from h1_server import connection_to, everything, server_with, statuses
from live_servers import Live
from waiting import LONG_S, wait_until

from penstock.gateway.process.sockets import tcp_socket

GET = b"GET /t/early HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST /t/echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    times = {"header_timeout_s": 1.0, "body_timeout_s": 1.0, "keep_alive_s": 1.0}
    with server_with(tmp_path_factory.mktemp("hasty"), **times) as live:
        yield live


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"", []),
        (b"GET /t/early HTTP/1.1\r\nHost: loc", [408]),
        (GET, [200]),
        (GET + b"GET /", [200, 408]),
        (POST % 100 + b"abc", [408]),
        (POST % 100 + b"a" * 100 + POST % 5, [200, 408]),
        (b"POST /t/echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", [408]),
    ],
)
def test_what_does_not_arrive_in_time_ends_the_connection(hasty: Live, sent: bytes, expected: list[int]) -> None:
    with connection_to(hasty) as connection:
        connection.sendall(sent)
        assert statuses(everything(connection)) == expected
    wait_until(lambda: not len(hasty.gateway.inflight))


def test_a_reader_that_stands_still_is_disconnected(hasty: Live) -> None:
    with connection_to(hasty) as connection:
        connection.sendall(GET.replace(b"early", b"large"))
        wait_until(lambda: any(flow.blocked for flow in hasty.listener.places.connections))
        wait_until(lambda: not any(flow.blocked for flow in hasty.listener.places.connections))
        assert hasty.http.get("/t/early").status_code == 200


def test_the_socket_of_a_process_that_still_loads_blocks_no_other(hasty: Live) -> None:
    with tcp_socket("127.0.0.1", 0, shared=True) as orphan:
        hasty.loop.call_soon_threadsafe(hasty.listener.serve, [hasty.listener._own, orphan])
        for _ in range(3):
            with socket.create_connection(orphan.getsockname(), timeout=LONG_S) as connection:
                connection.sendall(GET.replace(b"localhost\r\n", b"localhost\r\nConnection: close\r\n"))
                assert statuses(everything(connection)) == [200]
            assert hasty.http.get("/t/early").status_code == 200
        hasty.loop.call_soon_threadsafe(hasty.listener.serve, [hasty.listener._own])
        assert hasty.http.get("/t/early").status_code == 200


def test_a_process_that_leaves_its_connections_accepts_none_and_closes_those_it_has(hasty: Live) -> None:
    def serve(*socks: socket.socket) -> None:
        hasty.service.stands_aside = not socks
        hasty.listener.serve(socks)

    with connection_to(hasty) as before:
        before.sendall(GET)
        assert before.recv(4096).startswith(b"HTTP/1.1 200")
        asyncio.run_coroutine_threadsafe(_called(serve), hasty.loop).result(LONG_S)
        before.sendall(GET)
        reply = everything(before)
        assert statuses(reply) == [200]
        assert b"connection: close" in reply.lower()
    with connection_to(hasty) as waiting:
        waiting.sendall(GET.replace(b"localhost\r\n", b"localhost\r\nConnection: close\r\n"))
        for _ in range(20):  # turns in which it would be answered
            asyncio.run_coroutine_threadsafe(_called(lambda: None), hasty.loop).result(LONG_S)
        waiting.setblocking(False)
        with pytest.raises(BlockingIOError):
            waiting.recv(1)
        waiting.settimeout(LONG_S)
        asyncio.run_coroutine_threadsafe(_called(serve, hasty.listener._own), hasty.loop).result(LONG_S)
        assert statuses(everything(waiting)) == [200]


async def _called(call: Callable[..., None], *arguments: object) -> None:
    call(*arguments)
    await asyncio.sleep(0)  # one turn of the event loop


def test_silent_connections_make_room_for_others(tmp_path: Path) -> None:
    with server_with(tmp_path, max_connections=20) as live, ExitStack() as many:
        silent = [many.enter_context(connection_to(live)) for _ in range(60)]
        unfinished = many.enter_context(connection_to(live))
        unfinished.sendall(b"GET /t/ea")
        with connection_to(live) as connection:
            connection.sendall(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            assert statuses(everything(connection)) == [200]
        assert silent[0].recv(10) == b""  # the oldest has made room
        unfinished.sendall(b"rly HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert statuses(everything(unfinished)) == [200]


def test_an_address_has_its_share_of_connections(tmp_path: Path) -> None:
    with server_with(tmp_path, max_connections_per_address=5) as live, ExitStack() as many:
        kept = [many.enter_context(connection_to(live)) for _ in range(4)]
        with connection_to(live) as connection:
            received = everything(connection)
        assert statuses(received) == [503]
        assert b"retry-after: 1\r\n" in received
        kept.pop().close()
        wait_until(lambda: len(live.listener.places.connections) < 5)
        with connection_to(live) as connection:
            connection.sendall(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            assert statuses(everything(connection)) == [200]


def test_accepting_survives_a_lack_of_file_descriptors(tmp_path: Path) -> None:
    """In a process of its own, since the limit of open files is one of the process."""
    code = textwrap.dedent("""
        import resource, socket, sys
        sys.path[:0] = sys.argv[2:]
        from pathlib import Path
        from h1_server import connection_to, everything, server_with, statuses

        with server_with(Path(sys.argv[1]), max_connections=5000) as live:
            used = len(list(Path("/proc/self/fd").iterdir()))
            _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (used + 40, hard))
            silent = []
            try:
                while True:
                    silent.append(socket.create_connection(("127.0.0.1", live.port)))
            except OSError:
                pass
            for connection in silent[:10]:
                connection.close()
            with connection_to(live) as connection:
                connection.sendall(b"GET /t/early HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n")
                print(statuses(everything(connection)))
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            for connection in silent[10:]:
                connection.close()
        """)
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), *[path for path in sys.path if path.endswith("support")]],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.stdout.strip() == "[200]", done.stderr


def test_a_closing_listener_answers_what_was_accepted(tmp_path: Path) -> None:
    with server_with(tmp_path) as live, connection_to(live) as busy, connection_to(live) as idle:
        idle.sendall(GET)
        assert idle.recv(1000).startswith(b"HTTP/1.1 200")
        busy.sendall(GET.replace(b"early", b"slow") * 3)
        wait_until(lambda: len(live.gateway.inflight))
        live.call(lambda: live.listener.close(5))
        received = everything(busy)
        assert statuses(received) == [200] * 3
        assert received.count(b"connection: close") == 1
        assert everything(idle) == b""
