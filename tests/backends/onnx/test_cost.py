"""Which ONNX graphs may run on an event loop: those whose cost is known from the number of rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import quantized_models
import zoo
from endless_models import counted_loop, save
from onnx import TensorProto, helper

from penstock.backends.base import BackendOptions, ModelFile
from penstock.backends.catalog import open_backend
from penstock.backends.onnx.cost import MOST_NODES, depends_on_rows_only

node = helper.make_node


def info(name: str, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, None)


def constant(name: str) -> onnx.GraphProto:
    return helper.make_graph([node("Identity", ["x"], [name])], name, [], [info(name)])


def branch() -> list[onnx.NodeProto]:
    return [
        node("ReduceSum", ["x"], ["sum"], keepdims=0),
        node("Greater", ["sum", "zero"], ["positive"]),
        node("If", ["positive"], ["y"], then_branch=constant("a"), else_branch=constant("b")),
    ]


def scan() -> list[onnx.NodeProto]:
    body = helper.make_graph([node("Identity", ["one"], ["same"])], "body", [info("one")], [info("same")])
    return [node("Scan", ["x"], ["y"], body=body, num_scan_inputs=1)]


def whole(name: str = "x") -> list[onnx.NodeProto]:
    """`count`: an INT64 of one element from the values of x."""
    return [
        node("ReduceMax", [name], ["most"], axes=[0, 1], keepdims=0),
        node("Cast", ["most"], ["scalar"], to=TensorProto.INT64),
        node("Reshape", ["scalar", "length"], ["count"]),
    ]


SIZED_BY_VALUES = {
    "If": (branch(), {"zero": np.float32(0)}),
    "Scan": (scan(), {}),
    "Range": ([*whole(), node("Range", ["nil", "scalar", "step"], ["y"])], {"nil": np.int64(0), "step": np.int64(1)}),
    "Expand": ([*whole(), node("Expand", ["x", "count"], ["y"])], {}),
    "Tile": ([*whole(), node("Concat", ["length", "count"], ["both"], axis=0), node("Tile", ["x", "both"], ["y"])], {}),
    "ConstantOfShape": ([*whole(), node("ConstantOfShape", ["count"], ["y"])], {}),
    "OneHot": (
        [*whole(), node("Cast", ["x"], ["ids"], to=7), node("OneHot", ["ids", "count", "pair"], ["y"])],
        {"pair": np.float32([0, 1])},
    ),
    "Pad": (
        [*whole(), node("Concat", ["zeros", "count"], ["pads"], axis=0), node("Pad", ["x", "pads"], ["y"])],
        {"zeros": np.int64([0, 0, 0])},
    ),
    "NonZero": ([node("NonZero", ["x"], ["found"]), node("Cast", ["found"], ["y"], to=1)], {}),
    "a size of what was counted": (
        [
            node("NonZero", ["x"], ["found"]),
            node("Shape", ["found"], ["lengths"]),
            node("ConstantOfShape", ["lengths"], ["y"]),
        ],
        {},
    ),
    "an operator of another domain": ([node("Sample", ["x"], ["y"], domain="org.example")], {}),
}


@pytest.mark.parametrize("name", SIZED_BY_VALUES)
def test_a_graph_with_a_branch_or_a_size_from_values_is_recognized(name: str, tmp_path: Path) -> None:
    nodes, constants = SIZED_BY_VALUES[name]
    assert not depends_on_rows_only(save(tmp_path / "model.onnx", nodes, length=np.int64([1]), **constants))


def test_nodes_in_any_order_hide_nothing(tmp_path: Path) -> None:
    nodes, constants = SIZED_BY_VALUES["Tile"]
    assert not depends_on_rows_only(save(tmp_path / "model.onnx", nodes[::-1], length=np.int64([1]), **constants))


def test_a_loop_is_recognized_in_the_graph_and_in_a_function(tmp_path: Path) -> None:
    path = counted_loop(tmp_path / "loop.onnx")
    assert not depends_on_rows_only(path)
    model = onnx.load(path)
    opset = [helper.make_opsetid("", 17)]
    function = helper.make_function("own", "Counted", ["x", "one"], ["y"], list(model.graph.node), opset)
    del model.graph.node[:]
    model.graph.node.append(node("Counted", ["x", "one"], ["y"], domain="own"))
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("own", 1))
    onnx.save(model, tmp_path / "function.onnx")
    assert not depends_on_rows_only(tmp_path / "function.onnx")


def test_sizes_that_follow_from_the_number_of_rows_are_plain(tmp_path: Path) -> None:
    nodes = [
        node("Shape", ["x"], ["lengths"]),
        node("ConstantOfShape", ["lengths"], ["zeros"]),
        node("Expand", ["zeros", "lengths"], ["wide"]),
        node("Add", ["x", "wide"], ["y"]),
    ]
    assert depends_on_rows_only(save(tmp_path / "model.onnx", nodes))


@pytest.mark.parametrize(
    ("model", "plain"),
    [(zoo.MLP, True), (zoo.CNN, True), (zoo.DIGITS, True), (zoo.GRU, False), (zoo.TEXT, False), (zoo.TABULAR, False)],
    ids=lambda value: getattr(value, "name", value),
)
def test_a_free_axis_or_text_makes_the_cost_unknown(model: zoo.ZooModel, plain: bool) -> None:
    backend = open_backend("onnx", ModelFile(model.onnx()), BackendOptions(threads=1))
    assert backend.cost_depends_on_rows_only() is plain


def test_a_quantized_model_is_plain(tmp_path: Path) -> None:
    assert depends_on_rows_only(quantized_models.int8(tmp_path / "model.onnx", per_channel=True))


def test_a_large_graph_and_a_damaged_one_are_not_examined(tmp_path: Path) -> None:
    steps = [node("Relu", [f"v{i}"], [f"v{i + 1}"]) for i in range(MOST_NODES)]
    large = save(tmp_path / "large.onnx", [node("Relu", ["x"], ["v0"]), *steps])
    assert not depends_on_rows_only(large)
    (tmp_path / "damaged.onnx").write_bytes(large.read_bytes()[:-7])
    assert not depends_on_rows_only(tmp_path / "damaged.onnx")
