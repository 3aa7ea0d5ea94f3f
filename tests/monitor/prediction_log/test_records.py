"""The lines of the prediction log."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from penstock.datatypes import DATATYPES
from penstock.monitor.prediction_log.records import TENSORS, Record, Unreadable, decoded, encoded, line_of, record_of

DTYPES = [row.numpy for row in DATATYPES.values() if row.wire not in ("BF16", "BYTES")]
SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)

RECORD = Record(
    at=1_700_000_000.25,
    request_id="a-1",
    model="digits",
    version="v1.0",
    outcome="ok",
    key="3210d890f351ea93034532c655995496",
    item=0,
    rows=1,
    batch_rows=7,
    total_ms=1.5,
    inputs={"x": np.arange(3, dtype=np.float32)[None]},
    outputs={"text": np.array([["ä", "", b"\xff\0"]], object)},
    shadow="v2",
    shadow_outputs={"text": np.array([["", "b", "c"]], object)},
)
LINE = line_of(RECORD)


@given(st.sampled_from(DTYPES).flatmap(lambda dtype: hnp.arrays(dtype, SHAPES)))
def test_a_tensor_comes_back_bit_by_bit(array: np.ndarray) -> None:
    back = decoded(encoded(array))
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()


def test_a_tensor_that_is_not_contiguous_comes_back() -> None:
    array = np.arange(12, dtype=np.int64).reshape(3, 4).T[1:]
    assert np.array_equal(decoded(encoded(array)), array)


@given(hnp.arrays(object, SHAPES, elements=st.text() | st.binary(), fill=st.nothing()))
def test_texts_come_back_as_bytes(array: np.ndarray) -> None:
    back = decoded(encoded(array))
    assert back.shape == array.shape
    wanted = [v if isinstance(v, bytes) else v.encode("utf-8", "surrogatepass") for v in array.ravel()]
    assert back.ravel().tolist() == wanted


def test_a_record_comes_back() -> None:
    back = record_of(LINE)
    same = {name: getattr(back, name) for name in Record.__dataclass_fields__ if name not in TENSORS}
    assert same == {name: getattr(RECORD, name) for name in same}
    assert back.inputs is not None
    assert np.array_equal(back.inputs["x"], RECORD.inputs["x"])  # type: ignore[index]
    assert LINE.count(b"\n") == 1
    assert LINE.endswith(b"\n")


def test_a_request_that_found_no_model_is_a_record() -> None:
    seen = Record(at=1.0, request_id="a", model="", version="", outcome="not_ready")
    assert record_of(line_of(seen)) == seen


def test_fields_of_a_later_release_are_kept_apart() -> None:
    assert record_of(LINE.replace(b'"v":1', b'"v":1,"mood":"good"')).extra == {"mood": "good"}


def test_a_line_that_is_cut_off_is_unreadable() -> None:
    for cut in range(len(LINE) - 1):
        with pytest.raises(Unreadable):
            record_of(LINE[:cut])


@given(st.integers(0, len(LINE) - 1), st.integers(0, 255))
def test_a_changed_byte_never_raises_anything_else(place: int, value: int) -> None:
    changed = LINE[:place] + bytes([value]) + LINE[place + 1 :]
    with contextlib.suppress(Unreadable):
        assert isinstance(record_of(changed), Record)


JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ["at", "request_id", "model", "version", "outcome", "key", "item", "rows", "total_ms", "inputs", "outputs"]


@given(st.dictionaries(st.sampled_from(FIELDS), JSON))
def test_values_of_any_kind_are_a_record_or_unreadable(values: dict[str, Any]) -> None:
    document = {**orjson.loads(LINE), **values}
    try:
        line = orjson.dumps(document)
    except TypeError:  # an integer that JSON here does not have
        return
    with contextlib.suppress(Unreadable):
        assert isinstance(record_of(line), Record)


@pytest.mark.parametrize("line", [b"", b"[]", b"1", b"null", b'"x"', b'{"v":1}', b'{"v":2}', b"\0" * 20, b"\xff"])
def test_what_is_no_record_is_unreadable(line: bytes) -> None:
    with pytest.raises(Unreadable):
        record_of(line)
