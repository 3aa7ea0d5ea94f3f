"""How far the outputs of one form of a model are from those of another."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from penstock.tensors import Array, Arrays

__all__ = ["Errors", "compare", "worst_of"]


@dataclass(frozen=True, slots=True)
class Errors:
    """Differences from the reference over all outputs and samples.

    `max_abs` is the largest absolute difference of a value; `max_rel` the largest absolute difference as a share of the
    largest absolute value of its reference output; `cosine` the smallest cosine of one sample's output with the
    reference; `top1` the share of samples whose largest value of the last axis is at the same place (exactly equal
    values for outputs of integers). `output` and `sample` say where `max_abs` was found. NaN or infinity on one side
    only makes `max_abs` and `max_rel` infinite. None: there is nothing to measure it on.
    """

    max_abs: float
    max_rel: float
    cosine: float | None
    top1: float | None
    samples: int
    output: str = ""
    sample: int = 0


def compare(reference: Arrays, got: Arrays) -> Errors:
    """The differences of `got` from `reference`, axis 0 the sample. Raises ValueError for other names or shapes."""
    for name, expected in reference.items():
        if name not in got:
            raise ValueError(f"there is no output {name!r}")
        if got[name].shape != expected.shape:
            raise ValueError(f"output {name!r} has the shape {list(got[name].shape)}, not {list(expected.shape)}")
    return worst_of(_compared(name, expected, got[name]) for name, expected in reference.items())


def worst_of(errors: Iterable[Errors]) -> Errors:
    """The worst of several measurements; their samples are added, and `top1` is weighted by them."""
    every = list(errors)
    if not every:
        return Errors(0.0, 0.0, None, None, 0)
    worst = max(every, key=lambda one: one.max_abs)
    ranked = [one for one in every if one.top1 is not None]
    counted = sum(one.samples for one in ranked)
    return Errors(
        max_abs=worst.max_abs,
        max_rel=max(one.max_rel for one in every),
        cosine=min((one.cosine for one in every if one.cosine is not None), default=None),
        top1=sum((one.top1 or 0.0) * one.samples for one in ranked) / counted if counted else None,
        samples=max(one.samples for one in every),
        output=worst.output,
        sample=worst.sample,
    )


def _compared(name: str, reference: Array, got: Array) -> Errors:
    rows = reference.shape[0] if reference.ndim else 1
    if not reference.size:
        return Errors(0.0, 0.0, None, None, rows, name)
    if reference.dtype.kind not in "fiub" or got.dtype.kind not in "fiub":
        equal = [bool(np.array_equal(one, other)) for one, other in zip(reference, got, strict=True)]
        difference = 0.0 if all(equal) else math.inf
        return Errors(difference, difference, None, float(np.mean(equal)), rows, name)
    one, other = reference.astype(np.float64), got.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        difference_of = np.abs(other - one)
    same = (one == other) | (np.isnan(one) & np.isnan(other))
    difference_of = np.where(same, 0.0, np.where(np.isnan(difference_of), np.inf, difference_of))
    worst = int(difference_of.argmax())
    size = float(np.max(np.abs(one), initial=0.0, where=np.isfinite(one)))
    max_abs = float(difference_of.flat[worst])
    return Errors(
        max_abs=max_abs,
        max_rel=max_abs / size if size else (0.0 if not max_abs else math.inf),
        cosine=_cosine(one.reshape(rows, -1), other.reshape(rows, -1)),
        top1=_agreement(reference, got),
        samples=rows,
        output=name,
        sample=int(np.unravel_index(worst, one.shape)[0]) if one.ndim else 0,
    )


def _cosine(one: Array, other: Array) -> float | None:
    """The smallest cosine of two rows; None if some value is not finite or every row is zero."""
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        return None
    product = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    defined = product > 0
    return float(((one * other).sum(axis=1)[defined] / product[defined]).min()) if defined.any() else None


def _agreement(reference: Array, got: Array) -> float | None:
    if reference.dtype.kind != "f":
        return float((reference == got).mean())
    if reference.ndim < 2 or reference.shape[-1] < 2:
        return None
    return float((reference.argmax(axis=-1) == got.argmax(axis=-1)).mean())
