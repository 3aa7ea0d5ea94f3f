"""Weights stored as int8: read as floats when the model is loaded, so that only its file becomes smaller."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np

from penstock.tensors import Array

if TYPE_CHECKING:
    import onnx

_SMALLEST = 256
"""Weights of fewer values stay as they are: the operators that read them would take more than they save."""
_LARGEST = 127


def store_int8(model: onnx.ModelProto, operators: Collection[str], exclude: Collection[str] = ()) -> list[str]:
    """Store the fp32 weights of these kinds of operators as int8 with a scale per channel; the names of the operators.

    A cast and a product restore them. Both have constant inputs only, so that runtimes fold them at load: what runs is
    an fp32 model. (They would not fold a DequantizeLinear, which then costs a pass over the weights in each run.)
    """
    import onnx

    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    changed: list[str] = []
    stored: set[str] = set()
    for node in model.graph.node:
        if node.op_type not in operators or node.name in exclude:
            continue
        places = _weights(node)
        names = [node.input[place] for place in places if place < len(node.input)]
        weights = [
            name
            for name in names
            if name in constants
            and constants[name].data_type == onnx.TensorProto.FLOAT
            and int(np.prod(constants[name].dims)) >= _SMALLEST
        ]
        for name in weights:
            stored.add(name)
        if weights:
            changed.append(node.name)
    axes = _axes(model.graph, stored)
    restored = [part for name in sorted(stored) for part in _stored(model.graph, constants[name], axes[name])]
    nodes = [type(node).FromString(node.SerializeToString()) for node in model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend([*restored, *nodes])
    return changed


def rounded(weight: Array, axis: int) -> tuple[Array, Array]:
    """Integers and the scale of each channel along `axis`, in a shape that broadcasts to the weight's."""
    others = tuple(place for place in range(weight.ndim) if place != axis % weight.ndim)
    largest = np.abs(weight).max(axis=others, keepdims=True)
    scale = np.where(largest > 0, largest / _LARGEST, 1).astype(np.float32)
    return np.clip(np.rint(weight / scale), -_LARGEST, _LARGEST).astype(np.int8), scale


def _weights(node: onnx.NodeProto) -> tuple[int, ...]:
    """The places of the weights among the inputs; a bias stays as it is."""
    if node.op_type == "Gather":
        return (0,)
    return (1, 2) if node.op_type in ("LSTM", "GRU", "RNN") else (1,)


def _axes(graph: onnx.GraphProto, stored: Collection[str]) -> dict[str, int]:
    """The axis of the output channels of each weight, which have one scale each."""
    axes: dict[str, int] = {}
    for node in graph.node:
        for name in node.input:
            if name in stored:
                axes.setdefault(name, _axis(node))
    return axes


def _axis(node: onnx.NodeProto) -> int:
    if node.op_type == "Gemm":
        return 0 if any(attribute.name == "transB" and attribute.i for attribute in node.attribute) else 1
    if node.op_type in ("LSTM", "GRU", "RNN", "ConvTranspose"):
        return 1
    return -1 if node.op_type == "MatMul" else 0


def _stored(graph: onnx.GraphProto, tensor: onnx.TensorProto, axis: int) -> list[onnx.NodeProto]:
    """Replace one constant by integers, and the two operators that restore it."""
    import onnx

    name = tensor.name
    integers, scale = rounded(onnx.numpy_helper.to_array(tensor), axis)
    tensor.CopyFrom(onnx.numpy_helper.from_array(integers, f"{name}_int8"))
    graph.initializer.append(onnx.numpy_helper.from_array(scale, f"{name}_scale"))
    return [
        onnx.helper.make_node("Cast", [f"{name}_int8"], [f"{name}_cast"], to=onnx.TensorProto.FLOAT),
        onnx.helper.make_node("Mul", [f"{name}_cast", f"{name}_scale"], [name]),
    ]
