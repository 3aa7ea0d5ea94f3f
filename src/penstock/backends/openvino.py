"""Runs OpenVINO IR models (`.xml` with its `.bin`) on the CPU."""

from __future__ import annotations

import functools
import os
import re
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from penstock.backends.base import (
    Backend,
    BackendOptions,
    ModelFile,
    empty_outputs,
    no_rows,
    require_file,
)
from penstock.backends.cache_dir import private_directory
from penstock.backends.devices import cpu_flags, no_device, parse_device, usable_cores
from penstock.errors import InferenceError, IntegrityError, ModelLoadError, OutOfMemory, UnsupportedFormat, shortened
from penstock.tensors import Array, Arrays, Signature, TensorSpec

if TYPE_CHECKING:
    import openvino

_TYPES = {"boolean": "BOOL"}
_TYPES |= {f"f{bits}": f"FP{bits}" for bits in (16, 32, 64)}
_TYPES |= {f"{kind}{bits}": f"{name}{bits}" for kind, name in (("i", "INT"), ("u", "UINT")) for bits in (8, 16, 32, 64)}
"""OpenVINO's names of the supported datatypes; it has no operators on text."""

_CACHE_FROM_BYTES = 10 << 20
_MAX_IDLE_REQUESTS = 64


class OpenVinoBackend(Backend):
    """One compiled model; every run takes an inference request from a pool."""

    format = "openvino"
    device = "cpu"
    own_threads = True

    def __init__(
        self,
        model: openvino.Model,
        compiled: openvino.CompiledModel,
        signature: Signature,
        warnings: tuple[str, ...],
    ) -> None:
        self.signature = signature
        self.warnings = warnings
        self.num_parameters, self.num_bytes = _weigh(model)
        self._compiled: openvino.CompiledModel | None = compiled
        self._idle: deque[openvino.InferRequest] = deque(maxlen=_MAX_IDLE_REQUESTS)
        self._dtypes = {spec.name: spec.numpy for spec in signature.inputs}
        indices = {name: index for index, output in enumerate(compiled.outputs) for name in output.get_names()}
        self._outputs = [(spec.name, indices[spec.name], spec.numpy) for spec in signature.outputs]

    @classmethod
    def open(cls, file: ModelFile, options: BackendOptions) -> OpenVinoBackend:
        """Compile the model for this CPU. Raises ModelLoadError or a subclass, naming the file."""
        require_file(file.path)
        _require_cpu(options)
        if _process() != os.getpid():
            raise ModelLoadError(
                f"{file.path}: OpenVINO hangs in a fork of a process that has used it; start processes with spawn"
            )
        model = _read(file.path)
        warnings, precision = _precision(options)
        try:
            compiled = runtime().compile_model(model, "CPU", _properties(options, precision, file.path))
        except Exception as error:
            raise ModelLoadError(f"{file.path}: OpenVINO could not compile the model: {_detail(error)}") from None
        backend = cls(model, compiled, _signature(file, model), warnings)
        backend.lowered_to = "bf16" if precision == "bf16" else None
        return backend

    def run(self, inputs: Arrays) -> Arrays:
        """Outputs by name, for one batch that the signature has validated."""
        compiled = self._compiled
        if compiled is None:
            raise InferenceError("the model is closed")
        if no_rows(inputs, self.signature):
            return empty_outputs(self.signature)
        self._require_types(inputs)
        try:
            request = self._idle.pop()
        except IndexError:
            request = compiled.create_infer_request()
        try:
            # Inputs are only read; outputs are copied, since the request reuses its memory.
            answer = request.infer(inputs, share_inputs=True, share_outputs=False)
            outputs = {name: _typed(answer[index], dtype) for name, index, dtype in self._outputs}
        except Exception as error:  # the request may be in any state: it is not reused
            raise _run_error(error) from None
        if self._compiled is not None:
            self._idle.append(request)
        return outputs

    def close(self) -> None:
        """Drop the model; its memory is freed when the last run has ended."""
        self._compiled = None
        self._idle.clear()

    def _require_types(self, inputs: Arrays) -> None:
        """Check the types here: OpenVINO casts its inputs, and reads bytes as numbers."""
        for name, dtype in self._dtypes.items():
            if name not in inputs:
                raise InferenceError(f"the model could not run the batch: the input {name} is missing")
            if inputs[name].dtype != dtype:
                raise InferenceError(f"the model could not run the batch: {name} is {inputs[name].dtype}, not {dtype}")


@functools.cache
def _process() -> int:
    """The process that holds OpenVINO's threads: the one of the first call."""
    return os.getpid()


@functools.cache
def runtime() -> openvino.Core:
    """The OpenVINO runtime of this process."""
    _process()
    with no_telemetry():
        import openvino
    core = openvino.Core()
    core.set_property({"ENABLE_MMAP": False})  # a mapped file that another process shortens kills this one
    return core


@contextmanager
def no_telemetry() -> Iterator[None]:
    """Prevent `openvino` and its tools from reporting their use, which they do when the package for that is there."""
    name = "openvino_telemetry"
    before = {name: sys.modules[name]} if name in sys.modules else {}
    sys.modules[name] = None  # type: ignore[assignment]  # makes Python treat the module as missing
    try:
        yield
    finally:
        del sys.modules[name]
        sys.modules.update(before)


