"""The accuracy gate: what a candidate must answer on rows that nothing was calibrated with.

A lossless candidate is held to a tolerance on the trials that every exported form passes. A lossy one is held to the
accuracy budget: the task's metric where labels are given, else how often it gives the reference's answer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from penstock.artifacts.golden import Golden
from penstock.backends.axes.seen import moved, moved_samples, rows_first
from penstock.backends.base import Backend
from penstock.backends.row_independence import FIXED_BATCH, RowProof, prove_rows
from penstock.backends.verification import verify
from penstock.errors import GoldenMismatch, InferenceError, InvalidInput
from penstock.tensors import Array, Arrays, Signature
from penstock.toolchain.search.candidate import Judgement
from penstock.toolchain.search.data import Data, take
from penstock.toolchain.verification.measures import compare
from penstock.toolchain.verification.trials import trials
from penstock.toolchain.verification.verdicts import ATOL, RTOL, judge

BATCH_ROWS = 32
"""Rows of a run, as many as the default batch of a server."""
CLOSE = 0.01
"""Of an output without classes a row agrees if its largest error is at most this share of the output's range."""
_SAMPLES = 8
"""Rows that the trials of a lossless candidate start from."""


@dataclass(frozen=True, eq=False)
class Budget:
    """What candidates are held to, and what the reference answers on the rows held out.

    `max_drop` is the largest loss of accuracy, or of agreement without labels, as a share. `output` is the one that
    holds the classes, None without any. `batchable`: rows may not influence each other.
    """

    data: Data
    signature: Signature
    expected: Arrays
    max_drop: float
    output: str | None
    batchable: bool
    accuracy: float | None
    golden: Golden | None = None


def budget_of(
    reference: Backend,
    data: Data,
    signature: Signature,
    *,
    max_drop: float,
    output: str | None = None,
    golden: Golden | None = None,
) -> Budget:
    """The budget by the answers of the reference. Raises InvalidInput where the labels do not fit its outputs."""
    expected = answers(reference, data.held_out, signature)
    classified = _classified(signature, expected, output)
    accuracy = _accuracy(expected, data.labels, classified)
    batchable = _proof(reference, data, signature).batchable
    return Budget(data, signature, expected, max_drop, classified, batchable, accuracy, golden)


def pass_gate(candidate: Backend, reference: Backend, budget: Budget, *, lossy: bool) -> Judgement:
    """What the candidate answers, measured, and whether the budget accepts it.

    Raises InferenceError when it does not run.
    """
    got = answers(candidate, budget.data.held_out, budget.signature)
    try:
        judgement = _measured(got, budget)
    except ValueError as error:  # other names or shapes
        return Judgement(why=f"{error}, which the reference gives")
    if judgement.max_abs == math.inf:
        return replace(
            judgement, max_abs=None, max_rel=None, why="it answers NaN or infinity where the reference does not"
        )
    if lossy:
        return _within_budget(judgement, candidate, budget)
    return _within_tolerance(judgement, candidate, reference, budget)


def figures(backend: Backend, budget: Budget) -> Judgement:
    """What a form answers, measured, whatever the budget says."""
    return _measured(answers(backend, budget.data.held_out, budget.signature), budget)


def answers(backend: Backend, inputs: Arrays, signature: Signature) -> Arrays:
    """The outputs for all rows, axis 0 the sample, in runs of at most BATCH_ROWS."""
    if signature.whole:
        return backend.run(inputs)
    parts = [backend.run(part) for part in _batches(inputs, signature)]
    axes = signature.batch_axes
    return {
        name: np.concatenate([np.moveaxis(part[name], axes.get(name) or 0, 0) for part in parts]) for name in parts[0]
    }


def _batches(inputs: Arrays, signature: Signature) -> Iterator[Arrays]:
    """Runs of a fixed number of rows where the model takes no other; rows that fill no run are left out then."""
    rows, size = signature.rows(inputs), signature.fixed_rows or BATCH_ROWS
    if signature.fixed_rows is not None and rows < size:
        raise InvalidInput(f"data: the model takes {size} rows at a time; there are {rows}", field="data")
    end = rows - rows % size if signature.fixed_rows is not None else rows
    for start in range(0, end, size):
        yield take(inputs, np.arange(start, min(start + size, end)), signature)


