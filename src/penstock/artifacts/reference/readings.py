"""Features of rows: what is read of the arrays of a model, so that distributions of few numbers stand for the rows."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from pydantic import Field, model_validator

from penstock.artifacts.policies import Entry
from penstock.artifacts.reference.bins import MOST_CATEGORIES
from penstock.errors import printable
from penstock.tensors import Array

MOST_NUMBERS = 64
"""Numbers of a row that are features of their own; of more, a projection is."""
COMPONENTS = 16
MOST_POOLED = 1024
"""A row of more numbers is projected from the means of so many parts of it."""
MOST_FITTED = 2000
_ONE_THREAD = 1 << 18
"""Multiplications of a product that OpenBLAS leaves to one thread."""
Kind = Literal["numbers", "projection", "summary", "categories", "length"]


class Projection(Entry):
    """Principal components of long rows: float32 arrays as base64. `threshold` tells ink from paper.

    `mean` and `sd` are those of each number (of each part, for rows of more than 1,024 numbers).
    """

    size: int = Field(ge=1)
    mean: str
    sd: str
    components: str
    threshold: float

    @model_validator(mode="after")
    def _consistent(self) -> Projection:
        width = -(-self.size // -(-self.size // MOST_POOLED))
        if len(_numbers(self.mean)) != width or len(_numbers(self.sd)) != width:
            raise ValueError(f"a projection of {self.size} numbers needs {width} means")
        if len(_numbers(self.components)) % width:
            raise ValueError(f"the components of a projection are of {width} numbers each")
        return self

    def arrays(self) -> tuple[Array, Array, Array]:
        """Mean, standard deviation and components."""
        mean = _numbers(self.mean)
        return mean, _numbers(self.sd), _numbers(self.components).reshape(-1, len(mean))


class Reading(Entry):
    """What is read of one tensor, as columns. `names` are those of the columns."""

    tensor: str
    kind: Kind
    names: tuple[str, ...] = Field(min_length=1)
    categories: tuple[str, ...] = ()
    projection: Projection | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Reading:
        if (self.kind == "projection") != (self.projection is not None):
            raise ValueError(f"the reading of {self.tensor!r} lacks its projection, or has one too many")
        return self


class Columns(NamedTuple):
    """Columns of one tensor: float64, [rows, names]; `labels` are the names of categories."""

    values: Array
    labels: tuple[str, ...] = ()


def reading_of(tensor: str, rows: Array, fitted: Array, *, most: int) -> Reading:
    """What to read of a tensor, from reference rows; at most `most` numbers of a row are columns of their own.

    A projection is made from the rows `fitted`.
    """
    if rows.dtype.kind in "OSU":
        return _text_reading(tensor, rows)
    size = rows[0].size if len(rows) else 0
    if 0 < size <= most:
        shape = rows.shape[1:]
        places = [f"[{','.join(map(str, place))}]" if size > 1 else "" for place in np.ndindex(shape)]
        return Reading(tensor=tensor, kind="numbers", names=tuple(f"{printable(tensor)}{place}" for place in places))
    return summary_of(tensor) if size == 0 else _projection(tensor, fitted)


def summary_of(tensor: str) -> Reading:
    """What to read of a tensor whose rows have several lengths."""
    return Reading(
        tensor=tensor,
        kind="summary",
        names=tuple(f"{printable(tensor)}.{name}" for name in ("size", "mean", "sd", "min", "max")),
    )


def _text_reading(tensor: str, rows: Array) -> Reading:
    if rows.size == len(rows):
        known = sorted({_text(one) for one in rows.ravel()[:100_000]})
        if len(known) <= min(MOST_CATEGORIES, max(len(rows) // 10, 2)):
            return Reading(tensor=tensor, kind="categories", names=(printable(tensor),), categories=tuple(known))
    return Reading(tensor=tensor, kind="length", names=(f"{printable(tensor)}.length",))


def _projection(tensor: str, rows: Array) -> Reading:
    size = rows[0].size
    flat = _pooled(rows.reshape(len(rows), -1).astype(np.float64))
    flat = flat[np.isfinite(flat).all(axis=1)][:MOST_FITTED]
    mean = flat.mean(axis=0) if len(flat) else np.zeros(_pooled(np.zeros((1, size))).shape[1])
    centred = flat - mean
    components = np.zeros((0, len(mean)))
    if len(flat) > 1:
        _, sizes, found = np.linalg.svd(centred, full_matrices=False)
        components = found[:COMPONENTS][sizes[:COMPONENTS] > 1e-9 * max(sizes[0], 1e-300)]
        signs = np.sign(components[np.arange(len(components)), np.abs(components).argmax(axis=1)])
        components = components * signs[:, None]
    low, high = np.quantile(flat, (0.01, 0.99)) if flat.size else (0.0, 0.0)
    projection = Projection(
        size=size,
        mean=_packed(mean),
        sd=_packed(flat.std(axis=0) if len(flat) else mean),
        components=_packed(components),
        threshold=float(np.float32((low + high) / 2)),
    )
    names = (
        *(f"component {n + 1}" for n in range(len(components))),
        "reconstruction error",
        "mean",
        "sd",
        "share above the middle",
    )
    return Reading(
        tensor=tensor,
        kind="projection",
        names=tuple(f"{printable(tensor)}: {name}" for name in names),
        projection=projection,
    )


class Reader:
    """Reads the columns of one tensor."""

    def __init__(self, reading: Reading) -> None:
        self.reading = reading
        self._codes = {text: float(code) for code, text in enumerate(reading.categories)}
        if reading.projection is not None:
            self._mean, _, self._components = reading.projection.arrays()
            self._threshold = reading.projection.threshold
            self._size = reading.projection.size

    def columns(self, rows: Array) -> Columns:
        """The columns of rows, axis 0 the row. Raises ValueError for rows of another shape."""
        read = {
            "numbers": self._as_numbers, "projection": self._projected, "summary": self._summary,
            "categories": self._coded, "length": self._lengths,
        }[self.reading.kind]  # fmt: skip
        return read(rows)

    def _as_numbers(self, rows: Array) -> Columns:
        flat = rows.reshape(len(rows), -1)
        if flat.shape[1] != len(self.reading.names):
            raise ValueError(
                f"{self.reading.tensor} has {flat.shape[1]} numbers a row, {len(self.reading.names)} in the reference"
            )
        return Columns(flat.astype(np.float64))

    @np.errstate(over="ignore", invalid="ignore")
    def _projected(self, rows: Array) -> Columns:
        if rows[0].size != self._size:
            raise ValueError(f"{self.reading.tensor} has {rows[0].size} numbers a row, {self._size} in the reference")
        flat = rows.reshape(len(rows), -1).astype(np.float64)
        centred = _pooled(flat) - self._mean
        scores = _products(centred, self._components)
        left = np.sqrt(np.maximum((centred * centred).sum(axis=1) - (scores * scores).sum(axis=1), 0.0))
        ink = (flat > self._threshold).mean(axis=1)
        found = np.column_stack([scores, left, flat.mean(axis=1), flat.std(axis=1), ink])
        found[~np.isfinite(flat).all(axis=1)] = np.nan
        return Columns(found)

    @np.errstate(over="ignore", invalid="ignore")
    def _summary(self, rows: Array) -> Columns:
        flat = rows.reshape(len(rows), -1).astype(np.float64)
        if not flat.shape[1]:
            found = np.full((len(rows), 5), np.nan)
        else:
            found = np.column_stack(
                [flat.mean(axis=1), flat.mean(axis=1), flat.std(axis=1), flat.min(axis=1), flat.max(axis=1)]
            )
        found[:, 0] = flat.shape[1]
        return Columns(found)

    def _coded(self, rows: Array) -> Columns:
        unseen = float(len(self._codes))
        codes = [self._codes.get(_text(one), unseen) for one in rows.ravel()]
        return Columns(np.array(codes)[:, None], tuple(printable(text)[:100] for text in self._codes))

    def _lengths(self, rows: Array) -> Columns:
        lengths = [float(np.mean([len(_text(one)) for one in row] or [0])) for row in rows.reshape(len(rows), -1)]
        return Columns(np.array(lengths)[:, None])


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _products(rows: Array, components: Array) -> Array:
    """`rows @ components.T` in parts that BLAS computes on one thread.

    Its threads spin while they wait: beside a loaded server, 50 rows of 784 numbers took 8 ms instead of 0.07.
    """
    part = max(1, _ONE_THREAD // max(1, components.size))
    return np.concatenate([rows[first : first + part] @ components.T for first in range(0, len(rows), part)])


def _pooled(flat: Array) -> Array:
    """Rows of at most `MOST_POOLED` numbers: the means of parts of equal length, the last one of what is left."""
    width = -(-flat.shape[1] // MOST_POOLED)
    if width <= 1:
        return flat
    starts = np.arange(0, flat.shape[1], width)
    sums: Array = np.add.reduceat(flat, starts, axis=1)
    return sums / np.diff([*starts, flat.shape[1]])


def _packed(values: Array | Sequence[float]) -> str:
    return base64.b64encode(np.asarray(values, "<f4").tobytes()).decode()


def _numbers(text: str) -> Array:
    """The inverse of `_packed`; raises ValueError."""
    data = base64.b64decode(text, validate=True)
    if len(data) % 4:
        raise ValueError("an array of float32 has four bytes a number")
    values = np.frombuffer(data, "<f4").astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("an array holds NaN or infinity")
    return values
