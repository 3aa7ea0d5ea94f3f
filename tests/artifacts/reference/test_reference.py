"""The reference of a version: what is read of rows, and the file."""

from __future__ import annotations

import json

import numpy as np
import pytest

from penstock.artifacts.reference.reference import Answers, Reference, reference_of
from penstock.errors import InvalidInput
from penstock.tensors import Signature, TensorSpec

RNG = np.random.default_rng(3)


def signature(*inputs: TensorSpec) -> Signature:
    return Signature(inputs, (TensorSpec("logits", "FP32", (-1, 3)),))


def answers(rows: int) -> Answers:
    return Answers(RNG.integers(0, 3, rows), RNG.random(rows), ("a", "b", "c"))


def images(rows: int = 400) -> np.ndarray:
    basis = RNG.random((5, 784))
    return (RNG.random((rows, 5)) @ basis + 0.01 * RNG.random((rows, 784))).astype(np.float32).reshape(rows, 28, 28)


IMAGES = signature(TensorSpec("x", "FP32", (-1, 28, 28)))


def test_few_numbers_are_features_of_their_own() -> None:
    rows = RNG.random((200, 2, 2)).astype(np.float32)
    made = reference_of({"x": rows}, answers(200), signature(TensorSpec("x", "FP32", (-1, 2, 2))))
    assert [one.name for one in made.features] == ["x[0,0]", "x[0,1]", "x[1,0]", "x[1,1]", "class", "confidence"]
    assert made.rows == 200


def test_many_numbers_are_projected_and_the_rows_that_made_the_projection_are_not_counted() -> None:
    made = reference_of({"x": images()}, answers(400), IMAGES)
    assert made.rows == 400 - 400 // 3
    assert made.features[-3].name == "x: share above the middle"
    fitted = reference_of({"x": images()}, answers(400), IMAGES, fitted={"x": images(50)})
    assert fitted.rows == 400


@pytest.mark.parametrize("together", [1, 19, 20, 21, 200])
def test_rows_counted_together_are_counted_as_those_one_by_one(together: int) -> None:
    made = reference_of({"x": images()}, answers(400), IMAGES)
    rows, classes, confidences = images(together), RNG.integers(0, 3, together), RNG.random(together)
    counts = made.count({"x": rows}, Answers(classes, confidences))
    singles = [
        made.count({"x": rows[i : i + 1]}, Answers(classes[i : i + 1], confidences[i : i + 1])) for i in range(together)
    ]
    assert (counts == np.sum([np.zeros_like(counts), *singles], axis=0)).all()


def test_a_row_of_a_hundred_thousand_numbers_makes_a_small_file() -> None:
    rows = RNG.random((120, 100_000)).astype(np.float32)
    made = reference_of({"x": rows}, answers(120), signature(TensorSpec("x", "FP32", (-1, 100_000))))
    assert len(made.to_bytes()) < 150_000
    assert made.count({"x": rows[:7]}, answers(7))[made.slices[0]].sum() == 7


@pytest.mark.parametrize(
    ("spec", "rows"),
    [
        (TensorSpec("x", "FP32", (-1, -1)), RNG.random((150, 9)).astype(np.float32)),
        (TensorSpec("x", "INT64", (-1, 1)), RNG.integers(0, 5, (150, 1))),
        (TensorSpec("x", "BOOL", (-1, 2)), RNG.random((150, 2)) > 0.5),
        (TensorSpec("x", "BYTES", (-1, 1)), np.array([[c] for c in "abc" * 50], object)),
        (TensorSpec("x", "BYTES", (-1,)), np.array([f"text {n}" * n for n in range(150)], object)),
        (TensorSpec("x", "FP32", (-1, 3)), np.full((150, 3), np.nan, np.float32)),
        (TensorSpec("x", "FP32", (-1, 784)), np.zeros((150, 784), np.float32)),
        (TensorSpec("x", "FP32", (-1, 784)), np.full((150, 784), np.inf, np.float32)),
    ],
)
def test_rows_of_any_kind_make_a_reference_that_a_file_keeps(spec: TensorSpec, rows: np.ndarray) -> None:
    made = reference_of({"x": rows}, answers(150), signature(spec), fitted={"x": rows})
    read = Reference.from_bytes(made.to_bytes())
    assert read == made
    assert read.to_bytes() == made.to_bytes()
    counts = read.count({"x": rows}, answers(150))
    for feature, place in list(zip(read.features, read.slices, strict=True))[:-2]:
        np.testing.assert_array_equal(counts[place], feature.counts)


def test_numbers_are_features_where_a_model_has_no_classes() -> None:
    outputs = {"price": RNG.random((200, 1)), "mask": RNG.random((200, 30, 30))}
    made = reference_of(
        {"x": RNG.random((200, 2))}, Answers(outputs=outputs), signature(TensorSpec("x", "FP64", (-1, 2)))
    )
    names = [one.name for one in made.answer_features]
    assert names == ["price", "mask.size", "mask.mean", "mask.sd", "mask.min", "mask.max"]
    assert made.count({"x": RNG.random((3, 2))}, Answers(outputs={k: v[:3] for k, v in outputs.items()})).sum() == 24


def test_of_very_many_classes_the_frequent_ones_have_bins() -> None:
    classes = np.concatenate([np.arange(1000), np.repeat(np.arange(500, 520), 50)])
    made = reference_of(
        {"x": RNG.random((2000, 2))}, Answers(classes, RNG.random(2000)), signature(TensorSpec("x", "FP64", (-1, 2)))
    )
    feature = made.answer_features[0]
    assert feature.size == 5 + 64
    assert sum(feature.counts) == 2000


def test_rows_of_another_shape_are_a_value_error() -> None:
    made = reference_of({"x": images()}, answers(400), IMAGES)
    for inputs in ({"x": np.zeros((2, 5))}, {"y": np.zeros((2, 784))}):
        with pytest.raises(ValueError, match=r"reference|no tensor"):
            made.count(inputs, answers(2))
    with pytest.raises(ValueError, match="kind"):
        made.count({"x": images(2)}, Answers(outputs={}))


def test_too_few_rows_are_refused_in_a_sentence() -> None:
    with pytest.raises(InvalidInput, match=r"99 rows are too few.*at least 100"):
        reference_of({"x": images(99)}, answers(99), IMAGES)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"{}", b'{"rows": 1}', b"\xff\xfe", b"[" * 100_000])
def test_rubbish_is_not_a_reference(data: bytes) -> None:
    with pytest.raises(InvalidInput):
        Reference.from_bytes(data)


def test_a_reference_with_a_damaged_part_is_refused() -> None:
    document = json.loads(reference_of({"x": images()}, answers(400), IMAGES).to_bytes())
    projection = document["inputs"][0]["projection"]
    for damaged in (projection | {"mean": "AAAA"}, projection | {"components": "AA"}, projection | {"size": 10**12}):
        document["inputs"][0]["projection"] = damaged
        with pytest.raises(InvalidInput):
            Reference.from_bytes(json.dumps(document).encode())
