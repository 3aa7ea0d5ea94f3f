"""Canaries with their evidence, decisions and lease."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "penstock_canaries",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("route", sa.String(100), nullable=False),
        sa.Column("spec", sa.Text, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("before", sa.Text),
        sa.Column("champion", sa.String(100)),
        sa.Column("phase", sa.String(20), nullable=False),
        sa.Column("step", sa.Integer, nullable=False),
        sa.Column("live", sa.Integer, nullable=False),
        sa.Column("started_at", sa.Float(53), nullable=False),
        sa.Column("entered_at", sa.Float(53), nullable=False),
        sa.Column("checked_at", sa.Float(53), nullable=False),
        sa.Column("threshold_ms", sa.Text),
        sa.Column("sentence", sa.Text, nullable=False),
        sa.Column("verdicts", sa.Text, nullable=False),
        sa.Column("changes", sa.Integer, nullable=False),
        sa.Column("token", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_penstock_canaries_route", "penstock_canaries", ["route"])
    op.create_table(
        "penstock_evidence",
        sa.Column("canary", sa.String(36), primary_key=True),
        sa.Column("step", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("arm", sa.String(100), primary_key=True),
        sa.Column("process", sa.String(36), primary_key=True),
        sa.Column("counters", sa.Text, nullable=False),
        sa.Column("updated_at", sa.Float(53), nullable=False),
    )
    op.create_table(
        "penstock_decisions",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("canary", sa.String(36), nullable=False),
        sa.Column("route", sa.String(100), nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("step", sa.Integer, nullable=False),
        sa.Column("action", sa.String(20), nullable=False),
        sa.Column("sentence", sa.Text, nullable=False),
        sa.Column("verdicts", sa.Text, nullable=False),
    )
    op.create_index("ix_penstock_decisions_route", "penstock_decisions", ["route"])
    op.create_table(
        "penstock_lease",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("holder", sa.String(36), nullable=False),
        sa.Column("token", sa.BigInteger, nullable=False),
        sa.Column("until", sa.Float(53), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("penstock_lease")
    op.drop_index("ix_penstock_decisions_route", "penstock_decisions")
    op.drop_table("penstock_decisions")
    op.drop_table("penstock_evidence")
    op.drop_index("ix_penstock_canaries_route", "penstock_canaries")
    op.drop_table("penstock_canaries")
