"""The steps of the plant's tables, as Alembic scripts; `penstock_hydraulics.fleet.store` runs them when needed."""

from __future__ import annotations

REVISIONS = ("0001",)
"""Every revision there is, oldest first. The last is the one this release reads and writes."""

HEAD = REVISIONS[-1]

VERSION_TABLE = "hydraulics_schema"
