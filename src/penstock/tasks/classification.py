"""Convert a model's class scores to classes and confidences: softmax exactly once, labels, top k."""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np

from penstock.errors import ModelLoadError, OutOfRange
from penstock.tensors import Array, Arrays, Signature

OutputKind: TypeAlias = Literal["auto", "logits", "probabilities"]
"""What a row of the output is; `auto` checks each row and applies no softmax if it is a distribution already."""

_SUM_TOLERANCE = 1e-3
_LARGE = 1e300
"""Scores below this in magnitude overflow nowhere."""


class ClassScores:
    """Reads the classes of one model from its output [batch, classes]."""

    def __init__(self, signature: Signature, kind: OutputKind, labels: tuple[str, ...] | None, field: str) -> None:
        """`field` is the request field that errors name. Raises ModelLoadError if signature and labels do not match."""
        if len(signature.outputs) != 1:
            raise ModelLoadError(f"classification takes a model with one output, this one has {_names(signature)}")
        spec = signature.outputs[0]
        if len(spec.shape) != 2 or spec.numpy.kind != "f" or spec.shape[1] in (0, 1):
            raise ModelLoadError(
                f"classification takes an output of floats [batch, classes] with 2 classes or more;"
                f" {spec.name!r} is {spec.dtype} {list(spec.shape)}"
            )
        if labels is not None and spec.shape[1] >= 0 and len(labels) != spec.shape[1]:
            raise ModelLoadError(f"labels holds {len(labels)} names, the output {spec.name!r} has {spec.shape[1]}")
        self.name = spec.name
        self.kind: OutputKind = kind
        self.labels = labels
        self._field = field

    def label(self, index: int) -> str:
        """The name of a class; its number if the artifact has no name for it."""
        return self.labels[index] if self.labels is not None and index < len(self.labels) else str(index)

    def best(self, outputs: Arrays) -> tuple[list[int], list[float]]:
        """The likeliest class of every row and its probability.

        Raises OutOfRange if a score is NaN or infinite: the model has passed its golden samples, so its inputs
        are out of range.
        """
        scores = outputs[self.name]
        winners = scores.argmax(axis=1)  # of the scores: softmax can round two close scores to equal probabilities
        return winners.tolist(), self._probabilities(scores).max(axis=1).tolist()  # softmax keeps the order

    def confidences(self, scores: Array) -> Array:
        """The probability of the likeliest class of every row of scores, NaN for a row that is not finite."""
        rows = np.array(scores, np.float64 if scores.dtype.itemsize > 4 else np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            highest: Array = self._softmax_where_needed(rows).max(axis=1)
        highest[~np.isfinite(highest)] = np.nan
        return highest

    def top(self, outputs: Arrays, count: int) -> list[tuple[int, float]]:
        """The `count` likeliest classes of the only row, best first (ties: lower class first), and probabilities."""
        scores = outputs[self.name]
        row = self._probabilities(scores)[0]
        order = np.argsort(-scores[0], kind="stable")[:count]
        return list(zip(order.tolist(), row[order].tolist(), strict=True))

    def _probabilities(self, scores: Array) -> Array:
        rows = scores.astype(np.float64)
        if not rows.size or np.abs(rows).max() < _LARGE:  # False for NaN
            return self._softmax_where_needed(rows)
        with np.errstate(over="ignore", invalid="ignore"):
            rows = self._softmax_where_needed(rows)
        if not np.isfinite(rows).all():
            raise self._not_finite()
        return rows

    def _softmax_where_needed(self, rows: Array) -> Array:
        if self.kind == "probabilities" or not rows.size:
            return rows
        lowest = rows.min(axis=1)
        if self.kind == "logits" or lowest.max() < 0:
            return softmax(rows)
        ready = (lowest >= 0) & (np.abs(rows.sum(axis=1) - 1) < _SUM_TOLERANCE)
        rows[~ready] = softmax(rows[~ready])
        return rows

    def _not_finite(self) -> OutOfRange:
        return OutOfRange(
            f"{self._field}: the model's output is not finite; the input is far outside the range of the model",
            field=self._field,
            side="output",
            tensor=self.name,
        )


def one_output(signature: Signature, name: str | None) -> Signature:
    """The signature with only the output `name`; unchanged if `name` is None. Raises ModelLoadError."""
    if name is None:
        return signature
    chosen = tuple(spec for spec in signature.outputs if spec.name == name)
    if not chosen:
        raise ModelLoadError(f"scores: the model has no output {name!r}; it has {_names(signature)}")
    return Signature(signature.inputs, chosen)


def softmax(rows: Array) -> Array:
    """Softmax along the last axis, numerically stable; a row with NaN or +infinity becomes NaN."""
    if not rows.size:
        return rows
    exps = np.exp(rows - rows.max(axis=-1, keepdims=True))
    result: Array = exps / exps.sum(axis=-1, keepdims=True)
    return result


def _names(signature: Signature) -> str:
    return ", ".join(spec.name for spec in signature.outputs) or "none"
