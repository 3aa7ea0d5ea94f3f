"""What operators have loaded and unloaded: one row of JSON."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "penstock_deployment",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("document", sa.Text, nullable=False),
        sa.Column("updated_at", sa.String(20), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("penstock_deployment")
