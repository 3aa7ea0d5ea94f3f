"""Machines, results, writers, and the revision counter of machines."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "hydraulics_equipment",
        sa.Column("id", sa.String(128), primary_key=True),
        sa.Column("document", sa.Text, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.Double, nullable=False),
    )
    op.create_table(
        "hydraulics_results",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("equipment_id", sa.String(128), nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("health", sa.Double),
        sa.Column("trend", sa.Text),
        sa.Column("late", sa.Boolean, nullable=False),
        sa.Column("writer", sa.String(16), nullable=False),
        sa.Column("answer", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("hydraulics_results_by_time", "hydraulics_results", ["equipment_id", "at", "id"])
    op.create_table(
        "hydraulics_writers",
        sa.Column("writer", sa.String(16), primary_key=True),
        sa.Column("written", sa.BigInteger, nullable=False),
        sa.Column("seen_at", sa.Double, nullable=False),
    )
    op.create_table(
        "hydraulics_revision",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("value", sa.BigInteger, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("hydraulics_revision")
    op.drop_table("hydraulics_writers")
    op.drop_table("hydraulics_results")
    op.drop_table("hydraulics_equipment")
