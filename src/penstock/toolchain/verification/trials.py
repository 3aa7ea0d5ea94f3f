"""Inputs on which two forms of a model must agree: the example and rows like it, other lengths, other values.

An exporter that freezes a branch, a length or a number of rows gives right answers for its example alone, so that is
only the first of them. All are seeded: the same example gives the same trials.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from penstock.backends.probing.values import SEED, Axis, Place, has_role
from penstock.datatypes import BF16, bf16_from_float, float_from_bf16
from penstock.tensors import Array, Arrays, Signature, TensorSpec

MAX_ROWS = 32
"""Rows of the largest trial, as many as the default batch of a server."""
SIZES = (1, 2, 7)
LARGE = 100.0
"""The factor of the trial with large values."""

Kind = Literal["given", "drawn", "stress"]


@dataclass(frozen=True, slots=True)
class Trial:
    """Inputs in the axes of the model's signature. `name` completes "with …", such as `7 random rows`.

    `given` inputs are the user's or an exporter's; `drawn` ones are like them; `stress` ones are far from them, so that
    their errors say nothing of ordinary use: they must agree, but are not counted.
    """

    name: str
    inputs: Arrays
    kind: Kind = "drawn"


def trials(
    signature: Signature,
    example: Arrays,
    *,
    max_rows: int = MAX_ROWS,
    more: Iterable[Arrays] = (),
    name: str = "the example",
) -> Iterator[Trial]:
    """The example, 1, 2, 7 and `max_rows` rows, other lengths of each free axis, other values, and `more` inputs.

    Random numbers lie in the range of the example. `more` are inputs that take other branches.
    """
    yield Trial(name, example, "given")
    for number, inputs in enumerate(more, 1):
        yield Trial(f"inputs for another branch ({number})", inputs)
    maker = _Maker(signature, example)
    for rows in _sizes(signature, max_rows):
        said = f"{rows} {'row' if rows == 1 else 'rows'}"
        yield Trial(f"{said} of {name}", maker.rows(rows))
        yield Trial(f"{said} of random numbers", maker.random(maker.rows(rows)))
    if not _sizes(signature, max_rows):
        yield Trial("random numbers", maker.random(example))
    yield from maker.lengths()
    yield from maker.values(min(max_rows, SIZES[-1]))


def rows_of(arrays: Arrays, signature: Signature, rows: int) -> Arrays:
    """The first `rows` rows, from the start again where there are fewer; whole or fixed inputs as they are."""
    if signature.whole or signature.fixed_rows is not None:
        return arrays
    axes = signature.batch_axes
    return {name: _taken(array, axes.get(name) or 0, rows) for name, array in arrays.items()}


def _sizes(signature: Signature, max_rows: int) -> tuple[int, ...]:
    if signature.whole or signature.fixed_rows is not None:
        return ()
    return tuple(sorted({*(size for size in SIZES if size < max_rows), max_rows}))


def _key(spec: TensorSpec, axis: int) -> Axis:
    """The name of an axis, which all axes of one length share, or its place."""
    name = spec.dims[axis] if spec.dims else None
    return name or (spec.name, axis)


def _said(key: Axis) -> str:
    return f"{key!r}" if isinstance(key, str) else f"axis {key[1]} of {key[0]!r}"


def _taken(array: Array, axis: int, length: int) -> Array:
    """The first `length` entries of an axis, from its start again where there are fewer."""
    return np.ascontiguousarray(np.take(array, np.arange(length) % max(array.shape[axis], 1), axis=axis))


class _Maker:
    """Makes inputs from an example."""

    def __init__(self, signature: Signature, example: Arrays) -> None:
        self._signature = signature
        self._example = example

    def rows(self, rows: int) -> Arrays:
        return rows_of(self._example, self._signature, rows)

    def random(self, like: Arrays) -> Arrays:
        """Random values between the least and the largest of the example; masks and lengths are kept."""
        return {
            spec.name: _random(spec, like[spec.name], self._example[spec.name], np.random.default_rng([SEED, number]))
            for number, spec in enumerate(self._signature.inputs)
        }

    def lengths(self) -> Iterator[Trial]:
        """Half, one more and twice the length of each free axis besides the batch.

        Axes of one name change together. Those without names that are equally long are tried together and one by one.
        """
        base = self.rows(2)
        known = {key: base[name].shape[axis] for key, (name, axis) in self._free_axes().items()}
        unnamed = {key: length for key, length in known.items() if not isinstance(key, str)}
        alike = [tuple(key for key in unnamed if unnamed[key] == length) for length in dict.fromkeys(unnamed.values())]
        for keys in dict.fromkeys([*alike, *((key,) for key in known)]):
            now = known[keys[0]]
            for length in sorted({max(now // 2, 1), now + 1, 2 * now} - {now}):
                inputs = {spec.name: self._cut(spec, base[spec.name], keys, length) for spec in self._signature.inputs}
                yield Trial(f"the length {length} of {' and '.join(map(_said, keys))}", self.random(inputs))

    def _free_axes(self) -> dict[Axis, Place]:
        """The first place of each free axis that is not the batch."""
        found: dict[Axis, Place] = {}
        batch = {_key(spec, axis) for spec in self._signature.inputs if (axis := self._batch_axis(spec)) is not None}
        for spec in self._signature.inputs:
            for axis, length in enumerate(spec.shape):
                if length < 0 and _key(spec, axis) not in batch:
                    found.setdefault(_key(spec, axis), (spec.name, axis))
        return found

    @staticmethod
    def _cut(spec: TensorSpec, array: Array, keys: tuple[Axis, ...], length: int) -> Array:
        for axis in range(len(spec.shape)):
            if spec.shape[axis] < 0 and _key(spec, axis) in keys:
                array = _taken(array, axis, length)
        return array

    def _batch_axis(self, spec: TensorSpec) -> int | None:
        return None if self._signature.whole else self._signature.batch_axes.get(spec.name, 0)

    def values(self, rows: int) -> Iterator[Trial]:
        """The rows of the example with other values."""
        base = self.rows(rows)
        for said, change in _CHANGES.items():
            changed = {spec.name: _changed(spec, base[spec.name], change) for spec in self._signature.inputs}
            if any(not np.array_equal(changed[name], base[name]) for name in base):
                yield Trial(said, changed, "stress")
        mixed = {spec.name: _shuffled(spec, base[spec.name]) for spec in self._signature.inputs}
        if any(not np.array_equal(mixed[name], base[name]) for name in base):
            yield Trial("shuffled values", mixed)


_CHANGES: dict[str, Callable[[Array], Array]] = {
    "negated values": lambda values: -values,
    "zeros": lambda values: values * 0,
    f"values {LARGE:g} times as large": lambda values: values * LARGE,
}


def _random(spec: TensorSpec, array: Array, example: Array, random: np.random.Generator) -> Array:
    if spec.kind == "O" or has_role(spec) or not example.size:
        return array
    if spec.kind == "b":
        return random.integers(0, 2, array.shape).astype(bool)
    if spec.kind == "f":
        return _random_floats(spec, array, _floats(spec, example), random)
    least, most = int(example.min()), int(example.max())
    return random.integers(least, most, array.shape, np.int64, endpoint=True).astype(array.dtype)


def _random_floats(spec: TensorSpec, array: Array, example: Array, random: np.random.Generator) -> Array:
    """Evenly between the least and the largest of the example; around its one value if there are no others."""
    finite = example[np.isfinite(example)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    made = random.uniform(low, high, array.shape) if low < high else random.standard_normal(array.shape) * (high or 1)
    return _typed(spec, made, array)


def _changed(spec: TensorSpec, array: Array, change: Callable[[Array], Array]) -> Array:
    """Only real numbers: another whole number may be none that the model knows."""
    if spec.kind != "f" or has_role(spec):
        return array
    return _typed(spec, change(_floats(spec, array).astype(np.float64)), array)


def _shuffled(spec: TensorSpec, array: Array) -> Array:
    if has_role(spec):
        return array
    mixed = array.ravel().copy()
    np.random.default_rng(SEED).shuffle(mixed)
    return mixed.reshape(array.shape)


def _floats(spec: TensorSpec, array: Array) -> Array:
    return float_from_bf16(array) if spec.dtype == BF16 else array


def _typed(spec: TensorSpec, values: Array, like: Array) -> Array:
    if spec.dtype == BF16:
        return bf16_from_float(values.astype(np.float32))
    most = float(np.finfo(like.dtype).max)
    return np.clip(values, -most, most).astype(like.dtype)
