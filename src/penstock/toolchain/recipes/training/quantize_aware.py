"""The technique `quantize-aware`: train with the rounding of int8, then convert."""

from __future__ import annotations

import copy
import inspect
import logging
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from penstock.backends.torch.base import named_outputs
from penstock.errors import InvalidInput, type_and_message
from penstock.libraries import quietly
from penstock.tensors import Signature
from penstock.toolchain.export.onnx import quiet_exporter, write_onnx
from penstock.toolchain.export.source import ModuleSource
from penstock.toolchain.recipes.forms import directory, need_module
from penstock.toolchain.recipes.recipe import Technique
from penstock.toolchain.recipes.subject import Materials, Subject
from penstock.toolchain.recipes.training.loop import deterministic, set_mode
from penstock.toolchain.recipes.training.options import Training, checked
from penstock.toolchain.recipes.training.runs import run_for

if TYPE_CHECKING:
    import torch

_MULTIPLY = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True)
class QuantizeAware(Technique):
    """Fine-tune the model with int8 weights and activations simulated, then convert it (torchao's pt2e).

    Weights are int8 per channel, activations uint8; the ONNX file holds QuantizeLinear and DequantizeLinear. Batch
    norms are folded into their convolutions first, and dropout is off. With `reduce_range` activations use 7 of 8 bits:
    ONNX Runtime's int8 kernels on processors without VNNI add two products in 16 bits, and a sum that does not fit is
    silently cut off there.
    """

    kind = "quantize-aware"

    epochs: Annotated[int, Field(ge=1)] = 3
    reduce_range: bool = True
    training: Training = field(default_factory=Training)

    def apply(self, subject: Subject, materials: Materials) -> Subject:
        """The quantized module and its ONNX file. Raises InvalidInput when the model cannot be captured or trained."""
        technique = checked(self, self.kind)
        source = need_module(subject, self.kind)
        with deterministic(technique.training.threads), _quiet():
            return _quantized(technique, source, subject, materials)


def _quantized(technique: QuantizeAware, source: ModuleSource, subject: Subject, materials: Materials) -> Subject:
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

    order = input_order(source.module, source.signature)
    prepared = _prepared(source, order, reduce_range=technique.reduce_range)
    run = run_for(technique.kind, technique.training, technique.epochs, subject, materials, teacher=source.module)
    settings = {"reduce_range": technique.reduce_range}
    fitted = replace(run, order=order, settings={**run.settings, **settings}).fit(prepared)
    converted = convert_pt2e(prepared)
    for switch in ("train", "eval"):  # a captured program has no modes, and its own methods refuse
        vars(converted).pop(switch, None)
    converted.eval()
    path = directory(materials, technique.kind) / "model.onnx"
    done, total = _write(converted, source, order, path)
    module = replace(source, module=converted, architecture=None, architecture_args={})
    facts = {"quantized": done, "quantizable": total, "training": fitted.to_json()}
    note = f"trained with int8 simulated: {done} of {total} convolutions and matrix products have int8 inputs"
    made = subject.changed(f"torchao {version('torchao')}", module=module, onnx=path, precision="int8")
    return made.noted(note, **{"quantize-aware": facts})


def input_order(module: torch.nn.Module, signature: Signature) -> tuple[str, ...]:
    """The inputs in the order of `forward` where it has their names, else in that of the signature."""
    names = [spec.name for spec in signature.inputs]
    taken = [name for name in inspect.signature(module.forward).parameters if name in names]
    return tuple(taken if len(taken) == len(names) else names)


def _prepared(source: ModuleSource, order: tuple[str, ...], *, reduce_range: bool) -> torch.nn.Module:
    """The captured module with int8 simulated, its weights free to learn."""
    import torch
    from torchao.quantization.pt2e.quantize_pt2e import prepare_qat_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86
    from torchao.quantization.pt2e.utils import _fuse_conv_bn_

    module = copy.deepcopy(source.module)
    for parameter in module.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    set_mode(module, training=False)
    try:
        program = torch.export.export(module, example_of(source, order), dynamic_shapes=free_axes(source, order))
        captured = program.module()
        # torchao would simulate them, at half a minute for finding the patterns and with statistics of few batches
        _fuse_conv_bn_(captured)
        quantizer = x86.X86InductorQuantizer()
        quantizer.set_global(x86.get_default_x86_inductor_quantization_config(is_qat=True, reduce_range=reduce_range))
        prepared: torch.nn.Module = prepare_qat_pt2e(captured, quantizer)
    except Exception as error:
        raise InvalidInput(
            f"quantize-aware: torch.export cannot capture the model: {type_and_message(error, 300)}",
            field="recipe",
        ) from error
    if not any("fakequant" in type(one).__name__.lower() for one in prepared.modules()):
        raise InvalidInput(
            "quantize-aware: the model has no convolutions or linear layers that can be quantized", field="recipe"
        )
    return prepared


def example_of(source: ModuleSource, order: tuple[str, ...]) -> tuple[torch.Tensor, ...]:
    """The example inputs in that order."""
    import torch

    return tuple(torch.from_numpy(source.example[name].copy()) for name in order)


def free_axes(source: ModuleSource, order: tuple[str, ...]) -> tuple[dict[int, Any], ...]:
    """The free axes of each input, as torch.export takes them."""
    import torch

    specs = {spec.name: spec for spec in source.signature.inputs}
    return tuple(
        {axis: torch.export.Dim.AUTO for axis, length in enumerate(specs[name].shape) if length < 0} for name in order
    )


def _write(converted: torch.nn.Module, source: ModuleSource, order: tuple[str, ...], path: Path) -> tuple[int, int]:
    """Write the ONNX file; how many of its multiplying operators have int8 inputs, and how many there are."""
    import torch

    example = example_of(source, order)
    with torch.no_grad():
        outputs = list(named_outputs(converted(*example)))
    program = torch.onnx.export(
        converted,
        example,
        input_names=list(order),
        output_names=outputs,
        dynamic_shapes=free_axes(source, order),
        dynamo=True,
        verbose=False,
    )
    write_onnx(program, path)
    graph = program.model_proto.graph  # type: ignore[union-attr]
    made_by = {output: node.op_type for node in graph.node for output in node.output}
    multiply = [node for node in graph.node if node.op_type in _MULTIPLY]
    done = sum(all(made_by.get(name) == "DequantizeLinear" for name in node.input[:2]) for node in multiply)
    return done, len(multiply)


def _quiet() -> ExitStack:
    """Suppress warnings and log lines of torchao and torch.export that need no action."""
    stack = ExitStack()
    stack.enter_context(quiet_exporter(shares_axes=True))
    for logger in ("torchao", "torch.utils._pytree"):
        stack.enter_context(
            quietly("Exporting a model while it is in training mode", logger=logger, level=logging.ERROR)
        )
    stack.enter_context(quietly(r".*is deprecated", "Failed to load"))
    return stack
