"""A prediction that is answered in a bundle has the same bytes as one that has its own task."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from equality_cases import in_chunks, masked, odd_requests, random_requests
from framing_probe import Replies
from live_servers import Live
from served_models import build_registry
from waiting import LONG_S

from penstock.settings import Settings


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    registry = build_registry(tmp_path_factory.mktemp("bundled"))
    settings = Settings(registry=registry, cors_origins="https://app.example")
    with Live("h1", settings, ("vec", "raw", "pic")) as server:
        yield server


def replies(live: Live, requests: list[bytes]) -> list[tuple[bytes, list[bytes], bytes]]:
    """The masked replies to requests that are sent after one another on one connection."""
    with socket.create_connection(("127.0.0.1", live.port), timeout=LONG_S) as connection:
        found = []
        for request in requests:
            connection.sendall(request)
            got = Replies()
            while not got.statuses:
                data = connection.recv(1 << 16)
                assert data, "the connection was closed"
                got.feed(data)
            found.append(masked(got.heads[0], got.bodies[0]))
        return found


@pytest.mark.parametrize(
    ("name", "sent"), list(odd_requests()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_an_odd_request_has_the_same_reply_either_way(live: Live, name: str, sent: bytes) -> None:
    if b"Content-Length: 0\r" in sent:
        sent_apart = sent.replace(b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n") + b"0\r\n\r\n"
    else:
        sent_apart = in_chunks(sent)
    assert replies(live, [sent]) == replies(live, [sent_apart])


def test_random_requests_have_the_same_replies_either_way(live: Live) -> None:
    requests = [sent for _, sent in random_requests(200)]
    together = replies(live, requests)
    assert all(status == b"HTTP/1.1 200 OK" for status, _, _ in together)
    assert together == replies(live, [in_chunks(sent) for sent in requests])
