"""Runs the migrations on the connection that router.database hands over."""

from alembic import context

from router.database import tables

context.configure(connection=context.config.attributes["connection"], target_metadata=tables)
with context.begin_transaction():
    context.run_migrations()
