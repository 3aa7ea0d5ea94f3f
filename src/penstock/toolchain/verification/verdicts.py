"""Judges one form of a model against its reference: are the answers right, always the same, and each row's own?

Candidates that should lose nothing are held to a tolerance. Those that round by design, such as int8, are judged with
`atol=math.inf`: their numbers are held to an accuracy elsewhere, and everything else is still required of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np

from penstock.backends.axes.seen import moved, rows_first
from penstock.backends.base import Backend
from penstock.backends.row_independence import RowProof, prove_rows
from penstock.datatypes import BF16, float_from_bf16
from penstock.errors import InferenceError, InvalidInput, PenstockError
from penstock.tensors import Array, Arrays, Signature
from penstock.toolchain.verification.measures import Errors, compare, worst_of
from penstock.toolchain.verification.trials import MAX_ROWS, Trial, rows_of

ATOL, RTOL = 1e-5, 1e-3
"""The tolerance of a form that should lose nothing; see `Tolerance`."""
TIES = 0.01
"""The share of whole numbers, such as classes, that may differ for drawn inputs: rounding decides between equals."""


class Tolerance(NamedTuple):
    """A value may differ by `atol` × the output's largest value + `rtol` × the value itself.

    `absolute`: by `atol` + `rtol` × the value, as golden samples are compared.
    """

    atol: float = ATOL
    rtol: float = RTOL
    absolute: bool = False

    def allowed(self, expected: Array, size: float) -> Array:
        """How far each value may be from the expected one; `size` is the output's largest value."""
        if math.isinf(self.atol):
            return np.full_like(expected, np.inf)
        allowed: Array = self.atol * (1.0 if self.absolute else size) + self.rtol * np.abs(expected)
        return allowed


DEFAULT_TOLERANCE = Tolerance()


class Reference(Protocol):
    """What has the right answers: an open backend, or answers that were recorded."""

    def run(self, inputs: Arrays) -> Arrays:
        """The outputs for these inputs; raises InferenceError."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the trials showed. `errors` are those of the given and drawn inputs, and of the one at fault.

    `batch_invariant`: the rows of a run were shown to be independent. `why` is the reason why it is not `ok`, as one
    sentence, or a remark. `skipped` names the trials that the reference itself does not run with, or answers with
    values that are not finite; `compared` counts the others.
    """

    errors: Errors
    batch_invariant: bool
    ok: bool
    why: str = ""
    compared: int = 0
    skipped: tuple[str, ...] = ()


class _Refused(Exception):
    """Why a candidate is not ok, as one sentence, with the errors of the trial if there are any."""

    def __init__(self, why: str, errors: Errors | None = None) -> None:
        super().__init__(why)
        self.errors = errors


def judge(
    candidate: Backend,
    reference: Reference,
    trials: Iterable[Trial],
    *,
    atol: float = ATOL,
    rtol: float = RTOL,
    absolute: bool = False,
    batchable: bool | None = None,
    prove: bool = True,
    on_trial: Callable[[Trial], None] | None = None,
) -> Verdict:
    """Run all trials on both and compare; the first is the example, which the reference must run with.

    Also runs the example again, and other rows beside each row of it (`prove_rows`). A candidate whose rows influence
    each other is ok only if those of the model do as well, which is measured on the reference unless `batchable` says
    it; without `prove` nothing is said of rows. The other arguments are those of a `Tolerance`. Raises InferenceError
    or InvalidInput when the reference has no finite answer to the first trial.
    """
    comparison = _Comparison(candidate, reference, Tolerance(atol, rtol, absolute))
    rows = RowProof(batchable=False)
    try:
        first = None
        for trial in trials:
            if on_trial is not None:
                on_trial(trial)
            comparison.compare(trial, required=first is None)
            first = first or trial
        if first is None:
            raise InvalidInput("there is no input to compare the answers to")
        comparison.require_few_ties()
        rows = rows_proof(candidate, first.inputs) if prove else rows
        _require_own_rows(rows, reference, first.inputs, batchable)
    except _Refused as refused:
        return comparison.verdict(refused, batch_invariant=rows.batchable)
    return comparison.verdict(None, batch_invariant=rows.batchable)


