from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hydraulic_models import hydraulic_registry
from hypothesis import given
from hypothesis import strategies as st
from rig import diagnosis_of

from penstock import Registry
from penstock_hydraulics.fleet.fleet import Fleet, parse_equipment
from penstock_hydraulics.fleet.latest import Diagnosed, LatestDiagnosis, LatestQueue, MachineState
from penstock_hydraulics.fleet.retention import Retention

Database = Callable[[Path], str]
NOW_S = 1_760_000_000.0


def _diagnosed(
    equipment_id: str, at_s: float = NOW_S, status: str = "unknown", model: str = "hydraulics:1.0"
) -> Diagnosed:
    return Diagnosed(
        at_s, diagnosis_of(equipment_id, status), ("pressure_pump_main",), np.full((1, 3), 1.25, np.float32), model
    )


def _latest(fleet: Fleet, equipment_id: str) -> LatestDiagnosis | None:
    return fleet.read(lambda store: store.latest(equipment_id))


def _states(fleet: Fleet, after: str = "", limit: int = 100, search: str = "", status: str = "") -> list[MachineState]:
    return fleet.read(lambda store: store.states(after, limit, search, status))


@pytest.fixture
def registry(tmp_path: Path, database: Database) -> Registry:
    path = hydraulic_registry(tmp_path)
    return Registry(path, database(path))


@pytest.fixture
def fleet(registry: Registry) -> Iterator[Fleet]:
    fleet = Fleet.of(registry)
    yield fleet
    fleet.close()


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 5)), max_size=30), st.integers(1, 4))
def test_the_queue_keeps_the_newest_of_each_machine(puts: list[tuple[str, int]], most: int) -> None:
    queue, kept = LatestQueue(most), {}
    for equipment_id, at_s in puts:
        diagnosed = _diagnosed(equipment_id, at_s)
        queue.put(diagnosed)
        if equipment_id not in kept or kept[equipment_id].at_s <= at_s:
            kept[equipment_id] = diagnosed
        if len(kept) > most:
            del kept[next(iter(kept))]
    assert queue.some() == [*kept.values()]
    newer = _diagnosed("a", 9)
    before = queue.some()
    queue.put(newer)
    queue.written(before)
    assert queue.some() == [newer]


def test_the_latest_diagnosis_is_read_back_also_by_another_process(fleet: Fleet, registry: Registry) -> None:
    assert _latest(fleet, "exc_001") is None
    fleet.keep_latest(_diagnosed("exc_001", NOW_S, "critical"))
    fleet.keep_latest(_diagnosed("exc_001", NOW_S - 60))  # out of order
    found = _latest(fleet, "exc_001")
    assert found is not None
    assert (found.at_s, found.readings) == (NOW_S, {"pressure_pump_main": [1.25, 1.25, 1.25]})
    fleet.keep_latest(_diagnosed("exc_001", NOW_S - 30))  # older than what is stored
    fleet.keep_latest(_diagnosed("exc_002", NOW_S))
    assert _latest(fleet, "exc_002") is not None
    other = Fleet(Registry(registry.path, registry.database_url))
    other._users = 1
    assert _latest(other, "exc_001") == found
    assert other.read(lambda store: store.state_counts()) == {"critical": 1, "unknown": 1}
    other.close()


def test_registered_and_diagnosed_machines_are_one_list(fleet: Fleet) -> None:
    fleet.put_equipment(parse_equipment("b", {"topology": "zema_rig"}))
    assert [(each.equipment_id, each.answer) for each in _states(fleet)] == [("b", None)]
    assert _states(fleet, status="critical") == []
    fleet.put_equipment(parse_equipment("d", {"topology": "zema_rig"}))
    for equipment_id, status in (("a", "critical"), ("b", "healthy"), ("c_x", "critical"), ("cyx", "unknown")):
        fleet.keep_latest(_diagnosed(equipment_id, status=status))
    assert [each.equipment_id for each in _states(fleet)] == ["a", "b", "c_x", "cyx", "d"]
    assert [each.equipment_id for each in _states(fleet, after="b", limit=2)] == ["c_x", "cyx"]
    assert [each.equipment_id for each in _states(fleet, status="critical")] == ["a", "c_x"]
    assert [each.equipment_id for each in _states(fleet, search="C_")] == ["c_x"]


def test_a_machine_takes_its_latest_diagnosis_with_its_history(fleet: Fleet) -> None:
    fleet.keep_latest(_diagnosed("a"))
    _latest(fleet, "a")
    fleet.keep_latest(_diagnosed("a", NOW_S + 1))
    assert fleet.remove_equipment("a", history=True)
    assert _latest(fleet, "a") is None


def test_old_diagnoses_expire(registry: Registry) -> None:
    fleet = Fleet(registry, Retention(keep_days=1.0))
    fleet._users = 1
    fleet.keep_latest(_diagnosed("a"))
    assert _latest(fleet, "a") is not None
    fleet._opened().retain(NOW_S + 1, 10, 10)
    assert _latest(fleet, "a") is None
    fleet.close()


@pytest.mark.parametrize(
    ("keep", "log_inputs", "model", "kept"),
    [
        (True, None, "hydraulics:1.0", True),
        (False, None, "hydraulics:1.0", False),
        (True, False, "hydraulics:1.0", False),
        (True, None, "hydraulics:9.9", False),
    ],
)
def test_readings_are_kept_with_the_consent_of_setting_and_manifest(
    tmp_path: Path, keep: bool, log_inputs: bool | None, model: str, kept: bool
) -> None:
    hydraulic_registry(tmp_path)
    registry = Registry(tmp_path / "served")
    registry.publish(tmp_path / "source", prove=False, log_inputs=log_inputs)
    fleet = Fleet(registry, Retention(keep_readings=keep))
    fleet._users = 1
    fleet.keep_latest(_diagnosed("a", model=model))
    found = _latest(fleet, "a")
    fleet.close()
    assert found is not None
    assert found.answer["equipment_id"] == "a"
    assert bool(found.readings) is kept
