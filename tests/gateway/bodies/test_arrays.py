"""Arrays as bodies, in and out."""

from __future__ import annotations

import io
from contextlib import suppress
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays, floating_dtypes, integer_dtypes

from penstock.errors import InvalidInput
from penstock.gateway.bodies.arrays import NPY, OCTETS, npy_file, octets, read_array_body
from penstock.tensors import TensorSpec

PATHS = ["/inference/predict", "/predict", "/models/vec/predict", "/models/vec/versions/v1.0/predict"]
SPEC = TensorSpec("x", "FP32", (-1, 4))


def npy(array: np.ndarray, version: tuple[int, int] | None = None) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, version=version, allow_pickle=False)
    return buffer.getvalue()


NUMBERS = arrays(
    st.one_of(
        floating_dtypes(endianness="?", sizes=(16, 32, 64)), integer_dtypes(endianness="?"), st.just(np.dtype(bool))
    ),
    array_shapes(min_dims=0, min_side=0),
)


@given(NUMBERS, st.sampled_from([(1, 0), (2, 0), (3, 0), None]), st.booleans())
def test_every_npy_file_is_the_array_that_was_written(array: np.ndarray, version: Any, fortran: bool) -> None:
    found = read_array_body(npy(np.array(array, order="F") if fortran else array, version), NPY, lambda _: None, None)
    assert found.dtype == array.dtype.newbyteorder("=")
    assert np.array_equal(found, array, equal_nan=array.dtype.kind == "f")


@given(NUMBERS)
def test_what_is_written_is_what_is_read(array: np.ndarray) -> None:
    assert np.array_equal(np.load(io.BytesIO(npy_file(array))), array, equal_nan=array.dtype.kind == "f")
    body, headers = octets(array)
    found = read_array_body(body, OCTETS, dict(headers).get, None)
    assert np.array_equal(found, array, equal_nan=array.dtype.kind == "f")


def test_the_bytes_of_a_body_are_not_copied() -> None:
    body = np.arange(8, dtype=np.float32).tobytes()
    assert np.shares_memory(read_array_body(body, OCTETS, lambda _: None, SPEC), np.frombuffer(body, np.uint8))


@given(st.binary(max_size=300))
def test_any_bytes_after_the_magic_are_an_array_or_invalid(tail: bytes) -> None:
    for start in (b"", b"\x93NUMPY", b"\x93NUMPY\x01\x00v\x00", npy(np.zeros(3))[:70]):
        with suppress(InvalidInput):  # anything else fails
            assert isinstance(read_array_body(start + tail, NPY, lambda _: None, None), np.ndarray)


@pytest.mark.parametrize("array", [np.array(["a"]), np.array([b"a"]), np.array([1j]), np.zeros(2, [("a", "f4")])])
def test_an_npy_file_of_other_values_is_invalid(array: np.ndarray) -> None:
    with pytest.raises(InvalidInput, match="numbers"):
        read_array_body(npy(array), NPY, lambda _: None, None)


def test_a_pickle_is_never_opened() -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.array([object()]), allow_pickle=True)
    with pytest.raises(InvalidInput, match="numbers"):
        read_array_body(buffer.getvalue(), NPY, lambda _: None, None)


# On a server


def answer(reply: httpx.Response) -> Any:
    found = reply.json()
    return (
        reply.status_code,
        found.get("predictions"),
        found.get("confidence_scores"),
        [e["field"] for e in found.get("errors", ())],
    )


@pytest.mark.parametrize("path", PATHS)
def test_json_and_arrays_have_the_same_answers(client: httpx.Client, path: str) -> None:
    generator = np.random.default_rng(5)
    for rows in (1, 1, 1, 2, 7, 128, 129):
        x = generator.standard_normal((rows, 4)).astype(np.float32)
        wanted = answer(client.post(path, json={"input_data": x.ravel().astype(float).tolist(), "batch_size": rows}))
        bodies: list[tuple[bytes, dict[str, str]]] = [
            (x.tobytes(), {"content-type": OCTETS}),
            (x.tobytes(), {"content-type": OCTETS, "x-penstock-dtype": "fp32", "x-penstock-shape": f"{rows},4"}),
            (x.astype(np.float64).tobytes(), {"content-type": OCTETS, "x-penstock-dtype": "float64"}),
            *(
                (npy(each, version), {"content-type": NPY})
                for each in (x, np.asfortranarray(x), x.astype(">f8"))
                for version in ((1, 0), (3, 0))
            ),
        ]
        for body, headers in bodies:
            assert answer(client.post(path, content=body, headers=headers)) == wanted


