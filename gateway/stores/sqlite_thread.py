"""One SQLite connection on one thread, group commit, and a deadline on every call.

Only the thread touches the connection. Writes that wait together share one transaction and one flush to the disk; each stands in a
savepoint of its own, in the order of its call, and each caller goes on only after that flush. Work whose caller has given up is never
started, and is rolled back if it has not come to its COMMIT. A fault closes the connection and the next call opens a new one: a database
that can be used again is used again.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Generic, TypeVar, cast

from gateway.errors import GatewayError, StoreTooNew, StoreUnavailable
from gateway.stores.files import identity, prepare

T = TypeVar("T")

_QUEUE = 1024
"""Calls that may wait for the thread; further ones fail at once. With a disk that hangs, waiting calls hold their values in memory."""
_GROUP = 64
"""Writes that share a transaction. Bounded, so that the first of them does not wait long for the last."""
_CHECKPOINT = 4000
"""Pages (of 4 KiB) that the log holds before it is copied into the database: what is written over and over is copied once."""
_LOCK_WAIT = 0.02
"""One round of waiting for a lock, in seconds. Short, so that SQLite's growing pauses stay small and a caller's giving up is noticed."""
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


class _Job(Generic[T]):
    """A call on its way to the thread and back. The thread writes fault or result, then done, then wakes the waiter."""

    __slots__ = ("done", "due", "fault", "given_up", "loop", "result", "waiter", "work", "write")

    def __init__(self, work: Callable[[sqlite3.Connection], T], *, write: bool, due: float) -> None:
        self.work = work
        self.write = write
        self.due = due  # by time.monotonic()
        self.given_up = False
        self.loop = asyncio.get_running_loop()
        self.waiter: asyncio.Future[None] = self.loop.create_future()
        self.fault: BaseException | None = None
        self.result: T | None = None
        self.done = False

    def over(self) -> bool:
        return self.given_up or time.monotonic() >= self.due


class SqliteThread:
    """Runs functions of a connection, each as if it were one transaction.

    `bring_up` makes a fresh or older database fit for use, within a transaction (BEGIN IMMEDIATE). `deadline` bounds every call, in
    seconds; `queue` the calls that wait. After use you must await `close()`.
    """

    def __init__(self, path: Path, *, bring_up: Callable[[sqlite3.Connection], None], deadline: float, queue: int = _QUEUE) -> None:
        self.path = path
        self.deadline = deadline
        self._bring_up = bring_up
        self._queue = queue
        self._jobs: deque[_Job[Any]] = deque()
        self._taken = 0  # how many of the calls the thread is at
        self._bell: SimpleQueue[None] = SimpleQueue()  # rung after each change of `_jobs` or `_closing`
        self._thread: threading.Thread | None = None
        self._closing = False
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None

    async def call(self, work: Callable[[sqlite3.Connection], T], *, write: bool) -> T:
        """Run `work` within a transaction (a read needs none: it must be a single statement) and return what it returns.

        A write is on disk when this returns; writes happen in the order of their calls. `work` may be run again where its transaction was
        rolled back for another's sake, so it must keep nothing from one run to the next. Exceptions of `work` undo what it wrote and come
        out as they are, SQLite's own as StoreUnavailable, which is also raised when the deadline has passed. Then the write did not
        happen, unless its COMMIT was already under way.
        """
        job = _Job(work, write=write, due=time.monotonic() + self.deadline)
        self._enqueue(job)
        # What asyncio.timeout does, without what it costs: this is the way of every call.
        timer = job.loop.call_later(self.deadline, _wake, job.waiter)
        try:
            await job.waiter
        except asyncio.CancelledError:
            self._give_up(job)
            raise
        finally:
            timer.cancel()
        if not job.done:
            self._give_up(job)
            raise StoreUnavailable(f"{self.path}: no answer within {self.deadline:g} s")
        if job.fault is not None:
            raise job.fault
        return cast("T", job.result)

    async def close(self) -> None:
        """End the thread and close the database. Waiting calls fail; the one under way ends first, by its deadline at the latest."""
        self._closing = True
        waiting = []
        with suppress(IndexError):
            while True:
                waiting.append(self._jobs.popleft())
        for job in waiting:
            job.fault = StoreUnavailable(f"{self.path}: the store was closed")
        _answer(waiting)
        self._bell.put(None)
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, self.deadline)

    def _enqueue(self, job: _Job[Any]) -> None:
        if self._closing:
            raise StoreUnavailable(f"{self.path}: the store was closed")
        if len(self._jobs) + self._taken >= self._queue:
            raise StoreUnavailable(f"{self.path}: {self._queue} calls are waiting already")
        if self._thread is None:
            # A daemon: a disk that hangs must not keep a process from ending, and an unfinished transaction is rolled back by SQLite.
            self._thread = threading.Thread(target=self._serve, name=f"sqlite {self.path.name}", daemon=True)
            self._thread.start()
        self._jobs.append(job)
        self._bell.put(None)

    def _give_up(self, job: _Job[Any]) -> None:
        job.given_up = True
        with suppress(ValueError):
            self._jobs.remove(job)

    # From here on everything runs on the thread.

    def _serve(self) -> None:
        while True:
            self._bell.get()
            while self._take():
                pass  # an idle thread holds no value
            if self._closing:
                break
        self._disconnect()

    def _take(self) -> bool:
        """Do what waits: reads at once, then the writes as one group. A read never sees what is not committed."""
        jobs: list[_Job[Any]] = []
        while len(jobs) < _GROUP:
            self._taken = len(jobs) + 1
            try:
                jobs.append(self._jobs.popleft())
            except IndexError:
                break
        self._taken = len(jobs)
        reads = [job for job in jobs if not job.write]
        for job in reads:
            self._alone(job)
        _answer(reads)
        writes = [job for job in jobs if job.write]
        if len(writes) == 1 or not self._together(writes):
            for job in writes:
                self._alone(job)
        _answer(writes)
        self._taken = 0
        return bool(jobs)

    def _together(self, jobs: Sequence[_Job[Any]]) -> bool:
        """All writes in one transaction. False: nothing was written, and each must be tried alone, to meet its own fault."""
        begun = False
        try:
            connection = self._connect(jobs)
            while live := [job for job in jobs if not job.over()]:
                self._patiently(live, lambda: connection.execute("BEGIN IMMEDIATE"))
                for job in live:
                    _in_savepoint(job, connection)
                if not any(job.over() for job in live):
                    begun = True
                    connection.execute("COMMIT")
                    return self._rest_is_over(jobs, live)
                connection.execute("ROLLBACK")  # a caller was told that it failed, so it does; the others go again, without it
        except BaseException as error:  # noqa: BLE001 - the callers raise it; the thread must go on
            self._roll_back()
            if begun:  # whether it stands is not known: nothing of it may be tried again
                for job in jobs:
                    job.fault = self._translated(error)
            return begun
        return self._rest_is_over(jobs, ())

    def _rest_is_over(self, jobs: Sequence[_Job[Any]], live: Sequence[_Job[Any]]) -> bool:
        for job in jobs:
            if job not in live:
                job.fault = StoreUnavailable(f"{self.path}: the deadline has passed")
        return True

    def _alone(self, job: _Job[Any]) -> None:
        job.fault = None
        try:
            self._check(job)
            connection = self._connect((job,))
            job.result = self._transact(job, connection) if job.write else self._patiently((job,), lambda: job.work(connection))
        except BaseException as error:  # noqa: BLE001 - the caller raises it; the thread must go on
            job.fault = self._translated(error)

    def _transact(self, job: _Job[T], connection: sqlite3.Connection) -> T:
        self._patiently((job,), lambda: connection.execute("BEGIN IMMEDIATE"))
        try:
            result = job.work(connection)
            self._check(job)  # the caller was told that it failed, so it does
            connection.execute("COMMIT")
        except BaseException:
            self._roll_back()
            raise
        return result

    def _check(self, job: _Job[Any]) -> None:
        if job.over():
            raise StoreUnavailable(f"{self.path}: the deadline has passed")

    def _roll_back(self) -> None:
        if self._connection is not None and self._connection.in_transaction:
            with suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")

    def _translated(self, error: BaseException) -> BaseException:
        """SQLite's faults as ours; after them the connection is not trusted any more, unless it was a lock."""
        if isinstance(error, GatewayError) or not isinstance(error, sqlite3.Error | OSError):
            return error
        if not _busy(error):
            self._disconnect()
        fault = StoreUnavailable(f"{self.path}: {error}")
        fault.__cause__ = error
        return fault

    def _patiently(self, jobs: Sequence[_Job[Any]], attempt: Callable[[], T]) -> T:
        """Try until no other connection's lock is in the way, or every caller's deadline has passed or patience is at its end."""
        while True:
            try:
                return attempt()
            except sqlite3.OperationalError as error:
                if not _busy(error) or all(job.over() for job in jobs):
                    raise
                time.sleep(0.001)  # some locks are reported without SQLite having waited at all

    def _connect(self, jobs: Sequence[_Job[Any]]) -> sqlite3.Connection:
        # A file that was deleted or replaced lives on in our connection, seen by nobody else: leave it.
        if self._connection is not None and identity(self.path) == self._identity:
            return self._connection
        self._disconnect()
        prepare(self.path)
        connection = sqlite3.connect(self.path, timeout=_LOCK_WAIT, isolation_level=None, check_same_thread=False, cached_statements=64)
        try:
            self._patiently(jobs, lambda: connection.execute("PRAGMA journal_mode = WAL").fetchone())
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT}")
            self._patiently(jobs, lambda: connection.execute("BEGIN IMMEDIATE"))
            self._bring_up(connection)
            connection.execute("COMMIT")
        except BaseException:
            connection.close()
            raise
        self._connection, self._identity = connection, identity(self.path)
        return connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()


