from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hydraulic_models import SIGNATURE, hydraulic_model, readings, task_config
from hypothesis import given
from hypothesis import strategies as st

from penstock import Registry
from penstock.plugin_api import open_database
from penstock_hydraulics.diagnosis.schemas import PredictionRequest
from penstock_hydraulics.diagnosis.trend import Degradation
from penstock_hydraulics.fleet.equipment import parse_equipment
from penstock_hydraulics.fleet.fleet import Fleet, Result
from penstock_hydraulics.fleet.trends import NO_TIME, Place, Trends, degradation_answer
from penstock_hydraulics.machine.templates import TEMPLATES
from penstock_hydraulics.task import HydraulicDiagnostics

RIG = TEMPLATES["zema_rig"]
DATA = readings(RIG)
START = datetime(2024, 1, 1, tzinfo=UTC)
Ask = Callable[..., Any]


@pytest.fixture
def registry(tmp_path: Path, database: Callable[[Path], str]) -> Registry:
    return Registry(tmp_path, database(tmp_path))


@pytest.fixture
def fleet(registry: Registry) -> Iterator[Fleet]:
    fleet = Fleet.of(registry)
    yield fleet
    fleet.close()


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(hydraulic_model(tmp_path_factory.mktemp("model") / "m.onnx"), options)


@pytest.fixture
def ask(fleet: Fleet, registry: Registry, session: Any) -> Iterator[Ask]:
    """Asks a task with a history for the diagnosis of one window of the machine `a`."""
    task = HydraulicDiagnostics(task_config(), SIGNATURE)
    task.attach(registry, "rig:1")

    def asked(data: Any = DATA, **fields: Any) -> Any:
        request = PredictionRequest(**{"equipment_id": "a", "sensor_data": data, "topology": "zema_rig", **fields})
        inputs, _ = task.signature.validate(task.preprocess(request))
        outputs = dict(zip((spec.name for spec in SIGNATURE.outputs), session.run(None, dict(inputs)), strict=True))
        answer = task.postprocess(outputs, request)
        answer.stamp("1")
        return answer

    yield asked
    task.close()


def bases(ask: Ask, count: int, apart: timedelta, **fields: Any) -> list[str]:
    return [ask(timestamp=START + number * apart, **fields).degradation.basis for number in range(count)]


# Windows without a time


def test_windows_without_a_timestamp_are_part_of_no_trend_and_say_so(ask: Ask, fleet: Fleet) -> None:
    answers = [ask() for _ in range(20)]
    for answer in answers:
        assert NO_TIME in answer.warnings
        assert (answer.degradation.basis, answer.degradation.time_to_failure_hours) == ("nominal", None)
        assert answer.degradation.rate_interval is None
    assert ask(timestamp=datetime.now(UTC)).degradation.basis == "nominal", "they are no results of a trend"
    assert len(fleet.history("a")) == 21


def test_a_trend_goes_on_around_windows_without_a_timestamp(ask: Ask) -> None:
    assert bases(ask, 9, timedelta(hours=1))[-1] == "history"
    assert ask().degradation.basis == "nominal"
    assert ask(timestamp=START + timedelta(hours=10)).degradation.basis == "history"


def test_a_cycle_length_gives_windows_their_times_by_order(ask: Ask, fleet: Fleet) -> None:
    fleet.put_equipment(parse_equipment("a", {"topology": "zema_rig", "cycle_s": 90}))
    answers = [ask() for _ in range(9)]
    assert [answer.degradation.basis for answer in answers] == ["nominal"] * 7 + ["history"] * 2
    assert not any(NO_TIME in answer.warnings for answer in answers)
    times = [stored.result.at_s for stored in fleet.history("a")]
    assert [round(later - earlier, 3) for earlier, later in pairwise(times)] == [90.0] * 8
    assert times[0] == pytest.approx(time.time(), abs=30)


def test_the_order_of_cycles_goes_on_after_a_restart_and_in_other_processes(fleet: Fleet, registry: Registry) -> None:
    machine = parse_equipment("a", {"topology": "zema_rig", "cycle_s": 3600})
    fleet.put_equipment(machine)
    latest = time.time() + 5_000
    fleet.record(Result("a", latest, 0.9, "healthy", trend="rig:1", evidence="e"))
    fleet.history("a")  # written
    other = Fleet(Registry(registry.path, registry.database_url))
    other._users = 1
    try:
        assert other._loaded.wait(20)
        assert other.next_time(machine, "rig:1") == pytest.approx(latest + 3600)
        other.record(Result("a", latest + 3600, 0.9, "healthy", trend="rig:1", evidence="other sensors"))
        other.history("a")
        until = time.monotonic() + 20
        while fleet._cycle_times._latest[("a", "rig:1")] < latest + 3600:
            assert time.monotonic() < until, "the other process's window never arrived"
            time.sleep(0.01)
        assert fleet.next_time(machine, "rig:1") == pytest.approx(latest + 7200)
    finally:
        other.close()


