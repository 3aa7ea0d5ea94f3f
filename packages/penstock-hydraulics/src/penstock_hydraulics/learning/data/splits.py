"""Who is trained on and who is measured: three ways to split recordings whose neighbours look alike.

Cycles of one run were recorded one after another in one state, so a random split lets a model recognise the run
(Goodarzi, Schütze and Schneider, tm 89(4), 2022). The headline splits by run; leaving a level of the cooler out asks
how much of an answer was the oil's temperature.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from penstock.errors import InvalidInput

Indices = NDArray[np.int64]


class Fold(NamedTuple):
    """The cycles to train on and the ones to measure on; `name` says which part is left out."""

    name: str
    train: Indices
    test: Indices


def random_folds(cycles: int, folds: int, seed: int = 0) -> list[Fold]:
    """Cycles dealt out at random: what most of the literature reports. Neighbours land on both sides."""
    _check_count(cycles, folds, "cycles")
    dealt = np.random.default_rng(seed).permutation(cycles) % folds
    return list(_folds(dealt, folds))


def run_grouped_folds(runs: Indices, folds: int, seed: int = 0) -> list[Fold]:
    """Whole runs dealt out, the longest first, each to the fold with the fewest cycles; ties in an order of `seed`.

    `runs` [n] holds the number of each cycle's run.
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
    """One fold for each level of a state, measured on that level alone; `levels` [n] are places in `names`."""
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
            f"{count} {what} cannot be split into {needed} folds; give at least two folds, no more folds"
            f" than {what}",
            field="folds",
        )
