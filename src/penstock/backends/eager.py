"""Runs PyTorch models as Python code: the architecture an artifact names, filled with its weights."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from penstock.backends import architecture, state_dict
from penstock.backends.base import (
    Backend,
    BackendOptions,
    ModelFile,
    empty_outputs,
    first_line,
    no_rows,
    require_file,
)
from penstock.backends.devices import Device, torch_placement, usable_cores
from penstock.errors import InferenceError, ModelLoadError, OutOfMemory, UnsupportedFormat
from penstock.tensors import DATATYPES, Array, Arrays, Signature, TensorSpec

if TYPE_CHECKING:
    import torch

_PROBE_ROWS = 2
_OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "not enough memory")


class EagerBackend(Backend):
    """One `torch.nn.Module` in evaluation mode, shared by all threads that call `run`."""

    format = "pytorch"

    def __init__(
        self,
        model: torch.nn.Module,
        signature: Signature,
        device: Device,
        *,
        warnings: tuple[str, ...] = (),
        half: bool = False,
        pin_memory: bool = False,
    ) -> None:
        import torch

        self.device = str(device)
        self.signature = signature
        self.num_parameters = sum(parameter.numel() for parameter in model.parameters())
        self.warnings = warnings
        self._half = half
        self._pin_memory = pin_memory and device.kind == "cuda"
        self._on_cpu = device.kind == "cpu"
        self._dtypes = [getattr(torch, str(DATATYPES[spec.dtype].torch)) for spec in signature.outputs]
        model = model.eval().requires_grad_(False).to(str(device))
        self._model: torch.nn.Module | None = model.half() if half else model
        self._by_name = _takes_names(model, signature)
        self._channels_last = False
        self._channels_last = _has_2d_convolution(model) and self._try_channels_last(model)

    @classmethod
    def open(cls, file: ModelFile, options: BackendOptions) -> EagerBackend:
        """Build the architecture and fill it. Raises ModelLoadError or a child of it, naming the file.

        Sets the threads of PyTorch, which are the whole process's, to `options.threads` or at most the
        usable cores.
        """
        require_file(file.path)
        if file.signature is None or file.architecture is None:
            raise ModelLoadError(
                f"{file.path}: weights alone say neither the class they fill nor its inputs; "
                "publish them as an artifact with architecture and signature, or export the model to ONNX"
            )
        _require_numbers(file.path, file.signature)
        device, warnings = torch_placement(options.device)
        half = options.precision == "fp16" and device.kind == "cuda"
        if options.precision != "fp32" and not half:
            warnings += (
                f"{options.precision} was asked for, PyTorch gains from it only on CUDA; the model runs in fp32",
            )
        _set_threads(options.threads)
        model = architecture.build(file.path, file.architecture, file.architecture_args)
        state_dict.fill(model, file.path)
        try:
            return cls(model, file.signature, device, warnings=warnings, half=half, pin_memory=options.pin_memory)
        except RuntimeError as error:
            raise _load_error(file.path, device, error) from None

    def run(self, inputs: Arrays) -> Arrays:
        """Outputs by name, for one batch that the signature has validated."""
        model = self._model
        if model is None:
            raise InferenceError("the model is closed")
        if no_rows(inputs):
            return empty_outputs(self.signature)
        try:
            return self._run(model, inputs)
        except InferenceError:
            raise
        except Exception as error:
            raise self._run_error(error) from None

    def close(self) -> None:
        """Drop the model; on CUDA also give its cached memory back to the device."""
        self._model = None
        _free_cuda_cache(self.device)

    def _run(self, model: torch.nn.Module, inputs: Arrays) -> Arrays:
        import torch

        with torch.inference_mode():  # here and not around the thread: the mode belongs to the thread that runs
            tensors = {spec.name: self._to_device(inputs[spec.name]) for spec in self.signature.inputs}
            result = model(**tensors) if self._by_name else model(*tensors.values())
            outputs = _by_output_name(result, self.signature.outputs)
            return {
                spec.name: _to_numpy(output, spec, dtype)
                for spec, output, dtype in zip(self.signature.outputs, outputs, self._dtypes, strict=True)
            }

    def _to_device(self, array: Array) -> torch.Tensor:
        """A tensor of its own memory: models may write into their inputs, which are the caller's arrays."""
        import torch

        if self._on_cpu or not array.flags.writeable:
            array = array.copy()
        tensor = torch.from_numpy(array)
        if not self._on_cpu:
            tensor = tensor.pin_memory() if self._pin_memory else tensor
            tensor = tensor.to(self.device, non_blocking=self._pin_memory)
        if self._half and tensor.is_floating_point():
            tensor = tensor.half()
        if self._channels_last and tensor.ndim == 4:
            tensor = tensor.contiguous(memory_format=torch.channels_last)
        return tensor

    def _try_channels_last(self, model: torch.nn.Module) -> bool:
        """Lay the weights out with channels last, which convolutions run faster in, and say whether it holds.

        A model that takes its memory layout for granted (`view` after a convolution) fails in it: so one
        random batch must give the same answer in both, and else the usual layout stays.
        """
        import torch

        probe = _probe(self.signature)
        if probe is None:
            return False
        try:
            expected = self._run(model, probe)
            _lay_out(model, torch.channels_last)
            self._channels_last = True
            agreed = _agree(expected, self._run(model, probe), 1e-2 if self._half else 1e-4)
        except Exception:  # whatever it is, the usual layout is what the model was written for
            agreed = False
        if not agreed:
            _lay_out(model, torch.contiguous_format)
        return agreed

    def _run_error(self, error: Exception) -> InferenceError:
        if not _is_memory(error):
            return InferenceError(f"the model could not run the batch: {first_line(error)}")
        _free_cuda_cache(self.device)
        return OutOfMemory("the batch does not fit into memory")


