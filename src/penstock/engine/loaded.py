"""One model brought up in this process: opened, warmed, and proved on its golden samples."""

from __future__ import annotations

import hashlib
import logging
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from penstock.backends.base import Backend, BackendOptions, ModelFile
from penstock.backends.catalog import format_of, open_backend, runnable
from penstock.backends.devices import usable_cores
from penstock.engine.batcher import Batcher, BatchLimits
from penstock.errors import (
    GoldenMismatch,
    InferenceError,
    IntegrityError,
    ModelLoadError,
    PenstockError,
    UnsupportedFormat,
)
from penstock.registry.artifact import Artifact, Golden, Variant
from penstock.tasks.base import Task
from penstock.tasks.catalog import load_task, task_for_bare
from penstock.tensors import Array, Arrays, Signature, TensorSpec

log = logging.getLogger(__name__)

FREE_LENGTHS = (8, 224, 1)
"""What a free axis past the batch is tried with, until the model runs."""

ONE_ROW_S = 0.002
"""A model that answers one row within this time is tried with single-threaded runs, as many at once as there are cores.

Under load that carries more than one run with all threads, which waits for its slowest thread while the other cores
decode requests; one request alone takes longer, and of a model that takes longer than this it would be felt.
"""

WARM_UP_BUDGET_S = 1.0
"""A load spends about this long on warm-up; a slow model is timed at one row and at a full batch only."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What is known of a loaded model. Shapes start with the batch, -1 is free; `size_bytes` is its files' size.

    `batch_ms` is the measured time of a run by its number of rows, `warnings` what did not go as asked.
    """

    name: str
    version: str
    variant: str
    format: str
    task: str
    device: str
    dtype: str
    num_parameters: int | None
    size_bytes: int
    sha256: str
    loaded_at: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    batch_ms: dict[int, float]
    warnings: tuple[str, ...] = ()


class LoadedModel:
    """A model that answers: its task, its backend and the batcher in front of it. Made by `load`."""

    __slots__ = (
        "artifact",
        "backend",
        "batcher",
        "info",
        "key",
        "leases",
        "name",
        "path",
        "retired",
        "task",
        "variant",
        "version",
    )

    def __init__(
        self,
        info: ModelInfo,
        task: Task,
        backend: Backend,
        batcher: Batcher,
        artifact: Artifact | None = None,
        path: Path | None = None,
    ) -> None:
        self.info = info
        self.name, self.version, self.variant = info.name, info.version, info.variant
        self.key = f"{info.name}:{info.version}"
        self.task = task
        self.backend = backend
        self.batcher = batcher
        self.artifact = artifact
        self.path = path
        self.leases = 0
        self.retired = False

    @property
    def signature(self) -> Signature:
        """What the model takes and gives."""
        return self.task.signature

    @property
    def cache_identity(self) -> str:
        """Differs for any two models whose answers may differ, those under one name and version included."""
        return f"{self.key}/{self.variant}/{self.info.sha256}"

    def prepare(self, request: Any) -> tuple[Any, Arrays, int]:
        """The task's request, its arrays and their rows. Raises InvalidInput; for a bug in a task InferenceError."""
        try:
            if not isinstance(request, self.task.Request):
                request = self.task.coerce(request)
            arrays, rows = self.task.signature.validate(self.task.preprocess(request))
        except PenstockError:
            raise
        except Exception as error:
            log.exception("the task %s of %s failed in preprocess", self.task.kind, self.key)
            raise InferenceError(f"the task {self.task.kind} failed while it prepared the request") from error
        return request, arrays, rows

    def finish(self, outputs: Arrays, request: Any) -> Any:
        """The task's response. A bug in a task becomes an InferenceError."""
        try:
            return self.task.postprocess(outputs, request)
        except PenstockError:
            raise
        except Exception as error:
            log.exception("the task %s of %s failed in postprocess", self.task.kind, self.key)
            raise InferenceError(f"the task {self.task.kind} failed on the model's answer") from error

    def close(self) -> None:
        """Refuse what waits and give the memory back."""
        self.batcher.close()
        self.backend.close()


def load_artifact(artifact: Artifact, options: BackendOptions, limits: BatchLimits) -> LoadedModel:
    """Bring up the first variant, best first, that this machine runs and that passes its golden samples.

    Raises IntegrityError at once for an altered file, else the ModelLoadError of the first variant that failed.
    """
    failures: list[ModelLoadError] = []
    for variant in _candidates(artifact, options):
        artifact.verify(variant)
        try:
            return _load_variant(artifact, variant, options, limits, tuple(str(failure) for failure in failures))
        except IntegrityError:
            raise
        except ModelLoadError as error:
            log.warning("%s", error)
            failures.append(error)
    if failures:
        raise failures[0]
    formats = ", ".join(variant.name for variant in artifact.manifest.variants)
    raise UnsupportedFormat(f"{artifact.ref}: this machine runs none of its variants ({formats}); see penstock doctor")


