"""Shared by all PyTorch formats: conversion from and to numpy, the device, inference mode, errors."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from penstock.backends.base import Backend, empty_outputs, no_rows
from penstock.backends.devices import Device, usable_cores
from penstock.backends.examples import Examples
from penstock.backends.torch.precision import close_enough, gains, half_type
from penstock.datatypes import BF16, DATATYPES
from penstock.errors import InferenceError, InvalidInput, ModelLoadError, OutOfMemory, UnsupportedFormat, first_line
from penstock.tensors import Array, Arrays, Signature, TensorSpec, named_dims

if TYPE_CHECKING:
    import torch

PROBE_LENGTH = 8
"""The length of free axes in a probe."""
_OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "not enough memory")


class TorchBackend(Backend):
    """A module that takes and returns tensors; threads may call `run` at the same time."""

    def __init__(
        self,
        model: torch.nn.Module | None,
        signature: Signature,
        device: Device,
        *,
        warnings: tuple[str, ...] = (),
        pin_memory: bool = False,
    ) -> None:
        import torch

        self.device = str(device)
        self.signature = signature
        self.warnings = warnings
        self.num_parameters = None if model is None else sum(parameter.numel() for parameter in model.parameters())
        self.num_bytes = None if model is None else module_bytes(model)
        self._model = model
        self._by_name = False
        self._half: torch.dtype | None = None
        self._channels_last = False
        self._closed = False
        self._pin_memory = pin_memory and device.kind == "cuda"
        self._on_cpu = device.kind == "cpu"
        self._dtypes = [getattr(torch, str(DATATYPES[spec.dtype].torch)) for spec in signature.outputs]

    def run(self, inputs: Arrays) -> Arrays:
        """Outputs by name, for one batch that the signature has validated."""
        if self._closed:
            raise InferenceError("the model is closed")
        if no_rows(inputs, self.signature):
            return empty_outputs(self.signature)
        try:
            return self._run(inputs)
        except InferenceError:
            raise
        except Exception as error:
            raise self._run_error(error) from None

    def close(self) -> None:
        """Drop the model; on CUDA also free its cached memory."""
        self._closed = True
        self._model = None
        free_cuda_cache(self.device)

    def _call(self, tensors: dict[str, torch.Tensor]) -> Any:
        """The result of the model for tensors by input name, in the order of the signature."""
        model = self._model
        if model is None:
            raise InferenceError("the model is closed")
        return model(**tensors) if self._by_name else model(*tensors.values())

    def _run(self, inputs: Arrays) -> Arrays:
        import torch

        with torch.inference_mode():  # here and not around the thread: the mode belongs to the thread that runs
            result = self._call({spec.name: self._to_device(inputs[spec.name], spec) for spec in self.signature.inputs})
            outputs = by_output_name(result, self.signature.outputs)
            return {
                spec.name: _to_numpy(output, spec, dtype)
                for spec, output, dtype in zip(self.signature.outputs, outputs, self._dtypes, strict=True)
            }

    def _to_device(self, array: Array, spec: TensorSpec) -> torch.Tensor:
        """A tensor with its own memory, since a model may write to its inputs, which are the caller's arrays."""
        import torch

        if self._on_cpu or not array.flags.writeable:
            array = array.copy()
        tensor = torch.from_numpy(array)
        if spec.dtype == BF16:
            tensor = tensor.view(torch.bfloat16)
        if not self._on_cpu:
            tensor = tensor.pin_memory() if self._pin_memory else tensor
            tensor = tensor.to(self.device, non_blocking=self._pin_memory)
        if self._half is not None and tensor.is_floating_point():
            tensor = tensor.to(self._half)
        if self._channels_last and tensor.ndim == 4:
            tensor = tensor.contiguous(memory_format=torch.channels_last)
        return tensor

    def _require_signature(self, path: Path) -> None:
        """Raise ModelLoadError when the outputs of a run do not fit the signature.

        Skipped when an axis after the batch is free, and when no input is found that the model runs with.
        """
        if any(spec.row_elements < 0 for spec in self.signature.inputs):
            return
        try:
            outputs = self.run(Examples(self, self.signature, None).of(2))
        except OutOfMemory:
            raise ModelLoadError(f"{path}: the model does not fit into the memory of {self.device}") from None
        except _OtherOutputs as error:
            raise ModelLoadError(f"{path}: it does not run as its signature says: {error}") from None
        except InferenceError:
            return
        try:
            for spec in self.signature.outputs:
                spec.check(outputs[spec.name])
        except InvalidInput as error:
            raise ModelLoadError(f"{path}: it does not run as its signature says: {error}") from None

    def _lower(self, precision: str, device: Device) -> None:
        """Switch to half precision when it was requested, the hardware supports it, and this model is faster in it."""
        half, warnings = half_type(precision, device)
        self.warnings += warnings
        exact = self._model
        if half is None or exact is None:
            return
        lowered = copy.deepcopy(exact).to(half)
        objection = self._objection(exact, lowered, half)
        if objection is None:
            self._use(lowered, half)
            self.num_bytes, self.lowered_to = module_bytes(lowered), precision
        else:
            self._use(exact, None)
            self.warnings += (f"{precision} was requested, but {objection}; the model runs in fp32",)

    def _objection(self, exact: torch.nn.Module, lowered: torch.nn.Module, half: torch.dtype) -> str | None:
        """Why not to use `lowered`, a copy of `exact` in type `half`; None to use it. Speed counts on the CPU only."""

        def before(batch: Arrays) -> Arrays:
            self._use(exact, None)
            return self._run(batch)

        def after(batch: Arrays) -> Arrays:
            self._use(lowered, half)
            return self._run(batch)

        batches = [probe(self.signature, rows, PROBE_LENGTH) for rows in (1, 16)]
        try:
            if not all(close_enough(before(batch), after(batch)) for batch in batches):
                return "its outputs differ too much"
            if self._on_cpu and not gains(before, after, batches):
                return "it is not faster in it on this CPU"
        except Exception as error:  # the fp32 model remains
            return f"the model does not run in it ({reason(error)})"
        return None

    def _use(self, model: torch.nn.Module, half: torch.dtype | None) -> None:
        self._model, self._half = model, half

    def _run_error(self, error: Exception) -> InferenceError:
        if self._closed:
            return InferenceError("the model is closed")
        if not is_memory(error):
            return InferenceError(f"the model could not run the batch: {reason(error)}")
        free_cuda_cache(self.device)
        return OutOfMemory("the batch does not fit into memory")


