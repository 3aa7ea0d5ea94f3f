"""The fleet's current tables. A test compares them with the result of the `migrations`."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
)

from penstock_hydraulics.fleet.migrations import VERSION_TABLE

METADATA = MetaData()

EQUIPMENT = Table(
    "hydraulics_equipment",
    METADATA,
    Column("id", String(128), primary_key=True),
    Column("document", Text, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("updated_at", Double, nullable=False),
)
"""Machines as JSON; `revision` is the value of the counter at the last write."""

RESULTS = Table(
    "hydraulics_results",
    METADATA,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("equipment_id", String(128), nullable=False),
    Column("at", Double, nullable=False),
    Column("health", Double),
    Column("trend", Text),
    Column("late", Boolean, nullable=False),
    Column("writer", String(16), nullable=False),
    Column("answer", Text, nullable=False),
    Column("evidence", String(32)),
    Index("hydraulics_results_by_time", "equipment_id", "at", "id"),
    sqlite_autoincrement=True,  # ids are never reused: other processes read results by id
)
"""Diagnoses; `trend` is the model whose trend a result belongs to, null for none, `evidence` what the result rests on.

Results of before revision 0002 have no `evidence` and belong to no trend: the sensors are unknown, and the time may be
that of arrival.

Ids ascend in the order of commits, since writers exclude each other.
"""

WRITERS = Table(
    "hydraulics_writers",
    METADATA,
    Column("writer", String(16), primary_key=True),
    Column("written", BigInteger, nullable=False),
    Column("seen_at", Double, nullable=False),
)
"""Number of results written by each process, to find out whether an interrupted commit succeeded."""

REVISION = Table(
    "hydraulics_revision",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("value", BigInteger, nullable=False),
)
"""One row, incremented by every change of a machine; servers poll it."""

SCHEMA = Table(
    VERSION_TABLE,
    MetaData(),
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name=f"{VERSION_TABLE}_pkc"),
)
"""Alembic's version table, as Alembic creates it."""
