"""One form of a model on this machine: opened, proved, timed, and given as many threads as carry the most load."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from penstock.artifacts.golden import Golden
from penstock.backends.base import Backend, BackendOptions, ModelFile
from penstock.backends.catalog import open_backend
from penstock.backends.devices import usable_cores
from penstock.backends.verification import prove, warm_up
from penstock.engine.batching.limits import BatchLimits
from penstock.engine.batching.padding import ArrayBatcher, batcher_for, padded, verify_padding
from penstock.errors import InferenceError, ModelLoadError
from penstock.tensors import Signature

ONE_ROW_S = 0.002
"""A model that answers one row within this time is tried with single-threaded runs, as many at once as there are cores.

Under load that carries more than one run with all threads, which waits for its slowest thread while the other cores
decode requests; one request alone takes longer, and of a model that takes longer than this it would be felt.
"""


class Ready(NamedTuple):
    """A backend that was proved and timed: median seconds of a run by its number of rows, and runs at once."""

    backend: Backend
    limits: BatchLimits
    timings: dict[int, float]
    runners: int

    @property
    def one_row_s(self) -> float:
        """Of the smallest batch: one row, except where the model has a fixed batch."""
        return self.timings[min(self.timings)]

    @property
    def full_s(self) -> float:
        """Of a full batch."""
        return self.timings[max(self.timings)]

    def batcher(self) -> ArrayBatcher:
        """The queue in front of the backend, for as many rows and runs at once as were proved."""
        return batcher_for(self.backend, self.limits, full_batch_s=self.full_s, concurrency=self.runners)


def bring_up(
    format: str, file: ModelFile, options: BackendOptions, limits: BatchLimits, golden: Golden | None, what: str
) -> Ready:
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
) -> Ready:
    backend = padded(open_backend(format, file, options), limits.padding)
    try:
        limits = _limits_for(backend.signature, limits)
        if golden is not None:
            prove(backend, golden, limits.batch_rows, what)
        verify_padding(backend, golden, limits.batch_rows, what)
        written = file.signature is not None
        timings = warm_up(backend, backend.signature, limits.batch_rows, golden, written=written)
        return Ready(backend, limits, timings, _runners(backend, options))
    except InferenceError as error:
        backend.close()
        raise ModelLoadError(f"{what}: the model fails when it is run: {error}") from error
    except BaseException:
        backend.close()
        raise


def _runners(backend: Backend, options: BackendOptions) -> int:
    """How many runs at once fill the cores: one, unless each has fewer threads of its own than there are cores."""
    if not backend.own_threads or backend.device != "cpu" or options.threads is None:
        return 1
    return max(1, usable_cores() // options.threads)


def _limits_for(signature: Signature, limits: BatchLimits) -> BatchLimits:
    """A model exported for a fixed batch runs just that many rows at once."""
    fixed = [spec.shape[0] for spec in signature.inputs if spec.shape[0] > 0]
    if not fixed:
        return limits
    return replace(limits, batch_rows=fixed[0], queue_rows=max(fixed[0], limits.queue_rows))
