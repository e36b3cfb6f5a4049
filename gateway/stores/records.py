"""The records: what stays. One SQLite file, by plain SQL on the thread that the state store uses too (see sqlite_thread).

A document is written only over the version that the caller has read. A call is on disk when it returns; audit lines that come together
are flushed together. A new database is made in the newest format at once; an older one is brought up to date at the start, in one
transaction, by the steps in `gateway/stores/migrations` (Alembic): of several processes one does the work, the others find it done.
"""

from __future__ import annotations

import json
import sqlite3
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from gateway.errors import Conflict
from gateway.flow.ports import AuditEvent, Entry
from gateway.stores.sqlite_thread import SqliteThread
from gateway.stores.urls import check_records_url, sqlite_path

REVISION: Final = "0001"
"""The newest revision in `migrations/versions`: what `_NEW` makes. A test holds the two together."""
_NEW: Final = """
CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL, CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num));
CREATE TABLE documents (
  kind TEXT NOT NULL, owner TEXT NOT NULL, name TEXT NOT NULL, value BLOB NOT NULL, version INTEGER NOT NULL,
  created DOUBLE NOT NULL, updated DOUBLE NOT NULL, PRIMARY KEY (kind, owner, name)
);
CREATE TABLE audit (
  id INTEGER NOT NULL, at DOUBLE NOT NULL, event TEXT NOT NULL, request_id TEXT NOT NULL, subject TEXT NOT NULL, rule TEXT NOT NULL,
  step TEXT NOT NULL, outcome TEXT NOT NULL, address TEXT NOT NULL, detail TEXT NOT NULL, PRIMARY KEY (id)
);
CREATE INDEX audit_at ON audit (at);
CREATE INDEX audit_subject ON audit (subject, at)
"""
_MIGRATION_TIME = 60.0  # seconds; altering a large table takes longer than any call may
_QUEUE = 8192
"""Calls that may wait: audit lines are small, and none should be refused because many come at once."""


class SqliteRecords:
    """flow.ports.Records in the SQLite database of `thread`. You must await `close()` after use."""

    def __init__(self, thread: SqliteThread) -> None:
        self._thread = thread

    async def get(self, kind: str, owner: str, name: str) -> Entry | None:
        """The document, or None."""

        def read(connection: sqlite3.Connection) -> Entry | None:
            row = connection.execute(
                "SELECT value, version FROM documents WHERE kind = ? AND owner = ? AND name = ?", (kind, owner, name)
            ).fetchone()
            return None if row is None else Entry(value=row[0], version=row[1])

        return await self._thread.call(read, write=False)

    async def put(self, kind: str, owner: str, name: str, value: bytes, *, version: int, now: float) -> int:
        """Conditional write; see the protocol. Raises Conflict."""

        def write(connection: sqlite3.Connection) -> int:
            if version == 0:
                done = connection.execute(
                    "INSERT INTO documents (kind, owner, name, value, version, created, updated) VALUES (?1, ?2, ?3, ?4, 1, ?5, ?5)"
                    " ON CONFLICT (kind, owner, name) DO NOTHING",
                    (kind, owner, name, value, now),
                )
            else:
                done = connection.execute(
                    "UPDATE documents SET value = ?4, version = version + 1, updated = ?5"
                    " WHERE kind = ?1 AND owner = ?2 AND name = ?3 AND version = ?6",
                    (kind, owner, name, value, now, version),
                )
            if done.rowcount != 1:
                raise Conflict(f"{kind}: not at version {version}")
            return version + 1

        return await self._thread.call(write, write=True)

    async def delete(self, kind: str, owner: str, name: str) -> None:
        """Remove a document, if there is one."""

        def write(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM documents WHERE kind = ? AND owner = ? AND name = ?", (kind, owner, name))

        await self._thread.call(write, write=True)

    async def audit(self, event: AuditEvent) -> None:
        """Append a line to the audit trail; on disk when this returns."""
        detail = json.dumps(dict(event.detail), ensure_ascii=True, sort_keys=True, default=str)
        texts = (event.event, event.request_id, event.subject, event.rule, event.step, event.outcome, event.address, detail)
        # A client may have sent half a character: the line must be written all the same.
        line = (event.at, *(text.encode("utf-8", "backslashreplace").decode() for text in texts))

        def write(connection: sqlite3.Connection) -> None:
            connection.execute(
                "INSERT INTO audit (at, event, request_id, subject, rule, step, outcome, address, detail)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                line,
            )

        await self._thread.call(write, write=True)

    async def ping(self) -> None:
        """Raises StoreUnavailable when the database cannot be read, or its lock for writing cannot be had."""

        def look(connection: sqlite3.Connection) -> None:
            connection.execute("SELECT version FROM documents LIMIT 1").fetchall()

        await self._thread.call(look, write=True)

    async def close(self) -> None:
        """End the thread and close the file."""
        await self._thread.close()


async def open_records(url: str, deadline: float) -> SqliteRecords:
    """Open the database that an absolute URL names (see resolve_url) and bring its tables up to date.

    `deadline` bounds each later call, in seconds. Raises ValueError with the text of check_records_url, StoreTooNew when a newer gateway
    has written the database, StoreUnavailable.
    """
    wrong = check_records_url(url)
    if wrong is not None:
        raise ValueError(wrong)
    path = sqlite_path(url)
    thread = SqliteThread(path, bring_up=partial(_bring_up, where=path), deadline=_MIGRATION_TIME, queue=_QUEUE)
    records = SqliteRecords(thread)
    try:
        await records.ping()
    except BaseException:
        await records.close()
        raise
    thread.deadline = deadline
    return records


def _bring_up(connection: sqlite3.Connection, where: Path) -> None:
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not tables:
        for statement in _NEW.split(";"):
            connection.execute(statement)
        connection.execute("INSERT INTO alembic_version (version_num) VALUES (?)", (REVISION,))
    elif "alembic_version" not in tables or connection.execute("SELECT version_num FROM alembic_version").fetchall() != [(REVISION,)]:
        upgrade: Any = import_module("gateway.stores.migrations.upgrade")  # 28 MiB, of use to the first start of a newer version only
        upgrade.upgrade(connection, where)
