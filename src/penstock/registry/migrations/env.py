"""Alembic's entry point: runs the scripts on the connection, and in the transaction, of the store."""

from __future__ import annotations

from alembic import context

from penstock.registry.migrations import VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=context.config.attributes["metadata"],
    version_table=VERSION_TABLE,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
