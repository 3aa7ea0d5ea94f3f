"""Static quantization of a PyTorch module with torchao's pt2e. Needs `penstock[quantize]`."""

from __future__ import annotations

import importlib.util
import inspect
import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.backends.torch.eager import takes_names
from penstock.errors import InvalidInput, UnsupportedFormat, type_and_message
from penstock.libraries import quietly
from penstock.tensors import Arrays
from penstock.toolchain.export.exported import ExportFailed, ExportOptions
from penstock.toolchain.export.onnx import export_onnx
from penstock.toolchain.export.source import ModuleSource
from penstock.toolchain.recipes.forms import directory, in_module_order, read_onnx, write_onnx
from penstock.toolchain.recipes.int8.biases import with_int8_biases
from penstock.toolchain.recipes.int8.compacting import compact
from penstock.toolchain.recipes.subject import Materials
from penstock.toolchain.recipes.wrapping import own_copy

if TYPE_CHECKING:
    import torch

_ACTIVATION = "quantize_per_tensor"


def pt2e_file(
    source: ModuleSource, batches: Sequence[Arrays], materials: Materials, *, kind: str, reduce_range: bool
) -> tuple[Path, str]:
    """The ONNX file of the quantized module, and the names of what wrote it.

    `reduce_range` keeps activations to 7 bits, so that no CPU saturates. Raises UnsupportedFormat without torchao,
    ExportFailed when PyTorch cannot capture the module, InvalidInput when it has nothing to quantize.
    """
    if importlib.util.find_spec("torchao") is None:
        raise UnsupportedFormat("quantize-static with engine pt2e needs torchao; pip install 'penstock[quantize]'")
    with quiet_torchao():
        converted = _converted(source, batches, materials, kind, reduce_range)
        path = int8_onnx(replace(source, module=converted), directory(materials, kind))
    return path, f"torchao {version('torchao')}; then torch.onnx.export of torch {version('torch').partition('+')[0]}"


def int8_onnx(source: ModuleSource, directory: Path) -> Path:
    """The ONNX file (QDQ) of a module that pt2e has converted, in the form that ONNX Runtime runs in int8."""
    path = export_onnx(in_module_order(source), directory, ExportOptions()).path
    return write_onnx(compact(with_int8_biases(read_onnx(path))), path)


@contextmanager
def quiet_torchao() -> Iterator[None]:
    """Suppress warnings of torchao and of what it calls: kernels for GPUs that it does not find, deprecated classes."""
    with ExitStack() as stack:
        for logger in ("torchao", "torch.utils._pytree"):
            stack.enter_context(quietly(logger=logger, level=logging.ERROR))
        yield


def _converted(
    source: ModuleSource, batches: Sequence[Arrays], materials: Materials, kind: str, reduce_range: bool
) -> torch.nn.Module:
    import torch
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config(reduce_range=reduce_range))
    names = input_names(source)
    prepared = prepare_pt2e(_captured(source, names), quantizer)
    with torch.no_grad():
        for number, batch in enumerate(batches):
            prepared(*(torch.from_numpy(batch[name].copy()) for name in names))
            materials.progress(kind, (number + 1) / (len(batches) + 2))
    converted: torch.nn.Module = convert_pt2e(prepared)
    if not any(_ACTIVATION in str(node.target) for node in converted.graph.nodes):  # type: ignore[union-attr]
        raise InvalidInput(
            f"recipe: {kind}: {source.name} has no convolution or linear layer that pt2e quantizes", field="recipe"
        )
    for switch in ("train", "eval"):  # a captured program has no modes, and its own methods refuse
        vars(converted).pop(switch, None)
    return converted.eval()


def input_names(source: ModuleSource) -> list[str]:
    """The inputs in the order in which the module takes them by position."""
    names = [spec.name for spec in source.signature.inputs]
    if not takes_names(source.module, source.signature):
        return names
    return [name for name in inspect.signature(source.module.forward).parameters if name in names]


def _captured(source: ModuleSource, names: Sequence[str]) -> torch.nn.Module:
    import torch

    specs = {spec.name: spec for spec in source.signature.inputs}
    free: tuple[dict[int, Any], ...] = tuple(
        {axis: torch.export.Dim.AUTO for axis, length in enumerate(specs[name].shape) if length < 0} for name in names
    )
    example = tuple(torch.from_numpy(source.example[name].copy()) for name in names)
    try:
        module: torch.nn.Module = torch.export.export(own_copy(source), example, dynamic_shapes=free).module()
    except Exception as error:  # PyTorch raises errors of many kinds, also of the user's module
        raise ExportFailed(f"{source.name}: torch.export cannot capture it: {type_and_message(error, 300)}") from None
    return module