# --- figures ----------------------------------------------------------------------------------------------


def _measured(got: Arrays, budget: Budget) -> Judgement:
    errors = compare(budget.expected, got)
    labels = budget.data.labels
    return Judgement(
        agreement=_agreement(budget.expected, got, budget.output),
        accuracy=_accuracy(got, labels, budget.output),
        kl=None if budget.output is None else _divergence(budget.expected[budget.output], got[budget.output]),
        max_abs=errors.max_abs,
        max_rel=errors.max_rel if math.isfinite(errors.max_rel) else None,
        cosine=errors.cosine,
        samples=errors.samples,
        errors=_by_row(budget.expected, got),
    )


def _classified(signature: Signature, outputs: Arrays, stated: str | None) -> str | None:
    """The output with a score for each class: the one that the task names, else the first that looks like it."""
    if stated in outputs:
        return stated
    return next((spec.name for spec in signature.outputs if _has_classes(outputs[spec.name])), None)


def _has_classes(output: Array) -> bool:
    return output.dtype.kind == "f" and output.ndim >= 2 and output.shape[-1] >= 2


def _accuracy(outputs: Arrays, labels: Array | None, output: str | None) -> float | None:
    """The share of right classes. Raises InvalidInput for labels that the output has no place for."""
    if labels is None:
        return None
    if output is None:
        raise InvalidInput(
            "labels: the model has no output with a score for each class to compare them with", field="labels"
        )
    scores = outputs[output]
    labels = labels[: len(scores)]
    if labels.shape != scores.shape[:-1] or scores.ndim < 2:
        raise InvalidInput(
            f"labels: their shape is {list(labels.shape)}; the output {output!r} takes {list(scores.shape[:-1])}, one "
            "class for each row",
            field="labels",
        )
    if labels.max(initial=0) >= scores.shape[-1]:
        raise InvalidInput(
            f"labels: {int(labels.max())} is no class of the output {output!r}, which has {scores.shape[-1]}",
            field="labels",
        )
    return float((scores.argmax(axis=-1) == labels).mean())


def _agreement(expected: Arrays, got: Arrays, output: str | None) -> float:
    """The share of rows with the reference's answer, in the worst output; the one with the classes if there is one."""
    names = [output] if output is not None else list(expected)
    return min(_agreeing(expected[name], got[name]) for name in names)


def _agreeing(expected: Array, got: Array) -> float:
    if not expected.size:
        return 1.0
    if _has_classes(expected):
        return float((expected.argmax(axis=-1) == got.argmax(axis=-1)).mean())
    if expected.dtype.kind != "f":
        return float((expected == got).reshape(len(expected), -1).all(axis=1).mean())
    width = float(np.ptp(expected)) or float(np.abs(expected).max()) or 1.0
    return float((_row_errors(expected, got) <= CLOSE * width).mean())


def _row_errors(expected: Array, got: Array) -> Array:
    difference = np.abs(expected.astype(np.float64) - got.astype(np.float64))
    return difference.reshape(len(expected), -1).max(axis=1, initial=0.0) if expected.ndim else difference


def _by_row(expected: Arrays, got: Arrays) -> tuple[float, ...]:
    rows = [_row_errors(expected[name], got[name]) for name in expected if expected[name].dtype.kind == "f"]
    same = [one for one in rows if one.shape == rows[0].shape]
    return tuple(np.max(same, axis=0).ravel().tolist()) if same else ()


def _divergence(expected: Array, got: Array) -> float | None:
    """The mean Kullback-Leibler divergence of the candidate's classes from the reference's."""
    if not _has_classes(expected):
        return None
    one, other = _logarithms(expected), _logarithms(got)
    return max(0.0, float((np.exp(one) * (one - other)).sum(axis=-1).mean()))


def _logarithms(scores: Array) -> Array:
    """Log probabilities: of scores that are probabilities already, or of logits."""
    scores = scores.astype(np.float64)
    if (scores >= 0).all() and np.allclose(scores.sum(axis=-1), 1, atol=1e-3):
        return np.asarray(np.log(np.clip(scores, 1e-12, 1)))
    shifted = scores - scores.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


# --- verdicts ---------------------------------------------------------------------------------------------


