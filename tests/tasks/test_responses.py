"""The text of a large response, made in pieces, is what its serializer writes."""

from __future__ import annotations

import datetime
from typing import Annotated, Any

import numpy as np
import pytest
from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, computed_field, field_serializer

from penstock.datatypes import to_json_values
from penstock.errors import InvalidInput
from penstock.tasks.base import TimedResponse
from penstock.tasks.responses import PIECE_BYTES, WHOLE_BYTES, ResponseText, grouped, is_large, json_pieces
from penstock.tasks.tensor import LargeTensorResponse, TensorResponse, TensorTask
from penstock.tensors import Array, Signature, TensorSpec

RANDOM = np.random.default_rng(0)
NAME = 'y "é"'


class Inner(BaseModel):
    values: list[float]
    name: str = "é"


class Wide(TimedResponse):
    numbers: list[float] = Field(serialization_alias='the "numbers"')
    series: dict[str, list[float] | None]
    text: str
    inner: list[Inner]
    rows: list[list[int]]
    names: list[str]
    dates: dict[int, datetime.date]
    pair: tuple[int, ...]
    one: Inner
    hidden: list[int] = Field(exclude=True)
    nothing: None = None


def wide() -> Wide:
    return Wide(
        numbers=[0.1, float("nan"), 1e300] * 20_000,
        series={'a "b"': [1.5] * 30_000, "none": None, "empty": []},
        text='é"\\\n' * 100_000,
        inner=[Inner(values=[1, 2])] * 9_000 + [Inner(values=[0.5] * 20_000)],
        rows=[[1] * 20_000, [], [2], *[[3, 4]] * 5_000],
        names=["ü"] * 20_000,
        dates={number: datetime.date(2026, 1, 1) for number in range(9_000)},
        pair=(1,) * 20_000,
        one=Inner(values=[2.5] * 20_000),
        hidden=[1] * 20_000,
    )


def test_the_pieces_of_any_response_are_its_json() -> None:
    response = wide()
    pieces = list(grouped(json_pieces(response)))
    assert b"".join(pieces) == response.model_dump_json().encode()
    assert len(pieces) > 10
    assert max(map(len, pieces)) < 4 * PIECE_BYTES


class Computed(BaseModel):
    values: list[int]

    @computed_field
    def total(self) -> int:
        return sum(self.values)


class Serialized(BaseModel):
    values: list[int]

    @field_serializer("values")
    def count(self, values: list[int]) -> int:
        return len(values)


class Annotating(BaseModel):
    values: Annotated[list[int], PlainSerializer(len)]


class Extra(BaseModel):
    model_config = ConfigDict(extra="allow")
    values: list[int]


@pytest.mark.parametrize(
    "response",
    [
        Computed(values=[1] * 20_000),
        Serialized(values=[1] * 20_000),
        Annotating(values=[1] * 20_000),
        Extra(values=[1] * 20_000, more=[2] * 20_000),
        Computed.model_construct(values=[1] * 20_000),
        TimedResponse(),
    ],
    ids=repr,
)
def test_a_response_with_a_serializer_of_its_own_is_written_by_it(response: BaseModel) -> None:
    assert b"".join(json_pieces(response)) == response.model_dump_json().encode()


def array_of(dtype: str) -> Array:
    if dtype == "BYTES":
        return np.array([['ä"', b"b"] * 5_000] * 3, object)
    if dtype == "BOOL":
        return RANDOM.random((9_000, 2)) > 0.5
    if dtype[0] in "IU":
        bits = np.dtype(dtype.lower())
        return RANDOM.integers(np.iinfo(bits).min, np.iinfo(bits).max, (3, 2, 5_000), dtype=bits)
    values = RANDOM.standard_normal((7, 3_000)).astype(f"f{int(dtype[2:]) // 8}")
    values.flat[5:8] = np.nan, np.inf, -np.inf
    return values


@pytest.mark.parametrize("dtype", ["FP16", "FP32", "FP64", "INT64", "UINT64", "UINT8", "BOOL", "BYTES"])
def test_large_tensors_are_written_from_their_arrays_and_read_as_lists(dtype: str) -> None:
    array = array_of(dtype)
    signature = Signature((TensorSpec("x", "FP32", (-1, 1)),), (TensorSpec(NAME, dtype, (-1, *array.shape[1:])),))
    response = TensorTask({}, signature).postprocess({NAME: array}, None)
    assert type(response) is LargeTensorResponse
    listed = TensorResponse(outputs={NAME: to_json_values(NAME, array, dtype)})
    assert b"".join(json_pieces(response)) == listed.model_dump_json().encode()
    assert "outputs" not in response.__dict__  # no list was made
    assert response.model_dump_json() == listed.model_dump_json()
    assert np.shape(response.outputs[NAME]) == array.shape
    assert list(response.model_dump()) == list(listed.model_dump())


def test_large_tensors_of_bytes_that_are_no_text_are_refused_before_anything_is_written() -> None:
    signature = Signature((TensorSpec("x", "FP32", (-1, 1)),), (TensorSpec("y", "BYTES", (-1,)),))
    with pytest.raises(InvalidInput, match=r"outputs\.y"):
        TensorTask({}, signature).postprocess({"y": np.array([b"a"] * 9_000 + [b"\xff"], object)}, None)


@pytest.mark.parametrize(
    ("value", "large"),
    [
        ([1.0] * 100, False),
        ([1.0] * 10_000, True),
        ([[1.0] * 100] * 100, True),
        ({"a": ["b"] * 10_000}, True),
        ("a" * 1_000, False),
        ("a" * 200_000, True),
        (np.zeros((100, 100)), True),
        (Inner(values=[1] * 10_000), True),
        ([None, "a", {"a": (1, 2)}], False),
    ],
)
def test_what_is_large_is_counted_in_values(value: Any, large: bool) -> None:
    assert is_large(value) is large


def test_a_text_of_a_megabyte_or_more_begins_with_a_head_of_about_that() -> None:
    short = ResponseText(json_pieces(Inner(values=[0.5] * 10_000))).start()
    assert short.whole
    assert not short.next()
    response = Inner(values=[0.125] * 500_000)
    long = ResponseText(json_pieces(response)).start()
    assert not long.whole
    assert WHOLE_BYTES <= len(long.head) < 2 * WHOLE_BYTES
    assert long.head + b"".join(iter(long.next, b"")) == response.model_dump_json().encode()
