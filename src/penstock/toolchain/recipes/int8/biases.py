"""Biases as int32, without which ONNX Runtime leaves a linear layer in fp32 whose inputs and weights are int8."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from penstock.tensors import Array

if TYPE_CHECKING:
    import onnx

_WITH_BIAS = ("Conv", "Gemm")
_LARGEST = 2**31 - 1


def with_int8_biases(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with int32 biases, in the scale of their sums, where inputs and weights come from int8."""
    import onnx

    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    restored = {node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        scale = _scale(node, restored, constants)
        if scale is not None:
            bias = node.input[2]
            values = np.rint(_array(constants[bias]).astype(np.float64) / scale)
            integers = np.clip(values, -_LARGEST, _LARGEST).astype(np.int32)
            stored, sizes, restored_bias = f"{node.output[0]}_bias", f"{node.output[0]}_bias_scale", f"{bias}_restored"
            graph.initializer.append(onnx.numpy_helper.from_array(integers, stored))
            graph.initializer.append(onnx.numpy_helper.from_array(scale.astype(np.float32), sizes))
            nodes.append(onnx.helper.make_node("DequantizeLinear", [stored, sizes], [restored_bias], axis=0))
            node.input[2] = restored_bias
        nodes.append(type(node).FromString(node.SerializeToString()))
    del graph.node[:]
    graph.node.extend(nodes)
    return model


def _scale(
    node: onnx.NodeProto, restored: dict[str, onnx.NodeProto], constants: dict[str, onnx.TensorProto]
) -> Array | None:
    """The scale of a bias, one for each channel; None where the operator is not in int8 or has no constant bias."""
    if node.op_type not in _WITH_BIAS or len(node.input) < 3 or node.input[2] not in constants:
        return None
    sides = [restored.get(name) for name in node.input[:2]]
    scales = [constants.get(side.input[1]) for side in sides if side is not None]
    if len(scales) < 2 or any(scale is None for scale in scales):
        return None
    of_input, of_weight = (_array(scale).astype(np.float64) for scale in scales if scale is not None)
    length = int(np.prod(constants[node.input[2]].dims))
    scale = np.ravel(of_input * of_weight)
    return np.broadcast_to(scale, (length,)) if scale.size in (1, length) else None


def _array(tensor: onnx.TensorProto) -> Array:
    import onnx

    values: Array = onnx.numpy_helper.to_array(tensor)
    return values
