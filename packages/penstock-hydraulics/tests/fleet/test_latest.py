from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rig import diagnosis_of

from penstock import Registry
from penstock_hydraulics.fleet.fleet import Fleet, parse_equipment
from penstock_hydraulics.fleet.latest import Diagnosed, LatestQueue
from penstock_hydraulics.fleet.retention import Retention

Database = Callable[[Path], str]
NOW_S = 1_760_000_000.0


def _diagnosed(equipment_id: str, at_s: float = NOW_S, status: str = "unknown") -> Diagnosed:
    return Diagnosed(
        at_s, diagnosis_of(equipment_id, status), ("pressure_pump_main",), np.full((1, 3), 1.25, np.float32)
    )


@pytest.fixture
def registry(tmp_path: Path, database: Database) -> Registry:
    return Registry(tmp_path, database(tmp_path))


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
    assert fleet.latest("exc_001") is None
    fleet.keep_latest(_diagnosed("exc_001", NOW_S, "critical"))
    fleet.keep_latest(_diagnosed("exc_001", NOW_S - 60))  # out of order
    found = fleet.latest("exc_001")
    assert found is not None
    assert (found.at_s, found.readings) == (NOW_S, {"pressure_pump_main": [1.25, 1.25, 1.25]})
    fleet.keep_latest(_diagnosed("exc_001", NOW_S - 30))  # older than what is stored
    fleet.keep_latest(_diagnosed("exc_002", NOW_S))
    assert fleet.latest("exc_002") is not None
    other = Fleet(Registry(registry.path, registry.database_url))
    other._users = 1
    assert other.latest("exc_001") == found
    assert other.state_counts() == {"critical": 1, "unknown": 1}
    other.close()


def test_registered_and_diagnosed_machines_are_one_list(fleet: Fleet) -> None:
    fleet.put_equipment(parse_equipment("b", {"topology": "zema_rig"}))
    assert [(each.equipment_id, each.answer) for each in fleet.states()] == [("b", None)]
    assert fleet.states(status="critical") == []
    fleet.put_equipment(parse_equipment("d", {"topology": "zema_rig"}))
    for equipment_id, status in (("a", "critical"), ("b", "healthy"), ("c_x", "critical"), ("cyx", "unknown")):
        fleet.keep_latest(_diagnosed(equipment_id, status=status))
    assert [each.equipment_id for each in fleet.states()] == ["a", "b", "c_x", "cyx", "d"]
    assert [each.equipment_id for each in fleet.states(after="b", limit=2)] == ["c_x", "cyx"]
    assert [each.equipment_id for each in fleet.states(status="critical")] == ["a", "c_x"]
    assert [each.equipment_id for each in fleet.states(search="C_")] == ["c_x"]


def test_a_machine_takes_its_latest_diagnosis_with_its_history(fleet: Fleet) -> None:
    fleet.keep_latest(_diagnosed("a"))
    fleet.latest("a")
    fleet.keep_latest(_diagnosed("a", NOW_S + 1))
    assert fleet.remove_equipment("a", history=True)
    assert fleet.latest("a") is None


def test_old_diagnoses_expire(registry: Registry) -> None:
    fleet = Fleet(registry, Retention(keep_days=1.0))
    fleet._users = 1
    fleet.keep_latest(_diagnosed("a"))
    assert fleet.latest("a") is not None
    fleet._opened().retain(NOW_S + 1, 10, 10)
    assert fleet.latest("a") is None
    fleet.close()
