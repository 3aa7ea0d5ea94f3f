"""The trust tier of artifacts above data, by digest."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "penstock_trust",
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("tier", sa.String(10), nullable=False),
        sa.Column("reason", sa.String(200), nullable=False),
        sa.Column("recorded_at", sa.String(20), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("penstock_trust")
