from __future__ import annotations

import json
from typing import Any

import pytest

from penstock.errors import UnsupportedFormat
from penstock.tensors import Signature, TensorSpec
from penstock.toolchain.interchange.mlflow_signature import from_mlflow, to_mlflow

SIGNATURE = Signature(
    (TensorSpec("ids", "INT64", (-1, -1)), TensorSpec("text", "BYTES", (-1,)), TensorSpec("half", "FP16", (2, 3))),
    (TensorSpec("y", "FP32", (-1, 2)),),
)


def tensor(**spec: Any) -> dict[str, Any]:
    return {"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 4], **spec}}


def inputs(*entries: Any) -> dict[str, str]:
    return {"inputs": json.dumps(list(entries))}


def test_what_is_written_is_read_again() -> None:
    read = from_mlflow(to_mlflow(SIGNATURE), "MLmodel")
    assert read is not None
    assert read.inputs == SIGNATURE.inputs


def test_mlflow_reads_what_is_written() -> None:
    schema = pytest.importorskip("mlflow.types.schema").Schema
    document = to_mlflow(SIGNATURE)
    found = schema.from_json(document["inputs"])
    assert found.input_names() == ["ids", "text", "half"]
    assert [spec.shape for spec in found.inputs] == [(-1, -1), (-1,), (2, 3)]


def test_unnamed_tensors_get_names() -> None:
    read = from_mlflow(inputs(tensor(), tensor(dtype="int32", shape=[-1])), "MLmodel")
    assert read is not None
    assert [(spec.name, spec.dtype) for spec in read.inputs] == [("input", "FP32"), ("input_2", "INT32")]


def test_columns_of_numbers_are_one_tensor_of_rows() -> None:
    columns = [{"name": name, "type": kind} for name, kind in (("a", "double"), ("b", "long"), ("c", "float"))]
    read = from_mlflow(inputs(*columns), "MLmodel")
    assert read is not None
    assert read.inputs == (TensorSpec("input", "FP32", (-1, 3)),)


def test_no_signature_is_none() -> None:
    assert from_mlflow(None, "MLmodel") is None
    assert from_mlflow({"inputs": None}, "MLmodel") is None
    assert from_mlflow(inputs(), "MLmodel") is None


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"inputs": "{"}, "cannot be read"),
        ({"inputs": "[" * 100_000}, "cannot be read"),
        ({"inputs": 3}, "cannot be read"),
        (inputs({"type": "tensor"}), "cannot be read"),
        (inputs(tensor(shape=[-2])), r"the shape \[-2\]"),
        (inputs(tensor(shape=[1.5])), r"the shape \[1.5\]"),
        (inputs(tensor(dtype="complex64")), "complex64"),
        (inputs({**tensor(), "name": "x"}, {**tensor(), "name": "x"}), "the same name"),
        (inputs({"name": "a", "type": "string"}), "the column 'a' is of the type 'string'"),
    ],
)
def test_a_signature_that_cannot_be_read_is_refused_with_the_file(value: Any, said: str) -> None:
    with pytest.raises(UnsupportedFormat, match=said) as caught:
        from_mlflow(value, "dir/MLmodel")
    assert str(caught.value).startswith("dir/MLmodel: ")
