"""Brings an older database up to date with Alembic. The only module that imports it, and SQLAlchemy with it: see gateway/stores/records.py.

Everything happens on the caller's connection, within the transaction that the caller has begun and ends.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic.command import upgrade as run
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.exc import SQLAlchemyError

from gateway.errors import StoreTooNew, StoreUnavailable


class _Lent:
    """A connection that SQLAlchemy can use, but whose transaction it cannot end: it rolls back when it first connects, for instance."""

    def __init__(self, raw: sqlite3.Connection) -> None:
        self._raw = raw

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)

    def commit(self) -> None:
        """Not ours to do."""

    rollback = close = commit


def upgrade(raw: sqlite3.Connection, where: Path) -> None:
    """Run what is due. Raises StoreTooNew when a newer gateway has written the database, StoreUnavailable; the caller then rolls back."""
    engine = sa.create_engine("sqlite://", creator=lambda: _Lent(raw), poolclass=sa.StaticPool)
    try:
        with engine.connect() as connection:
            _run(connection, where)
    except SQLAlchemyError as error:
        # Not the error's own text: SQLAlchemy's quotes the statement.
        raise StoreUnavailable(f"{where}: {getattr(error, 'orig', None) or error}") from error


def script() -> ScriptDirectory:
    """The steps that this version knows."""
    return ScriptDirectory.from_config(_config())


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    return config


def _run(connection: sa.Connection, where: Path) -> None:
    config = _config()
    config.attributes["connection"] = connection
    known = {step.revision for step in script().walk_revisions()}
    unknown = set(MigrationContext.configure(connection).get_current_heads()) - known
    if unknown:
        raise StoreTooNew(
            f"{where}: written by a newer gateway (revision {', '.join(sorted(unknown))}, this one knows {', '.join(sorted(known))}); "
            "run that version, or name another database under `stores: {records: …}`"
        )
    run(config, "head")
