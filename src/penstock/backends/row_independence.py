"""Measures whether the rows of a batch are independent, so that requests of several clients may share a run.

The same rows run alone, together, in another order, in parts, and with other rows of extreme scale. Where a row keeps
its place and the number of rows stays the same, kernels do the same arithmetic: any change beyond a few roundings comes
from the other rows. Changes with the number of rows or the place are noise of kernels as long as they are small.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from penstock.backends.base import Backend
from penstock.backends.other_rows import KINDS, ORDINARY, STEPS, Kind, differ, moved, other_rows, shorter_rows
from penstock.backends.unbatched import RowByRow
from penstock.datatypes import BF16, float_from_bf16
from penstock.errors import InferenceError, OutOfMemory
from penstock.tensors import Array, Arrays, TensorSpec

BUDGET_S = 0.3
"""A proof takes about this long, or 8 runs of a slow model."""
MOST_ROWS, FEW_ROWS, FEWEST_ROWS = 256, 8, 4
LONG_S = 5.0
"""A failed run of so long was one without an end; no extreme rows are tried after it."""
SLOW_ROW_S = 0.05
"""A model that takes longer for a row is tested with the fewest rows."""
OTHERS_TOLERANCE = 1e-5
"""The largest change by other rows, as a share of the outputs' range, that still counts as none."""
PLACE_TOLERANCE = 1e-3
"""The largest change by the number of rows or the place among them that counts as noise."""
ROUGH_PLACE_TOLERANCE = 0.02
"""The same in half precision, and on accelerators, which round products of fp32 as well."""
COARSE_PLACE_TOLERANCE = 0.15
"""The same for a model with rounding inside, as a quantized one: kernels by batch size move one by 4 % of its range."""
FLIPS_TOLERANCE = 0.34
"""The share of whole numbers or texts, such as classes, that may be others with another number of rows."""


@dataclass(frozen=True, slots=True)
class RowProof:
    """Whether the rows of a run are independent, and the measured changes as shares of the outputs' range.

    `difference` is the change that decides: by other rows, or by their number. `noise` is the change that kernels make
    with the number of rows, the order and the run. None: not measured. `why` is one phrase.
    """

    batchable: bool
    difference: float | None = None
    noise: float | None = None
    why: str = ""

    @property
    def measured(self) -> bool:
        """True if runs of the model decided."""
        return self.why not in _BY_CONSTRUCTION

    @property
    def influenced(self) -> bool:
        """True if rows influence each other, or could not be shown not to: each request runs whole and alone."""
        return not self.batchable and self.why not in (FIXED_BATCH, NO_BATCH)

    @property
    def sentence(self) -> str:
        """What was found, with the measured difference."""
        return self.why if self.difference is None else f"{self.why} (by {self.difference:.2g} of the outputs' range)"


NOT_DETERMINISTIC = "the same input gives another answer each time"
FIXED_BATCH = "its number of rows is fixed"
DECLARED = "its manifest says so"
ROW_BY_ROW = "each row is a run of its own"
NO_BATCH = "a tensor has no batch axis, so each request is one run"
WHOLE = RowProof(batchable=False, why=NO_BATCH)
_BY_CONSTRUCTION = (FIXED_BATCH, DECLARED, ROW_BY_ROW, NO_BATCH)


class RowSource(Protocol):
    """Where the rows of the proof come from; `Examples` is one."""

    def of(self, rows: int) -> Arrays:
        """A batch of this many rows."""


def prove_rows(backend: Backend, examples: RowSource, batch_rows: int) -> RowProof:
    """Measure with batches of `batch_rows`, or fewer for a slow model. What cannot be measured is not batchable.

    Raises the model's InferenceError when it runs with neither one row nor several.
    """
    if isinstance(backend, RowByRow):
        return RowProof(batchable=True, why=ROW_BY_ROW)
    if any(spec.shape[:1] > (0,) for spec in backend.signature.inputs):
        return RowProof(batchable=False, why=FIXED_BATCH)
    trial = _Trial(backend, examples, batch_rows)
    try:
        trial.run()
    except _NotBatchable as found:
        return RowProof(False, found.difference, trial.noise, found.why)
    return RowProof(True, trial.difference, trial.noise, "rows do not change each other's answers")


class _NotBatchable(Exception):
    def __init__(self, why: str, difference: float | None = None) -> None:
        super().__init__(why)
        self.why, self.difference = why, difference


