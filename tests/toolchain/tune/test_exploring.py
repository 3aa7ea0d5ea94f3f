"""Which configuration is chosen, on servers whose capacities are known, with and without noise."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import pytest

from penstock.toolchain.tune.capacity import Capacity, Figures
from penstock.toolchain.tune.configuration import Configuration, batches, processes
from penstock.toolchain.tune.exploring import (
    MARGIN,
    Exploration,
    Round,
    Trial,
    comparison_rate,
    in_turn,
    lost,
    verdict,
    wins,
)

P99 = 20.0


def trial(configuration: Configuration, rate: float, status: str = "better") -> Trial:
    best = Figures(rate, 2.0, 10.0) if rate else None
    return Trial(configuration, status, "", Capacity(best, (best or Figures(9.0, 30.0, 31.0),)))  # type: ignore[arg-type]


def exploration(rates: Callable[[Configuration], float], time_left: Callable[[], bool] = lambda: True) -> Exploration:
    def attempt(configuration: Configuration, best: Trial) -> Trial:
        made = trial(configuration, rates(configuration))
        if made.rate > MARGIN * best.rate:
            return made
        failed = Figures(MARGIN * best.rate, 15.0, 44.0)
        return lost(Trial(configuration, "better", "", Capacity(None, (failed,))), best, P99)

    return Exploration(trial(Configuration(), rates(Configuration()), "baseline"), attempt, time_left)


def test_the_best_number_of_workers_and_threads_is_found() -> None:
    found = exploration(lambda one: 100.0 * one.workers * (1.2 if one.threads == 1 else 1))
    found.widen(processes(4, Configuration()))
    assert found.best.configuration == Configuration(workers=4)
    assert found.complete


def test_more_workers_are_not_tried_after_a_number_that_brought_nothing() -> None:
    found = exploration(lambda _: 100.0)
    found.widen(processes(8, Configuration()))
    assert {one.configuration.workers for one in found.trials} == {1, 2}
    assert found.best.status == "baseline"


def test_a_batch_size_is_raised_while_that_helps() -> None:
    found = exploration(lambda one: {64: 120.0, 128: 140.0, 256: 145.0}.get(one.batch_size, 100.0))
    found.climb(batches(Configuration()))
    assert found.best.configuration.batch_size == 128
    assert {one.configuration.batch_size for one in found.trials} == {32, 64, 128, 256}


def test_smaller_batches_are_tried_when_larger_ones_bring_nothing() -> None:
    found = exploration(lambda one: 200.0 if one.batch_size == 16 else 100.0)
    found.climb(batches(Configuration()))
    assert found.best.configuration.batch_size == 16


def test_little_more_than_the_best_is_not_better_and_the_reason_says_what_was_measured() -> None:
    found = exploration(lambda one: 105.0 if one.batch_size == 64 else 100.0)
    found.climb(batches(Configuration()))
    assert found.best.status == "baseline"
    assert found.trials[1].why == "at 108 requests/s, 8 % more than the best so far carries, its p99 is 44 ms"


def test_without_time_the_rest_is_skipped_and_the_result_says_so() -> None:
    left = iter([True])
    found = exploration(lambda _: 100.0, lambda: next(left, False))
    found.widen(processes(2, Configuration()))
    assert [one.status for one in found.trials] == ["baseline", "not better", "skipped", "skipped"]
    assert not found.complete


def test_an_objective_out_of_reach_is_the_reason_where_nothing_met_it() -> None:
    made = lost(trial(Configuration(), 0.0), trial(Configuration(), 0.0, "baseline"), P99)
    assert (made.status, made.why) == ("out of reach", "no rate met the objective; the lowest p99 was 31 ms")


def test_a_configuration_skipped_by_a_rule_keeps_the_reason() -> None:
    found = exploration(lambda _: 100.0)
    found.skip([Configuration(), Configuration(batch_size=8)], "requests do not share runs")
    assert [(one.configuration.batch_size, one.status) for one in found.trials] == [(32, "baseline"), (8, "skipped")]


# The comparison in turn


def server(most: float, noise: random.Random | None = None) -> Callable[[float], Figures]:
    """Carries `most` requests a second; with noise, sometimes a fifth more or less."""

    def drive(rate: float) -> Figures:
        now = most * (1 if noise is None else noise.lognormvariate(0, 0.2))
        return Figures(rate, 2.0, 10.0 if rate <= now else 90.0)

    return drive


def test_a_server_that_carries_more_wins_in_three_rounds() -> None:
    rate = comparison_rate(trial(Configuration(), 100.0), trial(Configuration(), 144.0))
    assert rate == pytest.approx(120.0)
    rounds = in_turn(server(100.0), server(144.0), rate, P99)
    assert len(rounds) == 3
    assert wins(rounds, P99)
    assert verdict(rounds, P99) == (
        "in turn at 120 requests/s it met the objective in 3 of 3 rounds, the baseline in 0"
    )


def test_two_equal_servers_have_no_winner_however_often_they_are_compared() -> None:
    noise = random.Random(7)
    won = sum(wins(in_turn(server(100.0, noise), server(100.0, noise), 100.0, P99), P99) for _ in range(400))
    assert won <= 400 * 0.06
    assert not any(wins(in_turn(server(100.0), server(100.0), rate, P99), P99) for rate in (90.0, 110.0))


def test_the_first_in_a_round_changes() -> None:
    order: list[str] = []
    passes = itertools.cycle([True, True, False])

    def named(name: str) -> Callable[[float], Figures]:
        def drive(rate: float) -> Figures:
            order.append(name)
            return Figures(rate, 1.0, 2.0 if name == "b" and next(passes) else 90.0)

        return drive

    in_turn(named("a"), named("b"), 100.0, P99)
    assert "".join(order[:8]) == "abbaabba"


def test_a_challenger_that_meets_the_objective_too_rarely_does_not_win() -> None:
    good, bad = Figures(100.0, 1.0, 2.0), Figures(100.0, 1.0, 90.0)
    assert wins([Round(100.0, bad, good)] * 4 + [Round(100.0, bad, bad)], P99)
    assert not wins([Round(100.0, bad, good)] * 3 + [Round(100.0, bad, bad)] * 2, P99)
    assert not wins([Round(100.0, good, good)] * 5, P99)
    assert not wins([Round(100.0, bad, good)] * 2, P99)


def test_when_time_is_up_three_rounds_are_enough_to_end() -> None:
    alternating = itertools.cycle([10.0, 90.0])
    rounds = in_turn(
        server(1.0), lambda rate: Figures(rate, 1.0, next(alternating)), 100.0, P99, time_left=lambda: False
    )
    assert len(rounds) <= 3
    assert not wins(rounds, P99)


def test_every_configuration_that_was_the_best_for_a_while_says_what_was_better() -> None:
    found = exploration(lambda one: {64: 120.0, 128: 140.0}.get(one.batch_size, 100.0))
    found.climb(batches(Configuration()))
    found.settle(found.best)
    (before,) = [one for one in found.trials if one.configuration.batch_size == 64]
    assert before.why == "1 worker, default threads, batch 128, no wait carries 140 requests/s, where this carries 120"


def test_a_configuration_that_is_too_slow_for_a_single_request_is_out_of_reach_though_others_are_not() -> None:
    best, slow = trial(Configuration(), 100.0, "baseline"), trial(Configuration(max_wait_ms=5.0), 0.0)
    assert lost(slow, best, P99).status == "out of reach"
