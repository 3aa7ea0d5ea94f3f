"""Bodies that are malformed or cut short are never answered as if they were whole."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from typing import Any

import pytest
from live_servers import Live
from waiting import LONG_S, wait_until

GOOD = b'{"input_data": [1, 2, 3, 4]}'
HEAD = b"POST /inference/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
Exchange = Callable[..., bytes]


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


MALFORMED = {
    "no size": CHUNKED + GOOD + b"\r\n0\r\n\r\n",
    "a size of letters": CHUNKED + b"zz\r\n" + GOOD + b"\r\n0\r\n\r\n",
    "a negative size": CHUNKED + b"-1\r\n" + GOOD + b"\r\n0\r\n\r\n",
    "a prefixed size": CHUNKED + b"0x%x\r\n" % len(GOOD) + GOOD + b"\r\n0\r\n\r\n",
    "a very large size": CHUNKED + b"f" * 17 + b"\r\n" + GOOD,
    "a size after the body": CHUNKED + chunk(GOOD) + b"zz\r\n\r\n",
    "garbage after a chunk": CHUNKED + b"%x\r\n%bXX\r\n0\r\n\r\n" % (len(GOOD), GOOD),
    "a chunk that is longer than its size": CHUNKED + b"1c\r\n%b   \r\n0\r\n\r\n" % GOOD,
    "garbage in place of the end": CHUNKED + chunk(GOOD) + b"garbage",
    "only line feeds": CHUNKED + b"%x\n%b\n0\n\n" % (len(GOOD), GOOD),
    "a length of letters": HEAD + b"Content-Length: abc\r\n\r\n" + GOOD,
    "a negative length": HEAD + b"Content-Length: -1\r\n\r\n" + GOOD,
    "two lengths": HEAD + b"Content-Length: 28\r\nContent-Length: 29\r\n\r\n" + GOOD + b" ",
}
CUT = {
    "before the first chunk": CHUNKED,
    "in a size": CHUNKED + b"1",
    "in a chunk": CHUNKED + b"ff\r\n" + GOOD,
    "after a chunk": CHUNKED + chunk(GOOD),
    "in the last chunk": CHUNKED + chunk(GOOD) + b"0\r\n",
    "before its length": HEAD + b"Content-Length: 100\r\n\r\n" + GOOD,
    "before its first byte": HEAD + b"Content-Length: 100\r\n\r\n",
}


@pytest.mark.parametrize("case", MALFORMED)
@pytest.mark.parametrize("end", [True, False], ids=["closed", "open"])
def test_a_malformed_body_is_400(exchange: Exchange, case: str, end: bool) -> None:
    answer = exchange(MALFORMED[case], end=end)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize("case", CUT)
def test_a_body_that_is_cut_short_is_400_or_has_no_answer(exchange: Exchange, case: str) -> None:
    answer = exchange(CUT[case])
    assert answer.startswith(b"HTTP/1.1 400 ") or answer == b""


def test_trailers_and_extensions_are_taken(exchange: Exchange, server: Live) -> None:
    for data in (
        HEAD
        + b"Transfer-Encoding: chunked\r\nTrailer: X-Sum\r\nConnection: close\r\n\r\n"
        + chunk(GOOD)
        + b"0\r\nX-Sum: 1\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n1c;a=b\r\n" + GOOD + b"\r\n0\r\n\r\n",
    ):
        assert exchange(data, end=False).startswith(b"HTTP/1.1 200 ")


def outcomes(server: Live) -> dict[str, int]:
    found: dict[str, Any] = server.http.get("/stats").json()["models"]["vec:v2.0"]["outcomes"]
    return found


@pytest.mark.parametrize("how", ["closes", "resets"])
@pytest.mark.parametrize("case", ["in a chunk", "after a chunk", "before its length"])
def test_a_client_that_leaves_in_the_middle_is_cancelled_and_no_error(server: Live, how: str, case: str) -> None:
    server.http.post("/inference/predict", content=GOOD)
    before = outcomes(server)
    with socket.create_connection(("127.0.0.1", server.port), timeout=LONG_S) as connection:
        connection.sendall(CUT[case])
        wait_until(lambda: len(server.gateway.inflight))
        if how == "resets":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wait_until(lambda: outcomes(server).get("cancelled", 0) == before.get("cancelled", 0) + 1)
    after = outcomes(server)
    assert {k: v for k, v in after.items() if k != "cancelled"} == {k: v for k, v in before.items() if k != "cancelled"}
    assert len(server.gateway.inflight) <= 1
