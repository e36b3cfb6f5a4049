"""What rule functions keep of a user, in the records: sealed, one document a user and source, written only over what was read.

Where another run was first, what both changed is put together, entry by entry; of one entry that both changed, the later write counts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

from gateway.errors import Conflict, SealBroken, StoreUnavailable
from gateway.flow.ports import Records, Vault
from gateway.wire.subject import Subject

KIND: Final = "user"
NAME: Final = "metadata"
PURPOSE: Final = "metadata"
TRIES: Final = 20
_LOGINS_KEPT: Final = 16


@dataclass(frozen=True, slots=True)
class Kept:
    """One user's. logins: passes that functions have seen, counted; seen: the names of the latest. version: of the record, 0 for none."""

    app: Mapping[str, Any] = field(default_factory=dict)
    user: Mapping[str, Any] = field(default_factory=dict)
    logins: int = 0
    seen: tuple[str, ...] = ()
    version: int = 0

    def with_login(self, name: str) -> Kept:
        """With a login counted, unless it was before. Who has no pass (a token, a header) has logged in once."""
        if name in self.seen or (self.logins and not name):
            return self
        return replace(self, logins=self.logins + 1, seen=(*self.seen, name)[-_LOGINS_KEPT:])


class Metadata(Protocol):
    """May raise StoreUnavailable."""

    async def read(self, subject: Subject) -> Kept: ...

    async def write(self, subject: Subject, before: Kept, after: Kept, now: float) -> None:
        """Write what differs between the two, over whatever stands there by now."""


class RecordedMetadata:
    """Implements Metadata."""

    def __init__(self, records: Records, vault: Vault) -> None:
        self._records = records
        self._vault = vault

    async def read(self, subject: Subject) -> Kept:
        owner = _owner(subject)
        entry = await self._records.get(KIND, owner, NAME)
        if entry is None:
            return Kept()
        try:
            stored = json.loads(self._vault.open(PURPOSE, entry.value, place=f"{KIND}/{owner}"))
        except SealBroken as error:
            # To take it for empty would be to forget what a rule relies on.
            raise StoreUnavailable(f"the metadata of {subject.id!r} cannot be opened with our keys: {error}") from error
        return Kept(stored["app"], stored["user"], stored["logins"], tuple(stored["seen"]), entry.version)

    async def write(self, subject: Subject, before: Kept, after: Kept, now: float) -> None:
        owner, wanted = _owner(subject), after
        for _ in range(TRIES):
            document = {"app": wanted.app, "user": wanted.user, "logins": wanted.logins, "seen": wanted.seen}
            sealed = self._vault.seal(PURPOSE, json.dumps(document).encode(), place=f"{KIND}/{owner}")
            try:
                await self._records.put(KIND, owner, NAME, sealed, version=wanted.version, now=now)
            except Conflict:
                theirs = await self.read(subject)
                app, user = merged(before.app, after.app, theirs.app), merged(before.user, after.user, theirs.user)
                logins = theirs.with_login(after.seen[-1]) if after.seen != before.seen else theirs
                wanted = replace(logins, app=app, user=user)
                if wanted == theirs:
                    return  # a page of twenty requests counts its login once
            else:
                return
        raise StoreUnavailable(f"the metadata of {subject.id!r} is written by too many at once")


class NoMetadata:
    """Nothing is known of anybody, and nothing kept: for `gateway explain`."""

    async def read(self, subject: Subject) -> Kept:  # noqa: ARG002 - nothing is known of anybody
        return Kept()

    async def write(self, subject: Subject, before: Kept, after: Kept, now: float) -> None:
        pass


def _owner(subject: Subject) -> str:
    """The same name in two sources is two users."""
    return f"{subject.source}/{subject.counter}"


def merged(before: Mapping[str, Any], mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """`theirs` with everything that `mine` has changed against `before`. Mappings are put together at any depth, anything else is one."""
    made = dict(theirs)
    for name in before.keys() | mine.keys():
        if name not in mine:
            made.pop(name, None)
        elif name not in before or before[name] != mine[name]:
            then, now, there = before.get(name), mine[name], theirs.get(name)
            both = isinstance(now, dict) and isinstance(there, dict)
            made[name] = merged(then if isinstance(then, dict) else {}, now, there) if both and isinstance(there, dict) else now
    return made
