"""Brings up one variant: opens, verifies and times it, with the number of threads that carries the most load."""

from __future__ import annotations

import glob
import logging
import math
import statistics
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from penstock.artifacts.golden import Golden
from penstock.backends.axes.seen import moved_example, moved_samples, rows_first, settle_axes, settle_by_example
from penstock.backends.base import Backend, ModelFile
from penstock.backends.catalog import has_own_threads, open_backend
from penstock.backends.devices import missing_features, usable_cores
from penstock.backends.examples import Examples
from penstock.backends.row_independence import DECLARED, FEW_ROWS, WHOLE, RowProof, prove_rows
from penstock.backends.verification import INTERPRETER_S, timed, timed_alone, verify, warm_up
from penstock.engine.batching.limits import BatchLimits
from penstock.engine.batching.loop_time import INLINE_BELOW_S
from penstock.engine.batching.padding import ArrayBatcher, batcher_for, padded, prove_lengths, verify_padding
from penstock.engine.batching.row_proofs import KnownProofs, from_record, read_proof, write_proof
from penstock.errors import GoldenMismatch, InferenceError, InvalidInput, ModelLoadError, OutOfMemory, WorkerDied
from penstock.options import BackendOptions
from penstock.tensors import Signature

log = logging.getLogger(__name__)

ONE_ROW_S = 0.002
"""A model that runs one row on one thread within this time runs so, with one run per core at the same time.

Under load that is faster than one run with all threads, which waits for its slowest thread while the other cores decode
requests. A single request takes longer; above this limit the difference would matter.
"""
EARLY_RUN = 10
"""An early run that takes this many times as long as a row may is not slow from allocating alone."""
SMALL_BYTES = 16 << 20
"""Files up to this size are opened for one thread first, which is all that a load of a quick model costs."""


UNKNOWN_S = 1.0
"""What a run of an unproven model counts as until it has been measured."""


class ReadyBackend(NamedTuple):
    """A verified and timed backend: median seconds of a run by its number of rows, and the number of parallel runs."""

    backend: Backend
    limits: BatchLimits
    timings: dict[int, float]
    runners: int
    rows: RowProof = RowProof(batchable=True)
    examples: Examples | None = None
    unproven: bool = False
    """No input was found that the model runs with. It was not timed then, and nothing is known of its rows."""
    assumed: tuple[str, ...] = ()
    """Sentences on what neither the file nor the user states, and how to say otherwise."""
    loop_s: float = math.inf
    """Seconds for which a full batch, or a single row that takes longer, would keep the event loop."""

    @property
    def one_row_s(self) -> float:
        """Seconds of the smallest batch: one row, unless the model has a fixed batch."""
        return self.timings[min(self.timings)] if self.timings else math.inf

    @property
    def full_s(self) -> float:
        """Seconds of a full batch."""
        return self.timings[max(self.timings)] if self.timings else UNKNOWN_S

    @property
    def row_s(self) -> float:
        """Seconds of a row in a full batch; of a model that is not batchable, of a run."""
        return self.full_s / max(self.timings, default=1)

    def batcher(self, learned: Mapping[int, float] | None = None) -> ArrayBatcher:
        """The queue in front of the backend, with the batch size and the parallel runs that were verified.

        `learned` are times of a batch by its rows that were measured on this machine before, longer than at this load.
        """
        steady = self.loop_s < INLINE_BELOW_S and self.backend.cost_depends_on_rows_only()
        known = learned if learned and self.limits.batch_rows in learned else self.timings
        return batcher_for(
            self.backend,
            self.limits,
            full_batch_s=min(self.full_s, self.loop_s),
            steady=steady,
            concurrency=self.runners,
            curve=known,
        )


def bring_up(
    format: str,
    file: ModelFile,
    options: BackendOptions,
    limits: BatchLimits,
    golden: Golden | None,
    what: str,
    known: KnownProofs | None = None,
) -> ReadyBackend:
    """Open, verify and time a model; a fast one also with one thread a run, and the better of the two is kept.

    `known` are the proofs of earlier loads that rows are independent.
    """
    known = known or KnownProofs()
    path = known.path(format, options, limits.batch_rows)
    proof = _declared(known) if limits.batchable is False else read_proof(path)
    ready = _tuned(_Trial(format, file, options, limits, golden, what, proof))
    if proof is None and ready.rows.measured and not ready.unproven:
        write_proof(path, ready.rows)
    return ready


class _Trial(NamedTuple):
    """What is opened, how, and what it is held to. `rows` is the proof of an earlier load, if there is one.

    A model that takes longer than `at_most_s` for a row raises _Slow.
    """

    format: str
    file: ModelFile
    options: BackendOptions
    limits: BatchLimits
    golden: Golden | None
    what: str
    rows: RowProof | None
    at_most_s: float = math.inf


