"""Run by Alembic. The connection comes from stores.records, in a transaction that it commits; nothing here opens or logs anything."""

from __future__ import annotations

from alembic import context

context.configure(connection=context.config.attributes["connection"], target_metadata=None)
context.run_migrations()
