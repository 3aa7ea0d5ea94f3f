"""Logged predictions, and the labels that arrive for them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "penstock_feedback",
        sa.Column("request_id", sa.String(200), primary_key=True),
        sa.Column("item", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("model", sa.String(200), nullable=False),
        sa.Column("version", sa.String(100), nullable=False),
        sa.Column("route", sa.String(100), nullable=False),
        sa.Column("arm", sa.String(100), nullable=False),
        sa.Column("key_digest", sa.String(32)),
        sa.Column("predicted", sa.Integer),
        sa.Column("class_name", sa.String(200)),
        sa.Column("confidence", sa.Float),
        sa.Column("label", sa.Text),
        sa.Column("correct", sa.Integer),
        sa.Column("labelled_at", sa.BigInteger),
    )
    op.create_index("penstock_feedback_at", "penstock_feedback", ["at"])
    op.create_index("penstock_feedback_key", "penstock_feedback", ["key_digest"])


def downgrade() -> None:
    op.drop_index("penstock_feedback_key", "penstock_feedback")
    op.drop_index("penstock_feedback_at", "penstock_feedback")
    op.drop_table("penstock_feedback")