# How much makes a trend


@pytest.mark.parametrize(("apart_s", "from_number"), [(60, 8), (120, 8), (30, 15), (1, None)])
def test_a_trend_takes_eight_windows_over_eight_window_lengths(ask: Ask, apart_s: int, from_number: int | None) -> None:
    found = bases(ask, 16, timedelta(seconds=apart_s))
    assert found == ["nominal" if from_number is None or number < from_number else "history" for number in range(1, 17)]


def test_other_sensors_are_a_trend_of_their_own(ask: Ask, fleet: Fleet) -> None:
    hour = timedelta(hours=1)
    assert bases(ask, 8, hour)[-1] == "history"
    fewer = {name: values for name, values in DATA.items() if not name.startswith("vibration")}
    slow = {"flow_pump_main": 10.0}
    fast = {**DATA, "flow_pump_main": [value for value in DATA["flow_pump_main"] for _ in range(10)]}
    short = {name: values[:40] for name, values in DATA.items()}
    graph = {**RIG.document(), "name": "press"}
    for number, changed in enumerate(
        ({"data": fewer}, {"data": fast, "sampling_rate_hz": slow}, {"data": short}, {"topology": graph})
    ):
        answer = ask(timestamp=START + (9 + number) * hour, **changed)
        assert answer.degradation.basis == "nominal", changed.keys()
    assert ask(timestamp=START + 20 * hour).degradation.basis == "history"
    assert len({stored.result.evidence for stored in fleet.history("a")}) == 5


def test_a_window_a_sample_shorter_is_part_of_the_same_trend(ask: Ask) -> None:
    assert bases(ask, 8, timedelta(hours=1))[-1] == "history"
    shorter = {name: values[:59] for name, values in DATA.items()}
    assert ask(shorter, timestamp=START + timedelta(hours=9)).degradation.basis == "history"


# Timestamps


def test_timestamps_out_of_order_are_sorted_and_later_ones_ignored(ask: Ask) -> None:
    hour = timedelta(hours=1)
    order = [5, 1, 8, 3, 7, 2, 6, 4]
    found = [ask(timestamp=START + number * hour).degradation.basis for number in order]
    assert found == ["nominal"] * 8, "until 4 h there are four results"
    assert ask(timestamp=START + 9 * hour).degradation.basis == "history"


def test_windows_of_one_timestamp_count_once(ask: Ask, fleet: Fleet) -> None:
    assert {ask(timestamp=START).degradation.basis for _ in range(20)} == {"nominal"}
    assert len(fleet.history("a")) == 20, "all are in the history"
    evidence = fleet.history("a")[0].result.evidence
    assert len(fleet.recent("a", "rig:1", evidence).times_s) == 1


def test_a_timestamp_in_another_time_zone_is_the_same_moment(ask: Ask, fleet: Fleet) -> None:
    for zone in (UTC, timezone(timedelta(hours=5)), None):
        ask(timestamp=START.astimezone(zone) if zone else START.replace(tzinfo=None))
    assert {stored.result.at_s for stored in fleet.history("a")} == {START.timestamp()}


def test_a_timestamp_ahead_gets_a_warning_and_does_not_count_before_its_time(ask: Ask) -> None:
    now = datetime.now(UTC)
    for number in range(8):
        answer = ask(timestamp=now + timedelta(hours=3, minutes=number))
    assert answer.degradation.basis == "history"
    assert "the timestamp is 3.1 h in the future; check the machine's clock and time zone" in answer.warnings
    assert ask(timestamp=now).degradation.basis == "nominal"
    assert not any("future" in warning for warning in ask(timestamp=now + timedelta(minutes=4)).warnings)


def test_repeated_results_count_once_after_a_restart_the_last_one(fleet: Fleet, registry: Registry) -> None:
    for number in range(300):
        for health in (0.1, 0.9):
            fleet.record(Result("a", 1e9 + 3600.0 * number, health, "healthy", trend="rig:1", evidence="e"))
    fleet.history("a")
    from penstock_hydraulics.fleet.store import Store

    store = Store(registry)
    points = store.load_points(("a", "rig:1", "e"))
    store.close()
    assert [at for at, _, _ in points] == [1e9 + 3600.0 * number for number in range(300)]
    assert {(health, count) for _, health, count in points} == {(0.9, 1)}