def _within_budget(judgement: Judgement, candidate: Backend, budget: Budget) -> Judgement:
    over = _over_budget(judgement, budget)
    if over is not None:
        return replace(judgement, why=over, over_budget=True)
    proof = _proof(candidate, budget.data, budget.signature)
    judgement = replace(judgement, batch_invariant=proof.batchable)
    if budget.batchable and not proof.batchable:
        return replace(judgement, why=f"rows would influence each other: {proof.sentence}")
    return _with_golden(judgement, candidate, budget)


def _with_golden(judgement: Judgement, candidate: Backend, budget: Budget) -> Judgement:
    """With the errors on the golden samples, which every load compares, among the largest."""
    golden = budget.golden
    if golden is None:
        return judgement
    got = answers(candidate, golden.inputs, budget.signature)
    rows = len(next(iter(got.values()))) if not budget.signature.whole else None
    errors = compare({name: array[:rows] for name, array in _samples_first(golden, budget.signature).items()}, got)
    return replace(judgement, max_abs=max(judgement.max_abs or 0.0, errors.max_abs))


def _samples_first(golden: Golden, signature: Signature) -> Arrays:
    axes = {} if signature.whole else signature.batch_axes
    return {name: np.moveaxis(array, axes.get(name) or 0, 0) for name, array in golden.outputs.items()}


def _over_budget(judgement: Judgement, budget: Budget) -> str | None:
    allowed = budget.max_drop + 1e-9
    if judgement.accuracy is not None and budget.accuracy is not None:
        drop = budget.accuracy - judgement.accuracy
        if drop > allowed:
            return (
                f"its accuracy is {judgement.accuracy:.4f}, {drop:.4f} below the {budget.accuracy:.4f} of the "
                f"reference; allowed are {budget.max_drop:g}"
            )
        return None
    agreement = judgement.agreement
    if agreement is not None and 1 - agreement > allowed:
        return (
            f"{1 - agreement:.2%} of the rows get another answer than from the reference; "
            f"allowed are {budget.max_drop:.2%}"
        )
    return None


def _within_tolerance(judgement: Judgement, candidate: Backend, reference: Backend, budget: Budget) -> Judgement:
    rows = min(_SAMPLES, budget.data.held_out_rows)
    example = _example(budget, rows)
    tried = trials(budget.signature, example, max_rows=BATCH_ROWS, name="the data")
    verdict = judge(candidate, reference, tried, atol=ATOL, rtol=RTOL, batchable=budget.batchable)
    judgement = replace(judgement, batch_invariant=verdict.batch_invariant)
    if not verdict.ok:
        return replace(judgement, why=verdict.why)
    try:
        if budget.golden is not None and budget.signature.fixed_rows is None:
            verify(rows_first(candidate), _moved(budget.golden, budget.signature), BATCH_ROWS, "it")
    except GoldenMismatch as error:
        return replace(judgement, why=str(error))
    return judgement


def _moved(golden: Golden, signature: Signature) -> Golden:
    return moved_samples(golden, signature) or golden


def _example(budget: Budget, rows: int) -> Arrays:
    if budget.signature.whole or budget.signature.fixed_rows is not None:
        return (
            budget.data.held_out if budget.signature.whole else next(_batches(budget.data.held_out, budget.signature))
        )
    return take(budget.data.held_out, np.arange(rows), budget.signature)


class _Rows:
    """The rows held out, as the measurement of row independence takes them: axis 0 the row."""

    def __init__(self, data: Data, signature: Signature) -> None:
        self._rows = moved(data.held_out, signature.batch_axes) if signature.batch_axes else data.held_out
        self._count = max(data.held_out_rows, 1)

    def of(self, rows: int) -> Arrays:
        """A batch of so many rows."""
        places = np.arange(rows) % self._count
        return {name: np.ascontiguousarray(array[places]) for name, array in self._rows.items()}


def _proof(backend: Backend, data: Data, signature: Signature) -> RowProof:
    """Whether rows share a run without an effect on each other, as a server would find it."""
    if signature.whole or signature.fixed_rows is not None:
        return RowProof(batchable=False, why=FIXED_BATCH)
    try:
        return prove_rows(rows_first(backend), _Rows(data, signature), BATCH_ROWS)
    except InferenceError as error:
        return RowProof(batchable=False, why=str(error))
