"""Frames: plain data comes back as it was, and no bytes run code."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.toolchain.bench.isolation.frames import decode, encode

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
keys = st.text() | st.integers()
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(keys, inner),
    max_leaves=8,
)


@given(values)
def test_plain_data_comes_back_as_it_was(value: Any) -> None:
    got = decode(encode(value))
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.full((), 2.5),
        np.zeros((0, 3), np.int64),
        np.array([[True], [False]]),
        np.arange(12, dtype=">i2").reshape(3, 4)[:, ::2],
        np.array(["a", "bc"]),
        np.array([float("nan"), float("-inf")]),
        np.array([[b"\x00\xff", "text"], [None, 3]], dtype=object),
    ],
)
def test_arrays_keep_type_shape_and_values(array: Any) -> None:
    got = decode(encode({"array": array}))["array"]
    assert (got.dtype, got.shape) == (array.dtype, array.shape)
    assert np.array_equal(got, array, equal_nan=array.dtype.kind == "f")


def test_an_array_that_came_back_can_be_changed() -> None:
    got = decode(bytearray(encode(np.zeros(3))))
    got[0] = 1.0
    assert got.tolist() == [1.0, 0.0, 0.0]


def test_paths_and_numbers_of_numpy_are_plain() -> None:
    assert decode(encode((Path("/a/b"), np.int32(3), np.float64(0.5)))) == (Path("/a/b"), 3, 0.5)


@pytest.mark.parametrize("value", [object(), {1, 2}, [np.datetime64("2026-01-01")], {"a": np.array([object()])}, 2j])
def test_other_types_are_refused_when_they_are_written(value: Any) -> None:
    with pytest.raises(TypeError, match="is no plain data"):
        encode(value)


class _Runs:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("a frame ran code",))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff" * 40,
        pickle.dumps(_Runs()),
        (9).to_bytes(8, "little") + b'["evil",1]',
        encode(np.zeros(4))[:-1],
        encode([b"abc"]).replace(b"3", b"9"),
        encode(np.zeros(4)).replace(b"[4]", b"[9]"),
        encode(np.zeros(4)).replace(b"<f8", b"|O8"),
    ],
)
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        decode(data)