# What is answered


def trend_of(fleet: Fleet, healths: list[float], failure_health: float = 0.3, evidence: str = "e") -> Any:
    """The answer for the last of these results, one an hour."""
    for number, health in enumerate(healths[:-1]):
        fleet.record(Result("a", 1e9 + 3600.0 * number, health, "healthy", trend="rig:1", evidence=evidence))
    at_s = 1e9 + 3600.0 * (len(healths) - 1)
    trend = Trends(fleet, "rig:1").of(Place("a", evidence, failure_health, 60.0), healths[-1], at_s)
    return degradation_answer(healths[-1], trend, failure_health, model=True)


def test_other_evidence_is_neither_a_failure_nor_a_repair(fleet: Fleet) -> None:
    for number in range(10):
        fleet.record(Result("a", 1e9 + 3600.0 * number, 0.2, "critical", trend="rig:1", evidence="others"))
    answer, warning = trend_of(fleet, [0.9] * 10)
    assert (answer.basis, answer.rate, answer.time_to_failure_hours, warning) == ("history", 0.0, None, None)


def test_without_a_certain_decline_there_is_no_time_to_failure(fleet: Fleet) -> None:
    answer, warning = trend_of(fleet, [0.8, 0.7, 0.9, 0.75, 0.85, 0.7, 0.9, 0.8, 0.79])
    assert (answer.basis, answer.time_to_failure_hours, warning) == ("history", None, None)


def test_below_the_limit_the_time_to_failure_is_zero_with_a_warning(fleet: Fleet) -> None:
    for healths in ([0.25], [0.9 - 0.05 * number for number in range(14)]):
        answer, warning = trend_of(fleet, healths)
        assert answer.time_to_failure_hours == 0.0
        assert warning is not None
        assert warning == "already below the limit: health is 0.250, and the machine counts as failed at 0.3"
    answer, warning = trend_of(fleet, [0.25] * 12 + [0.5])
    assert answer.time_to_failure_hours == 0.0
    assert warning == "already below the limit: the latest results are, and the machine counts as failed at 0.3"


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=3),
    st.none() | st.tuples(*[st.floats(-1, 1)] * 3, st.none() | st.floats(0, 1e4)),
    st.floats(0, 0.9),
)
def test_no_answer_holds_a_negative_zero_or_a_time_without_a_trend_or_a_warning(
    scores: list[float], figures: Any, failure_health: float
) -> None:
    trend = None
    if figures is not None:
        low, rate, high = sorted(max(0.0, value) + 0.0 for value in figures[:3])
        hours = figures[3]
        trend = Degradation(rate, (low, high), hours, None if hours is None else (hours / 2, hours * 2), "history")
    for score in scores:
        answer, warning = degradation_answer(score, trend, failure_health, model=True)
        assert "-0.0" not in json.dumps(answer.model_dump())
        assert (answer.time_to_failure_hours == 0.0) == (warning is not None)
        if answer.basis != "history":
            assert answer.time_to_failure_hours in (None, 0.0)
            assert answer.rate_interval is None


# Stored results of earlier releases


def test_results_of_an_earlier_release_stay_in_the_history_and_are_part_of_no_trend(
    registry: Registry, fleet: Fleet
) -> None:
    from alembic.migration import MigrationContext
    from alembic.operations import Operations
    from sqlalchemy import text

    from penstock_hydraulics.fleet.migrations import VERSION_TABLE

    fleet.record(Result("a", 1e9, 0.9, "healthy", coverage=0.5, trend="rig:1", evidence="e"))
    fleet.history("a")
    database = open_database(registry, "hydraulics")
    with database.writer.begin() as connection:  # as 0001 left it
        Operations(MigrationContext.configure(connection)).drop_column("hydraulics_results", "evidence")
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '0001'"))
    database.close()
    upgraded = Fleet(Registry(registry.path, registry.database_url))
    upgraded._users = 1
    try:
        (old,) = upgraded.history("a")
        assert (old.result.health, old.result.coverage, old.result.evidence) == (0.9, 0.5, "")
        upgraded.record(Result("a", 2e9, 0.8, "healthy", trend="rig:1", evidence="e"))
        assert [each.result.evidence for each in upgraded.history("a")] == ["", "e"]
        until = time.monotonic() + 20
        while upgraded._histories.unread():
            assert time.monotonic() < until, "the stored results were never read"
            time.sleep(0.01)
        assert upgraded.recent("a", "rig:1", "e").times_s.tolist() == [2e9]
    finally:
        upgraded.close()
