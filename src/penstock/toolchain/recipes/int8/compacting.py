"""Makes quantized ONNX files smaller without a change to what they compute: small models are mostly bookkeeping."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

_CASTS = ("QuantizeLinear", "DequantizeLinear")


def compact(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with shared constants, without default zero points of biases, shapes and names that nothing reads."""
    graph = model.graph
    del graph.value_info[:]
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        node.doc_string = ""
        if node.op_type not in _CASTS:
            continue
        node.name = ""
        if node.op_type == "DequantizeLinear" and len(node.input) == 3 and _is_default(constants.get(node.input[2])):
            del node.input[2]
    _share_constants(graph)
    return model


def _is_default(zero_point: onnx.TensorProto | None) -> bool:
    """True for the zero point of a bias, which is 0: the one that is meant when none is given."""
    import onnx

    if zero_point is None or zero_point.data_type != onnx.TensorProto.INT32:
        return False
    return not onnx.numpy_helper.to_array(zero_point).any()


def _share_constants(graph: onnx.GraphProto) -> None:
    """One constant for all of the same content, none that no operator reads. Graphs with branches stay as they are."""
    if any(attribute.HasField("g") or attribute.graphs for node in graph.node for attribute in node.attribute):
        return
    read = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    first: dict[bytes, str] = {}
    instead: dict[str, str] = {}
    kept: list[onnx.TensorProto] = []
    for tensor in graph.initializer:
        if tensor.name not in read:
            continue
        name, tensor.name = tensor.name, ""
        known = first.setdefault(tensor.SerializeToString(deterministic=True), name)
        tensor.name = name
        if known == name:
            kept.append(tensor)
        else:
            instead[name] = known
    _set_constants(graph, kept)
    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = instead.get(name, name)


def _set_constants(graph: onnx.GraphProto, kept: list[onnx.TensorProto]) -> None:
    copies = [type(tensor).FromString(tensor.SerializeToString()) for tensor in kept]
    del graph.initializer[:]
    graph.initializer.extend(copies)
