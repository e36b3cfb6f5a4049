"""The records: what stays. SQLAlchemy Core; what every database understands, but for the few lines that set SQLite up.

A document is written only over the version that the caller has read. A call is one transaction, on disk when it returns. At start, the
steps in `gateway/stores/migrations` bring an older database up to date in one transaction: of several processes one does the work, the
others find it done.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any, cast

import sqlalchemy as sa
from alembic.command import upgrade
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.errors import Conflict, StoreTooNew, StoreUnavailable
from gateway.flow.ports import AuditEvent, Entry
from gateway.stores.sql_edge import Edge, sqlite_engine
from gateway.stores.urls import check_records_url, sqlite_path

_MIGRATIONS = Path(__file__).parent / "migrations"
_MIGRATION_TIME = 60.0  # seconds; altering a large table takes longer than any call may

_metadata = sa.MetaData()
_documents = sa.Table(
    "documents",
    _metadata,
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("owner", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.LargeBinary),
    sa.Column("version", sa.Integer),
    sa.Column("created", sa.Double),
    sa.Column("updated", sa.Double),
)
_audit = sa.Table(
    "audit",
    _metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("at", sa.Double),
    *(sa.Column(name, sa.Text) for name in ("event", "request_id", "subject", "rule", "step", "outcome", "address", "detail")),
)


_Line = tuple[dict[str, Any], asyncio.Future[None]]
"""Values of an audit line, and who waits for it to be on disk."""


class SqlRecords:
    """flow.ports.Records in a database that `open_records` has brought up to date. You must await `close()` after use."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge
        self._lines: list[_Line] = []
        self._writer: asyncio.Task[None] | None = None

    async def get(self, kind: str, owner: str, name: str) -> Entry | None:
        """The document, or None."""
        query = sa.select(_documents.c.value, _documents.c.version).where(_place(kind, owner, name))
        row = (await self._run(query)).one_or_none()
        return None if row is None else Entry(value=row.value, version=row.version)

    async def put(self, kind: str, owner: str, name: str, value: bytes, *, version: int, now: float) -> int:
        """Conditional write; see the protocol. Raises Conflict."""
        if version == 0:
            write: sa.Insert | sa.Update = sa.insert(_documents).values(
                kind=kind, owner=owner, name=name, value=value, version=1, created=now, updated=now
            )
        else:
            write = (
                sa.update(_documents)
                .where(_place(kind, owner, name), _documents.c.version == version)
                .values(value=value, version=version + 1, updated=now)
            )
        try:
            written = (await self._run(write)).rowcount
        except IntegrityError as error:
            raise Conflict(f"{kind}: there is a document already") from error
        if written != 1:
            raise Conflict(f"{kind}: not at version {version}")
        return version + 1

    async def delete(self, kind: str, owner: str, name: str) -> None:
        """Remove a document, if there is one."""
        await self._run(sa.delete(_documents).where(_place(kind, owner, name)))

    async def audit(self, event: AuditEvent) -> None:
        """Append a line to the audit trail; on disk when this returns. Lines that come while others are written go together."""
        line = {
            "at": event.at,
            "event": event.event,
            "request_id": event.request_id,
            "subject": event.subject,
            "rule": event.rule,
            "step": event.step,
            "outcome": event.outcome,
            "address": event.address,
            "detail": json.dumps(dict(event.detail), ensure_ascii=True, sort_keys=True, default=str),
        }
        # A client may have sent half a character: the line must be written all the same.
        clean = {
            name: value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value for name, value in line.items()
        }
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lines.append((clean, written))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write_lines())
        try:
            async with asyncio.timeout(self._edge.deadline):
                await written
        except TimeoutError as error:
            raise StoreUnavailable(f"audit: no answer within {self._edge.deadline:g} s") from error

    async def ping(self) -> None:
        """Raises StoreUnavailable when the database cannot be read, or its lock for writing cannot be had."""

        async def look(connection: AsyncConnection) -> None:
            await connection.execute(sa.select(_documents.c.version).limit(1))

        await self._edge.run(look, write=True)

    async def close(self) -> None:
        """Close every connection."""
        if self._writer is not None:
            await self._writer
        await self._edge.close()

    async def _write_lines(self) -> None:
        """One transaction for all lines that wait, until none does. A line whose caller has given up is not written."""
        while self._lines:
            lines, self._lines = [line for line in self._lines if not line[1].done()], []

            async def insert(connection: AsyncConnection, lines: list[_Line] = lines) -> None:
                await connection.execute(sa.insert(_audit), [values for values, _ in lines])

            fault: Exception | None = None
            try:
                if lines:
                    await self._edge.run(insert, write=True)
            except Exception as error:  # noqa: BLE001 - the callers raise it; the lines behind must go on
                fault = error
            for _, written in lines:
                if written.done():
                    continue
                if fault is None:
                    written.set_result(None)
                else:
                    written.set_exception(fault)

    async def _run(self, statement: sa.Executable) -> sa.CursorResult[Any]:
        async def execute(connection: AsyncConnection) -> sa.CursorResult[Any]:
            result = await connection.execute(statement)
            return cast("sa.CursorResult[Any]", result)  # rows are read already: AsyncConnection buffers them

        return await self._edge.run(execute, write=not isinstance(statement, sa.Select))


async def open_records(url: str, deadline: float) -> SqlRecords:
    """Open the database that an absolute URL names (see resolve_url) and bring its tables up to date.

    `deadline` bounds each later call, in seconds. Raises ValueError with the text of check_records_url, StoreTooNew when a newer gateway
    has written the database, StoreUnavailable.
    """
    wrong = check_records_url(url)
    if wrong is not None:
        raise ValueError(wrong)
    edge = Edge(sqlite_engine(sqlite_path(url)), where=url, deadline=_MIGRATION_TIME)

    async def migrate(connection: AsyncConnection) -> None:
        await connection.run_sync(_migrate, url)

    try:
        await edge.run(migrate, write=True)
    except BaseException:
        await edge.close()
        raise
    edge.deadline = deadline
    return SqlRecords(edge)


def _migrate(connection: sa.Connection, where: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    unknown = set(MigrationContext.configure(connection).get_current_heads()) - known
    if unknown:
        raise StoreTooNew(
            f"{where}: written by a newer gateway (revision {', '.join(sorted(unknown))}, this one knows {', '.join(sorted(known))}); "
            "run that version, or name another database under `stores: {records: …}`"
        )
    upgrade(config, "head")


def _place(kind: str, owner: str, name: str) -> sa.ColumnElement[bool]:
    return sa.and_(_documents.c.kind == kind, _documents.c.owner == owner, _documents.c.name == name)
