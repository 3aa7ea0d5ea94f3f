"""The life of an alert: pending, firing, resolved; gaps and restarts change nothing."""

from __future__ import annotations

import json
import math
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import ConfigError
from penstock.monitor.alerts.states import GONE_S, REPEAT_S, AlertState, Limits, fingerprint, step

LIMITS = Limits(above=10.0, clear=8.0, for_s=60.0, keep_s=45.0)
LABELS = {"alertname": "A"}
STEP_S = 15.0
Looks = list[tuple[float, float | None]]


def every(*values: float | None, step_s: float = STEP_S) -> Looks:
    return [(number * step_s, value) for number, value in enumerate(values)]


def life(
    looks: Looks, limits: Limits = LIMITS, *, stored: bool = False
) -> tuple[list[tuple[float, str]], AlertState | None]:
    """What receivers hear and when, and the state at the end. `stored`: each state goes through its JSON."""
    state, heard = None, []
    for now, value in looks:
        state, news = step(limits, state, LABELS, value, now)
        if stored and state is not None:
            state = AlertState.of(json.loads(json.dumps(asdict(state))))
        if news is not None:
            heard.append((now, news))
    return heard, state


def test_it_fires_once_its_minutes_are_over_and_ends_below_the_lower_threshold() -> None:
    heard, state = life(every(*[11.0] * 5, 9.0, 9.0, 9.0, 9.0, 8.0, 7.0, 7.0, 7.0, 7.0))
    assert heard == [(60.0, "firing"), (180.0, "resolved")]
    assert state is None


def test_it_does_not_fire_before() -> None:
    heard, state = life(every(*[11.0] * 4))
    assert (heard, state and (state.phase, state.held_s)) == ([], ("pending", 45.0))
    assert life(every(11.0, 11.0, 11.0, 11.0, 9.0, 11.0, 11.0))[0] == []


def test_one_value_above_the_lower_threshold_begins_the_wait_anew() -> None:
    heard, _ = life(every(*[11.0] * 5, 1.0, 1.0, 1.0, 9.0, 1.0, 1.0, 1.0, 1.0))
    assert heard == [(60.0, "firing"), (180.0, "resolved")]


def test_without_minutes_it_fires_and_ends_at_once() -> None:
    assert life(every(11.0, 9.0, 8.0), Limits(10, 8, 0, 0))[0] == [(0.0, "firing"), (30.0, "resolved")]


def test_too_little_to_judge_by_is_not_above() -> None:
    assert life(every(11.0, *[math.nan] * 9))[0] == []
    assert life(every(*[11.0] * 5, *[math.nan] * 4))[0] == [(60.0, "firing"), (120.0, "resolved")]


def test_missing_data_keeps_it_firing_and_its_time_does_not_count() -> None:
    heard, state = life(every(*[11.0] * 5, 1.0, *[None] * 200, 1.0, 1.0, 1.0))
    assert heard == [(60.0, "firing")]
    assert state is not None
    assert (state.phase, state.held_s, state.silent_s) == ("firing", 30.0, 0.0)


def test_missing_data_does_not_make_it_fire() -> None:
    heard, state = life(every(11.0, *[None] * 100, 11.0))
    assert (heard, state and state.held_s) == ([], 0.0)


def test_a_long_time_without_a_look_counts_for_a_minute() -> None:
    assert life([(0.0, 11.0), (5000.0, 11.0)], Limits(10, 8, 61, 0))[0] == []


def test_an_alert_whose_data_never_comes_back_ends() -> None:
    looks = every(*[11.0] * 5, *[None] * int(GONE_S / STEP_S + 10))
    assert [news for _, news in life(looks)[0]] == ["firing", "resolved"]
    assert life(every(11.0, *[None] * int(GONE_S / STEP_S + 10))) == ([], None)


def test_it_is_repeated_every_four_hours() -> None:
    looks = every(*[11.0] * int(2.5 * REPEAT_S / STEP_S))
    assert life(looks)[0] == [(60.0, "firing"), (60.0 + REPEAT_S, "firing"), (60.0 + 2 * REPEAT_S, "firing")]


def test_a_clock_that_goes_back_does_no_harm() -> None:
    heard, state = life([(100.0, 11.0), (50.0, 11.0), (65.0, 11.0), (80.0, 11.0)])
    assert (heard, state and state.held_s) == ([], 30.0)


def test_a_state_of_another_release_is_refused_with_a_sentence() -> None:
    with pytest.raises(ConfigError, match="written by another release"):
        AlertState.of({"phase": "firing"})


values = st.one_of(st.none(), st.just(math.nan), st.sampled_from([1.0, 8.0, 9.0, 10.0, 11.0, 12.0]))
looks = st.lists(st.tuples(st.sampled_from([1.0, 15.0, 15.0, 15.0, 100.0]), values), max_size=60)
limits = st.builds(
    lambda for_s, keep_s: Limits(10.0, 8.0, for_s, keep_s),
    st.sampled_from([0.0, 30.0, 60.0]),
    st.sampled_from([0.0, 45.0]),
)


def timed(steps: list[tuple[float, float | None]]) -> Looks:
    now, found = 0.0, []
    for gap, value in steps:
        now += gap
        found.append((now, value))
    return found


@given(looks, limits)
def test_it_fires_and_ends_in_turn_and_only_for_reasons(
    steps: list[tuple[float, float | None]], limits: Limits
) -> None:
    seen = timed(steps)
    heard, _ = life(seen, limits)
    assert [news for _, news in heard] == ["firing", "resolved"] * (len(heard) // 2) + ["firing"] * (len(heard) % 2)
    at = dict(seen)
    for when, news in heard:
        value = at[when]
        assert value is not None
        if news == "firing":
            assert value > limits.above
            above = [each for time, each in seen if when - limits.for_s < time <= when and each is not None]
            assert all(each > limits.above for each in above)
        else:
            assert not value > limits.clear


@given(looks, limits)
def test_a_restart_at_any_look_changes_nothing(steps: list[tuple[float, float | None]], limits: Limits) -> None:
    assert life(timed(steps), limits, stored=True) == life(timed(steps), limits)


@given(looks, limits, st.integers(0, 60), st.integers(1, 20))
def test_looks_without_data_say_nothing(
    steps: list[tuple[float, float | None]], limits: Limits, place: int, count: int
) -> None:
    seen = timed(steps)
    gap_at = seen[min(place, len(seen) - 1)][0] if seen else 0.0
    silence = [(gap_at + 0.01 * (number + 1), None) for number in range(count)]
    heard, state = life([*[one for one in seen if one[0] <= gap_at], *silence], limits)
    before, expected = life([one for one in seen if one[0] <= gap_at], limits)
    assert heard == before
    assert (state and (state.phase, state.held_s)) == (expected and (expected.phase, expected.held_s))


def test_a_fingerprint_is_that_of_prometheus() -> None:
    """The cases of github.com/prometheus/common/model/signature_test.go."""
    assert int(fingerprint({}), 16) == 14695981039346656037
    assert int(fingerprint({"name": "garland, briggs", "fear": "love is not enough"}), 16) == 5799056148416392346


def test_a_fingerprint_does_not_depend_on_the_order_and_depends_on_everything_else() -> None:
    assert fingerprint({"a": "b", "c": "d"}) == fingerprint({"c": "d", "a": "b"})
    different = [{"a": "b"}, {"a": "c"}, {"b": "a"}, {"ab": ""}, {"a": "b", "c": ""}, {"a": "bc"}, {"ä": "b"}]
    assert len({fingerprint(labels) for labels in different}) == len(different)