def _candidates(artifact: Artifact, options: BackendOptions) -> list[Variant]:
    """The variants worth trying, best first: of the asked precision before fp32, ONNX before eager."""
    usable = [
        v for v in artifact.manifest.variants if runnable(v.format) and v.precision in (options.precision, "fp32")
    ]
    return sorted(usable, key=lambda v: (v.precision != options.precision, v.format != "onnx"))


def _load_variant(
    artifact: Artifact, variant: Variant, options: BackendOptions, limits: BatchLimits, warnings: tuple[str, ...]
) -> LoadedModel:
    manifest = artifact.manifest
    task = load_task(manifest.task.kind, manifest.task.config, manifest.signature)
    file = ModelFile(
        artifact.variant_path(variant), manifest.signature, variant.architecture, variant.architecture_args
    )
    golden = artifact.golden()
    ready = _bring_up(variant.format, file, options, limits, golden, f"{artifact.ref}/{variant.name}")
    info = _info(
        ready,
        task,
        name=artifact.name,
        version=artifact.version,
        variant=variant.name,
        num_parameters=variant.num_parameters,
        size_bytes=sum(entry.size for entry in variant.files),
        sha256=next(entry.sha256 for entry in variant.files if entry.path == variant.file),
        warnings=warnings,
    )
    return LoadedModel(info, task, ready.backend, ready.batcher(), artifact)


def load_file(path: Path, model_type: str | None, options: BackendOptions, limits: BatchLimits) -> LoadedModel:
    """Bring up a bare model file under its file name, as version 1, without golden samples to prove it."""
    if not path.is_file():
        raise ModelLoadError(f"{path}: there is no such model file")
    format = format_of(path, model_type)
    ready = _bring_up(format, ModelFile(path), options, limits, None, str(path))
    signature = ready.backend.signature
    try:
        task = load_task(task_for_bare(signature), {}, signature)
    except BaseException:
        ready.backend.close()
        raise
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    info = _info(
        ready,
        task,
        name=path.stem,
        version="1",
        variant=f"{format}-{options.precision}",
        num_parameters=None,
        size_bytes=path.stat().st_size,
        sha256=digest,
        warnings=(),
    )
    return LoadedModel(info, task, ready.backend, ready.batcher(), path=path)


class _Ready(NamedTuple):
    """A backend that was proved and timed: median seconds of a run by its number of rows, and runs at once."""

    backend: Backend
    limits: BatchLimits
    timings: dict[int, float]
    runners: int

    @property
    def one_row_s(self) -> float:
        return self.timings[min(self.timings)]

    @property
    def full_s(self) -> float:
        return self.timings[max(self.timings)]

    def batcher(self) -> Batcher:
        return Batcher(self.backend.run, self.limits, full_batch_s=self.full_s, runners=self.runners)


def _bring_up(
    format: str, file: ModelFile, options: BackendOptions, limits: BatchLimits, golden: Golden | None, what: str
) -> _Ready:
    """Open, prove and time a model; a quick one with one thread a run as well, and what carries more load is kept."""
    ready = _open(format, file, options, limits, golden, what)
    tunable = ready.backend.own_threads and ready.backend.device == "cpu" and options.threads is None
    if not tunable or ready.one_row_s > ONE_ROW_S:
        return ready
    try:
        alone = _open(format, file, replace(options, threads=1), limits, golden, what)
    except ModelLoadError:
        return ready
    keep = alone.one_row_s <= ONE_ROW_S and alone.full_s / alone.runners <= 1.1 * ready.full_s
    better, other = (alone, ready) if keep else (ready, alone)
    other.backend.close()
    return better


def _open(
    format: str, file: ModelFile, options: BackendOptions, limits: BatchLimits, golden: Golden | None, what: str
) -> _Ready:
    backend = open_backend(format, file, options)
    try:
        limits = _limits_for(backend.signature, limits)
        if golden is not None:
            prove(backend, golden, limits.batch_rows, what)
        timings = warm_up(backend, backend.signature, limits.batch_rows, golden)
        return _Ready(backend, limits, timings, _runners(backend, options))
    except InferenceError as error:
        backend.close()
        raise ModelLoadError(f"{what}: the model fails when it is run: {error}") from error
    except BaseException:
        backend.close()
        raise


def _info(
    ready: _Ready, task: Task, *, num_parameters: int | None, warnings: tuple[str, ...], **facts: Any
) -> ModelInfo:
    backend, signature = ready.backend, task.signature
    return ModelInfo(
        format=backend.format,
        task=task.kind,
        device=backend.device,
        dtype=signature.inputs[0].dtype,
        num_parameters=num_parameters if num_parameters is not None else backend.num_parameters,
        loaded_at=datetime.now(UTC).isoformat(timespec="seconds"),
        input_shape=signature.inputs[0].shape,
        output_shape=signature.outputs[0].shape,
        batch_ms={rows: round(seconds * 1000, 4) for rows, seconds in ready.timings.items()},
        warnings=(*backend.warnings, *warnings),
        **facts,
    )


