"""The records' tables, version by version (Alembic). Run at start by stores.records, within one transaction; there is no alembic.ini."""
