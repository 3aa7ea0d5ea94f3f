"""Runs ONNX models with ONNX Runtime, on CUDA where it is there and else on the CPU."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.backends.base import Backend, BackendOptions, ModelFile, empty_outputs, no_rows, require_file
from penstock.backends.devices import CPU, Device, Placement, parse_device, usable_cores
from penstock.backends.onnx_errors import load_error, run_error
from penstock.backends.onnx_weights import count_parameters
from penstock.errors import InferenceError, ModelLoadError, UnsupportedFormat
from penstock.tensors import DATATYPES, Arrays, Signature, TensorSpec, datatype_of_onnx

if TYPE_CHECKING:
    import onnxruntime

_CUDA = "CUDAExecutionProvider"
_CUDA_OPTIONS = {
    "arena_extend_strategy": "kSameAsRequested",
    "cudnn_conv_algo_search": "HEURISTIC",  # an exhaustive search would run again for each new batch size
    "use_tf32": "0",  # fp32 means fp32: answers must agree with the golden samples
}
_LOG_ERRORS, _LOG_FATAL = 3, 4
_SHRINK_FROM_BYTES = 1 << 20
_SHRINK_ABOVE_USUAL = 4
_USUAL_OVER_RUNS = 32


class OnnxBackend(Backend):
    """One ONNX Runtime session, shared by all threads that call `run`."""

    format = "onnx"
    own_threads = True

    def __init__(
        self, path: Path, session: onnxruntime.InferenceSession, signature: Signature, placement: Placement
    ) -> None:
        self.device = str(placement.device)
        self.signature = signature
        self.num_parameters = count_parameters(path)
        self.warnings = placement.warnings
        self._session: onnxruntime.InferenceSession | None = session
        self._output_names = [spec.name for spec in signature.outputs]
        self._plain = _run_options()
        self._shrinking = _run_options(shrink=_arena(placement.device))
        self._usual_bytes = 0.0

    @classmethod
    def open(cls, file: ModelFile, options: BackendOptions) -> OnnxBackend:
        """Load the model by its path. Raises IntegrityError, UnsupportedFormat or ModelLoadError naming the file."""
        require_file(file.path)
        session, placement = _open_session(file.path, options)
        return cls(file.path, session, _signature(file, session), placement)

    def run(self, inputs: Arrays) -> Arrays:
        """Outputs by name, for one batch that the signature has validated."""
        session = self._session
        if session is None:
            raise InferenceError("the model is closed")
        size = 0
        for array in inputs.values():
            size += array.nbytes
        if not size and no_rows(inputs):
            return empty_outputs(self.signature)
        try:
            outputs = session.run(self._output_names, inputs, self._options_for(size))
        except Exception as error:
            raise run_error(error) from None
        return dict(zip(self._output_names, outputs, strict=True))

    def close(self) -> None:
        """Drop the session; its memory goes back when the last run has ended."""
        self._session = None

    def _options_for(self, size: int) -> onnxruntime.RunOptions:
        """Plain options, or for a batch far larger than usual (`size` in bytes) some that give memory back.

        Without them one large batch is paid for in memory until the session closes. Threads may race on
        the running mean; it needs no exactness.
        """
        usual = self._usual_bytes
        self._usual_bytes = usual + (size - usual) / _USUAL_OVER_RUNS
        return self._shrinking if size > max(_SHRINK_FROM_BYTES, _SHRINK_ABOVE_USUAL * usual) else self._plain


def _run_options(shrink: str | None = None) -> onnxruntime.RunOptions:
    """Options made once: without any, ONNX Runtime makes them anew in every run."""
    import onnxruntime as ort

    options = ort.RunOptions()
    options.log_severity_level = _LOG_FATAL  # what it would print is in the exception
    if shrink is not None:
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", shrink)
    return options


def _arena(device: Device) -> str:
    return f"gpu:{device.number}" if device.kind == "cuda" else "cpu:0"


def _open_session(path: Path, options: BackendOptions) -> tuple[onnxruntime.InferenceSession, Placement]:
    """A session on the device that was asked for, or on the CPU with a warning that says why."""
    import onnxruntime as ort

    wanted, warnings = _wanted(options, ort.get_available_providers())
    try:
        session = _session(path, options, _providers(wanted))
    except ModelLoadError as error:
        if wanted == CPU:
            raise
        fallen = f"{wanted} could not be used, the model runs on the CPU: {error}"
        return _session(path, options, _providers(CPU)), Placement(CPU, (*warnings, fallen))
    if wanted.kind == "cuda" and _CUDA not in session.get_providers():
        fallen = (
            f"{wanted} could not be used, the model runs on the CPU: ONNX Runtime could not start its CUDA provider"
        )
        return session, Placement(CPU, (*warnings, fallen))
    return session, Placement(wanted, warnings)


def _providers(device: Device) -> list[Any]:
    cuda = [(_CUDA, {"device_id": str(device.number), **_CUDA_OPTIONS})] if device.kind == "cuda" else []
    return [*cuda, "CPUExecutionProvider"]


def _wanted(options: BackendOptions, providers: list[str]) -> tuple[Device, tuple[str, ...]]:
    """The device to try first, and a sentence for each option that cannot be met."""
    device = parse_device(options.device)
    warnings: list[str] = []
    if device.kind == "auto":
        device = Device("cuda") if _CUDA in providers else CPU
    elif device.kind == "mps" or (device.kind == "cuda" and _CUDA not in providers):
        warnings.append(f"{device} was asked for, this ONNX Runtime has no provider for it; the model runs on the CPU")
        device = CPU
    if options.precision != "fp32":
        warnings.append(f"{options.precision} was asked for, an ONNX model runs in the precision it was exported in")
    return device, tuple(warnings)


def _session(path: Path, options: BackendOptions, providers: list[Any]) -> onnxruntime.InferenceSession:
    import onnxruntime as ort

    settings = ort.SessionOptions()
    settings.intra_op_num_threads = options.threads or usable_cores()
    settings.inter_op_num_threads = 1
    settings.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    levels = ort.GraphOptimizationLevel
    settings.graph_optimization_level = levels.ORT_ENABLE_ALL if options.graph_optimization else levels.ORT_DISABLE_ALL
    # Spinning threads burn most of a core between sparse requests and starve each other under load.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    settings.add_session_config_entry("session.set_denormal_as_zero", "1")
    settings.log_severity_level = _LOG_ERRORS

    def start() -> onnxruntime.InferenceSession:
        # By path, so that external data is looked for beside the model and nowhere else.
        return ort.InferenceSession(os.fspath(path), settings, providers=providers, enable_fallback=0)

    try:
        # In a thread that then ends: ONNX Runtime also sets the processor's denormals-are-zero mode in the
        # thread that opens the first session, where it would change the arithmetic of everybody else's code.
        with ThreadPoolExecutor(1, thread_name_prefix="penstock-open") as opener:
            return opener.submit(start).result()
    except Exception as error:
        raise load_error(path, str(error)) from None


def _signature(file: ModelFile, session: onnxruntime.InferenceSession) -> Signature:
    """The manifest's signature, held against the session; for a bare file the session's own."""
    if file.signature is None:
        return _own_signature(file.path, session)
    _require_same(file.path, "inputs", file.signature.inputs, session.get_inputs())
    named = {spec.name for spec in file.signature.outputs}
    used = [value for value in session.get_outputs() if value.name in named]  # a file may give more than is served
    _require_same(file.path, "outputs", file.signature.outputs, used or session.get_outputs())
    return file.signature


def _own_signature(path: Path, session: onnxruntime.InferenceSession) -> Signature:
    try:
        inputs = tuple(_spec(value) for value in session.get_inputs())
        outputs = tuple(_spec(value) for value in session.get_outputs())
    except UnsupportedFormat as error:
        raise UnsupportedFormat(f"{path}: {error}") from None
    for spec in inputs:
        if not spec.shape:
            raise UnsupportedFormat(f"{path}: the input {spec.name!r} has no batch axis; export the model with one")
    return Signature(inputs, outputs)


def _spec(value: onnxruntime.NodeArg) -> TensorSpec:
    return TensorSpec(value.name, datatype_of_onnx(value.type), tuple(_shape(value)))


def _require_same(path: Path, side: str, recorded: tuple[TensorSpec, ...], found: list[onnxruntime.NodeArg]) -> None:
    """Names and types must agree, and for inputs every length the graph has fixed; a manifest may fix more.

    The lengths of outputs are only noted in a graph, often wrongly, and runs do not depend on them.
    """
    given = {value.name: value for value in found}
    fits = _same_type if side == "outputs" else _same_type_and_lengths
    if given.keys() == {spec.name for spec in recorded} and all(fits(spec, given[spec.name]) for spec in recorded):
        return
    wanted = ", ".join(f"{spec.name} {DATATYPES[spec.dtype].onnx} {list(spec.shape)}" for spec in recorded)
    has = ", ".join(f"{value.name} {value.type} {_shape(value)}" for value in found)
    raise ModelLoadError(f"{path}: its manifest says the {side} are {wanted}; the file has {has}")


def _same_type(spec: TensorSpec, value: onnxruntime.NodeArg) -> bool:
    return DATATYPES[spec.dtype].onnx == str(value.type)


def _same_type_and_lengths(spec: TensorSpec, value: onnxruntime.NodeArg) -> bool:
    shape = _shape(value)
    pairs = zip(shape, spec.shape, strict=False)
    ranks_agree = not shape or len(shape) == len(spec.shape)  # empty: the graph does not say
    return _same_type(spec, value) and ranks_agree and all(fixed in (-1, length) for fixed, length in pairs)


def _shape(value: onnxruntime.NodeArg) -> list[int]:
    """Symbolic and unnamed dimensions are free (-1); fixed ones, a fixed batch among them, stay as they are."""
    return [length if isinstance(length, int) else -1 for length in value.shape]
