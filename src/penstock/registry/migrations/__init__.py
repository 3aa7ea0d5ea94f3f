"""Alembic migrations of the registry's database; `registry/database/store.py` runs them when needed."""

from __future__ import annotations

REVISIONS = ("0001", "0002")
"""Every revision there is, oldest first. The last is the one this release reads and writes."""

HEAD = REVISIONS[-1]

VERSION_TABLE = "penstock_schema"
"""A name of our own, so that one PostgreSQL database can hold other programs' tables beside ours."""
