"""The fleet's database: SQLite next to the registry's, or the registry's PostgreSQL."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
from sqlalchemy import Connection, Integer, Select, cast, delete, func, insert, inspect, select, tuple_, update

from penstock.errors import ConfigError, InvalidInput
from penstock.plugin_api import migrate, open_database
from penstock_hydraulics.fleet.equipment import Equipment, parse_equipment
from penstock_hydraulics.fleet.health_history import Key
from penstock_hydraulics.fleet.latest import LatestDiagnosis, MachineState
from penstock_hydraulics.fleet.latest_store import (
    count_states,
    read_latest,
    read_states,
    remove_latest,
    retain_latest,
    write_latest,
)
from penstock_hydraulics.fleet.migrations import HEAD, REVISIONS, VERSION_TABLE
from penstock_hydraulics.fleet.results import Result, Stored
from penstock_hydraulics.fleet.tables import EQUIPMENT, METADATA, RESULTS, REVISION, SCHEMA, WRITERS

if TYPE_CHECKING:
    from penstock import Registry

log = logging.getLogger(__name__)

NAME = "hydraulics"
_AT_ONCE = 5_000
"""Rows deleted in one transaction, which blocks other writers."""
_IDS_AT_ONCE = 500
_HOUR_S = 3600.0
_SINGLES = 200
"""Latest single results that are read into a health history."""
_HOURS = 5_000
"""Hourly means (30 weeks) that are read into a health history."""

Cursor = tuple[float, int]
"""Time and id of a result; a page continues with the results before it."""


class Changes(NamedTuple):
    """Change indicators: the revision counter of machines, and the highest id of a result."""

    revision: int
    last_id: int


class Store:
    """Thread-safe. Nothing is created before the first write; a missing database reads as empty.

    Every method raises ConfigError when the database cannot be used.
    """

    def __init__(self, registry: Registry) -> None:
        self._database = open_database(registry, NAME)
        self._readable = False

    def close(self) -> None:
        """Close every connection. Safe to call twice."""
        self._database.close()

    # Changes by other processes

    def changes(self) -> Changes:
        """Cheap enough for polling twice a second."""
        with self._reading() as connection:
            if connection is None:
                return Changes(0, 0)
            both = select(*(select(value).scalar_subquery() for value in (REVISION.c.value, func.max(RESULTS.c.id))))
            revision, last_id = connection.execute(both).one()
        return Changes(revision or 0, last_id or 0)

    def points_after(self, after_id: int, except_writer: str, most: int) -> tuple[list[tuple[Key, float, float]], int]:
        """((machine, model, evidence), time, health) of results of other writers, and the id to continue from."""
        t = RESULTS.c
        columns = select(t.id, t.writer, t.trend, t.evidence, t.equipment_id, t.at, t.health)
        query = columns.where(t.id > after_id).order_by(t.id).limit(most)
        with self._reading() as connection:
            rows = connection.execute(query).all() if connection else []
        others = [
            row for row in rows if row.writer != except_writer and None not in (row.trend, row.evidence, row.health)
        ]
        found = [((row.equipment_id, row.trend, row.evidence), row.at, row.health) for row in others]
        return found, rows[-1].id if rows else after_id

    def load_points(self, key: Key) -> list[tuple[float, float, int]]:
        """(time, health, number of results) of one trend, ascending: hourly means, then the latest single results.

        Of results with the same time, the last one counts.
        """
        t = RESULTS.c
        of_trend = (t.equipment_id == key[0]) & (t.trend == key[1]) & (t.evidence == key[2]) & t.health.is_not(None)
        with self._reading() as connection:
            if connection is None:
                return []
            latest = select(t.at, t.health).where(of_trend).order_by(t.at.desc(), t.id.desc()).limit(_SINGLES)
            rows = connection.execute(latest).all()[::-1]
            last_of_moment = dict(zip((row.at for row in rows), (row.health for row in rows), strict=True))
            singles = [(at, health, 1) for at, health in last_of_moment.items()]
            if len(rows) < _SINGLES:
                return singles
            hour = cast(t.at / _HOUR_S, Integer)
            means = select(func.avg(t.at), func.avg(t.health), func.count()).where(
                t.id.in_(select(func.max(t.id)).where(of_trend, t.at < singles[0][0]).group_by(t.at))
            )
            found = connection.execute(means.group_by(hour).order_by(hour.desc()).limit(_HOURS)).all()
        return [(at, health, count) for at, health, count in found[::-1]] + singles

    def latest_times(self, equipment_ids: Collection[str]) -> list[tuple[str, str, float]]:
        """(machine, model, time) of the latest result in a trend of each of these machines."""
        t, ids = RESULTS.c, sorted(equipment_ids)
        latest = select(t.equipment_id, t.trend, func.max(t.at)).group_by(t.equipment_id, t.trend)
        found: list[tuple[str, str, float]] = []
        with self._reading() as connection:
            if connection is None:
                return []
            for begin in range(0, len(ids), _IDS_AT_ONCE):
                some = t.equipment_id.in_(ids[begin : begin + _IDS_AT_ONCE])
                rows = connection.execute(latest.where(some, t.trend.is_not(None)))
                found += [(equipment_id, model, at) for equipment_id, model, at in rows]
        return found

    # Machines

    def equipment(self, since: int = -1) -> tuple[set[str], list[Equipment]]:
        """The ids of all machines, and the machines changed after a revision."""
        changed = select(EQUIPMENT.c.id, EQUIPMENT.c.document).where(EQUIPMENT.c.revision > since)
        with self._reading() as connection:
            if connection is None:
                return set(), []
            found = [_machine(row.id, row.document) for row in connection.execute(changed)]
            ids = set(connection.execute(select(EQUIPMENT.c.id)).scalars())
        return ids, [equipment for equipment in found if equipment is not None]

    def put_equipment(self, equipment: Equipment, most: int) -> bool:
        """Insert or replace a machine; True if it is new. Raises ValueError beyond `most` machines."""
        with self._writing() as connection:
            removed = connection.execute(delete(EQUIPMENT).where(EQUIPMENT.c.id == equipment.id)).rowcount
            if not removed and (connection.execute(select(func.count()).select_from(EQUIPMENT)).scalar() or 0) >= most:
                raise ValueError(f"{most} machines are registered, which is the maximum; remove one first")
            row = {
                "id": equipment.id,
                "document": orjson.dumps(equipment.document()).decode(),
                "revision": _increment_revision(connection),
                "updated_at": time.time(),
            }
            connection.execute(insert(EQUIPMENT).values(row))
        return not removed

    def remove_equipment(self, equipment_id: str, history: bool) -> bool:
        """Delete a machine, and its results with `history`; False if there was nothing to delete."""
        with self._writing() as connection:
            removed = connection.execute(delete(EQUIPMENT).where(EQUIPMENT.c.id == equipment_id)).rowcount
            if history:
                removed += connection.execute(delete(RESULTS).where(RESULTS.c.equipment_id == equipment_id)).rowcount
                removed += remove_latest(connection, equipment_id)
            if removed:
                _increment_revision(connection)
        return removed > 0

    # The history

    def write(self, writer: str, first: int, results: Sequence[Result], late: bool) -> None:
        """Append results of a process; `first` is the running number of the first, from 0.

        Results that an interrupted call already committed are skipped.
        """
        with self._writing() as connection:
            of_writer = WRITERS.c.writer == writer
            written = connection.execute(select(WRITERS.c.written).where(of_writer)).scalar()
            new = results[max((written or 0) - first, 0) :]
            if not new:
                return
            connection.execute(insert(RESULTS), [_row(result, writer, late) for result in new])
            values = {"written": first + len(results), "seen_at": time.time()}
            if written is None:
                connection.execute(insert(WRITERS).values(writer=writer, **values))
            else:
                connection.execute(update(WRITERS).where(of_writer).values(**values))

    def history(
        self, equipment_id: str, start_s: float | None, end_s: float | None, before: Cursor | None, limit: int
    ) -> list[Stored]:
        """The latest results of a machine with start <= time < end and before a cursor; ascending."""
        query = select(RESULTS).where(RESULTS.c.equipment_id == equipment_id)
        if start_s is not None:
            query = query.where(RESULTS.c.at >= start_s)
        if end_s is not None:
            query = query.where(RESULTS.c.at < end_s)
        if before is not None:
            query = query.where(tuple_(RESULTS.c.at, RESULTS.c.id) < tuple_(*before))
        with self._reading() as connection:
            if connection is None:
                return []
            rows = connection.execute(query.order_by(RESULTS.c.at.desc(), RESULTS.c.id.desc()).limit(limit)).all()
        return [_stored(row) for row in reversed(rows)]

    # The latest diagnoses

    def write_latest(self, rows: Sequence[dict[str, Any]]) -> None:
        """Insert or replace the latest diagnoses of machines."""
        with self._writing() as connection:
            write_latest(connection, rows)

    def latest(self, equipment_id: str) -> LatestDiagnosis | None:
        """The latest diagnosis of a machine; None without one."""
        with self._reading() as connection:
            return None if connection is None else read_latest(connection, equipment_id)

    def states(self, after: str, limit: int, search: str, status: str) -> list[MachineState]:
        """Machines with their latest answers, sorted by id."""
        with self._reading() as connection:
            return [] if connection is None else read_states(connection, after, limit, search, status)

    def state_counts(self) -> dict[str, int]:
        """Number of machines by status."""
        with self._reading() as connection:
            return {} if connection is None else count_states(connection)

    def retain(self, oldest_s: float, per_machine: int, most: int) -> int:
        """Delete results that are too old, or too many per machine or in total; returns their number."""
        if not self._has_tables():
            return 0
        removed = self._delete(select(RESULTS.c.id).where(RESULTS.c.at < oldest_s))
        counted = select(RESULTS.c.equipment_id).group_by(RESULTS.c.equipment_id).having(func.count() > per_machine)
        for equipment_id in self._column(counted):
            of_machine = RESULTS.c.equipment_id == equipment_id
            latest = select(RESULTS.c.at, RESULTS.c.id).where(of_machine)
            newest_first = latest.order_by(RESULTS.c.at.desc(), RESULTS.c.id.desc())
            bound = self._row(newest_first.offset(per_machine - 1).limit(1))
            if bound is not None:
                place = tuple_(RESULTS.c.at, RESULTS.c.id)
                removed += self._delete(select(RESULTS.c.id).where(of_machine, place < tuple_(*bound)))
        last = self._row(select(RESULTS.c.id).order_by(RESULTS.c.id.desc()).offset(most - 1).limit(1))
        if last is not None:
            removed += self._delete(select(RESULTS.c.id).where(RESULTS.c.id < last[0]))
        with self._writing() as connection:
            connection.execute(delete(WRITERS).where(WRITERS.c.seen_at < oldest_s))
            retain_latest(connection, oldest_s)
        return removed

    def _delete(self, ids: Select[Any]) -> int:
        removed = 0
        while True:
            with self._writing() as connection:
                some = list(connection.execute(ids.limit(_AT_ONCE)).scalars())
                if some:
                    connection.execute(delete(RESULTS).where(RESULTS.c.id.in_(some)))
            removed += len(some)
            if len(some) < _AT_ONCE:
                return removed

    def _column(self, query: Select[Any]) -> list[Any]:
        with self._reading() as connection:
            return list(connection.execute(query).scalars()) if connection else []

    def _row(self, query: Select[Any]) -> tuple[Any, ...] | None:
        with self._reading() as connection:
            row = connection.execute(query).first() if connection else None
        return None if row is None else tuple(row)

    # Connections

    @contextmanager
    def _reading(self) -> Iterator[Connection | None]:
        """A connection in a transaction; None if there are no tables yet."""
        if not self._has_tables():
            yield None
            return
        with self._database.sentences(), self._database.reader.begin() as connection:
            yield connection

    def _has_tables(self) -> bool:
        with self._database.sentences():
            if not self._database.exists():
                self._readable = False
            elif not self._readable:
                with self._database.reader.begin() as connection:
                    found = _schema(connection)
                if found not in (None, HEAD):
                    with self._writing():
                        pass
                self._readable = found is not None
        return self._readable

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        """A connection in a transaction that excludes other writers; migrates the tables first."""
        with self._database.sentences(), self._database.writer.begin() as connection:
            found = _schema(connection)
            if found is None:
                METADATA.create_all(connection)
                SCHEMA.create(connection)
                connection.execute(insert(SCHEMA).values(version_num=HEAD))
            elif found != HEAD:
                migrate(connection, Path(__file__).parent / "migrations", VERSION_TABLE)
            yield connection


def _schema(connection: Connection) -> str | None:
    """The revision of the tables, None without tables. Raises ConfigError for a revision of a newer release."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    found = connection.execute(select(SCHEMA.c.version_num)).scalar() or ""
    if found and found not in REVISIONS:
        raise ConfigError(
            f"the hydraulics tables were written by a newer release (schema {found}); upgrade penstock-hydraulics"
        )
    return found


