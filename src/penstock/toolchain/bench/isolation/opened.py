"""The model that a sandbox holds: these functions run in its process."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

from penstock.artifacts.golden import Golden
from penstock.backends.axes.seen import (
    moved_back,
    moved_example,
    moved_samples,
    rows_first,
    settle_axes,
    settle_by_example,
)
from penstock.backends.base import Backend, ModelFile
from penstock.backends.catalog import open_backend
from penstock.backends.examples import Examples
from penstock.errors import InferenceError, InvalidInput
from penstock.formats import FORMATS
from penstock.libraries import import_attribute
from penstock.options import BackendOptions
from penstock.scan.trust import at_least
from penstock.tensors import Arrays
from penstock.toolchain.bench.isolation import memory


@dataclass
class _Opened:
    """The model with its inputs, and what opening it took. `by_rows` has the batch on axis 0 of every tensor."""

    backend: Backend
    by_rows: Backend
    examples: Examples
    usage: dict[str, Any]


_opened: list[_Opened] = []


def open_model(format: str, file: ModelFile, options: BackendOptions, inputs: Arrays | None) -> dict[str, Any]:
    """Open a model and run it once with `inputs`, or with inputs that are made up; what the parent wants to know."""
    started = time.perf_counter()
    _import_runtime(format, options.trust)
    imported, before = time.perf_counter(), _resident()
    backend = open_backend(format, file, options)
    loaded = time.perf_counter()
    by_rows, examples = _examples(backend, file, inputs)
    first_run_s = examples.run_s or _first_run(by_rows, examples)
    usage = {"import_s": imported - started, "load_s": loaded - imported, "first_run_s": first_run_s}
    _opened[:] = [_Opened(backend, by_rows, examples, {**usage, "model_bytes": max(0, _resident() - before)})]
    return {
        "signature": backend.signature.to_json(),
        "format": backend.format,
        "device": backend.device,
        "num_parameters": backend.num_parameters,
        "num_bytes": backend.num_bytes,
        "lowered_to": backend.lowered_to,
        "warnings": list(backend.warnings),
        "made_up": examples.made_up,
        "rows": examples.rows,
    }


def _import_runtime(format: str, trust: str) -> None:
    """Import what runs the format, so that its size and its time are not taken for those of the model."""
    if format in FORMATS and at_least(trust, FORMATS[format].trust):
        with contextlib.suppress(ImportError):
            import_attribute(FORMATS[format].backend)
            importlib.import_module(FORMATS[format].runtime.package)


def _examples(backend: Backend, file: ModelFile, inputs: Arrays | None) -> tuple[Backend, Examples]:
    """The model with rows on axis 0, and inputs for it; the batch axes of a bare file are settled by runs."""
    golden = None if inputs is None else Golden(inputs, {}, axes=backend.signature.batch_axes)
    if file.signature is None:
        settle_by_example(backend, file.example)
        tried = Examples(backend, backend.signature, golden, file.example)
        settle_axes(backend, tried.of(tried.rows), written=False)
    signature, by_rows = backend.signature, rows_first(backend)
    given = None if file.example is None else Examples(backend, signature, golden, file.example)
    example = None if given is None else moved_example(given, signature)
    return by_rows, Examples(by_rows, by_rows.signature, moved_samples(golden, signature), example)


def _first_run(backend: Backend, examples: Examples) -> float:
    """Seconds of a run with one row, or with all rows where the model does not take one."""
    error: InferenceError | None = None
    for rows in dict.fromkeys((backend.signature.fixed_rows or 1, examples.rows)):
        batch, started = examples.of(rows), time.perf_counter()
        try:
            backend.run(batch)
        except InferenceError as failed:
            error = error or failed
            continue
        return time.perf_counter() - started
    raise error or InferenceError("there is nothing to run it with")


def run(inputs: Arrays) -> Arrays:
    """The outputs for a batch."""
    return _model().backend.run(inputs)


def inputs_of(rows: int) -> Arrays:
    """A batch of this many rows, in the model's own axes: the inputs that were given, repeated, or made-up ones."""
    model = _model()
    return moved_back(_batch(model, rows), model.backend.signature.batch_axes)


def time_runs(inputs: Arrays | int, repeats: int, seconds: float | None) -> list[float]:
    """Seconds of each of `repeats` runs, fewer when they take longer than `seconds` together; at least one."""
    model = _model()
    by_rows = isinstance(inputs, int)
    batch = _batch(model, inputs) if isinstance(inputs, int) else inputs
    once, clock = (model.by_rows if by_rows else model.backend).run, time.perf_counter
    taken: list[float] = []
    collecting = gc.isenabled()
    gc.disable()
    try:
        ends = None if seconds is None else clock() + seconds
        for _ in range(repeats):
            started = clock()
            once(batch)
            ended = clock()
            taken.append(ended - started)
            if ends is not None and ended > ends:
                break
    finally:
        if collecting:
            gc.enable()
    return taken


def usage() -> dict[str, Any]:
    """What this process has taken until now; see `Usage` of the sandbox."""
    times = os.times()
    return {
        "peak_bytes": memory.own_peak(),
        "cpu_s": times.user + times.system + times.children_user + times.children_system,
        "gpu_peak_bytes": _gpu_peak(),
        **(_opened[0].usage if _opened else {}),
    }


def _model() -> _Opened:
    if not _opened:
        raise InferenceError("no model is open in this sandbox")
    return _opened[0]


def _batch(model: _Opened, rows: int) -> Arrays:
    signature = model.by_rows.signature
    fixed = signature.fixed_rows
    if fixed is not None and rows != fixed:
        raise InvalidInput(f"batch: the model takes batches of {fixed} rows only, not {rows}", field="batch")
    if signature.whole and rows != 1:
        raise InvalidInput(f"batch: the model has no batch axis; each run is one request, not {rows}", field="batch")
    return model.examples.of(rows)


def _resident() -> int:
    return memory.resident(os.getpid())


def _gpu_peak() -> int | None:
    """The most GPU memory of this process: PyTorch's own count, else what the driver says now; None without a GPU."""
    if not _opened or not _opened[0].backend.device.startswith("cuda"):
        return None
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.max_memory_reserved():
        return int(torch.cuda.max_memory_reserved())
    return _driver_count()


def _driver_count() -> int | None:
    """Bytes that the driver counts for this process; inside a container it may not know its id."""
    options = {"query-compute-apps": "pid,used_memory", "format": "csv,noheader,nounits"}
    command = ["nvidia-smi", *(f"--{name}={value}" for name, value in options.items())]
    try:
        lines = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return None
    used = [line.split(",") for line in lines if line.count(",") == 1]
    return next((int(size) * 2**20 for pid, size in used if pid.strip() == str(os.getpid())), None)
