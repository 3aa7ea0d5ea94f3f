"""Windows of several processes: what they add up to, when they close, and what a restart keeps."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.artifacts.reference.reference import Answers, Reference, reference_of
from penstock.monitor.drift.verdicts import Rules, data_quality, judge
from penstock.monitor.drift.windows import LONGEST, Windows
from penstock.tensors import Signature, TensorSpec

SIGNATURE = Signature((TensorSpec("x", "FP64", (-1, 3)),), (TensorSpec("logits", "FP32", (-1, 2)),))
RULES = Rules(window_s=60.0, min_rows=300)


def answers(rng: np.random.Generator, rows: int) -> Answers:
    return Answers(rng.integers(0, 2, rows), rng.random(rows), ("a", "b"))


def made_reference(rows: int = 1500) -> Reference:
    rng = np.random.default_rng(0)
    return reference_of({"x": rng.standard_normal((rows, 3))}, answers(rng, rows), SIGNATURE)


REFERENCE = made_reference()


def counts(rng: np.random.Generator, rows: int, shift: float = 0.0, missing: int = 0) -> np.ndarray:
    x = rng.standard_normal((rows, 3)) + shift
    x[:missing, 0] = np.nan
    return REFERENCE.count({"x": x}, answers(rng, rows))


def shared(windows: Windows) -> dict[str, Any]:
    return json.loads(json.dumps(windows.snapshot()))


def filled(windows: Windows, start: float, rows: int, *, shift: float = 0.0, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    for part in range(12):
        windows.add(counts(rng, rows // 12, shift), start + 5 * part)


@given(st.lists(st.tuples(st.floats(0, 179), st.integers(1, 200), st.integers(0, 2)), min_size=1, max_size=30))
def test_several_processes_judge_as_one_that_saw_all(sampled: list[tuple[float, int, int]]) -> None:
    alone = Windows(REFERENCE, RULES, 0.0)
    several = [Windows(REFERENCE, RULES, 0.0) for _ in range(3)]
    for at, rows, process in sampled:
        found = counts(np.random.default_rng(rows), rows)
        alone.add(found, at)
        several[process].add(found.copy(), at)
    alone.advance([], 1e4)
    for one in several:
        one.advance([shared(other) for other in several if other is not one], 1e4)
        assert one.closed == alone.closed
    assert sum(one["rows"] for one in alone.closed) <= sum(rows for _, rows, _ in sampled)


def test_traffic_as_in_the_reference_is_ok_and_a_shift_alarms_in_its_first_window() -> None:
    windows = Windows(REFERENCE, RULES, 0.0)
    filled(windows, 0.0, 600)
    filled(windows, 60.0, 600, shift=0.8)
    assert [one["verdict"] for one in windows.advance([], 130.0)] == ["ok", "alarm"]
    alarm = windows.closed[-1]
    assert (alarm["inputs"], alarm["predictions"]) == ("alarm", "ok")
    assert {one["feature"] for one in alarm["moved"] if one["verdict"] == "alarm"} == {"x[0]", "x[1]", "x[2]"}


def test_a_small_but_certain_change_warns() -> None:
    windows = Windows(REFERENCE, RULES, 0.0)
    filled(windows, 0.0, 12_000, shift=0.15)
    assert [one["verdict"] for one in windows.advance([], 70.0)] == ["warn"]


def test_a_window_goes_on_until_it_has_enough_rows() -> None:
    windows = Windows(REFERENCE, RULES, 0.0)
    for window in range(4):
        filled(windows, 60.0 * window, 120)
        windows.advance([], 60.0 * window + 62)
    (closed,) = windows.closed
    assert (closed["from"], closed["to"], closed["rows"], closed["verdict"]) == (0, 3, 360, "ok")
    assert windows.open_window([])["rows"] == 120


def test_too_few_rows_for_a_day_are_no_verdict_and_silence_is_nothing() -> None:
    windows = Windows(REFERENCE, RULES, 0.0)
    filled(windows, 0.0, 24)
    assert windows.advance([], 60.0 * (LONGEST - 1) + 2) == []
    (closed,) = windows.advance([], 60.0 * LONGEST + 2)
    assert (closed["verdict"], closed["rows"]) == ("no_verdict", 24)
    windows.advance([], 1e9)
    assert len(windows.closed) == 1
    assert windows.open_window([])["rows"] == 0


def test_a_window_that_goes_on_for_long_keeps_few_parts() -> None:
    windows = Windows(REFERENCE, Rules(window_s=60.0, min_rows=10**6), 0.0)
    for window in range(LONGEST - 1):
        filled(windows, 60.0 * window, 120)
        windows.advance([], 60.0 * window + 62)
    assert len(windows.parts) <= LONGEST + 24
    assert sum(map(windows._rows, windows.parts.values())) == 120 * (LONGEST - 1)


def test_a_window_that_has_not_ended_is_open_even_with_many_rows() -> None:
    windows = Windows(REFERENCE, RULES, 0.0)
    filled(windows, 0.0, 600)
    assert windows.advance([], 60.5) == []
    assert windows.open_window([])["verdict"] == "no_verdict"


def test_missing_values_alarm_before_their_window_ends() -> None:
    windows = Windows(REFERENCE, RULES, 0.0)
    rng = np.random.default_rng(1)
    for part in range(3):
        windows.add(counts(rng, 60, missing=20), 5.0 * part)
    opened = windows.open_window([])
    assert opened["verdict"] == "alarm"
    assert opened["data_quality"] == [
        {"feature": "x[0]", "kind": "missing", "rows": 180, "bad": 60, "rate": 0.3333, "limit": 0.00266}
    ]


def test_bad_values_of_a_single_moment_are_no_trend() -> None:
    parts = [counts(np.random.default_rng(n), 60, missing=30 if n == 3 else 0) for n in range(12)]
    assert data_quality(REFERENCE, parts, RULES) == []


def test_a_process_that_starts_again_takes_over_what_the_others_know() -> None:
    old = Windows(REFERENCE, RULES, 0.0)
    filled(old, 0.0, 600, shift=0.8)
    old.advance([], 62.0)
    filled(old, 60.0, 240)
    new = Windows(REFERENCE, RULES, 100.0)
    new.advance([shared(old)], 100.0)
    assert new.closed == old.closed
    new.add(counts(np.random.default_rng(5), 240), 130.0)
    (closed,) = new.advance([shared(old)], 190.0)
    assert (closed["from"], closed["to"], closed["rows"]) == (1, 3, 480)


def test_counts_of_another_reference_are_left_out() -> None:
    windows = Windows(REFERENCE, RULES, 0.0)
    other = {"pending": 0, "closed": [], "parts": {"0": "AQAAAA=="}}
    assert windows.open_window([other])["rows"] == 0


@pytest.mark.parametrize("cluster", [1, 5])
def test_undrifted_days_alarm_seldom(cluster: int) -> None:
    """Each row of a clustered client comes `cluster` times. Windows of a day: the chance of a false alarm is 1 %."""
    rng, alarms, days = np.random.default_rng(cluster), 0, 300
    rules = Rules(window_s=86_400.0, min_rows=300)
    for _ in range(days):
        parts = [cluster * counts(rng, 600 // 12 // cluster) for _ in range(12)]
        alarms += judge(REFERENCE, parts, rules)["verdict"] == "alarm"
    assert alarms <= days * 0.01 + 3 * (days * 0.01 * 0.99) ** 0.5