def _in_savepoint(job: _Job[Any], connection: sqlite3.Connection) -> None:
    """What one caller's refusal (a Conflict) undoes is its own work only. Any other fault is the whole group's."""
    job.fault = None
    connection.execute("SAVEPOINT one")
    try:
        job.result = job.work(connection)
    except GatewayError as refusal:
        job.fault = refusal
        connection.execute("ROLLBACK TO one")
    connection.execute("RELEASE one")


def _answer(jobs: Sequence[_Job[Any]]) -> None:
    """Wake the callers, all of one event loop by one call."""
    for job in jobs:
        job.done = True
    for loop in {job.loop for job in jobs}:
        waiters = [job.waiter for job in jobs if job.loop is loop]
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_wake_all, waiters)


def _wake_all(waiters: Sequence[asyncio.Future[None]]) -> None:
    for waiter in waiters:
        _wake(waiter)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _busy(error: Exception) -> bool:
    return isinstance(error, sqlite3.OperationalError) and (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _BUSY


def by_user_version(path: Path, schema: str, version: int) -> Callable[[sqlite3.Connection], None]:
    """A `bring_up` that keeps the format's number in SQLite's `user_version`, and runs `schema` where that is 0."""

    def bring_up(connection: sqlite3.Connection) -> None:
        (found,) = connection.execute("PRAGMA user_version").fetchone()
        if found > version:
            raise StoreTooNew(
                f"{path}: written by a newer gateway (format {found}, this one knows {version}); run that version, or name another file"
            )
        if found == 0:
            for statement in schema.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {version}")

    return bring_up
