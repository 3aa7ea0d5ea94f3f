"""Reads and writes the table of latest diagnoses, in a transaction of the store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import orjson
from sqlalchemy import (
    Column,
    Connection,
    Double,
    MetaData,
    Select,
    String,
    Table,
    Text,
    bindparam,
    func,
    inspect,
    select,
)

from penstock_hydraulics.fleet.latest import LatestDiagnosis, MachineState
from penstock_hydraulics.fleet.tables import EQUIPMENT

LATEST: Final = Table(
    "hydraulics_latest",
    MetaData(),
    Column("equipment_id", String(128), primary_key=True),
    Column("at", Double, nullable=False),
    Column("status", String(16), nullable=False),
    Column("answer", Text, nullable=False),
    Column("readings", Text, nullable=False),
)
_key = LATEST.c.equipment_id


def write_latest(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Insert or replace the latest diagnoses; one that is older than the stored one is left out."""
    LATEST.create(connection, checkfirst=True)
    ids = [row["equipment_id"] for row in rows]
    known = {row.equipment_id: row.at for row in connection.execute(select(_key, LATEST.c.at).where(_key.in_(ids)))}
    new = [row for row in rows if row["equipment_id"] not in known]
    changed = [
        {"key": row["equipment_id"], **row}
        for row in rows
        if known.get(row["equipment_id"], row["at"] + 1) <= row["at"]
    ]
    if new:
        connection.execute(LATEST.insert(), new)
    if changed:
        values: dict[str, Any] = {name: bindparam(name) for name in ("at", "status", "answer", "readings")}
        connection.execute(LATEST.update().where(_key == bindparam("key")).values(values), changed)


def remove_latest(connection: Connection, equipment_id: str) -> int:
    """Delete the latest diagnosis of a machine; the number of deleted rows."""
    if not inspect(connection).has_table(LATEST.name):
        return 0
    return connection.execute(LATEST.delete().where(_key == equipment_id)).rowcount


def retain_latest(connection: Connection, oldest_s: float) -> int:
    """Delete diagnoses that are too old; returns their number."""
    if not inspect(connection).has_table(LATEST.name):
        return 0
    return connection.execute(LATEST.delete().where(LATEST.c.at < oldest_s)).rowcount


def read_latest(connection: Connection, equipment_id: str) -> LatestDiagnosis | None:
    """The latest diagnosis of a machine."""
    if not inspect(connection).has_table(LATEST.name):
        return None
    row = connection.execute(select(LATEST).where(_key == equipment_id)).first()
    return None if row is None else LatestDiagnosis(row.at, orjson.loads(row.answer), orjson.loads(row.readings))


def read_states(connection: Connection, after: str, limit: int, search: str, status: str) -> list[MachineState]:
    """Registered and diagnosed machines after an id, sorted by id, whose id contains `search` and with this status."""
    if not inspect(connection).has_table(LATEST.name):
        ids = _found(select(EQUIPMENT.c.id), EQUIPMENT.c.id, after, search).limit(0 if status else limit)
        return [MachineState(found, None, None) for found in connection.execute(ids.order_by(EQUIPMENT.c.id)).scalars()]
    columns = (_key, LATEST.c.at, LATEST.c.answer)
    if status:
        query = _found(select(*columns), _key, after, search).where(LATEST.c.status == status).order_by(_key)
    else:
        every = select(EQUIPMENT.c.id).union(select(_key)).subquery()
        joined = select(every.c.id.label("equipment_id"), *columns[1:]).outerjoin(LATEST, _key == every.c.id)
        query = _found(joined, every.c.id, after, search).order_by(every.c.id)
    rows = connection.execute(query.limit(limit)).all()
    return [MachineState(row[0], row[1], None if row[2] is None else orjson.loads(row[2])) for row in rows]


def _found(query: Select[Any], column: Any, after: str, search: str) -> Select[Any]:
    query = query.where(column > after) if after else query
    return query.where(func.lower(column).contains(search.lower(), autoescape=True)) if search else query


def count_states(connection: Connection) -> dict[str, int]:
    """Number of machines by the status of their latest diagnosis."""
    if not inspect(connection).has_table(LATEST.name):
        return {}
    counted = select(LATEST.c.status, func.count()).group_by(LATEST.c.status)
    return {row[0]: row[1] for row in connection.execute(counted)}
