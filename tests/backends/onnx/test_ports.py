"""Tensors that numpy or a signature does not have: bfloat16, the maps of scikit-learn, sequences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from penstock.backends.base import BackendOptions, ModelFile
from penstock.backends.onnx.backend import OnnxBackend
from penstock.datatypes import bf16_from_float, float_from_bf16
from penstock.errors import UnsupportedFormat
from penstock.tensors import Signature, TensorSpec

FLOAT, INT64, STRING, BF16 = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING, TensorProto.BFLOAT16
OPSETS = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]


def save(path: Path, nodes: list[onnx.NodeProto], inputs: list[Any], outputs: list[Any]) -> Path:
    graph = helper.make_graph(nodes, "g", inputs, outputs)
    path.write_bytes(helper.make_model(graph, opset_imports=OPSETS, ir_version=10).SerializeToString())
    return path


def tensor(name: str, dtype: int, *shape: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def open_onnx(path: Path, signature: Signature | None = None) -> OnnxBackend:
    return OnnxBackend.open(ModelFile(path, signature), BackendOptions())


def classifier(path: Path, key: int, **labels: Any) -> Path:
    """A linear classifier as scikit-learn's converter writes it: labels, and one map of probabilities per row."""
    nodes = [
        helper.make_node(
            "LinearClassifier",
            ["x"],
            ["label", "scores"],
            domain="ai.onnx.ml",
            coefficients=[1.0, 0.0, 0.0, 1.0, 0.5, 0.5],
            intercepts=[0.0, 0.0, 0.25],
            multi_class=1,
            post_transform="SOFTMAX",
            **{name.replace("int64s", "ints"): value for name, value in labels.items()},
        ),
        helper.make_node("ZipMap", ["scores"], ["probabilities"], domain="ai.onnx.ml", **labels),
    ]
    maps = helper.make_sequence_type_proto(helper.make_map_type_proto(key, helper.make_tensor_type_proto(FLOAT, [])))
    outputs = [tensor("label", key, "batch"), helper.make_value_info("probabilities", maps)]
    return save(path, nodes, [tensor("x", FLOAT, "batch", 2)], outputs)


@pytest.mark.parametrize(
    ("key", "labels", "wire"),
    [
        (INT64, {"classlabels_int64s": [0, 5, 7]}, "INT64"),
        (STRING, {"classlabels_strings": ["a", "b", "ü"]}, "BYTES"),
    ],
)
def test_the_maps_of_a_classifier_are_two_tensors(tmp_path: Path, key: int, labels: Any, wire: str) -> None:
    path = classifier(tmp_path / "m.onnx", key, **labels)
    backend = open_onnx(path)
    assert backend.signature.outputs == (
        TensorSpec("label", wire, (-1,)),
        TensorSpec("probabilities", "FP32", (-1, -1)),
        TensorSpec("probabilities_classes", wire, (-1, -1)),
    )
    x = np.array([[3, 0], [0, 3], [-9, -9], [1, 1]], np.float32)
    outputs = backend.run({"x": x})
    backend.signature.check_outputs(outputs, len(x))
    label, maps = ort.InferenceSession(path).run(None, {"x": x})
    assert outputs["label"].tolist() == label.tolist()
    assert outputs["probabilities"].tolist() == [list(row.values()) for row in maps]
    assert outputs["probabilities_classes"].tolist() == [list(row) for row in maps]
    assert [array.shape for array in backend.run({"x": x[:0]}).values()] == [(0,), (0, 0), (0, 0)]


def test_a_manifest_may_name_some_of_the_tensors_of_a_map(tmp_path: Path) -> None:
    path = classifier(tmp_path / "m.onnx", INT64, classlabels_int64s=[0, 5, 7])
    signature = Signature((TensorSpec("x", "FP32", (-1, 2)),), (TensorSpec("probabilities", "FP32", (-1, 3)),))
    outputs = open_onnx(path, signature).run({"x": np.zeros((2, 2), np.float32)})
    assert {name: array.shape for name, array in outputs.items()} == {"probabilities": (2, 3)}


def test_bfloat16_goes_in_and_out_as_its_bits(tmp_path: Path) -> None:
    """Beside an input and an output of another type."""
    nodes = [
        helper.make_node("Cast", ["x"], ["wide"], to=FLOAT),
        helper.make_node("Add", ["wide", "y"], ["sum"]),
        helper.make_node("Cast", ["sum"], ["z"], to=BF16),
    ]
    inputs = [tensor("x", BF16, "batch", 2), tensor("y", FLOAT, "batch", 2)]
    outputs = [tensor("z", BF16, "batch", 2), tensor("sum", FLOAT, "batch", 2)]
    backend = open_onnx(save(tmp_path / "m.onnx", nodes, inputs, outputs))
    assert backend.signature.inputs[0] == TensorSpec("x", "BF16", (-1, 2))
    x, y = np.array([[1.5, -2], [-np.inf, 3e38]], np.float32), np.array([[0.25, 1], [1, 0]], np.float32)
    found = backend.run({"x": bf16_from_float(x), "y": y})
    expected = float_from_bf16(bf16_from_float(x)) + y
    np.testing.assert_array_equal(found["sum"], expected)
    np.testing.assert_array_equal(float_from_bf16(found["z"]), float_from_bf16(bf16_from_float(expected)))
    assert found["z"].dtype == np.uint16


SEQUENCE = helper.make_tensor_sequence_value_info("x", FLOAT, None)
OPTIONAL = helper.make_value_info("x", helper.make_optional_type_proto(helper.make_tensor_type_proto(FLOAT, [2])))


@pytest.mark.parametrize(
    ("node", "given", "answer", "says"),
    [
        ("SequenceLength", SEQUENCE, tensor("y", INT64), r"the input 'x' is of type seq\(tensor\(float\)\)"),
        ("OptionalGetElement", OPTIONAL, tensor("y", FLOAT, 2), r"the input 'x' is of type optional\("),
        (
            "SequenceConstruct",
            tensor("x", FLOAT, 2),
            helper.make_tensor_sequence_value_info("y", FLOAT, None),
            r"the output 'y' is of type seq\(tensor\(float\)\)",
        ),
    ],
)
def test_a_type_that_is_no_tensor_is_refused_by_the_name_of_the_tensor(
    tmp_path: Path, node: str, given: Any, answer: Any, says: str
) -> None:
    path = save(tmp_path / "m.onnx", [helper.make_node(node, ["x"], ["y"])], [given], [answer])
    with pytest.raises(UnsupportedFormat, match=rf"m\.onnx: {says}.*; export it with tensors only$"):
        open_onnx(path)


def test_bfloat16_beside_text_is_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("Identity", [name], [out]) for name, out in (("x", "y"), ("s", "t"))]
    inputs = [tensor("x", BF16, "batch"), tensor("s", STRING, "batch")]
    outputs = [tensor("y", BF16, "batch"), tensor("t", STRING, "batch")]
    with pytest.raises(UnsupportedFormat, match="BF16 and text"):
        open_onnx(save(tmp_path / "m.onnx", nodes, inputs, outputs))
