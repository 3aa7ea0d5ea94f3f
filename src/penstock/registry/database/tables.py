"""The registry's tables as they are now; `migrations` holds the way there, and a test holds the two together."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Integer, MetaData, PrimaryKeyConstraint, String, Table

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
"""What each version's `manifest.json` hashed to when it was published."""

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
"""What artifacts may do beyond being data, by the digest of their manifest; none that is not here may do more."""

REVISION = Table(
    "penstock_revision",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("value", BigInteger, nullable=False),
)
"""One row, counted up by every change; servers poll it."""

SCHEMA = Table(
    VERSION_TABLE,
    MetaData(),
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name=f"{VERSION_TABLE}_pkc"),
)
"""Alembic's own table, as Alembic makes it; a new database gets it without waiting for Alembic to be imported."""
