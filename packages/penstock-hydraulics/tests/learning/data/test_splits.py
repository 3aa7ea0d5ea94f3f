import numpy as np
import pytest

from penstock.errors import InvalidInput
from penstock_hydraulics.learning.data.splits import leave_one_level_out, random_folds, run_grouped_folds

RUNS = np.repeat(np.arange(12), [10, 10, 1, 10, 40, 10, 1, 10, 10, 30, 10, 10])


def test_every_cycle_is_held_out_exactly_once():
    for folds in (
        random_folds(len(RUNS), 4),
        run_grouped_folds(RUNS, 4),
        leave_one_level_out(RUNS % 3, ("a", "b", "c")),
    ):
        held_out = np.concatenate([fold.test for fold in folds])
        assert sorted(held_out) == list(range(len(RUNS)))
        for fold in folds:
            assert not set(fold.train) & set(fold.test)
            assert len(fold.train) + len(fold.test) == len(RUNS)


def test_a_run_is_never_on_both_sides():
    for fold in run_grouped_folds(RUNS, 4):
        assert not set(RUNS[fold.train]) & set(RUNS[fold.test])


def test_run_grouped_folds_have_similar_sizes():
    sizes = [len(fold.test) for fold in run_grouped_folds(RUNS, 4)]
    assert max(sizes) - min(sizes) <= 10


def test_a_random_split_puts_runs_on_both_sides():
    fold = random_folds(len(RUNS), 4)[0]
    assert set(RUNS[fold.train]) & set(RUNS[fold.test])


def test_splits_are_determined_by_the_seed():
    same = [run_grouped_folds(RUNS, 4, seed=3) for _ in range(2)]
    assert all((one.test == two.test).all() for one, two in zip(*same, strict=True))
    other = run_grouped_folds(RUNS, 4, seed=4)
    assert any(set(one.test) != set(two.test) for one, two in zip(same[0], other, strict=True))


def test_a_left_out_level_is_tested_alone():
    for fold in leave_one_level_out(RUNS % 3, ("a", "b", "c")):
        assert len(set(RUNS[fold.test] % 3)) == 1
        assert not set(RUNS[fold.test] % 3) & set(RUNS[fold.train] % 3)
    assert [fold.name for fold in leave_one_level_out(RUNS % 2, ("a", "b"))] == ["without_a", "without_b"]


@pytest.mark.parametrize("folds", [1, 13])
def test_more_folds_than_runs_or_only_one_are_refused(folds):
    with pytest.raises(InvalidInput, match=rf"12 runs cannot be split into {folds} folds"):
        run_grouped_folds(RUNS, folds)
