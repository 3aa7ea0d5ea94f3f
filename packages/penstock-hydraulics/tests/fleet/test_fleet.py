from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from postgres import Server
from sqlalchemy import inspect, text

from penstock import Registry
from penstock.errors import InvalidInput, ModelNotReady
from penstock.plugin_api import migrate, open_database
from penstock_hydraulics.fleet import fleet as module
from penstock_hydraulics.fleet import migrations
from penstock_hydraulics.fleet.fleet import Fleet, Result, parse_equipment
from penstock_hydraulics.fleet.retention import Retention
from penstock_hydraulics.fleet.store import Store

Database = Callable[[Path], str]
NOW_S = 1_760_000_000.0


@pytest.fixture
def registry(tmp_path: Path, database: Database) -> Registry:
    return Registry(tmp_path, database(tmp_path))


@pytest.fixture
def fleet(registry: Registry) -> Iterator[Fleet]:
    fleet = Fleet.of(registry)
    yield fleet
    fleet.close()


def _eventually(condition: Callable[[], object], seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it never happened"
        time.sleep(0.01)


def _result(number: int = 0, equipment_id: str = "exc_001", **changes: object) -> Result:
    fields = {"at_s": NOW_S + 60.0 * number, "health": round(0.9 - 0.001 * number, 6), "status": "healthy"}
    return Result(equipment_id, **(fields | changes))  # type: ignore[arg-type]


def _other(registry: Registry) -> Fleet:
    """As another process would have it."""
    other = Fleet(Registry(registry.path, registry.database_url))
    other._users = 1
    other._loaded.wait(10)
    return other


def test_nothing_is_created_before_the_first_write(tmp_path: Path) -> None:
    fleet = Fleet.of(Registry(tmp_path))
    assert fleet.equipment("exc_001") is None
    assert fleet.page() == []
    assert fleet.history("exc_001") == []
    fleet.close()
    assert list(tmp_path.iterdir()) == []


def test_a_registered_machine_is_read_back_unchanged(fleet: Fleet) -> None:
    equipment = parse_equipment("exc_001", {"topology": "excavator", "nominal": {"pressure_pump_main": 250.0}})
    assert fleet.put_equipment(equipment)
    assert fleet.equipment("exc_001") is equipment
    assert not fleet.put_equipment(equipment)
    assert fleet.find("exc_002") is None
    assert fleet.remove_equipment("exc_001")
    assert fleet.equipment("exc_001") is None
    assert not fleet.remove_equipment("exc_001")


def test_machines_are_listed_in_pages(fleet: Fleet) -> None:
    for name in ("c", "a", "b"):
        fleet.put_equipment(parse_equipment(name, {"topology": "zema_rig"}))
    assert [each.id for each in fleet.page(limit=2)] == ["a", "b"]
    assert [each.id for each in fleet.page(after="b")] == ["c"]
    assert fleet.count() == 3


def test_the_number_of_machines_is_limited(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_EQUIPMENT", 1)
    fleet.put_equipment(parse_equipment("a", {"topology": "zema_rig"}))
    fleet.put_equipment(parse_equipment("a", {"topology": "excavator"}))
    with pytest.raises(InvalidInput, match="1 machines are registered"):
        fleet.put_equipment(parse_equipment("b", {"topology": "zema_rig"}))


def test_another_process_sees_machines_added_changed_and_removed(fleet: Fleet, registry: Registry) -> None:
    other = _other(registry)
    try:
        first = parse_equipment("a", {"topology": "zema_rig"})
        fleet.put_equipment(first)
        _eventually(lambda: other.equipment("a") == first)
        same = other.equipment("a")
        fleet.put_equipment(parse_equipment("b", {"topology": "zema_rig"}))
        _eventually(lambda: other.equipment("b"))
        assert other.equipment("a") is same, "one that did not change stays the same object"
        changed = parse_equipment("a", {"topology": "excavator"})
        other.put_equipment(changed)
        _eventually(lambda: fleet.equipment("a") == changed)
        fleet.remove_equipment("a")
        _eventually(lambda: other.equipment("a") is None)
    finally:
        other.close()


def test_find_sees_earlier_changes_by_another_process(fleet: Fleet, registry: Registry) -> None:
    other = _other(registry)
    try:
        for topology in ("zema_rig", "excavator"):
            fleet.put_equipment(parse_equipment("a", {"topology": topology}))
            found = other.find("a")
            assert found is not None
            assert found.topology.name == topology
        fleet.put_equipment(parse_equipment("b", {"topology": "zema_rig"}))
        assert [each.id for each in other.page()] == ["a", "b"]
        fleet.remove_equipment("a")
        assert other.find("a") is None
    finally:
        other.close()


def test_a_result_round_trips_through_the_database(fleet: Fleet) -> None:
    result = Result(
        "exc_001", NOW_S + 0.123456, 0.87, "healthy", 0.12, 733.3, "history", ["leakage"], {"pump_main": 0.5}, 0.9, "v1"
    )
    fleet.record(result)
    (stored,) = fleet.history("exc_001")
    assert stored.result == result
    assert not stored.late


def test_the_history_includes_results_just_recorded_and_pages_back(fleet: Fleet) -> None:
    for number in range(300):
        fleet.record(_result(number))
        fleet.record(_result(number, "other"))
    found = fleet.history("exc_001", limit=200)
    assert [each.result.at_s for each in found] == [NOW_S + 60.0 * number for number in range(100, 300)]
    older = fleet.history("exc_001", limit=200, before=(found[0].result.at_s, found[0].id))
    assert [each.result.at_s for each in older] == [NOW_S + 60.0 * number for number in range(100)]


def test_a_time_range_includes_its_start_and_excludes_its_end(fleet: Fleet) -> None:
    for number in range(10):
        fleet.record(_result(number))
    found = fleet.history("exc_001", NOW_S + 120, NOW_S + 240)
    assert [each.result.at_s for each in found] == [NOW_S + 120, NOW_S + 180]


def test_pages_lose_no_results_of_one_moment(fleet: Fleet) -> None:
    for number in range(5):
        fleet.record(_result(0, coverage=number / 10))
    page = fleet.history("exc_001", limit=3)
    rest = fleet.history("exc_001", limit=3, before=(page[0].result.at_s, page[0].id))
    assert [each.result.coverage for each in rest + page] == [0.0, 0.1, 0.2, 0.3, 0.4]


def test_recent_health_has_a_result_at_once_but_no_answers_from_rules_alone(fleet: Fleet) -> None:
    fleet.record(_result(0))
    fleet.record(_result(1, health=None))
    fleet.record(_result(2, trend=None))
    assert fleet.recent("exc_001").health.tolist() == [0.9]


def test_a_restarted_server_loads_recent_health_from_the_database(fleet: Fleet, registry: Registry) -> None:
    for number in range(30):
        fleet.record(_result(number))
    fleet.record(_result(30, trend=None))
    fleet.history("exc_001")
    other = _other(registry)
    try:
        other.recent("exc_001")
        _eventually(lambda: len(other.recent("exc_001").times_s) == 30)
        np.testing.assert_allclose(other.recent("exc_001").health, fleet.recent("exc_001").health)
    finally:
        other.close()


def test_each_model_has_a_trend_of_its_own_here_in_other_processes_and_after_a_restart(
    fleet: Fleet, registry: Registry
) -> None:
    other = _other(registry)
    try:
        for model in ("rig:1", "rig:2"):
            other.recent("exc_001", model)
        _eventually(lambda: not other._histories.unread())
        for number in range(6):
            fleet.record(_result(number, trend=f"rig:{1 + number % 2}", health=0.9 if number % 2 else 0.5))
        _eventually(lambda: len(other.recent("exc_001", "rig:2").times_s) == 3)
        assert other.recent("exc_001", "rig:1").health.tolist() == [0.5] * 3
    finally:
        other.close()
    again = _other(registry)
    try:
        again.recent("exc_001", "rig:2")
        _eventually(lambda: len(again.recent("exc_001", "rig:2").times_s) == 3)
        assert again.recent("exc_001", "rig:2").health.tolist() == [0.9] * 3
    finally:
        again.close()


def test_a_long_history_is_loaded_as_hourly_means(fleet: Fleet, registry: Registry) -> None:
    for number in range(1_500):
        fleet.record(_result(number, health=0.9 - number / 3_000))
    fleet.history("exc_001")
    other = _other(registry)
    try:
        other.recent("exc_001")
        _eventually(lambda: len(other.recent("exc_001").times_s))
        times, health = other.recent("exc_001")
        assert times[0] < NOW_S + 3 * 3600
        np.testing.assert_allclose(health, 0.9 - (times - NOW_S) / 60 / 3_000, atol=1e-3)
    finally:
        other.close()


def test_another_process_sees_results_in_its_recent_health(fleet: Fleet, registry: Registry) -> None:
    other = _other(registry)
    try:
        other.record(_result(0))
        _eventually(lambda: not other._histories.unread())
        fleet.record(_result(1))
        _eventually(lambda: len(other.recent("exc_001").times_s) == 2)
        other.record(_result(2))
        _eventually(lambda: len(fleet.recent("exc_001").times_s) >= 2)
        assert len(other.recent("exc_001").times_s) == 3
    finally:
        other.close()


def test_a_removed_machine_keeps_its_history_unless_requested(fleet: Fleet) -> None:
    fleet.put_equipment(parse_equipment("exc_001", {"topology": "zema_rig"}))
    fleet.record(_result())
    fleet.remove_equipment("exc_001")
    assert len(fleet.history("exc_001")) == 1
    assert fleet.remove_equipment("exc_001", history=True)
    assert fleet.history("exc_001") == []
    assert len(fleet.recent("exc_001").times_s) == 0
    fleet.record(_result(1))
    assert len(fleet.history("exc_001")) == 1


def test_queued_results_are_written_when_the_last_user_closes(registry: Registry) -> None:
    first, second = Fleet.of(registry), Fleet.of(registry)
    assert first is second
    first.record(_result(0))
    first.close()
    second.record(_result(1))
    second.close()
    again = Fleet.of(registry)
    assert again is not first
    assert len(again.history("exc_001")) == 2
    again.close()


def test_many_threads_can_record(fleet: Fleet) -> None:
    def work(name: str) -> None:
        for number in range(500):
            fleet.record(_result(number, name))
            fleet.recent(name)

    threads = [threading.Thread(target=work, args=(f"m{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(fleet.history(f"m{i}", limit=1_000)) for i in range(4)] == [500] * 4


def test_old_and_excess_results_are_deleted(fleet: Fleet, registry: Registry) -> None:
    for number in range(20):
        fleet.record(_result(number))
        fleet.record(_result(number, "other"))
    fleet.history("exc_001")
    store = Store(registry)
    assert store.retain(NOW_S + 300, 1_000, 1_000) == 10
    assert fleet.history("exc_001")[0].result.at_s == NOW_S + 300
    assert store.retain(0.0, 8, 1_000) == 14
    assert [len(fleet.history(name)) for name in ("exc_001", "other")] == [8, 8]
    assert fleet.history("exc_001")[-1].result.at_s == NOW_S + 19 * 60
    assert store.retain(0.0, 8, 5) == 11
    assert sum(len(fleet.history(name)) for name in ("exc_001", "other")) == 5
    store.close()


def test_the_thread_applies_the_retention(registry: Registry) -> None:
    fleet = Fleet(registry, Retention(keep_days=400 * 365.0, keep_per_machine=3))
    fleet._users = 1
    for number in range(10):
        fleet.record(_result(number))
    assert len(fleet.history("exc_001")) == 10
    fleet._retain_at = 0.0
    _eventually(lambda: len(fleet.history("exc_001")) == 3)
    fleet.close()


def test_a_repeated_write_counts_once(registry: Registry) -> None:
    store = Store(registry)
    results = [_result(number) for number in range(3)]
    store.write("w", 0, results, late=False)
    store.write("w", 0, results, late=True)  # its answer had been lost
    store.write("w", 3, [_result(3)], late=False)
    assert [each.late for each in store.history("exc_001", None, None, None, 10)] == [False] * 4
    store.close()


def test_migrations_produce_the_current_tables(registry: Registry) -> None:
    def tables() -> dict[str, object]:
        database = open_database(registry, "hydraulics")
        found = inspect(database.reader)
        shape = {
            name: (
                [(column["name"], str(column["type"]), column["nullable"]) for column in found.get_columns(name)],
                found.get_pk_constraint(name)["constrained_columns"],
                [(index["name"], index["column_names"]) for index in found.get_indexes(name)],
            )
            for name in sorted(found.get_table_names())
            if name.startswith("hydraulics")
        }
        database.close()
        return shape

    database = open_database(registry, "hydraulics")
    registry.path.mkdir(exist_ok=True)
    with database.writer.begin() as connection:
        migrate(connection, Path(migrations.__file__).parent, migrations.VERSION_TABLE)
    migrated = tables()
    with database.writer.begin() as connection:
        for name in migrated:
            connection.execute(text(f"DROP TABLE {name}"))
    database.close()
    store = Store(registry)
    store.write("w", 0, [_result()], late=False)
    store.close()
    assert tables() == migrated


def test_tables_of_a_newer_release_are_left_alone(fleet: Fleet, registry: Registry) -> None:
    fleet.record(_result())
    fleet.history("exc_001")
    database = open_database(registry, "hydraulics")
    with database.writer.begin() as connection:
        connection.execute(text("UPDATE hydraulics_schema SET version_num = '9999'"))
    other = _other(registry)
    other.record(_result(1))
    with pytest.raises(ModelNotReady):
        other.put_equipment(parse_equipment("a", {"topology": "zema_rig"}))
    other.close()
    with database.reader.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM hydraulics_results")).scalar() == 1
        assert connection.execute(text("SELECT count(*) FROM hydraulics_equipment")).scalar() == 0
    database.close()


def test_results_are_queued_during_an_outage_and_marked_late(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Server() as server:
        fleet = Fleet.of(Registry(tmp_path, server.new_database()))
        fleet.put_equipment(parse_equipment("exc_001", {"topology": "zema_rig"}))
        fleet.record(_result(0))
        assert len(fleet.history("exc_001")) == 1
        with caplog.at_level(logging.INFO, logger=module.__name__):
            server.crash()
            for number in range(1, 6):
                fleet.record(_result(number))
            _eventually(lambda: fleet._outage)
            assert fleet.equipment("exc_001") is not None
            assert len(fleet.recent("exc_001").times_s) == 6
            with pytest.raises(ModelNotReady, match="predictions continue"):
                fleet.history("exc_001")
            with pytest.raises(ModelNotReady, match="predictions continue"):
                fleet.put_equipment(parse_equipment("b", {"topology": "zema_rig"}))
            _eventually(lambda: fleet._late_left == 5)
            server.start()
            _eventually(lambda: not fleet._outage)
        fleet.record(_result(6))
        found = fleet.history("exc_001")
        assert [each.result.at_s for each in found] == [NOW_S + 60.0 * number for number in range(7)]
        assert [each.late for each in found] == [False, *[True] * 5, False]
        messages = [each.getMessage() for each in caplog.records if each.name == module.__name__]
        assert sum("fleet database unavailable" in line for line in messages) == 1
        assert messages[-1] == "fleet database available again"
        fleet.close()


def test_a_server_that_starts_without_its_database_still_answers(tmp_path: Path) -> None:
    with Server() as server:
        address = server.new_database()
        server.crash()
        fleet = Fleet.of(Registry(tmp_path, address))
        assert fleet.equipment("exc_001") is None
        fleet.record(_result())
        with pytest.raises(ModelNotReady):
            fleet.find("exc_001")
        server.start()
        _eventually(lambda: not fleet._outage and not fleet._queue)
        assert fleet.find("exc_001") is None
        assert [each.late for each in fleet.history("exc_001")] == [True]
        fleet.close()


def test_memory_is_bounded_during_an_outage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "MAX_QUEUED", 100)
    (tmp_path / "hydraulics.db").mkdir()  # no database can be there
    fleet = Fleet.of(Registry(tmp_path))
    _eventually(lambda: fleet._outage)
    for number in range(1_000):
        fleet.record(_result(number))
    assert len(fleet._queue) <= 100
    times = [result.at_s for result in [*fleet._batch, *fleet._queue]]
    assert times[0] == NOW_S
    assert times[-1] == NOW_S + 999 * 60.0
    fleet.close()
    assert any("were not written" in each.getMessage() for each in caplog.records)


def test_a_program_that_ends_without_closing_loses_nothing(registry: Registry) -> None:
    program = f"""
from penstock import Registry
from penstock_hydraulics.fleet.fleet import Fleet, Result
fleet = Fleet.of(Registry({str(registry.path)!r}, {registry.database_url!r}))
fleet.record(Result("exc_001", {NOW_S}, 0.5, "warning"))
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    fleet = Fleet.of(registry)
    assert len(fleet.history("exc_001")) == 1
    fleet.close()


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_forked_process_has_its_own_fleet(fleet: Fleet, registry: Registry) -> None:
    key = (os.getpid(), registry.database_url)
    assert module._SHARED[key] is fleet
    assert all(pid == os.getpid() for pid, _ in module._SHARED)


def test_an_unreadable_machine_is_ignored(fleet: Fleet, registry: Registry, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a", "b"):
        fleet.put_equipment(parse_equipment(name, {"topology": "zema_rig"}))
    with closing(open_database(registry, "hydraulics")) as database, database.writer.begin() as connection:
        connection.execute(
            text("UPDATE hydraulics_equipment SET document = '{\"topology\": \"of_tomorrow\"}' WHERE id = 'a'")
        )
    other = _other(registry)
    try:
        assert [each.id for each in other.page()] == ["b"]
        other.record(_result())
        assert [stored.late for stored in other.history("exc_001")] == [False]
    finally:
        other.close()
    assert "machine a is ignored: topology: unknown template 'of_tomorrow'" in caplog.text


def test_results_queued_behind_a_hanging_database_are_late(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LATE_S", 1e9)
    go_on, inside = threading.Event(), threading.Event()
    write = Store.write

    def hanging(self: Store, *given: object, **named: object) -> None:
        inside.set()
        assert go_on.wait(20)
        write(self, *given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Store, "write", hanging)
    fleet.record(_result(0))
    assert inside.wait(20)
    fleet.record(_result(1))
    monkeypatch.setattr(module, "LATE_S", 0.0)  # the cycle that hangs now counts as slow
    go_on.set()
    assert [each.late for each in fleet.history("exc_001")] == [False, True]


def test_a_late_first_result_does_not_hide_the_history_after_it(fleet: Fleet, registry: Registry) -> None:
    for number in range(20):
        fleet.record(_result(number))
    assert len(fleet.history("exc_001")) == 20
    other = _other(registry)
    try:
        other.record(_result(-1000))
        _eventually(lambda: len(other.recent("exc_001").times_s) == 21)
        assert other.recent("exc_001").times_s.tolist() == sorted(other.recent("exc_001").times_s.tolist())
    finally:
        other.close()
