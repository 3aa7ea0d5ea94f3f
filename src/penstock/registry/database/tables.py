"""The registry's tables in the current schema. `migrations` leads to the same schema, which a test checks."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Integer, MetaData, PrimaryKeyConstraint, String, Table, Text

from penstock.registry import deployment
from penstock.registry.migrations import VERSION_TABLE

METADATA = MetaData()

ARTIFACTS = Table(
    "penstock_artifacts",
    METADATA,
    Column("name", String(100), primary_key=True),
    Column("version", String(100), primary_key=True),
    Column("digest", String(64), nullable=False),
    Column("recorded_at", String(20), nullable=False),
)
"""The sha256 of each version's `manifest.json` when it was published."""

ALIASES = Table(
    "penstock_aliases",
    METADATA,
    Column("name", String(100), primary_key=True),
    Column("alias", String(100), primary_key=True),
    Column("version", String(100), nullable=False),
    Column("updated_at", String(20), nullable=False),
)

TRUST = Table(
    "penstock_trust",
    METADATA,
    Column("digest", String(64), primary_key=True),
    Column("tier", String(10), nullable=False),
    Column("reason", String(200), nullable=False),
    Column("recorded_at", String(20), nullable=False),
)
"""The trust tier of artifacts above data, by the digest of their manifest."""

DEPLOYMENT = Table(
    deployment.TABLE,
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("document", Text, nullable=False),
    Column("updated_at", String(20), nullable=False),
)
"""One row: the loads and unloads of operators as JSON, whose fields may grow without a migration."""

REVISION = Table(
    "penstock_revision",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("value", BigInteger, nullable=False),
)
"""One row, increased by every change; servers poll it."""

SCHEMA = Table(
    VERSION_TABLE,
    MetaData(),
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name=f"{VERSION_TABLE}_pkc"),
)
"""Alembic's own table, created here for a new database, which saves the import of Alembic."""
