"""Alembic asks this file how to migrate; `schema.migrate` hands it the connection."""

from alembic import context

from leptonai.stores.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite changes a table by copying it
)
context.run_migrations()
