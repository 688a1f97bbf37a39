"""Runs the migrations on the connection that router.outcomes.tables hands over."""

from alembic import context

from router.outcomes.tables import tables

context.configure(connection=context.config.attributes["connection"], target_metadata=tables)
with context.begin_transaction():
    context.run_migrations()
