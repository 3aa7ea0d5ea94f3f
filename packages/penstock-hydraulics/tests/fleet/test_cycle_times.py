from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from penstock_hydraulics.fleet.cycle_times import CycleTimes

_GAPS = st.lists(st.floats(0, 500), min_size=1, max_size=40)


@given(_GAPS, st.floats(1, 600))
def test_windows_are_a_cycle_apart_at_least_and_never_before_their_arrival(gaps: list[float], cycle_s: float) -> None:
    times, now_s, before = CycleTimes(), 1e9, None
    for gap in gaps:
        now_s += gap
        at_s = times.next("a", "rig:1", cycle_s, now_s)
        assert at_s >= now_s
        assert before is None or at_s == max(before + cycle_s, now_s)
        before = at_s


def test_a_burst_is_spread_over_its_cycles() -> None:
    times = CycleTimes()
    assert [times.next("a", "rig:1", 60.0, 1e9) for _ in range(3)] == [1e9, 1e9 + 60, 1e9 + 120]


def test_every_machine_and_model_has_its_own_order() -> None:
    times = CycleTimes()
    for machine in ("a", "b"):
        for model in ("rig:1", "rig:2"):
            assert times.next(machine, model, 60.0, 1e9) == 1e9


def test_a_window_follows_one_with_a_timestamp_and_late_ones_change_nothing() -> None:
    times = CycleTimes()
    times.seen("a", "rig:1", 1e9 + 1000)
    times.seen("a", "rig:1", 1e9 - 1000)
    assert times.next("a", "rig:1", 60.0, 1e9) == 1e9 + 1060
    times.forget("a")
    assert times.next("a", "rig:1", 60.0, 1e9) == 1e9