class _Change(NamedTuple):
    """`numbers`: the largest change as a share of the range. `others`: the share of the other values that differ."""

    numbers: float = 0.0
    others: float = 0.0

    @property
    def worst(self) -> float:
        return max(self.numbers, self.others)

    def or_worse(self, other: _Change) -> _Change:
        return _Change(max(self.numbers, other.numbers), max(self.others, other.others))


class _Case(NamedTuple):
    """A run in which the rows `kept` stay and all others are replaced."""

    kept: Array
    kind: Kind
    step: float


class _Trial:
    def __init__(self, backend: Backend, examples: RowSource, batch_rows: int) -> None:
        self._backend = backend
        self._examples = examples
        self._inputs = backend.signature.inputs
        self._outputs = {spec.name: spec for spec in backend.signature.outputs}
        self._most = max(min(batch_rows, MOST_ROWS), FEW_ROWS)
        self._spent_s = self._last_s = 0.0
        self._step = STEPS[-1]
        rough = backend.device != "cpu" or backend.lowered_to is not None
        self._tolerance = ROUGH_PLACE_TOLERANCE if rough else PLACE_TOLERANCE
        self.difference: float | None = None
        self.noise: float | None = None

    def run(self) -> None:
        """Raises _NotBatchable."""
        one, failure = self._alone()
        rows = self._rows(self._last_s)
        self._batch, self._together = self._several(rows, failure)
        self._ranges = {name: _range(self._values(name, array)) for name, array in self._together.items()}
        self._require_same_twice()
        self._require_no_change_by_others()
        if one is None:
            raise _NotBatchable(f"one row alone does not run: {failure}")
        self._require_little_change_by_place(one)

    # Runs

    def _timed(self, inputs: Arrays) -> Arrays:
        started = time.perf_counter()
        try:
            return self._backend.run(inputs)
        finally:
            self._last_s = time.perf_counter() - started
            self._spent_s += self._last_s

    def _alone(self) -> tuple[Arrays | None, InferenceError | None]:
        """The outputs of the first row alone, or the error."""
        row = _at(self._ordinary(FEWEST_ROWS), slice(1))
        try:
            self._timed(row)  # the first run of a shape allocates, and may compile
            return self._timed(row), None
        except InferenceError as error:
            return None, error

    def _rows(self, row_s: float) -> int:
        """As many rows as a full batch if that is quick, for it is the most faithful; for a slow model a few."""
        affordable = int(BUDGET_S / (8 * max(row_s, 1e-6)))
        return min(self._most, max(FEWEST_ROWS if row_s > SLOW_ROW_S else FEW_ROWS, affordable))

    def _ordinary(self, rows: int) -> Arrays:
        """Rows of the examples; where all of these are equal, random ones after the first."""
        batch = self._examples.of(rows)
        first = {name: np.repeat(array[:1], rows, axis=0) for name, array in batch.items()}
        if differ(batch, first):
            return batch
        made = other_rows(self._inputs, batch, ORDINARY, 1.0, seed=0)
        return {name: np.concatenate([first[name][:1], made[name][1:]]) for name in batch}

    def _several(self, rows: int, alone: InferenceError | None) -> tuple[Arrays, Arrays]:
        """The ordinary rows, as many as fit into memory, and their outputs from one run."""
        attempts = [self._ordinary, self._examples.of]
        failure: InferenceError = InferenceError("no run")
        while rows > 1 and attempts:
            batch = attempts[0](rows)
            try:
                outputs = self._timed(batch)
            except OutOfMemory as error:
                failure, rows = error, rows // 2
            except InferenceError as error:
                failure = error
                attempts.pop(0)
            else:
                self._require_rows(outputs, rows)
                return batch, outputs
        if alone is not None:
            raise alone
        raise _NotBatchable(f"several rows at once do not run: {failure}")

    def _require_rows(self, outputs: Arrays, rows: int) -> None:
        for name, array in outputs.items():
            if not array.ndim or len(array) != rows:
                got = "no rows" if not array.ndim else f"{len(array)} rows"
                raise _NotBatchable(f"its output {name!r} has {got} for {rows} rows")

    # What is required

    def _require_same_twice(self) -> None:
        """The first runs of a TorchScript program may be compiled in different ways, so a third one is compared too."""
        again = self._timed(self._batch)
        change = self._change(again, self._together)
        if change.worst > OTHERS_TOLERANCE:
            change = self._change(self._timed(self._batch), again)
        self.noise = change.worst
        if change.numbers > self._tolerance or change.others:
            raise _NotBatchable(NOT_DETERMINISTIC, change.worst)

    def _require_no_change_by_others(self) -> None:
        run_s, tried = self._last_s, 0
        allowed = max(self._rounding(), min(8 * (self.noise or 0.0), self._tolerance))
        for number, case in enumerate(self._cases()):
            if number > 1 and tried and self._spent_s > max(BUDGET_S, 8 * run_s):
                break
            outputs = self._beside(case, number)
            if outputs is None:
                continue
            tried += 1
            if self._last_s > 4 * run_s + 0.01:  # its values decide how long it runs: no larger ones
                self._step = min(self._step, case.step)
            self._require_unchanged(outputs, self._together, case.kept, allowed)
        self._require_no_change_by_longer_rows(allowed)
        if not tried:
            raise _NotBatchable("it runs with no other rows than its examples, so their influence cannot be measured")

    def _require_unchanged(self, outputs: Arrays, before: Arrays, kept: Array, allowed: float) -> None:
        change = self._change(outputs, before, kept, kept)
        self.difference = max(self.difference or 0.0, change.worst)
        if change.numbers > allowed or change.others:
            raise _NotBatchable("other rows in the run change a row's answer", self.difference)

    def _require_no_change_by_longer_rows(self, allowed: float) -> None:
        """Short rows with padding after them, together and beside longer ones: the model may cut at the longest."""
        places = np.arange(len(next(iter(self._batch.values()))))
        for short in shorter_rows(self._inputs, self._batch):
            try:
                together = self._timed(short)
                for kept in (places[::2], places[-1:]):
                    beside = {name: array.copy() for name, array in self._batch.items()}
                    self._require_unchanged(self._timed(self._with_kept(beside, kept, short)), together, kept, allowed)
            except InferenceError:  # it does not run with such padding
                continue
            return

    def _cases(self) -> Iterator[_Case]:
        """Runs that show any influence between two places, from one of many others or from all, the strongest first."""
        places = np.arange(len(next(iter(self._batch.values()))))
        large, negative, positive, zero, not_a_number = KINDS
        half, last = len(places) // 2, places[-1:]
        yield _Case(places[::2], large, STEPS[0])
        yield _Case(places[1::2], negative, STEPS[0])
        yield _Case(places[:half], positive, STEPS[1])
        yield _Case(places[half:], zero, 1.0)
        yield _Case(places[1::2], not_a_number, 1.0)
        yield _Case(last, large, STEPS[2])
        yield _Case(places[:1], negative, STEPS[2])
        yield _Case(places[half : half + 1], ORDINARY, 1.0)
        yield _Case(places[half:], positive, STEPS[2])
        yield _Case(places[:half], negative, STEPS[1])
        yield _Case(places[1::2], large, STEPS[1])
        yield _Case(places[::2], ORDINARY, 1.0)
        yield _Case(last, zero, 1.0)

    def _beside(self, case: _Case, seed: int) -> Arrays | None:
        """The outputs with the other rows replaced, by milder ones where the model does not run; None if with none."""
        for others in self._milder_and_milder(case, seed):
            batch = self._with_kept(others, case.kept, self._batch)
            if not differ(batch, self._batch):
                continue
            try:
                outputs = self._timed(batch)
            except InferenceError:
                if self._last_s > LONG_S:  # it was stopped: values decide how long it runs
                    self._step = 1.0
                continue
            self._require_rows(outputs, len(next(iter(batch.values()))))
            return outputs
        return None

    @staticmethod
    def _with_kept(others: Arrays, kept: Array, rows: Arrays) -> Arrays:
        for name, array in others.items():
            array[kept] = rows[name][kept]
        return others

    def _milder_and_milder(self, case: _Case, seed: int) -> Iterator[Arrays]:
        inputs, batch, step = self._inputs, self._batch, min(case.step, self._step)
        yield other_rows(inputs, batch, case.kind, step, seed)
        yield other_rows(inputs, batch, case.kind, step, seed, known=True)
        yield other_rows(inputs, batch, case.kind, 1.0, seed, known=True)
        yield other_rows(inputs, batch, ORDINARY, 1.0, seed)
        yield {name: np.roll(array, 1, axis=0) for name, array in batch.items()}

    def _require_little_change_by_place(self, one: Arrays) -> None:
        """Rows alone, one half, and all in reverse order."""
        change = self._change(one, self._together, slice(1), slice(1))
        places = np.arange(len(next(iter(self._batch.values()))))
        half = len(places) // 2
        parts = [places[half:], places[-1:], places[::-1], places[half : half + 1], places[:half]]
        for number, part in enumerate(parts):
            if number > 1 and self._spent_s > 2 * BUDGET_S:
                break
            change = change.or_worse(self._change(self._run_part(part), self._together, slice(None), part))
        self.noise = max(self.noise or 0.0, change.worst)
        if change.numbers > self._place_tolerance(change.numbers) or change.others > FLIPS_TOLERANCE:
            raise _NotBatchable("a row's answer depends on the number of rows in the run or its place", change.worst)

    def _run_part(self, part: Array) -> Arrays:
        try:
            outputs = self._timed(_at(self._batch, part))
        except InferenceError as error:
            raise _NotBatchable(f"{len(part)} rows at once do not run: {error}") from None
        self._require_rows(outputs, len(part))
        return outputs

    def _place_tolerance(self, change: float) -> float:
        """Larger for a model that rounds its values."""
        if not self._tolerance < change <= COARSE_PLACE_TOLERANCE:
            return self._tolerance
        if any(spec.numpy.itemsize < 4 and spec.kind == "f" for spec in self._outputs.values()):
            return COARSE_PLACE_TOLERANCE
        return COARSE_PLACE_TOLERANCE if self._is_coarse() else self._tolerance

    def _is_coarse(self) -> bool:
        """True if the outputs move in steps: ten times the change of the inputs moves them by far less or far more."""
        try:
            little, more = (self._timed(moved(self._inputs, self._batch, share)) for share in (1e-3, 1e-2))
        except InferenceError:
            return False
        change, larger = self._change(little, self._together).numbers, self._change(more, self._together).numbers
        return larger > 0 and not 4 * change < larger < 25 * change

    # Comparison

    def _rounding(self) -> float:
        sizes = [np.finfo(spec.numpy).eps for spec in self._outputs.values() if spec.numpy.kind == "f"]
        coarse = 2**-7 if any(spec.dtype == BF16 for spec in self._outputs.values()) else 0.0
        return float(max(OTHERS_TOLERANCE, coarse, *(4 * size for size in sizes)))

    def _values(self, name: str, array: Array) -> Array:
        spec: TensorSpec | None = self._outputs.get(name)
        if spec is not None and spec.dtype == BF16:
            return float_from_bf16(array)
        return array

    def _change(
        self,
        got: Arrays,
        before: Arrays,
        places: Array | slice = slice(None),
        places_before: Array | slice = slice(None),
    ) -> _Change:
        worst = _Change()
        for name, array in before.items():
            one = self._values(name, got[name])[places]
            other = self._values(name, array)[places_before]
            worst = worst.or_worse(_compared(one, other, self._ranges[name]))
        return worst