@pytest.mark.parametrize(
    ("body", "headers", "field"),
    [
        (b"", {}, "input_data"),
        (bytes(15), {}, "body"),
        (bytes(20), {}, "body"),
        (bytes(16), {"x-penstock-dtype": "FP31"}, "X-Penstock-Dtype"),
        (bytes(16), {"x-penstock-dtype": "BYTES"}, "X-Penstock-Dtype"),
        (bytes(16), {"x-penstock-dtype": "FP64"}, "body"),
        (bytes(16), {"x-penstock-shape": "2,4"}, "body"),
        (bytes(16), {"x-penstock-shape": "-1,4"}, "X-Penstock-Shape"),
        (bytes(16), {"x-penstock-shape": "1x4"}, "X-Penstock-Shape"),
        (bytes(16), {"x-penstock-shape": "99999999999,99999999999"}, "body"),
        (bytes(12), {"x-penstock-shape": "3"}, "input_data"),
        (np.array([1, 2, np.nan, 4], np.float32).tobytes(), {}, "input_data[2]"),
        (np.array([1, np.inf, 3, 4], np.float32).tobytes(), {}, "input_data[1]"),
        (np.array([1, 2, 3, 1e300]).tobytes(), {"x-penstock-dtype": "FP64"}, "input_data[3]"),
        (b"\2" * 4, {"x-penstock-dtype": "BOOL", "x-penstock-shape": "4"}, "body"),
    ],
)
def test_an_invalid_array_is_422_and_names_the_field(
    client: httpx.Client, body: bytes, headers: dict[str, str], field: str
) -> None:
    for path in PATHS:
        reply = client.post(path, content=body, headers={"content-type": OCTETS, **headers})
        assert reply.status_code == 422, reply.text
        assert [error["field"] for error in reply.json()["errors"]] == [field]


@pytest.mark.parametrize("given", [OCTETS, NPY])
@pytest.mark.parametrize("accept", [OCTETS, NPY, "application/json", "*/*", f"application/json, {NPY};q=0.5"])
def test_a_tensor_is_answered_as_it_is_asked_for(client: httpx.Client, given: str, accept: str) -> None:
    x = np.random.default_rng(2).standard_normal((3, 4)).astype(np.float32)
    body = npy(x) if given == NPY else x.tobytes()
    reply = client.post(
        "/models/vec/predict?task=tensor", content=body, headers={"content-type": given, "accept": accept}
    )
    assert reply.status_code == 200, reply.text
    wanted = client.post("/models/vec/predict?task=tensor", json={"inputs": {"x": x.tolist()}}).json()["outputs"][
        "logits"
    ]
    if accept == NPY:
        found = np.load(io.BytesIO(reply.content))
    elif accept == OCTETS:
        assert (reply.headers["x-penstock-dtype"], reply.headers["x-penstock-shape"]) == ("FP32", "3,3")
        found = np.frombuffer(reply.content, "<f4").reshape(3, 3)
    else:
        found = np.array(reply.json()["outputs"]["logits"], np.float32)
    assert np.array_equal(found, np.array(wanted, np.float32))
    assert "x-penstock-model" in reply.headers


def test_a_model_of_several_inputs_takes_no_single_array(client: httpx.Client) -> None:
    reply = client.post("/models/raw/predict", content=npy(np.zeros((1, 2))), headers={"content-type": NPY})
    assert reply.status_code == 422
    assert [error["field"] for error in reply.json()["errors"]] == ["inputs"]


def test_an_image_may_be_pixels(client: httpx.Client) -> None:
    pixels = np.zeros((20, 30), np.uint8)
    pixels[:, :15] = 255
    for body, headers in (
        (npy(pixels), {"content-type": NPY}),
        (pixels.tobytes(), {"content-type": OCTETS, "x-penstock-dtype": "UINT8", "x-penstock-shape": "20,30"}),
    ):
        reply = client.post("/models/pic/predict", content=body, headers=headers)
        assert reply.status_code == 200, reply.text
        assert reply.json()["class_name"] == "left"
    assert (
        client.post("/models/pic/predict", content=npy(pixels.astype(float)), headers={"content-type": NPY}).status_code
        == 422
    )
