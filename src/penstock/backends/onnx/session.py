"""Creates ONNX Runtime sessions: the device, the threads and the cache of optimized graphs."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from penstock.backends.base import BackendOptions
from penstock.backends.devices import CPU, Device, Placement, no_device, parse_device, usable_cores
from penstock.backends.onnx.cache import optimized_form
from penstock.backends.onnx.errors import load_error
from penstock.errors import ModelLoadError

if TYPE_CHECKING:
    import onnxruntime

TENSORRT, _CUDA, _COREML, _CPU = (f"{name}ExecutionProvider" for name in ("Tensorrt", "CUDA", "CoreML", "CPU"))
_PROVIDERS = {"cuda": _CUDA, "mps": _COREML}
_CUDA_OPTIONS = {
    "arena_extend_strategy": "kSameAsRequested",
    "cudnn_conv_algo_search": "HEURISTIC",  # an exhaustive search would run again for each new batch size
    "use_tf32": "0",  # fp32 means fp32: outputs must agree with the golden samples
}
_LOG_ERRORS = 3

_pool_lock = threading.Lock()
_pool_made = False


class Opened(NamedTuple):
    """A session, its device, and whether it shares its threads with all others of the process."""

    session: onnxruntime.InferenceSession
    placement: Placement
    shares_threads: bool


class _Choice(NamedTuple):
    """A device and the providers to request, the essential one first."""

    device: Device
    providers: list[Any]

    @property
    def first(self) -> str:
        """The name of the essential provider."""
        name = self.providers[0]
        return str(name if isinstance(name, str) else name[0])

    def __str__(self) -> str:
        return f"TensorRT on {self.device}" if self.first == TENSORRT else str(self.device)


def open_session(path: Path, options: BackendOptions) -> Opened:
    """A session on the requested device; with `auto`, on the next best with a warning that says why.

    Raises ModelLoadError or a subclass, naming the file, when a device that was named cannot run the model, or the CPU
    cannot.
    """
    import onnxruntime as ort

    device, warnings = _wanted(options, ort.get_available_providers())
    shared = _shares_threads(options)
    for choice in _choices(device, options, ort.get_available_providers()):
        try:
            session = _session(path, options, choice, shared)
        except ModelLoadError as error:
            if choice.device == CPU:
                raise
            why = str(error)
        else:
            if choice.first in session.get_providers():
                return Opened(session, Placement(choice.device, tuple(warnings)), shared)
            # ONNX Runtime only prints this, and continues with the other providers
            why = f"ONNX Runtime could not start its {choice.first.removesuffix('ExecutionProvider')} provider"
        if options.device != "auto" and choice.first != TENSORRT:
            raise no_device(choice.device, why)
        next_best = choice.device if choice.first == TENSORRT else "the CPU"
        warnings.append(f"{choice} could not be used, the model runs on {next_best}: {why}")
    raise AssertionError("the CPU is always a choice")


def _choices(device: Device, options: BackendOptions, available: list[str]) -> Iterator[_Choice]:
    if device.kind == "cuda":
        cuda = (_CUDA, {"device_id": str(device.number), **_CUDA_OPTIONS})
        if TENSORRT in available and options.cache_dir is not None:  # building an engine takes minutes
            yield _Choice(device, [(TENSORRT, _tensorrt_options(device, options, options.cache_dir)), cuda, _CPU])
        yield _Choice(device, [cuda, _CPU])
    if device.kind == "mps":
        yield _Choice(device, [_COREML, _CPU])
    yield _Choice(CPU, [_CPU])


def _tensorrt_options(device: Device, options: BackendOptions, cache_dir: Path) -> dict[str, str]:
    engines = os.fspath(cache_dir / "tensorrt")
    return {
        "device_id": str(device.number),
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": engines,
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": engines,
        "trt_fp16_enable": str(int(options.precision == "fp16")),
    }


def _wanted(options: BackendOptions, available: list[str]) -> tuple[Device, list[str]]:
    """The device to try first, and a warning for each option that cannot be met. Raises UnsupportedFormat."""
    device = parse_device(options.device)
    warnings: list[str] = []
    if device.kind == "auto":
        device = Device("cuda") if _CUDA in available else CPU
    elif _PROVIDERS.get(device.kind, _CPU) not in available:
        raise no_device(device, "this ONNX Runtime has no provider for it")
    by_tensorrt = options.precision == "fp16" and device.kind == "cuda" and TENSORRT in available
    if options.precision != "fp32" and not (by_tensorrt and options.cache_dir is not None):
        warnings.append(f"{options.precision} was requested, but an ONNX model keeps the precision of its export")
    return device, warnings


def _shares_threads(options: BackendOptions) -> bool:
    """Whether sessions use the process-wide thread pool, which the first session that needs it creates.

    From then on every session of the process must use it: ONNX Runtime refuses sessions with their own threads.
    """
    global _pool_made
    import onnxruntime as ort

    with _pool_lock:
        if options.shared_threads and not _pool_made:
            with suppress(Exception):  # other code in this process has created it
                ort.set_global_thread_pool_sizes(options.threads or usable_cores(), 1)
            _pool_made = True
        return _pool_made


def _session(path: Path, options: BackendOptions, choice: _Choice, shared: bool) -> onnxruntime.InferenceSession:
    """From the cache of optimized graphs when possible; else optimized now and cached for the next start."""
    import onnxruntime as ort

    facts = (ort.__version__, options.enable_onnx_optimization)
    cacheable = choice.device == CPU and options.enable_onnx_optimization
    form = optimized_form(path, options.cache_dir, facts) if cacheable else None
    found = form and form.find()
    if form is None:
        return _start(path, path, _settings(options, shared), choice)
    if found:
        try:
            return _start(path, found, _settings(options, shared, optimize=False), choice)
        except ModelLoadError:
            form.forget()
    try:
        return form.keep(lambda target: _start(path, path, _settings(options, shared, keep=target), choice))
    except (ModelLoadError, OSError):  # such as a full disk: the model itself may be fine
        return _start(path, path, _settings(options, shared), choice)


def _settings(
    options: BackendOptions, shared: bool, *, optimize: bool = True, keep: Path | None = None
) -> onnxruntime.SessionOptions:
    import onnxruntime as ort

    settings = ort.SessionOptions()
    settings.use_per_session_threads = not shared
    settings.intra_op_num_threads = options.threads or usable_cores()
    settings.inter_op_num_threads = 1
    settings.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    levels = ort.GraphOptimizationLevel
    wanted = optimize and options.enable_onnx_optimization
    settings.graph_optimization_level = levels.ORT_ENABLE_ALL if wanted else levels.ORT_DISABLE_ALL
    # Spinning threads burn most of a core between sparse requests and starve each other under load.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    settings.add_session_config_entry("session.set_denormal_as_zero", "1")
    settings.log_severity_level = _LOG_ERRORS
    if keep is not None:
        settings.optimized_model_filepath = os.fspath(keep)
    return settings


def _start(
    model: Path, file: Path, settings: onnxruntime.SessionOptions, choice: _Choice
) -> onnxruntime.InferenceSession:
    """A session from `file`, the model or its optimized form; errors name the model."""
    import onnxruntime as ort

    def start() -> onnxruntime.InferenceSession:
        # By path, so that external data is read from the directory of the model only.
        return ort.InferenceSession(os.fspath(file), settings, providers=choice.providers, enable_fallback=0)

    try:
        # In a temporary thread: ONNX Runtime also sets the processor's denormals-are-zero mode in the thread
        # that opens the first session, which would change the arithmetic of all other code in that thread.
        with ThreadPoolExecutor(1, thread_name_prefix="penstock-open") as opener:
            return opener.submit(start).result()
    except Exception as error:
        raise load_error(model, str(error)) from None