def _read(path: Path) -> openvino.Model:
    """The graph, from copies of its files in memory."""
    weights = path.with_suffix(".bin")
    try:
        graph, constants = path.read_bytes(), weights.read_bytes() if weights.exists() else b""
    except OSError as error:
        raise IntegrityError(f"{path}: its files cannot be read ({error.strerror})") from None
    if not graph.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        raise IntegrityError(f"{path}: the file is damaged or not an OpenVINO model; export or copy it again")
    try:
        return runtime().read_model(graph, constants)
    except Exception as error:
        missing = "" if weights.exists() else f" and {weights.name} is not next to it"
        raise IntegrityError(
            f"{path}: the file is damaged or not an OpenVINO model{missing}: {_detail(error)}"
        ) from None


def _properties(options: BackendOptions, precision: str, path: Path) -> dict[str, Any]:
    threads = options.threads or usable_cores()
    properties: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": precision,  # the default is bf16 where the CPU supports it
        "INFERENCE_NUM_THREADS": max(threads, usable_cores() // threads * threads),
        "NUM_STREAMS": max(1, usable_cores() // threads),
        "ENABLE_CPU_PINNING": False,  # in a container it pins to cores of other processes
    }
    weights = path.with_suffix(".bin")
    if options.cache_dir is not None and weights.exists() and weights.stat().st_size >= _CACHE_FROM_BYTES:
        kept = private_directory(options.cache_dir / "openvino")
        properties |= {"CACHE_DIR": str(kept)} if kept is not None else {}
    return properties


def _precision(options: BackendOptions) -> tuple[tuple[str, ...], str]:
    """A warning when the requested precision cannot be met, and the precision to compute in."""
    if options.precision == "fp32":
        return (), "f32"
    if options.precision == "bf16":
        if cpu_flags() & {"amx_bf16", "avx512_bf16"}:
            return (), "bf16"
        return ("bf16 was requested, but this CPU has no instructions for it; the model runs in fp32",), "f32"
    return (f"{options.precision} was requested, but an OpenVINO model keeps the precision of its export",), "f32"


def _require_cpu(options: BackendOptions) -> None:
    device = parse_device(options.device)
    if device.kind not in ("auto", "cpu"):
        raise no_device(device, "OpenVINO models run on the CPU")


def _weigh(model: openvino.Model) -> tuple[int, int]:
    """The number of parameters, without integers (shapes and indices), and the bytes of all constants."""
    parameters = size = 0
    for node in model.get_ops():
        if node.get_type_name() == "Constant":
            kind, bytes_ = node.get_element_type(), node.get_byte_size()
            size += bytes_
            trained = kind.is_real() or kind.size == 1
            parameters += bytes_ // kind.size if trained else 0
    return parameters, size


def _signature(file: ModelFile, model: openvino.Model) -> Signature:
    """The manifest's signature, checked against the model; for a bare file the model's own."""
    inputs = tuple(_spec(file.path, "input", port) for port in model.inputs)
    outputs = tuple(_spec(file.path, "output", port) for port in model.outputs)
    if file.signature is None:
        return Signature(inputs, outputs)
    _require_same(file, "inputs", file.signature.inputs, inputs, whole=True)
    _require_same(file, "outputs", file.signature.outputs, outputs, whole=False)
    return file.signature


def _spec(path: Path, side: str, port: Any) -> TensorSpec:
    names = port.get_names()
    if not names:
        raise UnsupportedFormat(f"{path}: an {side} of it has no name; export the model with names")
    kind = port.get_element_type().get_type_name()
    if kind not in _TYPES:
        raise UnsupportedFormat(f"{path}: unsupported tensor type {kind}")
    lengths = port.get_partial_shape()
    if lengths.rank.is_dynamic:
        return TensorSpec(port.get_any_name(), _TYPES[kind], (), ranked=False)
    shape = tuple(-1 if length.is_dynamic else length.get_length() for length in lengths)
    return TensorSpec(port.get_any_name(), _TYPES[kind], shape)


def _require_same(
    file: ModelFile, side: str, recorded: Sequence[TensorSpec], found: Sequence[TensorSpec], *, whole: bool
) -> None:
    """Names and types must agree, and for inputs every length the graph has fixed; outputs may be left out."""
    given = {spec.name: spec for spec in found}
    known = given.keys() == {spec.name for spec in recorded} if whole else all(spec.name in given for spec in recorded)
    if known and all(_fits(spec, given[spec.name], lengths=whole) for spec in recorded):
        return
    wanted, has = (", ".join(f"{s.name} {s.dtype} {list(s.shape)}" for s in specs) for specs in (recorded, found))
    raise ModelLoadError(f"{file.path}: its manifest says the {side} are {wanted}; the file has {has}")


def _fits(spec: TensorSpec, has: TensorSpec, *, lengths: bool) -> bool:
    if spec.dtype != has.dtype or not lengths:
        return spec.dtype == has.dtype
    pairs = zip(has.shape, spec.shape, strict=False)
    return (len(spec.shape) == len(has.shape) or not has.ranked) and all(
        fixed in (-1, length) for fixed, length in pairs
    )


def _typed(output: Array, dtype: np.dtype[Any]) -> Array:
    return output if output.dtype == dtype else output.astype(dtype)


def _run_error(error: Exception) -> InferenceError:
    if isinstance(error, MemoryError) or re.search(r"bad.?alloc|out of memory|Failed to allocate", str(error), re.I):
        return OutOfMemory("the batch does not fit into memory")
    return InferenceError(f"the model could not run the batch: {_detail(error)}")


_SOURCE_LINES = re.compile(r"^(Exception from|Check .* failed at|.*\.(cpp|hpp|h):\d+:?$)|^\[.*\]$")


def _detail(error: Exception) -> str:
    """The line of OpenVINO's message that gives the reason; the others name places in its source."""
    lines = [line.strip().rstrip(".:") for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not _SOURCE_LINES.search(line)] or lines or [type(error).__name__]
    return shortened(telling[-1])