class _OtherOutputs(InferenceError):
    """The model gives other outputs than its signature says."""


def require_numbers(path: Path, signature: Signature) -> None:
    """Raise UnsupportedFormat for a signature with text, for which PyTorch has no tensors."""
    for spec in (*signature.inputs, *signature.outputs):
        if DATATYPES[spec.dtype].torch is None:
            raise UnsupportedFormat(f"{path}: {spec.name} is of type {spec.dtype}, for which PyTorch has no tensors")


def load_error(path: Path, device: object, error: BaseException) -> ModelLoadError:
    """A failure to load the model of `path` on `device`, as one sentence."""
    if is_memory(error):
        return ModelLoadError(f"{path}: the model does not fit into the memory of {device}")
    return ModelLoadError(f"{path}: the model could not be loaded on {device}: {reason(error)}")


def reason(error: BaseException) -> str:
    """The line of an error that gives the reason: the last one for TorchScript, which prints its stack first."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if lines and lines[0].startswith("The following operation failed in the TorchScript interpreter"):
        return first_line(RuntimeError(lines[-1].removeprefix("RuntimeError: ")))
    return first_line(error)


def is_memory(error: BaseException) -> bool:
    """True for an out-of-memory error."""
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in _OUT_OF_MEMORY)


def free_cuda_cache(device: str) -> None:
    """Free the memory that PyTorch caches on a CUDA device."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.empty_cache()


def set_threads(threads: int | None) -> None:
    """Set the threads of PyTorch for the whole process: `threads`, or at most the usable cores."""
    import torch

    wanted = threads or min(torch.get_num_threads(), usable_cores())
    if torch.get_num_threads() != wanted:
        torch.set_num_threads(wanted)


