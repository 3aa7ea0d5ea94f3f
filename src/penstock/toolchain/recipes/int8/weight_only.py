"""Weights of int8 with activations in floating point: needs no data, and the file is a quarter of the size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from penstock.errors import InvalidInput
from penstock.toolchain.recipes.forms import directory, write_onnx
from penstock.toolchain.recipes.int8.compacting import compact
from penstock.toolchain.recipes.int8.onnx_files import check_names, prepared, quantizer, quantizing
from penstock.toolchain.recipes.int8.share import noted_share
from penstock.toolchain.recipes.int8.stored import store_int8
from penstock.toolchain.recipes.recipe import Technique
from penstock.toolchain.recipes.subject import Materials, Subject

if TYPE_CHECKING:
    import onnx

_LINEAR = ("MatMul", "Gemm")
_ALL = (*_LINEAR, "Conv", "ConvTranspose", "LSTM", "GRU", "RNN", "Gather")
_BLOCKS = (128, 64, 32, 16)


@dataclass(frozen=True)
class WeightOnly(Technique):
    """Store every large weight as int8, with a scale per channel.

    `compute`: with int8, linear layers run in ONNX Runtime's kernel for such weights, which rounds each row's
    activations by themselves (rows stay independent) and is faster for few rows; with fp32 all weights are restored at
    load, and only the file is smaller. `exclude` names operators that stay in fp32.
    """

    kind: ClassVar[str] = "weight-only"
    compute: Literal["int8", "fp32"] = "int8"
    exclude: tuple[str, ...] = ()

    def apply(self, subject: Subject, materials: Materials) -> Subject:
        """The subject with an ONNX file of int8 weights and no other form."""
        writer = quantizer()
        model = prepared(subject, self.kind, materials, _ALL)
        check_names(model, self.exclude, _ALL, self.kind)
        path = directory(materials, self.kind) / "model.onnx"
        blocked = 0
        with quantizing(subject.name, path):
            if self.compute == "int8":
                split_gemm(model, self.exclude)
                model, blocked = _in_blocks(model, self.exclude)
            stored = store_int8(model, _ALL, self.exclude)
            write_onnx(compact(model), path)
        if not blocked and not stored:
            raise InvalidInput(
                f"recipe: {self.kind}: the weights of {subject.name} are too small to be worth storing as int8",
                field="recipe",
            )
        changed = subject.changed(writer, onnx=path, precision="int8")
        changed = changed.noted(
            f"{blocked + len(stored)} operators have int8 weights, which are restored to fp32 at load for {len(stored)}"
        )
        return noted_share(changed)


def split_gemm(model: onnx.ModelProto, exclude: tuple[str, ...]) -> None:
    """Write every Gemm with constant weights as MatMul and Add, the form that kernels for int8 weights take."""
    import onnx

    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        settings = {attribute.name: attribute for attribute in node.attribute}
        plain = all(settings[name].f == 1.0 for name in ("alpha", "beta") if name in settings)
        turned = "transA" in settings and settings["transA"].i
        if node.op_type != "Gemm" or node.name in exclude or not plain or turned or node.input[1] not in constants:
            nodes.append(type(node).FromString(node.SerializeToString()))
            continue
        weight = onnx.numpy_helper.to_array(constants[node.input[1]])
        weight = weight.T if "transB" in settings and settings["transB"].i else weight
        name = f"{node.input[1]}_turned"
        model.graph.initializer.append(onnx.numpy_helper.from_array(weight.copy(), name))
        has_bias = len(node.input) > 2 and node.input[2]
        product = f"{node.output[0]}_product" if has_bias else node.output[0]
        nodes.append(onnx.helper.make_node("MatMul", [node.input[0], name], [product], name=node.name))
        if has_bias:
            nodes.append(onnx.helper.make_node("Add", [product, node.input[2]], [node.output[0]]))
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _in_blocks(model: onnx.ModelProto, exclude: tuple[str, ...]) -> tuple[onnx.ModelProto, int]:
    """The model with MatMulNBits instead of MatMul, and how many there are."""
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    shapes = {
        node.name: tuple(constants[node.input[1]].dims)
        for node in model.graph.node
        if node.op_type == "MatMul" and node.input[1] in constants and node.name not in exclude
    }
    for block in _BLOCKS:
        mine = {name for name, shape in shapes.items() if len(shape) == 2 and _block(shape[0]) == block}
        if not mine:
            continue
        config = DefaultWeightOnlyQuantConfig(block_size=block, is_symmetric=True, accuracy_level=4, bits=8)
        others = [node.name for node in model.graph.node if node.name and node.name not in mine]
        work = MatMulNBitsQuantizer(model, nodes_to_exclude=others, algo_config=config)
        work.process()
        model = work.model.model
    return model, sum(node.op_type == "MatMulNBits" for node in model.graph.node)


def _block(features: int) -> int:
    """The largest block that no row of weights is padded much to; 0 for rows that are too short."""
    return next((block for block in _BLOCKS if features % block == 0 or features >= 8 * block), 0)