def largest_change(before: Arrays, after: Arrays, rows: int) -> float:
    """The largest change of the first rows between two runs of equal shapes, as a share of the outputs' range."""
    return max(
        (_compared(after[name][:rows], array[:rows], _range(array)).worst for name, array in before.items()),
        default=0.0,
    )


def _compared(one: Array, other: Array, size: float) -> _Change:
    if one.shape != other.shape:
        return _Change(1.0, 1.0)
    if not one.size:
        return _Change()
    if one.dtype.kind not in "fc":
        return _Change(0.0, float(np.mean(one != other)))
    same = (one == other) | (np.isnan(one) & np.isnan(other))
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.abs(one.astype(np.float64) - other.astype(np.float64))
    apart = np.where(same, 0.0, np.where(np.isfinite(apart), apart, size or 1.0))
    largest = float(apart.max())
    if not largest:
        return _Change()
    scale = size or max(_range(one), _range(other))
    return _Change(largest / scale if scale else 1.0)


def _range(array: Array) -> float:
    """The largest finite number, without its sign."""
    if array.dtype.kind not in "fc":
        return 1.0
    finite = np.abs(array[np.isfinite(array)].astype(np.float64))
    return float(finite.max()) if finite.size else 0.0


def _at(batch: Arrays, places: Array | slice) -> Arrays:
    return {name: np.ascontiguousarray(array[places]) for name, array in batch.items()}
