"""The batch axes that names and shapes alone say."""

from __future__ import annotations

import pytest

from penstock.backends.axes.reading import read_axes
from penstock.backends.base import Reading, Stated
from penstock.errors import InvalidInput
from penstock.tensors import Signature, TensorSpec

Dims = list["str | int | None"]


def spec(name: str, dims: Dims) -> TensorSpec:
    shape = tuple(n if isinstance(n, int) else -1 for n in dims)
    names = tuple(n if isinstance(n, str) else None for n in dims)
    return TensorSpec(name, "FP32", shape, names if any(names) else ())


def signature(inputs: dict[str, Dims], outputs: dict[str, Dims]) -> Signature:
    return Signature(
        tuple(spec(name, dims) for name, dims in inputs.items()),
        tuple(spec(name, dims) for name, dims in outputs.items()),
    )


def read(inputs: dict[str, Dims], outputs: dict[str, Dims], stated: Stated | None = None) -> Reading:
    return read_axes(signature(inputs, outputs), stated)


@pytest.mark.parametrize(
    ("inputs", "outputs", "axes"),
    [
        ({"x": ["batch", 3]}, {"y": ["batch", 3]}, [0, 0]),
        ({"x": ["batch_size", "seq"]}, {"y": ["batch_size", "seq", 5]}, [0, 0]),
        ({"x": ["N", 3, "H", "W"]}, {"y": ["N", 5]}, [0, 0]),
        ({"x": ["B", "N", 3]}, {"y": ["B", "N"]}, [0, 0]),
        ({"x": ["time", "batch", 4]}, {"y": ["time", "batch", 3]}, [1, 1]),
        ({"x": ["seq_len", "bs", 4]}, {"y": ["bs", 3]}, [1, 0]),
        ({"x": ["T", 4]}, {"y": ["T", 4]}, [None, None]),
        ({"x": ["M", "N"]}, {"y": ["M", "N"]}, [0, 0]),
        ({"x": ["L", "N", 4]}, {"y": ["L", "N", 4]}, [1, 1]),
        ({"x": ["batch", "seq"], "h": [2, "batch", 128]}, {"y": ["batch", 1], "hn": [2, "batch", 128]}, [0, 1, 0, 1]),
        ({"x": ["s0", 3], "h": [1, "s0", 4]}, {"y": ["s0", 3]}, [0, 1, 0]),
        ({"ids": ["batch", "phonemes"], "scales": [3]}, {"audio": ["batch", "time"]}, [0, None, 0]),
        ({"x": ["batch", 3], "k": [1]}, {"y": ["batch", "k"]}, [0, None, 0]),
        ({"x": ["batch", 3], "boxes": ["num_boxes", 4]}, {"y": ["batch", 3]}, [0, None, 0]),
        ({"x": ["N", "N"]}, {"y": ["N", "N"]}, [None, None]),
        ({"x": ["batch", 3]}, {"y": ["batch", 3], "gram": ["batch", "batch"]}, [0, 0, None]),
        ({"a": ["users", 3], "b": ["items", 3]}, {"y": ["users", "items"]}, [None, None, None]),
        ({"x": [4, 3], "y": [4]}, {"z": [4, 2]}, [0, 0, 0]),
        ({"x": [1, "seq"], "past": [1, 0, 3]}, {"y": [1, "seq"]}, [0, 0, 0]),
        ({"x": [1, 3, 4]}, {"y": [5]}, [None, None]),
        ({"x": []}, {"y": []}, [None, None]),
        ({"x": [None, 3]}, {"y": [None, 3]}, [0, 0]),
    ],
)
def test_names_and_shapes_say_which_axis_is_the_batch(
    inputs: dict[str, Dims], outputs: dict[str, Dims], axes: list[int | None]
) -> None:
    assert list(read(inputs, outputs).axes.values()) == axes


@pytest.mark.parametrize(
    ("inputs", "outputs", "unsure"),
    [
        ({"x": ["batch", 3]}, {"y": ["batch", 3]}, set()),
        ({"x": ["batch", 3]}, {"y": [1, 3]}, {"y"}),
        ({"x": ["batch", 3]}, {"y": ["Addy_dim_0", 3]}, {"y"}),
        ({"x": [None, 3]}, {"y": [None, 3]}, {"y"}),
        ({"a": [None, 3], "b": [None, 3]}, {"y": [None, 3]}, {"a", "b", "y"}),
        ({"a": ["a_dynamic_axes_1"], "b": ["b_dynamic_axes_1"]}, {"y": ["batch"]}, {"a", "b", "y"}),
    ],
)
def test_what_names_leave_open_is_for_runs_to_show(
    inputs: dict[str, Dims], outputs: dict[str, Dims], unsure: set[str]
) -> None:
    assert read(inputs, outputs).unsure == unsure


def test_what_is_stated_comes_before_names() -> None:
    inputs: dict[str, Dims] = {"x": ["time", "batch", 4], "h": [1, "batch", 3]}
    outputs: dict[str, Dims] = {"y": ["time", 1, "batch", 3], "hn": [1, "batch", 3]}
    before = signature(inputs, outputs)
    assert read(inputs, outputs).applied(before).whole
    along = read(inputs, outputs, Stated({"x": 1, "h": 1})).applied(before)
    assert not along.whole
    assert along.batch_axes == {"x": 1, "h": 1, "y": 2, "hn": 1}
    rows = read(inputs, outputs, Stated({"x": 0, "h": None, "y": 0, "hn": None})).applied(before)
    assert rows.batch_axes == {"h": None, "hn": None}
    assert read(inputs, outputs, Stated(none=True)).applied(before).batch_axes == dict.fromkeys(("x", "h", "y", "hn"))
    with pytest.raises(InvalidInput, match="the model has no tensor 'c'; it has x, h, y, hn"):
        read(inputs, outputs, Stated({"c": 1}))


@pytest.mark.parametrize(
    ("inputs", "outputs", "sentence"),
    [
        (
            {"x": ["batch", 3]},
            {"y": ["batch", 3]},
            "the batch is axis 0 of every input and output (from the names of axes)",
        ),
        (
            {"x": ["batch", "seq"], "h": [2, "batch", 4], "sr": []},
            {"y": ["batch", 1]},
            "the batch is axis 0 of x, axis 1 of h and axis 0 of y; sr has none (from the names of axes), so each "
            "request is one run, in the shapes of the model's file",
        ),
        (
            {"x": [1, 3]},
            {"y": [5]},
            "no axis is the batch (from the shapes), so each request is one run, in the shapes of the model's file",
        ),
    ],
)
def test_what_was_found_is_said(inputs: dict[str, Dims], outputs: dict[str, Dims], sentence: str) -> None:
    reading = read(inputs, outputs)
    assert reading.sentence(reading.applied(signature(inputs, outputs))) == sentence
