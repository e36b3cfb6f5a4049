"""The edge to an SQL database: transactions with a deadline, its exceptions as ours, and how SQLite is set up.

A call that is out of time is left to end by itself, its transaction rolled back: the caller never waits for a database that hangs.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from gateway.errors import StoreUnavailable
from gateway.stores.deadline import Bounded
from gateway.stores.files import prepare

T = TypeVar("T")

_WRITE, _DUE, _PATIENCE = "gateway_write", "gateway_due", "gateway_patience"


class Edge:
    """Runs transactions. `deadline` bounds each, in seconds; `where` names the database in messages. You must await `close()` after use."""

    def __init__(self, engine: AsyncEngine, *, where: str, deadline: float) -> None:
        self.deadline = deadline
        self._engine = engine
        self._where = where
        self._turn = asyncio.Semaphore(1)
        self._bounded = Bounded()

    async def run(self, work: Callable[[AsyncConnection], Awaitable[T]], *, write: bool) -> T:
        """`work` in one transaction, committed when this returns. Raises StoreUnavailable, and IntegrityError as it is."""
        try:
            return await self._bounded.run(self._transact(work, write=write, due=time.monotonic() + self.deadline), self.deadline)
        except IntegrityError:
            raise
        except TimeoutError as error:
            raise StoreUnavailable(f"{self._where}: no answer within {self.deadline:g} s") from error
        except (SQLAlchemyError, sqlite3.Error, OSError) as error:
            # Not the error's own text: SQLAlchemy's quotes the statement.
            raise StoreUnavailable(f"{self._where}: {getattr(error, 'orig', None) or error}") from error

    async def close(self) -> None:
        """Close every connection."""
        await self._bounded.drained()
        await self._engine.dispose()

    async def _transact(self, work: Callable[[AsyncConnection], Awaitable[T]], *, write: bool, due: float) -> T:
        async with self._turn, self._engine.connect() as connection:
            await connection.execution_options(**{_WRITE: write, _DUE: due})
            async with connection.begin():
                return await work(connection)


def sqlite_engine(path: Path) -> AsyncEngine:
    """An engine with one connection: SQLite has one writer at a time, and a queue is fairer than its polling for the lock."""
    engine = create_async_engine(
        sa.URL.create("sqlite+aiosqlite", database=str(path)), pool_size=1, max_overflow=0, connect_args={"isolation_level": None}
    )

    @sa.event.listens_for(engine.sync_engine, "do_connect")
    def make_file(*_: Any) -> None:
        prepare(path)

    @sa.event.listens_for(engine.sync_engine, "connect")
    def set_up(connection: Any, _: Any) -> None:
        cursor = connection.cursor()
        for pragma in ("busy_timeout = 1000", "journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @sa.event.listens_for(engine.sync_engine, "begin")
    def begin(connection: sa.Connection) -> None:
        options = connection.get_execution_options()
        # SQLite gives up on a lock a little before the caller does, so that the connection stays usable. In steps, so that most
        # transactions find it set already.
        patience = max(0, int((options[_DUE] - time.monotonic()) * 900))
        patience -= patience % 200 if patience > 400 else 0
        # Straight to the driver: each of its calls is a way to the thread and back, and SQLAlchemy makes three or four of a statement.
        driver: Any = connection.connection.dbapi_connection
        if connection.info.get(_PATIENCE) != patience:
            driver.run_async(lambda raw: raw.execute(f"PRAGMA busy_timeout = {patience}"))
            connection.info[_PATIENCE] = patience
        # A transaction that reads first and writes later would fail where another process wrote in between: take the lock at once.
        driver.run_async(lambda raw: raw.execute("BEGIN IMMEDIATE" if options[_WRITE] else "BEGIN"))

    return engine