class _Comparison:
    """The answers of two models, trial by trial."""

    def __init__(self, candidate: Backend, reference: Reference, tolerance: Tolerance) -> None:
        self._candidate = candidate
        self._reference = reference
        self._tolerance = tolerance
        self._ranges: dict[str, float] = {}
        self._ties: dict[str, list[tuple[int, int]]] = {}
        self._errors: list[Errors] = []
        self._skipped: list[str] = []

    def compare(self, trial: Trial, *, required: bool) -> None:
        """Raises _Refused; a trial without a finite answer is skipped, or raises where it is `required`."""
        expected = self._expected(trial, required=required)
        if expected is None:
            return
        got = self._run(trial)
        _require_form(expected, got, trial)
        expected, got = self._numbers(expected), self._numbers(got)
        if required:
            self._ranges = {name: _size(array) for name, array in expected.items()}
            self._require_same_again(trial, got)
        errors = compare(expected, got)
        for name, array in expected.items():
            self._require_close(name, array, got[name], trial, errors)
        if trial.kind != "stress":
            self._errors.append(errors)

    def require_few_ties(self) -> None:
        """Raises _Refused if more whole numbers differ than rounding explains."""
        for name, counts in self._ties.items():
            differing, every = (sum(column) for column in zip(*counts, strict=True))
            if differing > max(TIES * every, 1):
                raise _Refused(f"output {name!r}: {differing} of {every} values are others than those of the model")

    def verdict(self, refused: _Refused | None, *, batch_invariant: bool) -> Verdict:
        """What the trials so far have shown."""
        found = [*self._errors, *([refused.errors] if refused is not None and refused.errors is not None else [])]
        errors = replace(worst_of(found), samples=sum(one.samples for one in found))
        why = "" if refused is None else str(refused)
        return Verdict(errors, batch_invariant, refused is None, why, len(self._errors), tuple(self._skipped))

    # Runs

    def _expected(self, trial: Trial, *, required: bool) -> Arrays | None:
        try:
            expected = self._reference.run(_copied(trial.inputs))
        except PenstockError as error:
            if required:
                raise InferenceError(f"the model does not run with {trial.name}: {error}") from error
            self._skipped.append(trial.name)
            return None
        if all(np.isfinite(array).all() for array in self._numbers(expected).values() if array.dtype.kind == "f"):
            return expected
        if required:
            raise InvalidInput(f"the model answers {trial.name} with NaN or infinity; give other rows", field="example")
        self._skipped.append(trial.name)
        return None

    def _run(self, trial: Trial) -> Arrays:
        try:
            return self._candidate.run(_copied(trial.inputs))
        except PenstockError as error:
            raise _Refused(f"it does not run with {trial.name}, with which the model runs: {error}") from error

    def _numbers(self, outputs: Arrays) -> Arrays:
        """With BF16 as float32, and with the batch on axis 0."""
        signature = self._candidate.signature
        coarse = {spec.name for spec in signature.outputs if spec.dtype == BF16}
        plain = {name: float_from_bf16(array) if name in coarse else array for name, array in outputs.items()}
        axes = {name: axis for name, axis in signature.batch_axes.items() if name in plain}
        return plain if signature.whole or not axes else moved(plain, axes)

    # What is required

    def _require_same_again(self, trial: Trial, got: Arrays) -> None:
        again = self._numbers(self._run(trial))
        for name, array in got.items():
            if _beyond(array, again[name], self._ranges[name], self._tolerance) is not None:
                raise _Refused(f"output {name!r} is another one each time for the same input")

    def _require_close(self, name: str, expected: Array, got: Array, trial: Trial, errors: Errors) -> None:
        if expected.dtype.kind not in "fc":
            self._count(name, expected, got, trial, errors)
            return
        size = max(self._ranges.get(name, 0.0), _size(expected))
        place = _beyond(expected, got, size, self._tolerance)
        if place is not None:
            allowed = float(self._tolerance.allowed(expected[place].astype(np.float64), size))
            raise _Refused(
                f"{_where(name, place, trial)} is {float(got[place]):.6g} instead of {float(expected[place]):.6g}: it "
                f"differs by {_difference(got[place], expected[place]):.3g}, allowed are {allowed:.3g}",
                errors,
            )

    def _count(self, name: str, expected: Array, got: Array, trial: Trial, errors: Errors) -> None:
        """Whole numbers and texts: all alike for given inputs, nearly all for the others."""
        different = np.atleast_1d(expected != got)
        if not different.any():
            self._ties.setdefault(name, []).append((0, expected.size))
        elif trial.kind == "given":
            place = tuple(int(n) for n in np.argwhere(different)[0]) if expected.ndim else ()
            raise _Refused(f"{_where(name, place, trial)} is {got[place]} instead of {expected[place]}", errors)
        elif trial.kind == "drawn":
            self._ties.setdefault(name, []).append((int(different.sum()), expected.size))


