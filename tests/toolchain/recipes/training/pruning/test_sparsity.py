from __future__ import annotations

from typing import Any, get_args

import pytest

from penstock.toolchain.recipes.training.pruning.sparsity import Schedule, reached


@pytest.mark.parametrize("schedule", get_args(Schedule))
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_every_schedule_grows_to_exactly_the_amount(schedule: Any, steps: int) -> None:
    shares = [reached(schedule, 0.9, step, steps) for step in range(1, steps + 1)]
    assert shares == sorted(shares)
    assert shares[-1] == 0.9
    assert shares[0] > 0


def test_schedules_follow_their_formulas() -> None:
    assert [reached("linear", 0.8, step, 4) for step in (1, 2, 3)] == pytest.approx([0.2, 0.4, 0.6])
    assert reached("constant", 0.8, 1, 4) == 0.8
    assert [reached("cubic", 0.8, step, 2) for step in (1,)] == [0.8 * (1 - 0.5**3)]


def test_five_steps_of_twenty_percent_of_what_remains_are_67_percent() -> None:
    amount = 1 - 0.8**5
    assert amount == pytest.approx(0.67, abs=0.003)
    assert [reached("geometric", amount, step, 5) for step in (1, 2)] == pytest.approx([0.2, 0.36])
