"""Half precision: weights, or the arithmetic too, wholly or where it is safe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from penstock.backends.catalog import runnable
from penstock.backends.devices import cpu_flags
from penstock.errors import InvalidInput, UnsupportedFormat, first_line
from penstock.formats import FORMATS
from penstock.toolchain.export.exported import ExportFailed
from penstock.toolchain.recipes.forms import directory, need_module, need_onnx, read_onnx, write_onnx
from penstock.toolchain.recipes.recipe import Technique
from penstock.toolchain.recipes.subject import Materials, Subject
from penstock.toolchain.recipes.wrapping import own_copy, require_runs, wrapped

if TYPE_CHECKING:
    import onnx
    import torch

Half = Literal["fp16", "bf16"]

_FLAGS = {"fp16": ("avx512_fp16", "amx_fp16", "fphp"), "bf16": ("avx512_bf16", "amx_bf16", "bf16")}
"""CPU flags of which one makes arithmetic of a type faster than fp32: of x86-64, and last of Arm."""
_LARGEST_FP16 = 65504.0
_REMEDY = 'leave the technique out, or use dtype = "bf16", which has the range of fp32'


@dataclass(frozen=True)
class Cast(Technique):
    """Weights in half precision.

    `engine`: with onnxruntime the ONNX file stores them so, and they are restored at load: half the size, the same
    arithmetic. With torch the PyTorch module is cast and computes so, which is faster only on a CPU with instructions
    for it; its inputs and outputs stay as they are.
    """

    kind: ClassVar[str] = "cast"
    dtype: Half = "fp16"
    engine: Literal["onnxruntime", "torch"] = "onnxruntime"

    def apply(self, subject: Subject, materials: Materials) -> Subject:
        """The subject with weights of `dtype`, as an ONNX file or as a module."""
        return self._module(subject) if self.engine == "torch" else self._onnx(subject, materials)

    def _onnx(self, subject: Subject, materials: Materials) -> Subject:
        import onnx

        subject, source = need_onnx(subject, self.kind, materials)
        model = read_onnx(source)
        count = _store_half(model, self.dtype, subject.name)
        if not count:
            raise InvalidInput(f"recipe: {self.kind}: {subject.name} has no weights of fp32 to cast", field="recipe")
        path = write_onnx(model, directory(materials, self.kind) / "model.onnx")
        changed = subject.changed(f"onnx {onnx.__version__}", onnx=path, precision=self.dtype)
        return changed.noted(f"{count} weights are stored as {self.dtype} and restored to fp32 at load")

    def _module(self, subject: Subject) -> Subject:
        source = need_module(subject, self.kind)
        half = _torch_type(self.dtype)
        module = own_copy(source).to(half)
        _require_finite(module, subject.name, self.dtype)

        def narrowed(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.to(half) if tensor.is_floating_point() else tensor

        ran = require_runs(wrapped(source, module, narrowed), self.kind, _REMEDY)
        changed = subject.changed(_torch(), module=ran, precision=self.dtype)
        return changed.noted(_speed_note(self.dtype))


@dataclass(frozen=True)
class MixedPrecision(Technique):
    """Half precision where it is safe, fp32 for what needs it, such as softmax and norms; weights stay in fp32.

    `engine`: torch runs the module under autocast. With onnxruntime the graph itself is converted (fp16 only), inputs
    and outputs stay as they are, and operators of the kinds in `keep` stay in fp32; a CPU converts back and forth, so
    that this is for GPUs.
    """

    kind: ClassVar[str] = "mixed-precision"
    dtype: Half = "bf16"
    engine: Literal["torch", "onnxruntime"] = "torch"
    keep: tuple[str, ...] = ()

    def apply(self, subject: Subject, materials: Materials) -> Subject:
        """The subject that computes partly in `dtype`, as a module or as an ONNX file."""
        if self.engine == "onnxruntime":
            return self._onnx(subject, materials)
        if self.keep:
            raise InvalidInput(f"recipe: {self.kind}: keep: autocast has its own list; leave it out", field="recipe")
        source = need_module(subject, self.kind)
        half = _torch_type(self.dtype)

        def around() -> torch.autocast:
            import torch

            return torch.autocast("cpu", dtype=half)

        module = require_runs(wrapped(source, own_copy(source), lambda tensor: tensor, around), self.kind, _REMEDY)
        return subject.changed(f"{_torch()}, autocast", module=module).noted(_speed_note(self.dtype))

    def _onnx(self, subject: Subject, materials: Materials) -> Subject:
        if self.dtype != "fp16":
            raise InvalidInput(
                f'recipe: {self.kind}: ONNX Runtime has no {self.dtype} here; use dtype = "fp16", or engine = "torch"',
                field="recipe",
            )
        subject, source = need_onnx(subject, self.kind, materials)
        model = _converted(subject.name, read_onnx(source), self.keep)
        path = write_onnx(model, directory(materials, self.kind) / "model.onnx")
        changed = subject.changed(f"onnxruntime {version('onnxruntime')}, float16", onnx=path, precision="fp16")
        return changed.noted(_speed_note(self.dtype))


def _speed_note(dtype: Half) -> str:
    has = sorted(cpu_flags() & set(_FLAGS[dtype]))
    if has:
        return f"this CPU has instructions for {dtype} ({', '.join(has)})"
    return f"this CPU has no instructions for {dtype}, so that it is slower than fp32 here"


def _torch() -> str:
    return f"torch {version('torch').partition('+')[0]}"


def _torch_type(dtype: Half) -> torch.dtype:
    import torch

    return torch.float16 if dtype == "fp16" else torch.bfloat16


def _require_finite(module: torch.nn.Module, name: str, dtype: Half) -> None:
    for weight, tensor in module.state_dict().items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise _too_large(name, weight, dtype)


def _too_large(name: str, weight: str, dtype: Half) -> InvalidInput:
    return InvalidInput(
        f"recipe: cast: {name}: {weight} has values beyond {_LARGEST_FP16:g}, the largest of {dtype}; use "
        'dtype = "bf16"',
        field="recipe",
    )


def _store_half(model: onnx.ModelProto, dtype: Half, name: str) -> int:
    """Store every fp32 constant with a cast that restores it, which runtimes do once at load; how many there are."""
    import onnx

    kind = onnx.TensorProto.FLOAT16 if dtype == "fp16" else onnx.TensorProto.BFLOAT16
    casts: list[onnx.NodeProto] = []
    for tensor in model.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT or int(np.prod(tensor.dims)) < 2:
            continue
        values, weight = onnx.numpy_helper.to_array(tensor), tensor.name
        if dtype == "fp16" and np.abs(values).max() > _LARGEST_FP16:
            raise _too_large(name, weight, dtype)
        stored = onnx.helper.make_tensor(f"{weight}_{dtype}", kind, tensor.dims, _bits(values, dtype), raw=True)
        tensor.CopyFrom(stored)
        casts.append(onnx.helper.make_node("Cast", [stored.name], [weight], to=onnx.TensorProto.FLOAT))
    nodes = [type(node).FromString(node.SerializeToString()) for node in model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend([*casts, *nodes])
    return len(casts)


def _bits(values: np.ndarray, dtype: Half) -> bytes:
    if dtype == "fp16":
        return values.astype("<f2").tobytes()
    import ml_dtypes

    return values.astype(ml_dtypes.bfloat16).tobytes()


def _converted(name: str, model: onnx.ModelProto, keep: Sequence[str]) -> onnx.ModelProto:
    """The graph in fp16 with inputs and outputs of fp32. Raises ExportFailed."""
    if not runnable("onnx"):
        raise UnsupportedFormat(f"mixed-precision needs onnxruntime; {FORMATS['onnx'].runtime.remedy}")
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

    kinds = {node.op_type for node in model.graph.node}
    unknown = next((kind for kind in keep if kind not in kinds), None)
    if unknown is not None:
        raise InvalidInput(
            f"recipe: mixed-precision: keep: the graph has no {unknown!r}; it has {', '.join(sorted(kinds))}",
            field="recipe",
        )
    try:
        converted: onnx.ModelProto = convert_float_to_float16(
            model, keep_io_types=True, op_block_list=[*DEFAULT_OP_BLOCK_LIST, *keep]
        )
    except Exception as error:  # the converter raises what it meets
        raise ExportFailed(f"{name}: its graph cannot be converted to fp16: {first_line(error)}") from None
    return converted
