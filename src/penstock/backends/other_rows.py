"""Rows for the other places of a batch, ordinary and extreme: what a model's rows are tested against.

See `row_independence`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from penstock.backends.probing.values import has_role
from penstock.datatypes import bf16_from_float, float_from_bf16
from penstock.tensors import Array, Arrays, TensorSpec

STEPS = (30.0, 1000.0, 10_000.0)
"""How many times as large as ordinary values the extreme ones are; the next step is taken if the last one runs well."""

_INTEGER_STEP = 10
"""Larger integers could be sizes, and let the model ask for more memory than there is."""
_LONG_TEXT = 50


class Kind(NamedTuple):
    """One way to make rows. `floats` gets random normal numbers, `whole` the least and the largest ordinary value."""

    name: str
    floats: Callable[[Array], Array]
    whole: Callable[[np.random.Generator, int, int, tuple[int, ...]], Array]
    text: Callable[[str], str]


def _between(random: np.random.Generator, low: int, high: int, shape: tuple[int, ...]) -> Array:
    return random.integers(low, high, shape, np.int64, endpoint=True)


KINDS = (
    Kind(
        "large",
        lambda normal: normal,
        lambda random, low, high, shape: _between(random, low, high * _INTEGER_STEP, shape),
        lambda text: text * _LONG_TEXT,
    ),
    Kind("negative", lambda normal: -np.abs(normal), lambda _, low, __, shape: np.full(shape, low), lambda _: ""),
    Kind("positive", np.abs, lambda _, __, high, shape: np.full(shape, high), lambda text: text[::-1]),
    Kind("zero", np.zeros_like, lambda _, __, ___, shape: np.zeros(shape, np.int64), lambda _: "x"),
    # NaN reaches other rows also where their share is zero, as in a mask over all rows
    Kind("not a number", lambda normal: np.full_like(normal, np.nan), _between, lambda text: text[::-1]),
)
ORDINARY = Kind("ordinary", lambda normal: normal, _between, lambda text: text[::-1])


def other_rows(
    specs: Sequence[TensorSpec], batch: Arrays, kind: Kind, step: float, seed: int, *, known: bool = False
) -> Arrays:
    """As many rows as the batch has, of this kind; `step` times as large as those of the batch.

    `known` keeps to whole numbers and texts like those of the batch, which may be the only ones in a vocabulary.
    """
    random = np.random.default_rng(seed)
    return {
        spec.name: (
            _floats(spec, batch[spec.name], kind, step, random)
            if spec.kind == "f"
            else _others(spec, batch[spec.name], ORDINARY if known else kind, random)
        )
        for spec in specs
    }


def shorter_rows(specs: Sequence[TensorSpec], batch: Arrays) -> Iterator[Arrays]:
    """The rows with zeros in the second half of what may be padded, and lengths that say so; the likeliest first.

    In the first batch whole numbers are also at most one, since any of them may be a mask.
    """
    roles = [spec for spec in specs if has_role(spec)]
    whole = [spec for spec in specs if spec.kind in "iub" or spec in roles]
    free = [spec for spec in specs if any(length < 0 for length in spec.shape[1:]) or spec in whole]
    for number, padded in enumerate((free, whole, roles)):
        made = {name: array.copy() for name, array in batch.items()}
        for spec in padded:
            _shorten(made[spec.name], as_mask=not number)
        if differ(made, batch):
            yield made


def _shorten(array: Array, *, as_mask: bool) -> None:
    """In place: half of each number of one value a row, zeros in the second half of axis 1 of any other."""
    if array.ndim == 1 and array.dtype.kind in "iu":
        array[:] = (array + 1) // 2
    elif array.ndim > 1 and array.dtype.kind in "iubf":
        array[:, (array.shape[1] + 1) // 2 :] = 0
        if as_mask and array.dtype.kind in "iu":
            np.minimum(array, 1, out=array)


def _others(spec: TensorSpec, array: Array, kind: Kind, random: np.random.Generator) -> Array:
    if spec.kind == "b":
        return kind.whole(random, 0, 1, array.shape).astype(bool)
    if spec.kind == "O":
        return _texts(array, kind)
    low, high = (int(array.min()), int(array.max())) if array.size else (0, 1)
    limits = np.iinfo(array.dtype)
    if array.dtype.itemsize == 1 and kind is not ORDINARY:  # every value of a byte is ordinary, as in images
        low, high = int(limits.min), int(limits.max)
    low, high = max(low, -(2**60)), min(max(high, low + 1), 2**60)
    return np.clip(kind.whole(random, low, high, array.shape), limits.min, limits.max).astype(array.dtype)


def _floats(spec: TensorSpec, array: Array, kind: Kind, step: float, random: np.random.Generator) -> Array:
    values = float_from_bf16(array) if spec.dtype == "BF16" else array
    finite = np.abs(values[np.isfinite(values)].astype(np.float64))
    size = float(finite.max()) if finite.size and finite.max() > 0 else 1.0
    most = float(np.finfo(values.dtype).max)
    with np.errstate(over="ignore"):
        made = np.clip(kind.floats(random.standard_normal(array.shape)) * size * step, -most, most)
    return bf16_from_float(made) if spec.dtype == "BF16" else made.astype(array.dtype)


def _texts(array: Array, kind: Kind) -> Array:
    made: Array = np.empty(array.size, object)
    made[:] = [kind.text(_str(value)) for value in array.ravel().tolist()]
    return made.reshape(array.shape)


def _str(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def differ(one: Arrays, other: Arrays) -> bool:
    """True if any value of the two batches differs."""
    return any(not np.array_equal(one[name], other[name]) for name in one)


def moved(specs: Sequence[TensorSpec], batch: Arrays, share: float) -> Arrays:
    """The same rows, with each number moved up or down by this share of it."""
    random = np.random.default_rng(1)
    made = dict(batch)
    for spec in specs:
        array = batch[spec.name]
        if spec.kind == "f" and spec.dtype != "BF16":
            with np.errstate(over="ignore"):
                made[spec.name] = (array * (1 + share * random.choice((-1, 1), array.shape))).astype(array.dtype)
    return made
