"""The distribution of one feature: bins made from reference rows, and other rows counted in the same bins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Self

import numpy as np
from pydantic import Field, StrictInt, model_validator

from penstock.artifacts.policies import Entry
from penstock.tensors import Array

SPECIAL = ("missing", "not_finite", "below", "above", "unseen")
"""The first bins of every feature: NaN, infinity, outside the reference's values on either side, a new category."""
RANGES = 10
MOST_CATEGORIES = 64
_ATOM = 0.05
"""A number that so large a share of the rows has gets a bin of its own."""
_LEAST_IN_A_RANGE = 10


class Feature(Entry):
    """Bins of one feature and how many reference rows are in each.

    The bins are those of `SPECIAL`, then one for each of the `atoms`, then one between each two of the `edges`. The
    atoms ascend. With `categories` every value is an atom and any other one is unseen; `labels` name the atoms then,
    where they have names.
    """

    name: str
    atoms: tuple[float, ...] = ()
    edges: tuple[float, ...] = ()
    categories: bool = False
    labels: tuple[str, ...] = ()
    counts: tuple[Annotated[StrictInt, Field(ge=0)], ...]

    @model_validator(mode="after")
    def _consistent(self) -> Feature:
        if len(self.counts) != self.size:
            raise ValueError(f"{self.name!r} has {len(self.counts)} counts for {self.size} bins")
        if any(a >= b for a, b in zip(self.atoms, self.atoms[1:], strict=False)):
            raise ValueError(f"the atoms of {self.name!r} do not ascend")
        if any(a > b for a, b in zip(self.edges, self.edges[1:], strict=False)):
            raise ValueError(f"the edges of {self.name!r} do not ascend")
        if self.categories == bool(self.edges) or len(self.edges) == 1 or len(self.labels) not in (0, len(self.atoms)):
            raise ValueError(f"the bins of {self.name!r} do not fit together")
        return self

    @property
    def size(self) -> int:
        """The number of bins."""
        return len(SPECIAL) + len(self.atoms) + max(len(self.edges) - 1, 0)

    def count(self, column: Array) -> Array:
        """How many of these values are in each bin."""
        return np.bincount(self._places(np.asarray(column, np.float64)), minlength=self.size)

    def _places(self, column: Array) -> Array:
        if self.categories:
            places = np.full(len(column), SPECIAL.index("unseen"))
        else:
            inner = np.asarray(self.edges[1:-1])
            places = np.searchsorted(inner, column, side="right") + (len(SPECIAL) + len(self.atoms))
            places[column < self.edges[0]] = SPECIAL.index("below")
            places[column > self.edges[-1]] = SPECIAL.index("above")
        if self.atoms:
            atoms = np.asarray(self.atoms)
            nearest = np.minimum(np.searchsorted(atoms, column), len(atoms) - 1)
            exact = atoms[nearest] == column
            places[exact] = nearest[exact] + len(SPECIAL)
        finite = np.isfinite(column)
        if not finite.all():
            places[~finite] = SPECIAL.index("not_finite")
            places[np.isnan(column)] = SPECIAL.index("missing")
        return places

    def bin_names(self) -> list[str]:
        """The bins as people read them."""
        atoms = self.labels or tuple(f"{atom:g}" for atom in self.atoms)
        ranges = [f"{low:.4g} to {high:.4g}" for low, high in zip(self.edges, self.edges[1:], strict=False)]
        return [*SPECIAL, *atoms, *ranges]

    @classmethod
    def of(
        cls, name: str, column: Array, *, categories: Sequence[float] | None = None, labels: Sequence[str] = ()
    ) -> Self:
        """The bins of reference values: ranges of equal mass, and atoms for numbers that are frequent.

        With `categories`, ascending, those are the atoms, and any other value is unseen; `labels` are their names.
        """
        column = np.asarray(column, np.float64)
        finite = column[np.isfinite(column)]
        atoms, edges = _atoms(finite), _edges(finite)
        if categories is not None:
            atoms, edges = tuple(map(float, categories)), ()
        empty = cls.model_construct(
            name=name, atoms=atoms, edges=edges, categories=categories is not None, labels=tuple(labels), counts=()
        )
        return cls.model_validate({**dict(empty), "counts": tuple(empty.count(column).tolist())})


def _atoms(values: Array) -> tuple[float, ...]:
    found, counts = np.unique(values, return_counts=True)
    return tuple(found[counts >= max(_ATOM * len(values), 2)].tolist())


def _edges(values: Array) -> tuple[float, ...]:
    """From the least to the largest value, so that the ranges hold about as many of the values that are no atoms."""
    if not len(values):
        return (0.0, 0.0)
    rest = values[~np.isin(values, _atoms(values))]
    inner: Array = np.zeros(0)
    ranges = min(RANGES, len(rest) // _LEAST_IN_A_RANGE)
    if ranges > 1:
        inner = np.quantile(rest, np.arange(1, ranges) / ranges)
    low, high = float(values.min()), float(values.max())
    between = sorted({one for one in inner.tolist() if low < one < high})
    return (low, *between, high)
