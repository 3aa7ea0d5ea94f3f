"""The evidence of a result: results of other sensors belong to another trend."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("hydraulics_results", sa.Column("evidence", sa.String(32)))


def downgrade() -> None:
    op.drop_column("hydraulics_results", "evidence")