def module_bytes(module: torch.nn.Module) -> int:
    """Memory of parameters and buffers; shared memory counts once."""
    tensors = [*module.parameters(), *module.buffers()]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def spec_of(name: str, dtype: torch.dtype, shape: Iterable[Any]) -> TensorSpec:
    """The spec of a tensor; a length that is not a plain number is free, and named by its symbol."""
    dims = [length if type(length) is int else str(length) for length in shape]
    lengths = tuple(length if isinstance(length, int) else -1 for length in dims)
    return TensorSpec(name, _wire_name(dtype), lengths, named_dims(dims))


def _wire_name(dtype: torch.dtype) -> str:
    name = str(dtype).removeprefix("torch.")
    found = next((row.wire for row in DATATYPES.values() if row.torch == name), None)
    if found is None:
        raise UnsupportedFormat(f"unsupported tensor type {name}")
    return found


def by_output_name(result: Any, specs: Sequence[TensorSpec]) -> list[Any]:
    """The outputs in the order of the signature: a mapping is matched by name, a sequence by position."""
    if isinstance(result, Mapping):
        missing = next((spec.name for spec in specs if spec.name not in result), None)
        if missing is not None:
            raise _OtherOutputs(f"the model returned no output {missing!r}, but {', '.join(map(str, result))}")
        return [result[spec.name] for spec in specs]
    outputs = list(result) if isinstance(result, tuple | list) else [result]
    if len(outputs) != len(specs):
        raise _OtherOutputs(f"the model returned {len(outputs)} outputs, its signature names {len(specs)}")
    return outputs


def output_names(count: int) -> list[str]:
    """The names of outputs that have none: `output` for one, `output_0`, `output_1`, … for several."""
    return ["output"] if count == 1 else [f"output_{number}" for number in range(count)]


def named_outputs(result: Any) -> dict[str, Any]:
    """The outputs of a model without a signature: by the keys of a mapping, else by `output_names`."""
    if isinstance(result, Mapping):
        return {str(name): value for name, value in result.items()}
    values = list(result) if isinstance(result, tuple | list) else [result]
    return dict(zip(output_names(len(values)), values, strict=True))


def _to_numpy(output: Any, spec: TensorSpec, dtype: torch.dtype) -> Array:
    """The output in the datatype of the signature; only floating types are converted."""
    import torch

    if not isinstance(output, torch.Tensor):
        raise _OtherOutputs(f"the model's output {spec.name!r} is a {type(output).__name__}, not a tensor")
    if output.dtype != dtype:
        if not (output.is_floating_point() and dtype.is_floating_point):
            raise _OtherOutputs(f"the model's output {spec.name!r} is {output.dtype}, its signature says {spec.dtype}")
        output = output.to(dtype)
    output = output.detach().cpu()
    array: Array = (output.contiguous().view(torch.uint16) if spec.dtype == BF16 else output).numpy()
    return array if array.flags.c_contiguous else np.ascontiguousarray(array)


@overload
def probe(signature: Signature, rows: int, length: int) -> Arrays: ...


@overload
def probe(signature: Signature, rows: int) -> Arrays | None: ...


def probe(signature: Signature, rows: int, length: int | None = None) -> Arrays | None:
    """A random batch that the signature allows; None when an axis after the batch is free and `length` is not given."""
    if length is None and any(spec.row_elements < 0 for spec in signature.inputs):
        return None
    random = np.random.default_rng(0)
    return {spec.name: _random(spec, rows, length or 0, random) for spec in signature.inputs}


def _random(spec: TensorSpec, rows: int, length: int, random: np.random.Generator) -> Array:
    shape = [n if n >= 0 else length if axis else rows for axis, n in enumerate(spec.shape)]
    return (random.random(shape) if spec.numpy.kind == "f" else np.zeros(shape)).astype(spec.numpy)


def agree(one: Arrays, other: Arrays, tolerance: float) -> bool:
    """True when all outputs are equal within `tolerance`, relative and absolute."""
    return all(np.allclose(one[name], other[name], rtol=tolerance, atol=tolerance, equal_nan=True) for name in one)
