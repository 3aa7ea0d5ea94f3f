"""The requests of API keys with a quota."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "penstock_key_usage",
        sa.Column("key", sa.String(20), primary_key=True),
        sa.Column("period", sa.String(10), primary_key=True),
        sa.Column("ends_at", sa.BigInteger, nullable=False),
        sa.Column("used", sa.BigInteger, nullable=False),
    )
    op.create_index("penstock_key_usage_period", "penstock_key_usage", ["period"])


def downgrade() -> None:
    op.drop_index("penstock_key_usage_period", "penstock_key_usage")
    op.drop_table("penstock_key_usage")
