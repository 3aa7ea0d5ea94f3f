"""Alembic migrations of the fleet's tables; `penstock_hydraulics.fleet.store` runs them when needed."""

from __future__ import annotations

REVISIONS = ("0001", "0002")
"""All revisions, oldest first. This release reads and writes the last."""

HEAD = REVISIONS[-1]

VERSION_TABLE = "hydraulics_schema"
