"""Frames: what one side writes is what the other reads, and other bytes are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from penstock.workers.frames import PREFIX, BrokenFrame, Message, decode, encode, sizes

_NUMBERS = arrays_of.arrays(
    st.sampled_from(["<f4", "<f8", "<f2", "<i8", "<u2", "|b1", "|i1"]),
    arrays_of.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
)


@st.composite
def texts(draw: st.DrawFn) -> Any:
    values = draw(st.lists(st.text(max_size=5).filter(_is_utf8) | st.binary(max_size=5), max_size=5))
    array = np.empty(len(values), object)
    array[:] = values
    return array


def _is_utf8(text: str) -> bool:
    return not any(0xD800 <= ord(letter) < 0xE000 for letter in text)


def written(message: Message) -> tuple[np.ndarray[Any, Any], int]:
    frame = b"".join(encode(message))
    head, body = sizes(frame[: PREFIX.size])
    assert len(frame) == PREFIX.size + head + body
    return np.frombuffer(frame[PREFIX.size :], np.uint8), head


@given(
    number=st.integers(0, 2**53 - 1),
    fields=st.dictionaries(st.text(max_size=5).filter(_is_utf8), st.none() | st.booleans() | st.integers(-9, 9)),
    arrays=st.dictionaries(st.sampled_from("abc"), _NUMBERS | texts()),
)
def test_a_message_survives_the_way(number: int, fields: dict[str, Any], arrays: dict[str, Any]) -> None:
    read = decode(*written(Message("run", number, fields, arrays)))
    assert (read.kind, read.number, read.fields) == ("run", number, fields)
    assert list(read.arrays) == list(arrays)
    for name, array in arrays.items():
        assert read.arrays[name].shape == array.shape
        assert read.arrays[name].dtype == array.dtype
        assert read.arrays[name].tobytes() == array.tobytes() or read.arrays[name].tolist() == array.tolist()


@given(cut=st.integers(0, 400), flip=st.integers(0, 400), value=st.integers(0, 255))
def test_other_bytes_are_refused_or_read_as_another_message(cut: int, flip: int, value: int) -> None:
    texts = np.array(["a", b"bc"], object)
    data, head = written(Message("run", 1, {"rows": 2}, {"x": np.ones((2, 3), np.float32), "t": texts}))
    damaged = data.copy()
    damaged[flip % len(data)] = value
    for bytes_read in (data[: cut % len(data)], damaged):
        try:
            decode(bytes_read, min(head, len(bytes_read)))
        except BrokenFrame:
            continue


@pytest.mark.parametrize("prefix", [PREFIX.pack(0, 0), PREFIX.pack(1 << 40, 0), PREFIX.pack(64, 1 << 50)])
def test_sizes_are_bounded_before_memory_is_taken(prefix: bytes) -> None:
    with pytest.raises(BrokenFrame):
        sizes(prefix)


@pytest.mark.parametrize(
    "array", [np.array([object()], object), np.array(["x"]), np.array([1j])], ids=["object", "text", "complex"]
)
def test_what_is_no_tensor_is_refused(array: Any) -> None:
    with pytest.raises(TypeError, match="y: "):
        encode(Message("answer", 1, {}, {"y": array}))


def test_arrays_are_used_where_they_lie() -> None:
    data, head = written(Message("run", 1, {}, {"x": np.arange(3, dtype=np.int8), "y": np.ones(100, np.float64)}))
    read = decode(data, head)
    assert all(np.shares_memory(array, data) for array in read.arrays.values())
