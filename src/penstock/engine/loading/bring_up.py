"""Brings up one variant: opens, verifies and times it, with the number of threads that carries the most load."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from penstock.artifacts.golden import Golden
from penstock.backends.base import Backend, ModelFile
from penstock.backends.catalog import open_backend
from penstock.backends.devices import usable_cores
from penstock.backends.verification import verify, warm_up
from penstock.engine.batching.limits import BatchLimits
from penstock.engine.batching.padding import ArrayBatcher, batcher_for, padded, verify_padding
from penstock.errors import InferenceError, ModelLoadError, OutOfMemory
from penstock.options import BackendOptions
from penstock.tensors import Signature

ONE_ROW_S = 0.002
"""A model that runs one row within this time is also tried with single-threaded runs, one per core at the same time.

Under load that is faster than one run with all threads, which waits for its slowest thread while the other cores decode
requests. A single request takes longer; above this limit the difference would matter.
"""


class ReadyBackend(NamedTuple):
    """A verified and timed backend: median seconds of a run by its number of rows, and the number of parallel runs."""

    backend: Backend
    limits: BatchLimits
    timings: dict[int, float]
    runners: int

    @property
    def one_row_s(self) -> float:
        """Seconds of the smallest batch: one row, unless the model has a fixed batch."""
        return self.timings[min(self.timings)]

    @property
    def full_s(self) -> float:
        """Seconds of a full batch."""
        return self.timings[max(self.timings)]

    def batcher(self) -> ArrayBatcher:
        """The queue in front of the backend, with the batch size and the parallel runs that were verified."""
        return batcher_for(self.backend, self.limits, full_batch_s=self.full_s, concurrency=self.runners)


def bring_up(
    format: str, file: ModelFile, options: BackendOptions, limits: BatchLimits, golden: Golden | None, what: str
) -> ReadyBackend:
    """Open, verify and time a model, with fewer rows in a run than the limits where the memory holds no more."""
    asked = limits.batch_rows
    while True:
        try:
            ready = _bring_up(format, file, options, limits, golden, what)
            break
        except ModelLoadError as error:
            if not isinstance(error.__cause__, OutOfMemory) or limits.batch_rows == 1:
                raise
            limits = replace(limits, batch_rows=limits.batch_rows // 2)
    if limits.batch_rows < asked:
        lowered = f"a run takes {limits.batch_rows} rows at most: {asked}, as was asked for, do not fit into memory"
        ready.backend.warnings = (*ready.backend.warnings, lowered)
    return ready


def _bring_up(
    format: str, file: ModelFile, options: BackendOptions, limits: BatchLimits, golden: Golden | None, what: str
) -> ReadyBackend:
    """Open, verify and time a model; a fast one also with one thread a run, and the better of the two is kept."""
    ready = _open(format, file, options, limits, golden, what)
    tunable = ready.backend.own_threads and ready.backend.device == "cpu" and options.threads is None
    if not tunable or ready.one_row_s > ONE_ROW_S:
        return ready
    try:
        single = _open(format, file, options.override(threads=1), limits, golden, what)
    except ModelLoadError:
        return ready
    keep = single.one_row_s <= ONE_ROW_S and single.full_s / single.runners <= 1.1 * ready.full_s
    better, other = (single, ready) if keep else (ready, single)
    other.backend.close()
    return better


def _open(
    format: str, file: ModelFile, options: BackendOptions, limits: BatchLimits, golden: Golden | None, what: str
) -> ReadyBackend:
    backend = padded(open_backend(format, file, options), limits.padding)
    try:
        limits = _limits_for(backend.signature, limits)
        if golden is not None:
            verify(backend, golden, limits.batch_rows, what)
        verify_padding(backend, golden, limits.batch_rows, what)
        written = file.signature is not None
        timings = warm_up(backend, backend.signature, limits.batch_rows, golden, written=written)
        return ReadyBackend(backend, limits, timings, _runners(backend, options))
    except InferenceError as error:
        backend.close()
        raise ModelLoadError(f"{what}: the model fails when it runs: {error}") from error
    except BaseException:
        backend.close()
        raise


def _runners(backend: Backend, options: BackendOptions) -> int:
    """Parallel runs that fill the cores: one, unless each run has fewer threads of its own than there are cores."""
    if not backend.own_threads or backend.device != "cpu" or options.threads is None:
        return 1
    return max(1, usable_cores() // options.threads)


def _limits_for(signature: Signature, limits: BatchLimits) -> BatchLimits:
    """A model exported for a fixed batch runs exactly that many rows."""
    fixed = [spec.shape[0] for spec in signature.inputs if spec.shape[0] > 0]
    if not fixed:
        return limits
    return replace(limits, batch_rows=fixed[0], queue_rows=max(fixed[0], limits.queue_rows))
