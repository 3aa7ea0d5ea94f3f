"""The encoding of JSON documents, and files in base64."""

from __future__ import annotations

import base64
import io
import json
import textwrap
from typing import Any

import httpx
import pytest
from PIL import Image

from penstock.gateway.native.decoding import read_json
from penstock.tasks.image import ImageClassification
from penstock.tensors import Signature, TensorSpec

BOM = b"\xef\xbb\xbf"
GOOD = b'{"input_data": [1, 2, 3, 4]}'
JSON = {"content-type": "application/json"}
PATHS = ["/inference/predict", "/predict", "/models/vec/predict", "/models/vec/versions/v1.0/predict"]


def verdict(reply: httpx.Response) -> Any:
    found = reply.json()
    return reply.status_code, found.get("predictions"), found.get("detail"), found.get("errors")


@pytest.mark.parametrize(
    "body",
    [
        GOOD,
        b'{"input_data": [1, 2, 3, 4], "batch_size": 1, "model_version": "v1.0"}',
        b'{"input_data": [1, 2, 3, 4], "task": "vector-classification"}',
        b' {"input_data": [1, 2, 3, 4]}',
        b'{"input_data": [1, 2, 3]}',
        b'{"input_data": [[1, 2, 3, 4]]}',
        b'{"input_data": [1, 2, 3, NaN]}',
        b'{"input_data": [1, 2',
        b"{}",
        b"[]",
        b"",
    ],
)
@pytest.mark.parametrize(
    "content_type",
    ["application/json", "application/vnd.x+json; charset=utf-8", "application/x-www-form-urlencoded", ""],
)
def test_a_byte_order_mark_changes_nothing(client: httpx.Client, body: bytes, content_type: str) -> None:
    headers = {"content-type": content_type} if content_type else {}
    for path in PATHS:
        with_mark, without = (client.post(path, content=each, headers=headers) for each in (BOM + body, body))
        assert verdict(with_mark) == verdict(without)


def test_a_large_body_and_a_batch_may_have_a_byte_order_mark(client: httpx.Client) -> None:
    large = json.dumps({"inputs": {"a": [[1.5, 2.5]] * 7000, "b": [[0, 1]] * 7000}}).encode()
    batch = json.dumps({"requests": [json.loads(GOOD)] * 3}).encode()
    for path, body in (("/models/raw/predict", large), ("/predict/batch", batch)):
        assert client.post(path, content=BOM + body, headers=JSON).status_code == 200


@pytest.mark.parametrize("start", [BOM + BOM, b" " + BOM, b"\xef", b"\xef\xbb"])
def test_other_bytes_before_a_document_are_invalid(client: httpx.Client, start: bytes) -> None:
    assert client.post("/inference/predict", content=start + GOOD, headers=JSON).status_code == 422


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("path", [*PATHS, "/predict/batch"])
def test_another_encoding_is_named(client: httpx.Client, encoding: str, path: str) -> None:
    reply = client.post(path, content=GOOD.decode().encode(encoding), headers=JSON)
    assert reply.status_code == 422, reply.text
    assert [error["field"] for error in reply.json()["errors"]] == ["body"]
    assert encoding[:6].upper() in reply.json()["detail"]
    assert "UTF-8" in reply.json()["detail"]


@pytest.mark.parametrize("charset", ["utf-16", "UTF-16LE", '"utf-32"', "ucs-2", "unicode"])
@pytest.mark.parametrize("size", [0, 10_000, 150_000])
def test_a_charset_of_another_encoding_is_415(client: httpx.Client, charset: str, size: int) -> None:
    """Whichever way a body of this size is read."""
    for path in (*PATHS, "/predict/batch"):
        headers = {"content-type": f"application/json; charset={charset}"}
        reply = client.post(path, content=GOOD + b" " * size, headers=headers)
        assert reply.status_code == 415, reply.text
        assert "UTF-8" in reply.json()["detail"]


@pytest.mark.parametrize("charset", ["utf-8", "UTF8", '"utf-8"', "us-ascii", "iso-8859-1"])
def test_a_charset_that_holds_ascii_is_taken(client: httpx.Client, charset: str) -> None:
    headers = {"content-type": f"application/json; charset={charset}"}
    assert client.post("/inference/predict", content=GOOD, headers=headers).status_code == 200


# Base64


def picture() -> bytes:
    buffer = io.BytesIO()
    image = Image.effect_noise((40, 30), 90)
    image.save(buffer, "PNG")
    return buffer.getvalue()


FILE = picture()
PLAIN = base64.b64encode(FILE).decode()
FORMS = {
    "plain": PLAIN,
    "line breaks": "\n".join(textwrap.wrap(PLAIN, 76)),
    "windows line breaks": "\r\n".join(textwrap.wrap(PLAIN, 64)) + "\r\n",
    "blanks": "  " + " ".join(textwrap.wrap(PLAIN, 50)) + "\t",
    "url-safe": base64.urlsafe_b64encode(FILE).decode(),
    "no padding": base64.urlsafe_b64encode(FILE).decode().rstrip("="),
    "a data URL": f"data:image/png;base64,{PLAIN}",
    "a data URL without a type": f"data:;base64,{PLAIN}",
    "a data URL with parameters": f"DATA:image/png;name=a.png;BASE64,{PLAIN}",
    "a data URL in lines": "data:image/png;base64,\n" + "\n".join(textwrap.wrap(PLAIN, 76)),
    "an escaped data URL": "data:image/png;base64," + PLAIN.replace("=", "%3D").replace("+", "%2B").replace("/", "%2F"),
    "a data URL without base64": "data:image/png," + "".join(f"%{byte:02x}" for byte in FILE),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_common_form_of_base64_is_taken(client: httpx.Client, form: str) -> None:
    wanted = client.post("/models/pic/predict", content=FILE, headers={"content-type": "image/png"}).json()
    reply = client.post("/models/pic/predict", json={"image": FORMS[form]})
    assert reply.status_code == 200, reply.text
    assert reply.json()["top_k"] == wanted["top_k"]
    batch = client.post("/predict/batch", json={"model": "pic", "requests": [{"image": FORMS[form]}]})
    assert batch.json()["predictions"][0]["top_k"] == wanted["top_k"]


@pytest.mark.parametrize(
    "text", ["*", "a", PLAIN + "!", PLAIN[:9] + "=" + PLAIN[9:], "é" + PLAIN, "data:image/png", "data:;base64,*"]
)
def test_what_is_no_base64_is_422_and_names_the_field(client: httpx.Client, text: str) -> None:
    reply = client.post("/models/pic/predict", json={"image": text})
    assert reply.status_code == 422
    assert [error["field"] for error in reply.json()["errors"]] == ["image"]
    assert "base64" in reply.json()["detail"]


@pytest.mark.parametrize("start", ["", "data:image/bmp;base64,"])
def test_a_large_file_may_be_in_base64(start: str) -> None:
    file = bytes(3 << 20)
    spec = TensorSpec("image", "FP32", (-1, 1, 8, 8))
    task = ImageClassification(
        {"mode": "L", "resize": [[8, 8, "bilinear"]]}, Signature((spec,), (TensorSpec("scores", "FP32", (-1, 2)),))
    )
    text = start + "\n".join(textwrap.wrap(base64.b64encode(file).decode(), 76))
    request: Any = read_json(task, json.dumps({"image": text}).encode())
    assert request.image == file
