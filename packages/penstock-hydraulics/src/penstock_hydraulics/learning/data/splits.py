"""Three ways to split recordings into training and test cycles.

Consecutive cycles of one run are nearly copies, so after a random split a model can recognise the run (Goodarzi,
Schütze and Schneider, tm 89(4), 2022). The main protocol splits by run. Leaving a cooler level out measures how much an
answer depends on the oil temperature.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from penstock.errors import InvalidInput

Indices = NDArray[np.int64]


class Fold(NamedTuple):
    """Training and test cycles; `name` is the part that is left out."""

    name: str
    train: Indices
    test: Indices


def random_folds(cycles: int, folds: int, seed: int = 0) -> list[Fold]:
    """Random split of cycles, as in most of the literature; leaks neighbours between training and test."""
    _check_count(cycles, folds, "cycles")
    fold_of_cycle = np.random.default_rng(seed).permutation(cycles) % folds
    return list(_folds(fold_of_cycle, folds))


def run_grouped_folds(runs: Indices, folds: int, seed: int = 0) -> list[Fold]:
    """Split by run: the longest first, each to the fold with the fewest cycles; `seed` breaks ties.

    `runs` [n] is the run number of each cycle.
    """
    names, of_cycle, sizes = np.unique(runs, return_inverse=True, return_counts=True)
    _check_count(len(names), folds, "runs")
    shuffled = np.random.default_rng(seed).permutation(len(names))
    fold_of = np.zeros(len(names), dtype=np.int64)
    load = np.zeros(folds, dtype=np.int64)
    for run in shuffled[np.argsort(-sizes[shuffled], kind="stable")]:
        fold_of[run] = load.argmin()
        load[fold_of[run]] += sizes[run]
    return list(_folds(fold_of[of_cycle], folds))


def leave_one_level_out(levels: Indices, names: tuple[str, ...]) -> list[Fold]:
    """One fold for each level of a state, tested on that level only; `levels` [n] are indices of `names`."""
    present = np.unique(levels)
    _check_count(len(present), 2, "levels")
    return [Fold(f"without_{names[level]}", *_split(levels == level)) for level in present]


def _folds(fold_of: Indices, folds: int) -> Iterator[Fold]:
    return (Fold(f"fold_{fold}", *_split(fold_of == fold)) for fold in range(folds))


def _split(held_out: NDArray[np.bool_]) -> tuple[Indices, Indices]:
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def _check_count(count: int, needed: int, what: str) -> None:
    if needed < 2 or count < needed:
        raise InvalidInput(
            f"{count} {what} cannot be split into {needed} folds; use at least two folds, and at most one per"
            f" {what.removesuffix('s')}",
            field="folds",
        )
