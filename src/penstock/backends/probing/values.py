"""Makes up inputs of a signature: how long its free axes are, and which values they hold."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

import numpy as np

from penstock.datatypes import BF16, bf16_from_float
from penstock.tensors import Array, Arrays, Signature, TensorSpec

SEED = 0

Place: TypeAlias = tuple[str, int]
"""An input and the number of one of its axes."""
Axis: TypeAlias = "str | Place"
"""A free axis: its name, which all axes of one length share, or its place."""
Lengths: TypeAlias = Mapping[Axis, int]
Floats: TypeAlias = Callable[[np.random.Generator, tuple[int, ...]], Array]

_MASK = re.compile(r"mask", re.IGNORECASE)
_LENGTH = re.compile(r"(^|[_.])(\w*len|\w*lens|\w*lengths?|\w*num_frames)$", re.IGNORECASE)


def normal(random: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Standard normal numbers."""
    return random.standard_normal(shape, np.float32)


def positive(random: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Numbers between 0.05 and 1, for logarithms, roots and scales."""
    return random.uniform(0.05, 1.0, shape).astype(np.float32)


def ones(_: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Ones."""
    return np.ones(shape, np.float32)


def zeros(_: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Zeros."""
    return np.zeros(shape, np.float32)


class Values(NamedTuple):
    """How values are made up: floats of one kind, integers from `low` to `high`, with other `ranges` by input.

    `roles`: an input named as a mask is all ones, one named as a length holds the length of the longest free axis.
    """

    floats: Floats
    low: int = 1
    high: int = 1
    booleans: bool = True
    digits: bool = True
    """Text: random digits, which a model that reads numbers takes as well; else empty."""
    roles: bool = True
    ranges: tuple[tuple[str, int, int], ...] = ()

    def with_range(self, name: str, low: int, high: int) -> Values:
        """The same, with integers from `low` to `high` for one input."""
        return self._replace(ranges=(*(known for known in self.ranges if known[0] != name), (name, low, high)))

    def between(self, name: str) -> tuple[int, int]:
        """The least and the greatest integer for an input."""
        return next(((low, high) for known, low, high in self.ranges if known == name), (self.low, self.high))


STYLES = (
    Values(normal),
    Values(ones),
    Values(positive, 2, 2),
    Values(normal, 5, 5),
    Values(zeros, 0, 0, booleans=False, digits=False),
    Values(positive, roles=False),
)
"""In the order to try them. Ones are valid divisors, counts, masks and, in nearly any vocabulary, identifiers."""


def has_role(spec: TensorSpec) -> bool:
    """True for an input whose name says what it holds."""
    return bool(_MASK.search(spec.name)) or (len(spec.shape) == 1 and bool(_LENGTH.search(spec.name)))


def free_axes(signature: Signature) -> dict[Axis, Place]:
    """The free axes besides the batch, each with the place where it comes first."""
    found: dict[Axis, Place] = {}
    rows = _row_names(signature)
    for spec in signature.inputs:
        for axis, length in enumerate(spec.shape):
            if length < 0 and axis and _key(spec, axis) not in rows:
                found.setdefault(_key(spec, axis), (spec.name, axis))
    return found


def _row_names(signature: Signature) -> set[str]:
    """The names of first axes, which later axes of the same name follow: `x [batch, 3]` and `h [2, batch, 4]`."""
    return {spec.dims[0] or "" for spec in signature.inputs if spec.dims and spec.shape[0] < 0}


def rows_to_try(signature: Signature) -> int:
    """The rows that an input fixes, else one."""
    return next((spec.shape[0] for spec in signature.inputs if spec.shape and spec.shape[0] > 0), 1)


def shape_of(spec: TensorSpec, rows: int, lengths: Lengths) -> tuple[int, ...]:
    """The shape of an input in a batch of this many rows; fixed lengths, zero included, stay."""
    free = (lengths.get(_key(spec, axis), rows) if axis and n < 0 else rows for axis, n in enumerate(spec.shape))
    return tuple(n if n >= 0 else length for n, length in zip(spec.shape, free, strict=True))


def make_inputs(signature: Signature, rows: int, lengths: Lengths, values: Values) -> Arrays:
    """Made-up inputs, the same at each call; a smaller batch has the first rows of a larger one."""
    longest = max(lengths.values(), default=1)
    return {
        spec.name: _array(spec, shape_of(spec, rows, lengths), values, longest, np.random.default_rng([SEED, number]))
        for number, spec in enumerate(signature.inputs)
    }


def _key(spec: TensorSpec, axis: int) -> Axis:
    name = spec.dims[axis] if spec.dims else None
    return name or (spec.name, axis)


def _array(
    spec: TensorSpec, shape: tuple[int, ...], values: Values, longest: int, random: np.random.Generator
) -> Array:
    if spec.dtype == "BYTES":
        return random.integers(0, 10, shape).astype(str).astype(object) if values.digits else np.full(shape, "", object)
    if spec.kind == "b":
        return np.full(shape, values.booleans)
    if values.roles and _MASK.search(spec.name):
        return _typed(spec, np.ones(shape, np.float32))
    if spec.kind == "f":
        return _typed(spec, values.floats(random, shape))
    if values.roles and has_role(spec):
        return np.full(shape, longest).astype(spec.numpy)
    return random.integers(*values.between(spec.name), shape, endpoint=True).astype(spec.numpy)


def _typed(spec: TensorSpec, floats: Array) -> Array:
    return bf16_from_float(floats) if spec.dtype == BF16 else floats.astype(spec.numpy)
