"""One SQLite connection on one thread, and a deadline on every call.

Only the thread touches the connection. Work whose caller has given up is never started, and is rolled back if it has not come to its
COMMIT. A fault closes the connection and the next call opens a new one: a database that can be used again is used again.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any, Generic, TypeVar

from gateway.errors import GatewayError, StoreTooNew, StoreUnavailable
from gateway.stores.files import identity, prepare

T = TypeVar("T")

_QUEUE = 1024
"""Calls that may wait for the thread; further ones fail at once. With a disk that hangs, waiting calls hold their values in memory."""
_LOCK_WAIT = 0.02
"""One round of waiting for a lock, in seconds. Short, so that SQLite's growing pauses stay small and a caller's giving up is noticed."""
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


class _Job(Generic[T]):
    """A call on its way to the thread."""

    __slots__ = ("due", "future", "given_up", "work", "write")

    def __init__(self, work: Callable[[sqlite3.Connection], T], *, write: bool, due: float) -> None:
        self.work = work
        self.write = write
        self.due = due  # by time.monotonic()
        self.given_up = False
        self.future: Future[T] = Future()

    def over(self) -> bool:
        return self.given_up or time.monotonic() >= self.due

    def check(self) -> None:
        if self.over():
            raise StoreUnavailable("the deadline has passed")


class SqliteThread:
    """Runs functions of a connection, in order, each as one transaction.

    `version` and `schema` describe the database: `schema` is run where `user_version` is 0. `deadline` bounds every call, in seconds.
    After use you must await `close()`.
    """

    def __init__(self, path: Path, *, schema: str, version: int, deadline: float) -> None:
        self.path = path
        self._schema = schema
        self._version = version
        self._deadline = deadline
        self._jobs: deque[_Job[Any]] = deque()
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing = False
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None

    async def call(self, work: Callable[[sqlite3.Connection], T], *, write: bool) -> T:
        """Run `work` within a transaction (a read needs none: it must be a single statement) and return what it returns.

        A write is on disk when this returns. Exceptions of `work` roll back and come out as they are, SQLite's own as StoreUnavailable,
        which is also raised when the deadline has passed. Then the write did not happen, unless its COMMIT was already under way.
        """
        job = _Job(work, write=write, due=time.monotonic() + self._deadline)
        loop = asyncio.get_running_loop()
        answered = loop.create_future()
        # What asyncio.wrap_future does, without what it costs: this is the way of every call.
        job.future.add_done_callback(lambda _: None if loop.is_closed() else loop.call_soon_threadsafe(_wake, answered))
        self._enqueue(job)
        try:
            async with asyncio.timeout(self._deadline):
                await answered
            return job.future.result()
        except TimeoutError as error:
            raise StoreUnavailable(f"{self.path}: no answer within {self._deadline:g} s") from error
        finally:
            self._give_up(job)

    async def close(self) -> None:
        """End the thread and close the database. Waiting calls fail; the one under way ends first, by its deadline at the latest."""
        with self._wake:
            self._closing = True
            waiting = list(self._jobs)
            self._jobs.clear()
            thread = self._thread
            self._wake.notify()
        for job in waiting:
            if job.future.set_running_or_notify_cancel():
                job.future.set_exception(StoreUnavailable(f"{self.path}: the store was closed"))
        if thread is not None:
            await asyncio.to_thread(thread.join, self._deadline)

    def _enqueue(self, job: _Job[Any]) -> None:
        with self._wake:
            if self._closing:
                raise StoreUnavailable(f"{self.path}: the store was closed")
            if len(self._jobs) >= _QUEUE:
                raise StoreUnavailable(f"{self.path}: {_QUEUE} calls are waiting already")
            if self._thread is None:
                # A daemon: a disk that hangs must not keep a process from ending, and an unfinished transaction is rolled back by SQLite.
                self._thread = threading.Thread(target=self._serve, name=f"sqlite {self.path.name}", daemon=True)
                self._thread.start()
            self._jobs.append(job)
            self._wake.notify()

    def _give_up(self, job: _Job[Any]) -> None:
        if not job.future.done():
            job.given_up = True
            job.future.cancel()
            with self._wake, suppress(ValueError):
                self._jobs.remove(job)

    # From here on everything runs on the thread.

    def _serve(self) -> None:
        while True:
            with self._wake:
                while not self._jobs and not self._closing:
                    self._wake.wait()
                if not self._jobs:
                    break
                job = self._jobs.popleft()
            if job.future.set_running_or_notify_cancel():
                self._answer(job)
            del job  # an idle thread holds no value
        self._disconnect()

    def _answer(self, job: _Job[Any]) -> None:
        try:
            result = self._perform(job)
        except BaseException as error:  # noqa: BLE001 - the caller raises it; the thread must go on
            job.future.set_exception(error)
        else:
            job.future.set_result(result)

    def _perform(self, job: _Job[T]) -> T:
        try:
            connection = self._connect(job)
            if not job.write:
                return self._patiently(job, lambda: job.work(connection))
            return self._transact(job, connection)
        except GatewayError:
            raise
        except (sqlite3.Error, OSError) as error:
            if not _busy(error):
                self._disconnect()
            raise StoreUnavailable(f"{self.path}: {error}") from error

    def _transact(self, job: _Job[T], connection: sqlite3.Connection) -> T:
        self._patiently(job, lambda: connection.execute("BEGIN IMMEDIATE"))
        try:
            result = job.work(connection)
            job.check()  # the caller was told that it failed, so it does
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return result

    def _patiently(self, job: _Job[Any], attempt: Callable[[], T]) -> T:
        """Try until no other connection's lock is in the way, the deadline has passed or the caller has given up."""
        while True:
            try:
                return attempt()
            except sqlite3.OperationalError as error:
                if not _busy(error) or job.over():
                    raise
                time.sleep(0.001)  # some locks are reported without SQLite having waited at all

    def _connect(self, job: _Job[Any]) -> sqlite3.Connection:
        # A file that was deleted or replaced lives on in our connection, seen by nobody else: leave it.
        if self._connection is not None and identity(self.path) == self._identity:
            return self._connection
        self._disconnect()
        prepare(self.path)
        connection = sqlite3.connect(self.path, timeout=_LOCK_WAIT, isolation_level=None, check_same_thread=False, cached_statements=64)
        try:
            self._patiently(job, lambda: connection.execute("PRAGMA journal_mode = WAL").fetchone())
            connection.execute("PRAGMA synchronous = FULL")
            self._patiently(job, lambda: connection.execute("BEGIN IMMEDIATE"))
            self._migrate(connection)
            connection.execute("COMMIT")
        except BaseException:
            connection.close()
            raise
        self._connection, self._identity = connection, identity(self.path)
        return connection

    def _migrate(self, connection: sqlite3.Connection) -> None:
        (found,) = connection.execute("PRAGMA user_version").fetchone()
        if found > self._version:
            raise StoreTooNew(
                f"{self.path}: written by a newer gateway (format {found}, this one knows {self._version}); "
                "run that version, or name another file"
            )
        if found == 0:
            for statement in self._schema.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {self._version}")

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _busy(error: Exception) -> bool:
    return isinstance(error, sqlite3.OperationalError) and (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _BUSY
