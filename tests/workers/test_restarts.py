"""Back-off and circuit of the workers of a model: what holds for every order of deaths and answers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from penstock.workers.restarts import FAILURES, LONGEST_WAIT_S, Restarts


@given(st.lists(st.sampled_from(["fail", "answer", "wait"]), max_size=60))
def test_failures_in_a_row_wait_longer_and_an_answer_ends_them(events: list[str]) -> None:
    restarts, now, row = Restarts(), 0.0, 0
    for event in events:
        before = restarts.wait_s
        if event == "fail":
            row += 1
            restarts.failed(now, f"failure {row}")
            assert restarts.why == f"failure {row}"
            assert restarts.wait_s >= before
            assert restarts.due_in(now, starting=0) == restarts.wait_s <= LONGEST_WAIT_S
            assert restarts.due_in(now, starting=1) is None
        elif event == "answer":
            row = 0
            restarts.answered()
            assert restarts.due_in(now, starting=1) == 0.0
        else:
            now += 1.0
        assert restarts.failures == row
        assert restarts.open == (row >= FAILURES)
        assert restarts.due_in(now + LONGEST_WAIT_S, starting=0) == 0.0


def test_the_first_death_is_followed_by_a_start_at_once() -> None:
    restarts = Restarts()
    restarts.failed(10.0, "it died")
    assert restarts.due_in(10.0, starting=0) == 0.0
    restarts.failed(10.0, "it died")
    assert restarts.due_in(10.0, starting=0) == 0.5
