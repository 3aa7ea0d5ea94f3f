"""Alembic migrations of the registry's database; `registry/database/store.py` runs them when needed."""

from __future__ import annotations

REVISIONS = ("0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008", "0009")
"""Every revision, oldest first. This release reads and writes the last one."""

HEAD = REVISIONS[-1]

VERSION_TABLE = "penstock_schema"
"""Not Alembic's default name, so that other programs can use Alembic in the same PostgreSQL database."""
