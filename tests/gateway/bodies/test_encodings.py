"""Bodies with a Content-Encoding."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import tracemalloc
import zlib
from collections.abc import Callable
from contextlib import suppress

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from live_servers import Live

from penstock.gateway.bodies.encodings import INLINE, encodings_in, unpack, zstd
from penstock.gateway.problems import Refusal

LIMIT = 1 << 20
GOOD = json.dumps({"input_data": [1, 2, 3, 4]}).encode()
JSON = {"content-type": "application/json"}


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


PACK: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "GZIP": gzip.compress,
    "deflate": zlib.compress,
    " deflate ": raw_deflate,
    "zstd": lambda data: zstd().compress(data),
    "identity": lambda data: data,
    "gzip, identity": gzip.compress,
    "deflate, gzip": lambda data: gzip.compress(zlib.compress(data)),
    "gzip,zstd,deflate": lambda data: zlib.compress(zstd().compress(gzip.compress(data))),
}


def taken(body: bytes, encoding: str, limit: int = LIMIT) -> bytes:
    return asyncio.run(unpack(body, encodings_in(encoding), limit, [].append))


@pytest.mark.parametrize("encoding", PACK)
@pytest.mark.parametrize("size", [1, 100, INLINE - 1, INLINE, INLINE + 1, 700_000])
@pytest.mark.parametrize("kind", ["zeros", "random"])
def test_a_body_is_what_was_packed(encoding: str, size: int, kind: str) -> None:
    data = bytes(size) if kind == "zeros" else random.Random(size).randbytes(size)
    if encoding != "identity":
        assert taken(PACK[encoding](data), encoding) == data


@given(
    st.binary(min_size=1, max_size=300), st.lists(st.sampled_from(["gzip", "deflate", "zstd"]), min_size=1, max_size=5)
)
def test_encodings_come_off_in_reverse_order(data: bytes, encodings: list[str]) -> None:
    body = data
    for name in encodings:
        body = PACK[name](body)
    assert taken(body, ",".join(encodings)) == data


@pytest.mark.parametrize("encoding", ["gzip", "deflate", " deflate ", "zstd"])
def test_every_cut_of_a_body_is_400(encoding: str) -> None:
    body = PACK[encoding](b"some text that is packed" * 4)
    for end in range(1, len(body)):
        with pytest.raises(Refusal) as refusal:
            taken(body[:end], encoding)
        assert refusal.value.status == 400


@pytest.mark.parametrize("encoding", ["gzip", "deflate", " deflate ", "zstd", "deflate, gzip"])
@pytest.mark.parametrize("after", [b"x", b"\0", b"garbage after the end", b"\x1f\x8b", b"\x28\xb5\x2f\xfd"])
def test_data_after_the_end_is_400(encoding: str, after: bytes) -> None:
    with pytest.raises(Refusal) as refusal:
        taken(PACK[encoding](GOOD) + after, encoding)
    assert refusal.value.status == 400


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_a_body_of_several_members_is_their_sum(encoding: str) -> None:
    assert taken(PACK[encoding](b"one ") + PACK[encoding](b"") + PACK[encoding](b"two"), encoding) == b"one two"


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_a_body_of_very_many_empty_members_is_400(encoding: str) -> None:
    with pytest.raises(Refusal) as refusal:
        taken(PACK[encoding](b"") * 100_000, encoding)
    assert refusal.value.status == 400


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd"])
@pytest.mark.parametrize("flipped", range(0, 60, 7))
def test_a_damaged_body_is_400_or_has_the_same_content(encoding: str, flipped: int) -> None:
    packed = bytearray(PACK[encoding](GOOD))
    packed[flipped % len(packed)] ^= 0x10
    found = None
    with suppress(Refusal):  # anything else fails
        found = taken(bytes(packed), encoding)
    assert found in (None, GOOD) or encoding == "zstd"  # zstd's checksum is optional


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd", "gzip, gzip", "zstd, gzip"])
def test_a_bomb_is_413_before_it_is_unpacked(encoding: str) -> None:
    bomb = bytes(200 << 20)
    for name in encoding.split(", "):
        bomb = PACK[name](bomb)
    tracemalloc.start()
    with pytest.raises(Refusal) as refusal:
        taken(bomb, encoding)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert refusal.value.status == 413
    assert peak < 8 << 20


def test_an_inner_encoding_that_is_a_bomb_is_413() -> None:
    skippable = (b"\x50\x2a\x4d\x18" + (1 << 20).to_bytes(4, "little") + bytes(1 << 20)) * 50
    with pytest.raises(Refusal) as refusal:
        taken(gzip.compress(skippable), "zstd, gzip")
    assert refusal.value.status == 413


def test_a_zstd_body_cannot_ask_for_a_large_window() -> None:
    module = zstd()
    packer = module.ZstdCompressor(options={module.CompressionParameter.window_log: 27})
    with pytest.raises(Refusal) as refusal:
        taken(packer.compress(bytes(LIMIT // 2)) + packer.flush(), "zstd")
    assert refusal.value.status == 400


def test_memory_for_the_unpacked_body_is_reserved_while_it_is_unpacked() -> None:
    reserved: list[int] = []

    def reserve(size: int) -> None:
        reserved.append(size)
        if size > 5 << 20:
            raise MemoryError

    with pytest.raises(MemoryError):
        asyncio.run(unpack(gzip.compress(bytes(64 << 20)), ("gzip",), 128 << 20, reserve))
    assert 1 << 20 <= reserved[0] < 2 << 20
    assert reserved[-1] < 7 << 20


# On a server


@pytest.mark.parametrize("encoding", PACK)
@pytest.mark.parametrize("path", ["/inference/predict", "/models/vec/predict", "/models/vec/versions/v1.0/predict"])
def test_a_prediction_is_the_same_from_a_packed_body(client: httpx.Client, encoding: str, path: str) -> None:
    plain = client.post(path, content=GOOD, headers=JSON).json()
    reply = client.post(path, content=PACK[encoding](GOOD), headers={**JSON, "content-encoding": encoding.strip()})
    assert reply.status_code == 200, reply.text
    assert reply.json()["predictions"] == plain["predictions"]
    assert reply.json()["confidence_scores"] == plain["confidence_scores"]


def test_a_packed_body_may_come_in_chunks(client: httpx.Client) -> None:
    chunks = (bytes([byte]) for byte in gzip.compress(GOOD))
    reply = client.post("/inference/predict", content=chunks, headers={**JSON, "content-encoding": "gzip"})
    assert reply.status_code == 200, reply.text


def test_encodings_may_come_in_several_headers(client: httpx.Client) -> None:
    headers = [("content-type", "application/json"), ("content-encoding", "deflate"), ("content-encoding", "gzip")]
    reply = client.post("/inference/predict", content=gzip.compress(zlib.compress(GOOD)), headers=headers)
    assert reply.status_code == 200, reply.text


def test_a_batch_may_be_packed(client: httpx.Client) -> None:
    body = gzip.compress(json.dumps({"requests": [json.loads(GOOD)] * 3}).encode())
    reply = client.post("/predict/batch", content=body, headers={**JSON, "content-encoding": "gzip"})
    assert reply.json()["total_count"] == 3


@pytest.mark.parametrize("encoding", ["br", "compress", "gzip, br", "gzip;q=1", "utf-8", "aes128gcm", "*"])
def test_another_encoding_is_415_and_says_what_is_taken(client: httpx.Client, encoding: str) -> None:
    for content in (GOOD, iter([GOOD])):
        reply = client.post("/inference/predict", content=content, headers={**JSON, "content-encoding": encoding})
        assert reply.status_code == 415, reply.text
        assert reply.headers["accept-encoding"] == "gzip, deflate, zstd"
        assert reply.json()["title"] == "Unsupported media type"


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd"])
def test_a_body_that_is_not_what_its_encoding_says_is_400(client: httpx.Client, encoding: str) -> None:
    reply = client.post("/inference/predict", content=GOOD, headers={**JSON, "content-encoding": encoding})
    assert reply.status_code == 400, reply.text
    assert encoding in reply.json()["detail"]


def test_a_bomb_is_413_and_the_connection_can_be_used_again(server: Live, client: httpx.Client) -> None:
    bomb = gzip.compress(bytes(50 << 20))
    reply = client.post("/inference/predict", content=bomb, headers={**JSON, "content-encoding": "gzip"})
    assert reply.status_code == 413, reply.text
    assert "unpacked" in reply.json()["detail"]
    assert client.post("/inference/predict", content=GOOD, headers=JSON).status_code == 200
    assert server.gateway.limits.held_bytes == 0


def test_a_body_of_many_encodings_is_400(client: httpx.Client) -> None:
    headers = {**JSON, "content-encoding": ",".join(["gzip"] * 6)}
    assert client.post("/inference/predict", content=GOOD, headers=headers).status_code == 400


def test_no_body_needs_no_unpacking(client: httpx.Client) -> None:
    reply = client.post("/inference/predict", content=b"", headers={**JSON, "content-encoding": "gzip"})
    assert reply.status_code == 422
    assert "no body" in reply.json()["detail"]