def _require_numbers(path: Path, signature: Signature) -> None:
    for spec in (*signature.inputs, *signature.outputs):
        if DATATYPES[spec.dtype].torch is None:
            raise UnsupportedFormat(f"{path}: {spec.name} is of type {spec.dtype}, which PyTorch has no tensors of")


def _load_error(path: Path, device: Device, error: RuntimeError) -> ModelLoadError:
    if _is_memory(error):
        return ModelLoadError(f"{path}: the model does not fit into the memory of {device}")
    return ModelLoadError(f"{path}: the model could not be brought up on {device}: {first_line(error)}")


def _is_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in _OUT_OF_MEMORY)


def _free_cuda_cache(device: str) -> None:
    if device.startswith("cuda"):
        import torch

        torch.cuda.empty_cache()


def _set_threads(threads: int | None) -> None:
    import torch

    wanted = threads or min(torch.get_num_threads(), usable_cores())
    if torch.get_num_threads() != wanted:
        torch.set_num_threads(wanted)


def _takes_names(model: torch.nn.Module, signature: Signature) -> bool:
    """True when every input is a parameter of `forward` by name; else they are given in signature order."""
    parameters = inspect.signature(model.forward).parameters
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return all(spec.name in parameters and parameters[spec.name].kind in named for spec in signature.inputs)


def _by_output_name(result: Any, specs: Sequence[TensorSpec]) -> list[Any]:
    """What the model returned, in the order of the signature: mappings by name, sequences by place."""
    if isinstance(result, Mapping):
        missing = next((spec.name for spec in specs if spec.name not in result), None)
        if missing is not None:
            raise InferenceError(f"the model returned no output {missing!r}, but {', '.join(map(str, result))}")
        return [result[spec.name] for spec in specs]
    outputs = list(result) if isinstance(result, tuple | list) else [result]
    if len(outputs) != len(specs):
        raise InferenceError(f"the model returned {len(outputs)} outputs, its signature names {len(specs)}")
    return outputs


def _to_numpy(output: Any, spec: TensorSpec, dtype: torch.dtype) -> Array:
    """The output in the signature's datatype; only a floating type is turned into another."""
    import torch

    if not isinstance(output, torch.Tensor):
        raise InferenceError(f"the model's output {spec.name!r} is a {type(output).__name__}, not a tensor")
    if output.dtype != dtype:
        if not (output.is_floating_point() and dtype.is_floating_point):
            raise InferenceError(f"the model's output {spec.name!r} is {output.dtype}, its signature says {spec.dtype}")
        output = output.to(dtype)
    array: Array = output.cpu().numpy()
    return array if array.flags.c_contiguous else np.ascontiguousarray(array)


def _lay_out(model: Any, layout: torch.memory_format) -> None:  # Any: no stub of `to` knows memory_format
    model.to(memory_format=layout)


def _has_2d_convolution(model: torch.nn.Module) -> bool:
    import torch

    return any(isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d) for module in model.modules())


def _probe(signature: Signature) -> Arrays | None:
    """A random batch the signature allows, or None when an axis other than the batch is free."""
    if any(spec.row_elements < 0 for spec in signature.inputs):
        return None
    random = np.random.default_rng(0)
    return {spec.name: _random(spec, random) for spec in signature.inputs}


def _random(spec: TensorSpec, random: np.random.Generator) -> Array:
    rows = spec.shape[0] if spec.shape[0] >= 0 else _PROBE_ROWS
    shape = (rows, *spec.shape[1:])
    return (random.random(shape) if spec.numpy.kind == "f" else np.zeros(shape)).astype(spec.numpy)


def _agree(one: Arrays, other: Arrays, tolerance: float) -> bool:
    return all(np.allclose(one[name], other[name], rtol=tolerance, atol=tolerance) for name in one)
