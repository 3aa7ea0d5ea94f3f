"""Which candidates are kept, and which one wins: decisions on figures, without a clock."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import InvalidInput
from penstock.toolchain.bench.turns import ratio_of
from penstock.toolchain.search.pareto import SAME, beats, best_batch, check_target, pareto, winner

_figures = st.lists(st.floats(0.1, 100), min_size=3, max_size=3)


def test_a_candidate_that_is_worse_in_everything_is_not_kept() -> None:
    found = pareto({"base": (10, 5, 100), "worse": (20, 6, 200), "small": (12, 5, 30)})
    assert found == {"base": None, "worse": "base", "small": None}


def test_of_two_equal_candidates_the_simpler_one_is_kept() -> None:
    assert pareto({"simple": (10, 5), "complex": (10.1, 4.95)}) == {"simple": None, "complex": "simple"}


@given(st.dictionaries(st.text("abcdef", min_size=1, max_size=2), _figures, min_size=1, max_size=8))
def test_something_is_always_kept_and_what_is_left_out_names_one_that_is_no_worse(
    figures: dict[str, list[float]],
) -> None:
    found = pareto(figures)
    assert any(by is None for by in found.values())
    for name, by in found.items():
        if by is not None:
            assert all(one - two <= SAME * max(one, two) for one, two in zip(figures[by], figures[name], strict=True))


def test_nothing_wins_whose_interval_holds_one_or_whose_gain_is_small() -> None:
    assert winner({"noisy": (1.3, 0.9, 1.7), "slight": (1.02, 1.01, 1.03), "slower": (0.8, 0.7, 0.9)}) is None


def test_the_fastest_wins_unless_a_simpler_one_is_as_fast() -> None:
    assert winner({"simple": (1.5, 1.4, 1.6), "complex": (2.0, 1.9, 2.1)}) == "complex"
    assert winner({"simple": (1.98, 1.9, 2.1), "complex": (2.0, 1.9, 2.1)}) == "simple"


def test_identical_candidates_never_have_a_winner_under_noise() -> None:
    """The same distribution on both sides, with the bursts of a busy machine, in many searches."""
    noise = random.Random(7)

    def times() -> list[float]:
        return [noise.lognormvariate(0, 0.1) * (3 if noise.random() < 0.1 else 1) for _ in range(30)]

    wins = sum(beats(_interval(ratio_of(times(), times(), confidence=0.99))) for _ in range(500))
    assert wins <= 10, "two in a hundred is what the interval of the sign test allows at each end, and half of it here"


def _interval(ratio) -> tuple[float, float, float]:  # type: ignore[no-untyped-def]
    return ratio.median, ratio.low, ratio.high


@pytest.mark.parametrize(
    ("curve", "rows"),
    [
        ({1: 1.0, 2: 1.2, 4: 1.6, 8: 2.4}, None),
        ({1: 1.0, 2: 1.2, 4: 1.6, 8: 9.0}, 4),
        ({1: 1.0, 2: 2.05, 4: 4.1, 8: 8.2}, None),
        ({1: 1.0, 2: 3.0, 4: 8.0}, 1),
        ({1: 1.0}, None),
        ({}, None),
    ],
)
def test_batches_end_where_a_larger_one_costs_more_for_a_row(curve: dict[int, float], rows: int | None) -> None:
    assert best_batch(curve) == rows


def test_an_unknown_target_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InvalidInput, match=r"target: 'latency' is not one of p99, throughput, size, memory"):
        check_target("latency")
    assert check_target("size") == "size"