def _copied(inputs: Arrays) -> Arrays:
    """A model may write to its inputs."""
    return {name: array.copy() for name, array in inputs.items()}


def _require_form(expected: Arrays, got: Arrays, trial: Trial) -> None:
    """The same outputs, of the same types and shapes."""
    if expected.keys() != got.keys():
        raise _Refused(f"its outputs are {', '.join(got)}, those of the model {', '.join(expected)}")
    for name, array in expected.items():
        if got[name].dtype != array.dtype:
            raise _Refused(f"output {name!r} is of the type {got[name].dtype}, that of the model {array.dtype}")
        if got[name].shape != array.shape:
            raise _Refused(
                f"output {name!r} has the shape {list(got[name].shape)} with {trial.name}, that of the model "
                f"{list(array.shape)}"
            )


def _beyond(expected: Array, got: Array, size: float, tolerance: Tolerance) -> tuple[int, ...] | None:
    """The place of the value that is the furthest beyond the tolerance; None if none is."""
    if expected.dtype.kind not in "fc" or not expected.size:
        return None
    one, other = expected.astype(np.float64), got.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.where(np.isfinite(other) & np.isfinite(one), np.abs(other - one), np.inf)
        apart = np.where((one == other) | (np.isnan(one) & np.isnan(other)), 0.0, apart)
        allowed = tolerance.allowed(one, size)
        excess = np.where(np.isinf(apart), np.inf, apart - np.where(np.isfinite(one), allowed, np.inf))
    worst = int(excess.argmax())
    return tuple(map(int, np.unravel_index(worst, one.shape))) if excess.flat[worst] > 0 else None


def _difference(one: float, other: float) -> float:
    return abs(float(one) - float(other)) if math.isfinite(one) else math.inf


def _size(array: Array) -> float:
    """The largest finite number, without its sign."""
    if array.dtype.kind not in "fc":
        return 1.0
    return float(np.max(np.abs(array.astype(np.float64)), initial=0.0, where=np.isfinite(array)))


def _where(name: str, place: tuple[int, ...], trial: Trial) -> str:
    sample = f", sample {place[0]}" if place else ""
    value = f", value {list(place[1:])}" if len(place) > 1 else ""
    return f"output {name!r}{sample}{value} of {trial.name}"


# Rows


class _Rows:
    """Batches of the rows of an example, for `prove_rows`."""

    def __init__(self, example: Arrays, signature: Signature) -> None:
        self._example = moved(example, signature.batch_axes) if signature.batch_axes else example
        self._signature = replace(signature, batch_axes={})

    def of(self, rows: int) -> Arrays:
        """A batch of this many rows."""
        return rows_of(self._example, self._signature, rows)


def rows_proof(backend: Backend, example: Arrays) -> RowProof:
    """Whether the rows of a run are independent; what cannot be measured is not."""
    signature = backend.signature
    if signature.whole or signature.fixed_rows is not None:
        return RowProof(batchable=False)
    try:
        return prove_rows(rows_first(backend), _Rows(example, signature), MAX_ROWS)
    except InferenceError as error:
        return RowProof(batchable=False, why=f"it does not run with single rows ({error})")


def _require_own_rows(rows: RowProof, reference: Reference, example: Arrays, batchable: bool | None) -> None:
    """Raises _Refused for a candidate that mixes rows when the model does not."""
    if rows.batchable or not rows.why:
        return
    if batchable is None and isinstance(reference, Backend):
        batchable = rows_proof(reference, example).batchable
    if batchable:
        raise _Refused(f"requests could not share a run: {rows.sentence}; those of the model can")
