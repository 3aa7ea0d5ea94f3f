"""Compressed replies: who gets them, and that they say the same."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from live_servers import Live

from penstock.gateway.bodies.compression import encoding_for, refuses_plain
from penstock.gateway.http import Call, Endpoint, Protocol, Reply
from penstock.gateway.native.routes import NATIVE
from penstock.libraries import zstd
from penstock.settings import Settings

UNPACK: dict[str | None, Any] = {
    "gzip": gzip.decompress,
    "deflate": zlib.decompress,
    "zstd": lambda data: zstd().decompress(data),
    None: lambda data: data,
}
ROWS = 400
LARGE = json.dumps({"inputs": {"a": [[1, 2]] * ROWS, "b": [[3, 4]] * ROWS}})
SMALL = {"input_data": [1, 2, 3, 4]}


@pytest.mark.parametrize(
    ("accept", "encoding"),
    [
        ("", None),
        ("gzip", "gzip"),
        ("x-gzip", "gzip"),
        ("GZip", "gzip"),
        ("deflate", "deflate"),
        ("gzip, deflate", "gzip"),
        ("gzip, deflate, br, zstd", "zstd"),
        ("gzip, deflate, br", "gzip"),
        ("br", None),
        ("*", "zstd"),
        ("*;q=0", None),
        ("gzip;q=0", None),
        ("gzip;q=0.0, *", "zstd"),
        ("zstd;q=0, *", "gzip"),
        ("gzip;q=0.5, deflate;q=0.8", "deflate"),
        ("gzip; q=0.5 , zstd ;Q=0.4", "gzip"),
        ("identity", None),
        ("identity, gzip;q=0.5", None),
        ("identity;q=0.5, gzip", "gzip"),
        ("identity;q=0", None),
        ("identity;q=0, gzip;q=0.001", "gzip"),
        ("identity;q=0, *", "zstd"),
        ("gzip;q=abc", None),
        ("gzip;q=nan", None),
        ("gzip;q=2", None),
        ("gzip;level=1", "gzip"),
        (",, ;q=1, gzip", "gzip"),
    ],
)
def test_the_encoding_that_a_client_asks_for(accept: str, encoding: str | None) -> None:
    assert encoding_for(accept) == encoding


@pytest.mark.parametrize(
    ("accept", "refused"),
    [("gzip", False), ("identity;q=0", True), ("*;q=0", True), ("identity, *;q=0", False), ("gzip;q=0", False)],
)
def test_whether_a_client_refuses_replies_as_they_are(accept: str, refused: bool) -> None:
    assert refuses_plain(accept) is refused


def raw(client: httpx.Client, method: str, path: str, accept: str | None, **more: Any) -> tuple[httpx.Response, bytes]:
    """The reply and its bytes as they are on the wire."""
    request = client.build_request(method, path, **more)
    request.headers.pop("accept-encoding")
    if accept is not None:
        request.headers["accept-encoding"] = accept
    reply = client.send(request, stream=True)
    try:
        return reply, b"".join(reply.iter_raw())
    finally:
        reply.close()


@pytest.mark.parametrize(
    ("accept", "encoding"),
    [
        (None, None),
        ("br", None),
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("zstd, gzip;q=0.5", "zstd"),
        ("*;q=0", None),
    ],
)
def test_a_large_reply_is_compressed_when_it_is_asked_for(
    client: httpx.Client, accept: str | None, encoding: str | None
) -> None:
    reply, body = raw(client, "POST", "/models/raw/predict", accept, content=LARGE)
    assert reply.status_code == 200
    assert reply.headers.get("content-encoding") == encoding
    assert int(reply.headers["content-length"]) == len(body)
    assert "accept-encoding" in reply.headers["vary"].lower()
    assert json.loads(UNPACK[encoding](body))["outputs"]["sum"] == [[4, 6]] * ROWS


@pytest.mark.parametrize(
    ("accept", "encoding"), [("gzip, zstd", None), ("gzip, identity;q=0", "gzip"), ("*;q=0", None)]
)
def test_a_small_reply_is_sent_as_it_is(client: httpx.Client, accept: str, encoding: str | None) -> None:
    reply, body = raw(client, "POST", "/inference/predict", accept, json=SMALL)
    assert reply.headers.get("content-encoding") == encoding
    assert len(json.loads(UNPACK[encoding](body))["predictions"]) == 1


def test_an_error_is_readable_however_it_is_encoded(client: httpx.Client) -> None:
    reply, body = raw(client, "GET", "/nothing", "zstd, *;q=0")
    assert (reply.status_code, reply.headers["content-encoding"]) == (404, "zstd")
    assert json.loads(UNPACK["zstd"](body))["status"] == 404


@pytest.mark.parametrize("path", ["/openapi.json", "/metrics", "/models/vec", "/docs/assets/swagger-ui.css"])
@pytest.mark.parametrize("accept", ["zstd", "gzip", "deflate", "br"])
def test_head_has_the_headers_of_get(client: httpx.Client, path: str, accept: str) -> None:
    get, body = raw(client, "GET", path, accept)
    head, nothing = raw(client, "HEAD", path, accept)
    assert nothing == b""
    assert head.headers.get("content-encoding") == get.headers.get("content-encoding")
    assert [value for name, value in head.headers.multi_items() if name == "vary"] == [
        value for name, value in get.headers.multi_items() if name == "vary"
    ]
    assert (get.headers.get("content-encoding") == accept) == (accept != "br" and len(body) > 0)
    if path != "/metrics":  # its length differs from one request to the next
        assert head.headers["content-length"] == get.headers["content-length"]


def test_an_image_is_not_compressed(client: httpx.Client) -> None:
    reply, body = raw(client, "GET", "/docs/assets/favicon.png", "gzip, zstd")
    assert "content-encoding" not in reply.headers
    assert body.startswith(b"\x89PNG")


async def _chunks() -> AsyncIterator[bytes]:
    for number in range(3):
        yield b'{"number": %d}\n' % number * 2000


async def lines(call: Call) -> Reply:
    return Reply(200, [("content-type", "text/event-stream")], _chunks())


async def picture(call: Call) -> Reply:
    return Reply(200, [("content-type", "image/png")], _chunks())


STREAMS = Protocol(
    "streams",
    ("/streams",),
    (Endpoint("GET", "/streams/lines", lines, "", "Text"), Endpoint("GET", "/streams/picture", picture, "", "Picture")),
    NATIVE.write_error,
)


@pytest.fixture(scope="module", params=["h1", "rsgi", "plain-asgi"])
def streaming(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    settings = Settings(registry=tmp_path_factory.mktemp("registry"))
    with Live(request.param, settings, (), (NATIVE, STREAMS)) as live:
        yield live


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd", None])
def test_a_stream_is_compressed_chunk_by_chunk(streaming: Live, encoding: str | None) -> None:
    reply, body = raw(streaming.http, "GET", "/streams/lines", encoding or "br")
    assert reply.headers.get("content-encoding") == encoding
    assert UNPACK[encoding](body) == b"".join(b'{"number": %d}\n' % number * 2000 for number in range(3))
    assert raw(streaming.http, "HEAD", "/streams/lines", encoding)[0].headers.get("content-encoding") == encoding


def test_a_stream_of_a_compressed_type_is_sent_as_it_is(streaming: Live) -> None:
    assert "content-encoding" not in raw(streaming.http, "GET", "/streams/picture", "gzip")[0].headers


def test_compression_can_be_turned_off(tmp_path: Path) -> None:
    settings = Settings(registry=tmp_path, compress_from_bytes=0)
    with Live("h1", settings, (), (NATIVE, STREAMS)) as live:
        for path in ("/streams/lines", "/openapi.json", "/nothing"):
            assert "content-encoding" not in raw(live.http, "GET", path, "gzip, identity;q=0")[0].headers
