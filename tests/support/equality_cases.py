"""Predictions that a bundle may answer, and what forces the ordinary way: both ways give the same bytes."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator

FEATURES = 4
HEAD = "POST {} HTTP/1.1\r\nHost: localhost\r\n{}Content-Length: {}\r\n\r\n"
ODD_NUMBERS = (
    "NaN",
    "Infinity",
    "-Infinity",
    "1e39",
    "-1e39",
    "1e400",
    "1e-400",
    "true",
    "null",
    '"1"',
    "[1]",
    "{}",
    "-0",
    "-0.0",
    "01",
    "+1",
    ".5",
    "1.",
    "1e5",
    "1E+2",
    "9007199254740993",
    "18446744073709551616",
    "0.1",
    "5e-324",
)
JSON_TYPE = "Content-Type: application/json\r\n"


def request(body: bytes, path: str = "/predict", headers: str = "", kind: str = JSON_TYPE) -> bytes:
    """The bytes of a prediction."""
    return HEAD.format(path, kind + headers, len(body)).encode() + body


def vector(*numbers: object, **fields: object) -> bytes:
    """A body with these numbers, or four zeros."""
    return json.dumps({"input_data": list(numbers) or [0.0] * FEATURES, **fields}).encode()


def _row(chance: random.Random) -> list[float]:
    return [round(chance.uniform(-9, 9) * chance.choice((1, 1e-5, 1e6)), chance.choice((1, 4, 17))) for _ in range(4)]


def random_requests(count: int, seed: int = 1) -> Iterator[tuple[str, bytes]]:
    """Good requests with random numbers."""
    chance = random.Random(seed)
    for index in range(count):
        path = chance.choice(("/predict", "/inference/predict", "/models/vec/predict", "/models/vec@stable/predict"))
        yield f"random {index}", request(vector(*_row(chance)), path)


def odd_requests() -> Iterator[tuple[str, bytes]]:
    """Requests of which most are refused, or take the ordinary way."""
    for number in ODD_NUMBERS:
        yield f"number {number}", request(b'{"input_data":[1,2,3,%b]}' % number.encode())
    good = vector(1, 2, 3, 4)
    bodies = {
        "no body": b"",
        "cut": good[:-3],
        "text after it": good + b"x",
        "two documents": good + good,
        "short": vector(1),
        "long": vector(*range(5)),
        "two rows": vector(*range(8), batch_size=2),
        "one row": vector(1, 2, 3, 4, batch_size=1),
        "wrong rows": vector(1, 2, 3, 4, batch_size=2),
        "no numbers": b'{"input_data":[]}',
        "nested": b'{"input_data":[[1,2,3,4]]}',
        "key twice": good[:-1] + b',"input_data":[1]}',
        "key twice, good last": b'{"input_data":[1],"input_data":[1,2,3,4]}',
        "another key": vector(1, 2, 3, 4, colour=1),
        "no key": b"{}",
        "array": b"[1,2,3,4]",
        "number": b"1",
        "null": b"null",
        "byte order mark": b"\xef\xbb\xbf" + good,
        "spaces": b" \r\n\t" + good + b" \r\n\t",
        "version": vector(1, 2, 3, 4, model_version="v1.0"),
        "unknown version": vector(1, 2, 3, 4, model_version="v9"),
        "null version": vector(1, 2, 3, 4, model_version=None),
        "not UTF-8": good[:-1] + b',"\xff":1}',
        "escaped key": good.replace(b"input", b"inp\\u0075t"),
        "UTF-16": good.decode().encode("utf-16"),
        "NUL after it": good + b"\0",
        "a string": b'{"input_data":"1,2,3,4"}',
        "comma at the end": b'{"input_data":[1,2,3,4,]}',
        "comment": good + b"/* */",
        "integers": b'{"input_data":[1,2,3,4]}',
    }
    for name, body in bodies.items():
        for path in ("/predict", "/inference/predict"):
            yield f"{name}, {path}", request(body, path)
    for header in (
        "X-Request-Id: mine",
        "X-Request-Id: not mine",
        "X-Request-Timeout-Ms: 60000",
        "X-Request-Timeout-Ms: x",
        "X-Request-Timeout-Ms: 0.0001",
        "X-Penstock-Priority: 5",
        "X-Penstock-Priority: x",
        "X-Penstock-Key: a",
        "Origin: https://app.example",
        "Origin: https://other.example",
        "Accept-Encoding: gzip",
        "Content-Encoding: identity",
        "Content-Encoding: gzip",
        "Content-Encoding: x",
        "Accept: text/html",
    ):
        yield header, request(good, headers=f"{header}\r\n")
    for kind in (
        "text/plain",
        "application/json; charset=utf-8",
        "APPLICATION/JSON",
        "application/vnd.x+json",
        "application/x-www-form-urlencoded",
        "",
    ):
        yield f"type {kind!r}", request(good, kind=f"Content-Type: {kind}\r\n")
    yield "no type", request(good, kind="")
    for path in (
        "/models/vec/versions/v1.0/predict",
        "/models/vec/versions/v9/predict",
        "/models/nope/predict",
        "/models/vec@nope/predict",
        "/predict/",
        "/predict?task=nope",
        "/predict?a=b",
        "/models/raw/predict",
        "/models/pic/predict",
    ):
        yield path, request(good, path)
    yield "tensors", request(b'{"inputs":{"a":[[1,2]],"b":[[3,4]]}}', "/models/raw/predict")
    yield "tensors without one", request(b'{"inputs":{"a":[[1,2]]}}', "/models/raw/predict")


def in_chunks(sent: bytes) -> bytes:
    """The same request with a chunked body, which no bundle takes."""
    head, _, body = sent.partition(b"\r\n\r\n")
    head = re.sub(rb"Content-Length: \d+", b"Transfer-Encoding: chunked", head)
    chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
    return head + b"\r\n\r\n" + chunk + b"0\r\n\r\n"


def masked(head: bytes, body: bytes) -> tuple[bytes, list[bytes], bytes]:
    """Status line, headers and body of a reply, without times, generated ids, and lengths that depend on them."""
    body = re.sub(rb'(_ms":)[0-9.e+-]+', rb"\1T", body)
    body = re.sub(rb"\b[0-9a-f]{8}-[0-9a-f]+", b"ID", body)
    head = re.sub(rb"(?m)^(date|content-length): [^\r]*\r?\n?", b"", head)
    head = re.sub(rb"(dur=)[0-9.]+", rb"\1T", head)
    head = re.sub(rb"\b[0-9a-f]{8}-[0-9a-f]+", b"ID", head)
    lines = head.split(b"\r\n")
    return lines[0], sorted(line for line in lines[1:] if line), body