def _tuned(trial: _Trial) -> ReadyBackend:
    """With one thread a run if one row is quick on it, else with all."""
    options = trial.options
    on_one_thread = trial._replace(options=options.override(threads=1), at_most_s=ONE_ROW_S)
    on_cpu = options.device == "cpu" or (options.device == "auto" and bool(missing_features(["cuda"])))
    tunable = options.threads is None and not options.shared_threads and on_cpu and has_own_threads(trial.format)
    small = tunable and _size(trial.file.path) <= SMALL_BYTES
    if small:
        with suppress(_Slow):
            return _open_fitting(on_one_thread)[0]
    ready, limits = _open_fitting(trial)
    if small or not tunable or ready.one_row_s > ONE_ROW_S:
        return ready
    try:
        single = _open(on_one_thread._replace(limits=limits, rows=ready.rows))
    except (_Slow, ModelLoadError):
        return ready
    ready.backend.close()
    return single


class _Slow(Exception):
    """One row takes longer than it may."""


def _size(path: Path) -> int:
    """The bytes of a model file and of the files that belong to it by their names."""
    try:
        return sum(one.stat().st_size for one in path.parent.glob(f"{glob.escape(path.stem)}*") if one.is_file())
    except OSError:
        return 0


def _open_fitting(trial: _Trial) -> tuple[ReadyBackend, BatchLimits]:
    """As `_open`, with half the rows in a run, and half again, where the memory does not hold as many."""
    limits = trial.limits
    while True:
        try:
            ready = _open(trial._replace(limits=limits))
        except ModelLoadError as error:
            if not isinstance(error.__cause__, OutOfMemory) or limits.batch_rows == 1:
                raise
            limits = replace(limits, batch_rows=limits.batch_rows // 2)
            continue
        asked = trial.limits.batch_rows
        if limits.batch_rows < asked and not ready.limits.whole:
            lowered = f"a run takes {limits.batch_rows} rows at most: {asked}, as was asked for, do not fit into memory"
            ready.backend.warnings += (lowered,)
        return ready, limits


def _open(trial: _Trial) -> ReadyBackend:
    """Raises _Slow for a model that takes longer than `trial.at_most_s` for a row."""
    opened = open_backend(trial.format, trial.file, trial.options)
    try:
        return _verified(opened, trial)
    except InferenceError as error:
        opened.close()
        raise ModelLoadError(f"{trial.what}: the model fails when it runs: {error}") from error
    except BaseException:
        opened.close()
        raise


def _verified(opened: Backend, trial: _Trial) -> ReadyBackend:
    """An open backend with its batch axes settled, its rows proven, its golden samples compared, and timed."""
    _, file, options, limits, golden, what, rows, at_most_s = trial
    if file.example is None and opened.example is not None:
        file = replace(file, example=opened.example)
    examples = None if limits.padding else _settled(opened, file, golden, what, at_most_s)
    backend = padded(opened, limits.padding)
    limits = _limits_for(backend.signature, limits)
    by_rows, samples = rows_first(backend), moved_samples(golden, backend.signature)
    if examples is None:
        examples = _examples(backend, file, golden, what)
    if isinstance(examples, InferenceError):
        return _unproven(backend, limits, options, examples, what)._replace(assumed=_assumed(opened, file))
    if by_rows is not backend:
        examples = Examples(by_rows, by_rows.signature, samples, moved_example(examples, backend.signature))
    _require_quick(by_rows, examples, at_most_s)
    rows = WHOLE if backend.signature.whole else rows or _proof(by_rows, examples, limits)
    if rows.influenced:
        limits = _for_whole_requests(limits, options, rows, what)
    _verify(by_rows, samples, limits, what)
    timings = _timings(by_rows, limits, examples, written=file.signature is not None)
    one_row_s, full_s = (_alone(by_rows, examples, size, timings[size]) for size in (min(timings), max(timings)))
    if one_row_s > at_most_s:
        raise _Slow
    if full_s < timings[max(timings)]:
        timings = {min(timings): one_row_s, max(timings): full_s}
    runners, assumed, loop_s = _runners(backend, options), _assumed(opened, file), max(one_row_s, full_s)
    return ReadyBackend(backend, limits, timings, runners, rows, examples, assumed=assumed, loop_s=loop_s)


def _alone(backend: Backend, examples: Examples, rows: int, seconds: float) -> float:
    """The seconds of such a run, measured again where a busy event loop may have made them out of a quick one."""
    if backend.device != "cpu" or not INLINE_BELOW_S < seconds < INTERPRETER_S:
        return seconds
    inputs = examples.of(rows)
    return min(seconds, statistics.median(timed_alone(backend, inputs) for _ in range(3)))


def _proof(backend: Backend, examples: Examples, limits: BatchLimits) -> RowProof:
    """The proof that rows are independent, those of other lengths included where requests are padded.

    A model that runs neither with one row of its samples nor with several, only with all of them, has none.
    """
    try:
        return prove_lengths(backend, prove_rows(backend, examples, limits.batch_rows), examples.of(FEW_ROWS))
    except InferenceError as error:
        return RowProof(batchable=False, why=f"it does not run with single rows ({error})")


def _require_quick(backend: Backend, examples: Examples, at_most_s: float) -> None:
    """Raises _Slow; the first run of a shape allocates, so the better one of two counts."""
    if at_most_s < math.inf:
        inputs = examples.of(1)
        with suppress(InferenceError):  # one row may be too few
            if min(timed_alone(backend, inputs) for _ in range(2)) > at_most_s:
                raise _Slow


def _settled(
    backend: Backend, file: ModelFile, golden: Golden | None, what: str, at_most_s: float
) -> Examples | InferenceError:
    """The inputs to try the model with, which show what is open of its batch axes."""
    settle_by_example(backend, file.example)
    examples = _examples(backend, file, golden, what)
    if isinstance(examples, Examples) and (examples.run_s or 0.0) > EARLY_RUN * at_most_s:
        raise _Slow
    if file.stated is None or (backend.reading is not None and backend.reading.unsure):
        base = None if isinstance(examples, InferenceError) else examples.of(examples.rows)
        settle_axes(backend, base, written=file.signature is not None)
    return examples if isinstance(examples, InferenceError) else examples.under(backend.signature)


def _assumed(backend: Backend, file: ModelFile) -> tuple[str, ...]:
    """What was read of the batch axes, where neither the user nor a manifest states them."""
    signature, reading = backend.signature, backend.reading
    if file.stated is not None or (file.signature is not None and not signature.whole):
        return ()
    if reading is None:
        return ("the file takes one row, so each row of a request is a run; say otherwise with no_batch=True",)
    return (f"{reading.sentence(signature)}; say otherwise with batch_axes={{…}} or no_batch=True",)


def _examples(backend: Backend, file: ModelFile, golden: Golden | None, what: str) -> Examples | InferenceError:
    """Inputs that the model runs with, or its error where none were found.

    Raises ModelLoadError where the user's example does not fit, and the model's InferenceError where it fails with it.
    """
    try:
        return Examples(backend, backend.signature, golden, file.example)
    except InvalidInput as error:
        raise ModelLoadError(f"{what}: {error}") from error
    except InferenceError as error:
        if file.example is not None or isinstance(error, OutOfMemory | WorkerDied):
            raise
        return error


def _unproven(
    backend: Backend, limits: BatchLimits, options: BackendOptions, error: InferenceError, what: str
) -> ReadyBackend:
    """A model that ran with nothing that was tried: it serves each request whole and alone, unless that is refused."""
    sentence = f"unproven, as no input was found that it runs with ({error}); give one with example_input=…"
    if options.unproven == "refuse":
        raise ModelLoadError(f"{what}: {sentence}, or set unproven to allow")
    rows, runners = RowProof(batchable=False, why=sentence), _runners(backend, options)
    return ReadyBackend(backend, limits.for_whole_requests(), {}, runners, rows, unproven=True)


def _declared(known: KnownProofs) -> RowProof:
    """The proof of a model whose manifest says that it is not batchable: as recorded there, and not measured again."""
    return replace(from_record(known.recorded) or RowProof(batchable=False, why=DECLARED), batchable=False)


def _for_whole_requests(limits: BatchLimits, options: BackendOptions, rows: RowProof, what: str) -> BatchLimits:
    """The limits of a model that is not batchable. Raises ModelLoadError where the settings refuse such models."""
    if options.not_batchable == "refuse":
        raise ModelLoadError(
            f"{what}: it is not batchable: {rows.sentence}; export it so that its rows are independent, or "
            "set not_batchable to serve, which runs each request alone"
        )
    return limits.for_whole_requests()


def _verify(backend: Backend, golden: Golden | None, limits: BatchLimits, what: str) -> None:
    """Compare with the golden samples; those of a model that is not batchable are one request, or one request a row."""
    if not limits.whole:
        if golden is not None:
            verify(backend, golden, limits.batch_rows, what)
        verify_padding(backend, golden, limits.batch_rows, what)
    elif golden is not None:
        try:
            verify(backend, golden, golden.rows, what)
        except (GoldenMismatch, InferenceError) as error:
            try:
                verify(backend, golden, 1, what)
            except (GoldenMismatch, InferenceError):
                raise error from None


def _timings(backend: Backend, limits: BatchLimits, examples: Examples, *, written: bool) -> dict[int, float]:
    try:
        return warm_up(backend, backend.signature, limits.batch_rows, examples, written=written)
    except InferenceError:
        if not limits.whole:  # else one row may be too few, as for statistics of the rows
            raise
        rows = FEW_ROWS if examples.made_up else examples.rows
        inputs = examples.of(rows)
        backend.run(inputs)
        return {rows: timed(backend, inputs)}


def _runners(backend: Backend, options: BackendOptions) -> int:
    """Parallel runs that fill the cores: one, unless each run has fewer threads of its own than there are cores."""
    if backend.parallel_runs is not None:
        return backend.parallel_runs
    if not backend.own_threads or backend.device != "cpu" or options.threads is None:
        return 1
    return max(1, usable_cores() // options.threads)


def _limits_for(signature: Signature, limits: BatchLimits) -> BatchLimits:
    """A model exported for a fixed batch runs exactly that many rows, one without a batch axis each request whole."""
    if signature.whole:
        return limits.for_whole_requests()
    fixed = signature.fixed_rows
    return limits if fixed is None else replace(limits, batch_rows=fixed, queue_rows=max(fixed, limits.queue_rows))