def _runners(backend: Backend, options: BackendOptions) -> int:
    """How many runs at once fill the cores: one, unless each has fewer threads of its own than there are cores."""
    if not backend.own_threads or backend.device != "cpu" or options.threads is None:
        return 1
    return max(1, usable_cores() // options.threads)


def _limits_for(signature: Signature, limits: BatchLimits) -> BatchLimits:
    """A model exported for a fixed batch runs just that many rows at once."""
    scalar = next((spec.name for spec in signature.inputs if not spec.shape), None)
    if scalar is not None:
        raise UnsupportedFormat(f"the input {scalar!r} has no batch axis")
    fixed = [spec.shape[0] for spec in signature.inputs if spec.shape[0] > 0]
    if not fixed:
        return limits
    return replace(limits, batch_rows=fixed[0], queue_rows=max(fixed[0], limits.queue_rows))


def prove(backend: Backend, golden: Golden, batch_rows: int, what: str) -> None:
    """Run the golden samples and compare; raises GoldenMismatch with the output, the difference and the tolerance."""
    rows = len(next(iter(golden.inputs.values())))
    for start in range(0, rows, batch_rows):
        part = slice(start, start + batch_rows)
        outputs = backend.run({name: array[part] for name, array in golden.inputs.items()})
        for name, expected in golden.outputs.items():
            if name not in outputs:
                raise GoldenMismatch(f"{what}: the model gives no output {name!r}, which its golden samples hold")
            _compare(outputs[name], expected[part], golden, f"{what}: output {name!r}")


def _compare(got: Array, expected: Array, golden: Golden, what: str) -> None:
    if got.shape != expected.shape:
        raise GoldenMismatch(f"{what} has the shape {list(got.shape)}, its golden samples {list(expected.shape)}")
    if got.dtype.kind not in "fc":
        if not np.array_equal(got, expected):
            raise GoldenMismatch(f"{what} differs from its golden samples")
        return
    if not np.allclose(got, expected, rtol=golden.rtol, atol=golden.atol):
        worst = float(np.max(np.abs(got.astype(np.float64) - expected.astype(np.float64))))
        raise GoldenMismatch(
            f"{what} differs from its golden samples by up to {worst:.3g}; "
            f"allowed are {golden.atol:.3g} + {golden.rtol:.3g} of the value"
        )


def warm_up(backend: Backend, signature: Signature, batch_rows: int, golden: Golden | None) -> dict[int, float]:
    """Run every batch size the model will see (1, 2, 4, … and the limit); the median seconds by number of rows."""
    length = FREE_LENGTHS[0] if golden is not None else _free_length(backend, signature)
    timings: dict[int, float] = {}
    started = time.monotonic()
    for rows in _batch_sizes(signature, batch_rows):
        if timings and rows != batch_rows and time.monotonic() - started > WARM_UP_BUDGET_S:
            continue
        inputs = _example(signature, rows, golden, length)
        backend.run(inputs)  # the first run of a shape allocates and, on some devices, compiles
        timings[rows] = statistics.median(_time(backend, inputs) for _ in range(3))
    return timings


def _free_length(backend: Backend, signature: Signature) -> int:
    """A length for free axes past the batch that the model runs with; raises its error when none is known to work."""
    rows = next(_batch_sizes(signature, 1))
    for length in FREE_LENGTHS:
        try:
            backend.run(_example(signature, rows, None, length))
        except InferenceError as error:
            failure = error
        else:
            return length
    raise failure


def _time(backend: Backend, inputs: Arrays) -> float:
    started = time.perf_counter()
    backend.run(inputs)
    return time.perf_counter() - started


def _batch_sizes(signature: Signature, limit: int) -> Iterator[int]:
    if any(spec.shape and spec.shape[0] > 0 for spec in signature.inputs):
        yield limit
        return
    rows = 1
    while rows < limit:
        yield rows
        rows *= 2
    yield limit


def _example(signature: Signature, rows: int, golden: Golden | None, length: int) -> Arrays:
    if golden is not None:
        return {name: np.ascontiguousarray(_tile(array, rows)) for name, array in golden.inputs.items()}
    return {spec.name: _zeros(spec, rows, length) for spec in signature.inputs}


def _tile(array: Array, rows: int) -> Array:
    return array[np.arange(rows) % len(array)]


def _zeros(spec: TensorSpec, rows: int, length: int) -> Array:
    shape = (rows, *(n if n > 0 else length for n in spec.shape[1:]))
    return np.full(shape, "", dtype=object) if spec.dtype == "BYTES" else np.zeros(shape, spec.numpy)
