"""The state store on SQLite: one file, shared by the processes of one host.

Every write is atomic between processes (BEGIN IMMEDIATE) and on disk (`synchronous=FULL`) when the call returns; writes that wait together
are flushed together (see sqlite_thread). An expired row is never seen, whether or not the sweep has come to it. Spaces, keys and members
are stored as bytes: any text is a key like any other.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any, assert_never

from gateway.errors import Conflict
from gateway.flow.ports import Count, Delete, Entry, Join, Leave, Put, Revocation, Write
from gateway.stores.sqlite_thread import SqliteThread, by_user_version

_SCHEMA = """
CREATE TABLE entries (
  space BLOB NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL, version INTEGER NOT NULL, expires REAL NOT NULL, PRIMARY KEY (space, key)
);
CREATE INDEX entries_by_expiry ON entries (expires);
CREATE TABLE counters (space BLOB NOT NULL, key BLOB NOT NULL, value INTEGER NOT NULL, expires REAL NOT NULL, PRIMARY KEY (space, key));
CREATE INDEX counters_by_expiry ON counters (expires);
CREATE TABLE members (
  space BLOB NOT NULL, grouping BLOB NOT NULL, member BLOB NOT NULL, expires REAL NOT NULL, PRIMARY KEY (space, grouping, member)
);
CREATE INDEX members_by_group ON members (space, grouping, expires);
CREATE INDEX members_by_expiry ON members (expires);
CREATE TABLE revocations (cursor INTEGER PRIMARY KEY, sid TEXT NOT NULL, expires REAL NOT NULL);
CREATE INDEX revocations_by_expiry ON revocations (expires);
CREATE TABLE feed (head INTEGER NOT NULL);
INSERT INTO feed VALUES (0)
"""
_VERSION = 1

_SWEPT = ("entries", "counters", "members", "revocations")
_SWEEP_EVERY = 16
_SWEEP_ROWS = 32  # a write adds one row and takes away two on average: the sweep keeps up with any load
_SLACK = 60.0
"""Expired rows stay this long, in seconds: a caller whose clock is a little behind still sees what is alive for it."""


class SqliteState:
    """flow.ports.StateStore in the SQLite database at `path`. No I/O happens before the first call. You must await `close()` after use."""

    def __init__(self, path: Path, *, deadline: float = 2.0) -> None:
        self._thread = SqliteThread(path, bring_up=by_user_version(path, _SCHEMA, _VERSION), deadline=deadline)
        self._writes = 0

    async def get(self, space: str, key: str, now: float) -> Entry | None:
        """The live entry, or None."""

        def read(connection: sqlite3.Connection) -> Entry | None:
            row = connection.execute(
                "SELECT value, version FROM entries WHERE space = ? AND key = ? AND expires > ?", (_raw(space), _raw(key), now)
            ).fetchone()
            return None if row is None else Entry(value=row[0], version=row[1])

        return await self._thread.call(read, write=False)

    async def put(self, space: str, key: str, value: bytes, *, version: int, expires: float, now: float) -> int:
        """Conditional write; see the protocol. Raises Conflict."""
        write = Put(space, key, value, version, expires)
        return await self._thread.call(lambda connection: self._put(connection, write, now), write=True)

    async def delete(self, space: str, key: str) -> None:
        """Remove an entry, if there is one."""
        await self._thread.call(lambda connection: _delete(connection, Delete(space, key)), write=True)

    async def count(self, space: str, key: str, *, by: int, expires: float, now: float) -> int:
        """Add to a counter; see the protocol. A counter that would start at 0 or below is not made."""
        if by == 0:
            return await self._thread.call(lambda connection: _counted(connection, space, key, now), write=False) or 0
        write = Count(space, key, by, expires)
        return await self._thread.call(lambda connection: self._count(connection, write, now), write=True)

    async def join(self, space: str, group: str, member: str, *, cap: int, expires: float, now: float) -> bool:
        """Put a member into a group; see the protocol. One that is in already stays, with the new `expires`, whatever the cap."""
        write = Join(space, group, member, cap, expires)
        return await self._thread.call(lambda connection: self._join(connection, write, now), write=True)

    async def leave(self, space: str, group: str, member: str) -> None:
        """Take a member out of a group, if it is in."""
        await self._thread.call(lambda connection: _leave(connection, Leave(space, group, member)), write=True)

    async def together(self, writes: Sequence[Write], now: float) -> Sequence[Any]:
        """See the protocol. Here they are one transaction: where it raises, none of them was done, unless the COMMIT was under way."""
        return await self._thread.call(lambda connection: [self._do(connection, write, now) for write in writes], write=True)

    def _do(self, connection: sqlite3.Connection, write: Write, now: float) -> Any:
        match write:
            case Put():
                try:
                    return self._put(connection, write, now)
                except Conflict as conflict:
                    return conflict
            case Delete():
                return _delete(connection, write)
            case Count():
                return self._count(connection, write, now)
            case Join():
                return self._join(connection, write, now)
            case Leave():
                return _leave(connection, write)
            case _:
                assert_never(write)

    def _put(self, connection: sqlite3.Connection, put: Put, now: float) -> int:
        if put.version == 0:
            done = connection.execute(
                "INSERT INTO entries VALUES (?1, ?2, ?3, 1, ?4)"
                " ON CONFLICT (space, key) DO UPDATE SET value = ?3, version = 1, expires = ?4 WHERE expires <= ?5",
                (_raw(put.space), _raw(put.key), put.value, put.expires, now),
            )
        else:
            done = connection.execute(
                "UPDATE entries SET value = ?3, version = version + 1, expires = ?4"
                " WHERE space = ?1 AND key = ?2 AND expires > ?5 AND version = ?6",
                (_raw(put.space), _raw(put.key), put.value, put.expires, now, put.version),
            )
        if done.rowcount != 1:
            raise Conflict(f"{put.space}: not at version {put.version}")
        self._sweep(connection, now)
        return put.version + 1

    def _count(self, connection: sqlite3.Connection, count: Count, now: float) -> int:
        old = _counted(connection, count.space, count.key, now)
        new = max(0, (old or 0) + count.by)
        place = (_raw(count.space), _raw(count.key))
        if old is not None:
            connection.execute("UPDATE counters SET value = ? WHERE space = ? AND key = ?", (new, *place))
        elif new > 0:
            connection.execute("INSERT OR REPLACE INTO counters VALUES (?, ?, ?, ?)", (*place, new, count.expires))
        self._sweep(connection, now)
        return new

    def _join(self, connection: sqlite3.Connection, join: Join, now: float) -> bool:
        place = (_raw(join.space), _raw(join.group), _raw(join.member))
        live = connection.execute(
            "SELECT 1 FROM members WHERE space = ? AND grouping = ? AND member = ? AND expires > ?", (*place, now)
        ).fetchone()
        if live is None:
            (others,) = connection.execute(
                "SELECT count(*) FROM members WHERE space = ? AND grouping = ? AND expires > ?", (*place[:2], now)
            ).fetchone()
            if others >= join.cap:
                return False
        connection.execute("INSERT OR REPLACE INTO members VALUES (?, ?, ?, ?)", (*place, join.expires))
        self._sweep(connection, now)
        return True

    async def revoke(self, sid: str, *, until: float, now: float) -> None:
        """Append to the feed. Cursors follow the clock, in milliseconds, and never step back: a feed that was lost and begins anew goes
        on after what its readers have already seen."""

        def write(connection: sqlite3.Connection) -> None:
            (head,) = connection.execute("SELECT head FROM feed").fetchone()
            cursor = max(head + 1, int(now * 1000))
            connection.execute("UPDATE feed SET head = ?", (cursor,))
            connection.execute("INSERT INTO revocations VALUES (?, ?, ?)", (cursor, sid, until))
            self._sweep(connection, now)

        await self._thread.call(write, write=True)

    async def revocations(self, after: int, now: float) -> Sequence[Revocation]:
        """Live revocations after a cursor, in order."""

        def read(connection: sqlite3.Connection) -> Sequence[Revocation]:
            rows = connection.execute(
                "SELECT cursor, sid, expires FROM revocations WHERE cursor > ? AND expires > ? ORDER BY cursor", (after, now)
            )
            return [Revocation(cursor=cursor, sid=sid, until=until) for cursor, sid, until in rows]

        return await self._thread.call(read, write=False)

    async def warnings(self) -> list[str]:
        """What an operator should know about this store; each a sentence. Raises StoreUnavailable."""
        path = self._thread.path

        def look(_: sqlite3.Connection) -> list[str]:
            mode = path.stat().st_mode & 0o777
            if mode & 0o077:
                return [f"{path} has mode {mode:04o}: other users of this host can read or change it; `chmod 600` it"]
            return []

        return await self._thread.call(look, write=False)

    async def close(self) -> None:
        """End the thread and close the file."""
        await self._thread.close()

    def _sweep(self, connection: sqlite3.Connection, now: float) -> None:
        """Bounded work, within the transaction of a write."""
        self._writes += 1
        if self._writes % _SWEEP_EVERY:
            return
        for table in _SWEPT:
            connection.execute(
                f"DELETE FROM {table} WHERE rowid IN (SELECT rowid FROM {table} WHERE expires <= ? LIMIT {_SWEEP_ROWS})",  # noqa: S608 - constants
                (now - _SLACK,),
            )


def _delete(connection: sqlite3.Connection, delete: Delete) -> None:
    connection.execute("DELETE FROM entries WHERE space = ? AND key = ?", (_raw(delete.space), _raw(delete.key)))


def _leave(connection: sqlite3.Connection, leave: Leave) -> None:
    place = (_raw(leave.space), _raw(leave.group), _raw(leave.member))
    connection.execute("DELETE FROM members WHERE space = ? AND grouping = ? AND member = ?", place)


def _counted(connection: sqlite3.Connection, space: str, key: str, now: float) -> int | None:
    row = connection.execute(
        "SELECT value FROM counters WHERE space = ? AND key = ? AND expires > ?", (_raw(space), _raw(key), now)
    ).fetchone()
    return None if row is None else int(row[0])


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
