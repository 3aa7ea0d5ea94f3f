"""Policies of a manifest, and the errors for invalid ones."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from penstock.artifacts.policies import BatchingPolicy, PaddingPolicy, check_padding
from penstock.tensors import Signature, TensorSpec

SIGNATURE = Signature(
    (
        TensorSpec("ids", "INT64", (-1, -1)),
        TensorSpec("picture", "FP32", (-1, 3, -1, -1)),
        TensorSpec("words", "BYTES", (-1, -1)),
        TensorSpec("mask", "BOOL", (-1, -1)),
        TensorSpec("vector", "FP32", (-1, 4)),
    ),
    (TensorSpec("scores", "FP32", (-1, -1)), TensorSpec("logits", "FP32", (-1, 4))),
)


def policy(**changes: Any) -> PaddingPolicy:
    return PaddingPolicy(**{"axes": {"ids": 1}, "buckets": (4, 8), **changes})


def test_a_policy_that_fits_the_model_is_accepted() -> None:
    check_padding([], SIGNATURE)
    check_padding(
        [
            policy(axes={"ids": 1, "words": 1}, mask="mask", values={"ids": -1}, outputs={"scores": 1}),
            policy(axes={"picture": 2}),
            policy(axes={"picture": 3}, values={"picture": 0.5}),
        ],
        SIGNATURE,
    )


@pytest.mark.parametrize(
    ("policies", "sentence"),
    [
        ([policy(axes={"id": 1})], "the model has no input 'id'; it has ids, picture"),
        ([policy(axes={"vector": 1})], r"axis 1 of the input 'vector' is not free; its shape is \[-1, 4\]"),
        ([policy(axes={"ids": 2})], "axis 2 of the input 'ids' is not free"),
        ([policy(outputs={"logits": 1})], "axis 1 of the output 'logits' is not free"),
        ([policy(outputs={"ids": 1})], "the model has no output 'ids'"),
        ([policy(), policy()], "axis 1 of 'ids' is padded twice"),
        ([policy(mask="masked")], "the model has no input 'masked' for a mask"),
        ([policy(mask="picture")], r"the mask 'picture' should be of the shape \[-1, -1\], batch and length"),
        ([policy(mask="words")], "the mask 'words' should be of the shape"),
        ([policy(axes={"mask": 1}, mask="mask")], "'mask' is a mask, which the server provides"),
        ([policy(mask="mask"), policy(axes={"picture": 2}, mask="mask")], "'mask' is the mask of two policies"),
        ([policy(values={"ids": 0.5})], "'ids' is of type INT64 and cannot be padded with 0.5"),
        ([policy(values={"ids": 1e30})], "'ids' is of type INT64 and cannot be padded with 1e"),
        (
            [policy(axes={"picture": 2}, values={"picture": 1e39})],
            "'picture' is of type FP32 and cannot be padded with",
        ),
        ([policy(axes={"words": 1}, values={"words": 0})], "'words' contains text"),
    ],
)
def test_a_policy_that_does_not_fit_is_refused_by_name(policies: list[PaddingPolicy], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        check_padding(policies, SIGNATURE)


def test_a_model_without_a_batch_axis_is_not_padded() -> None:
    signature = Signature(SIGNATURE.inputs, SIGNATURE.outputs, batched=False)
    with pytest.raises(ValueError, match="without a batch axis"):
        check_padding([policy()], signature)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"buckets": (8, 4)}, r"the buckets \[8, 4\] should ascend"),
        ({"buckets": (4, 4)}, "should ascend"),
        ({"buckets": ()}, "buckets"),
        ({"buckets": (0,)}, "greater than or equal to 1"),
        ({"buckets": (1.5,)}, "valid integer"),
        ({"axes": {}}, "axes"),
        ({"axes": {"ids": 0}}, "greater than or equal to 1"),
        ({"values": {"other": 1}}, "there is a value for 'other'"),
        ({"values": {"ids": float("nan")}}, "finite"),
    ],
)
def test_an_invalid_policy_is_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        policy(**changes)


@pytest.mark.parametrize("field", ["max_batch_rows", "max_queue_rows", "max_queue_bytes", "timeout_ms"])
def test_limits_are_above_zero(field: str) -> None:
    with pytest.raises(ValidationError, match=field):
        BatchingPolicy(**{field: 0})
