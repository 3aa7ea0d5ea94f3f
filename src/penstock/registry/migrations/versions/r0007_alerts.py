"""Alerts, the messages about them, and a name for each lease."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

CANARIES = "canaries"


def upgrade() -> None:
    rows = op.get_bind().execute(sa.text("SELECT holder, token, until FROM penstock_lease")).all()
    op.drop_table("penstock_lease")
    lease = op.create_table(
        "penstock_lease",
        sa.Column("name", sa.String(200), primary_key=True),
        sa.Column("holder", sa.String(36), nullable=False),
        sa.Column("token", sa.BigInteger, nullable=False),
        sa.Column("until", sa.Float(53), nullable=False),
    )
    op.bulk_insert(lease, [{"name": CANARIES, **row._mapping} for row in rows])  # tokens never go back
    op.create_table(
        "penstock_alerts",
        sa.Column("fingerprint", sa.String(16), primary_key=True),
        sa.Column("server", sa.String(200), nullable=False),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("looked_at", sa.Float(53), nullable=False),
    )
    op.create_table(
        "penstock_outbox",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("server", sa.String(200), nullable=False),
        sa.Column("receiver", sa.String(32), nullable=False),
        sa.Column("fingerprint", sa.String(16), nullable=False),
        sa.Column("key", sa.String(100), nullable=False),
        sa.Column("payload", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("created_at", sa.Float(53), nullable=False),
        sa.Column("due_at", sa.Float(53), nullable=False),
    )
    op.create_index("penstock_outbox_message", "penstock_outbox", ["receiver", "key"], unique=True)


def downgrade() -> None:
    op.drop_index("penstock_outbox_message", "penstock_outbox")
    op.drop_table("penstock_outbox")
    op.drop_table("penstock_alerts")
    rows = (
        op.get_bind().execute(sa.text("SELECT holder, token, until FROM penstock_lease WHERE name = 'canaries'")).all()
    )
    op.drop_table("penstock_lease")
    lease = op.create_table(
        "penstock_lease",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("holder", sa.String(36), nullable=False),
        sa.Column("token", sa.BigInteger, nullable=False),
        sa.Column("until", sa.Float(53), nullable=False),
    )
    op.bulk_insert(lease, [{"id": 1, **row._mapping} for row in rows])