def _machine(equipment_id: str, document: str) -> Equipment | None:
    """None for a document that this release cannot read."""
    try:
        return parse_equipment(equipment_id, orjson.loads(document))
    except (InvalidInput, ValueError, AttributeError) as error:
        log.warning("machine %s is ignored: %s", equipment_id, error)
        return None


def _increment_revision(connection: Connection) -> int:
    if not connection.execute(update(REVISION).values(value=REVISION.c.value + 1)).rowcount:
        connection.execute(insert(REVISION).values(id=1, value=1))
    value: int = connection.execute(select(REVISION.c.value)).scalar_one()
    return value


_ANSWER: Iterable[str] = ("status", "rate", "time_to_failure_hours", "basis", "detected", "components", "coverage")


def _row(result: Result, writer: str, late: bool) -> dict[str, Any]:
    answer = {name: getattr(result, name) for name in (*_ANSWER, "model_version")}
    return {
        "equipment_id": result.equipment_id,
        "at": result.at_s,
        "health": result.health,
        "trend": result.trend,
        "evidence": result.evidence,
        "late": late,
        "writer": writer,
        "answer": orjson.dumps(answer).decode(),
    }


def _stored(row: Any) -> Stored:
    answer = orjson.loads(row.answer)
    result = Result(row.equipment_id, row.at, row.health, **answer, trend=row.trend, evidence=row.evidence or "")
    return Stored(row.id, result, row.late)
