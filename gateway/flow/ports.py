"""Protocols between the rooms: stores, mail, entropy. Implementations live above and are wired in gateway/app.

Every store call takes `now` (seconds since the epoch): expiry is checked on read, never left to a cleaner.
Every call may raise StoreUnavailable, also when its deadline has passed; a caller must then fail closed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from jwt import PyJWK


@dataclass(frozen=True, slots=True)
class Entry:
    """A stored value and its version (1 at the first write, +1 at each)."""

    value: bytes
    version: int


@dataclass(frozen=True, slots=True)
class Revocation:
    """A revoked pass: its `sid`, and until when it must be remembered. `cursor` orders the feed."""

    cursor: int
    sid: str
    until: float


@dataclass(frozen=True, slots=True)
class Put:
    """StateStore.put as a value. Its result is the new version, or a Conflict."""

    space: str
    key: str
    value: bytes
    version: int
    expires: float


@dataclass(frozen=True, slots=True)
class Delete:
    space: str
    key: str


@dataclass(frozen=True, slots=True)
class Count:
    """StateStore.count as a value; `by` is not 0. Its result is the counter's new value."""

    space: str
    key: str
    by: int
    expires: float


@dataclass(frozen=True, slots=True)
class Join:
    """StateStore.join as a value. Its result: whether it is in."""

    space: str
    group: str
    member: str
    cap: int
    expires: float


@dataclass(frozen=True, slots=True)
class Leave:
    space: str
    group: str
    member: str


Write = Put | Delete | Count | Join | Leave


class StateStore(Protocol):
    """What expires. Spaces are namespaces ("transaction", "request", "used", …); keys are already hashed where they are secrets."""

    async def get(self, space: str, key: str, now: float) -> Entry | None:
        """The live entry, or None when there is none or it has expired."""

    async def put(self, space: str, key: str, value: bytes, *, version: int, expires: float, now: float) -> int:
        """Write if the live entry's version is `version` (0: there is none); returns the new version.

        Raises Conflict when another write was first. Durable when it returns: it survives kill -9 and power loss
        as far as the backend promises.
        """

    async def delete(self, space: str, key: str) -> None:
        """Remove an entry; it is no mistake when there is none."""

    async def count(self, space: str, key: str, *, by: int, expires: float, now: float) -> int:
        """Add to a counter and return its new value. A counter that is new (or expired) starts at 0 and takes `expires`;
        a living one keeps its own expiry. `by=0` reads. A counter never falls below 0."""

    async def join(self, space: str, group: str, member: str, *, cap: int, expires: float, now: float) -> bool:
        """Put a member into a group until `expires` if fewer than `cap` live members are in it. True when it is in."""

    async def leave(self, space: str, group: str, member: str) -> None:
        """Take a member out of a group."""

    async def together(self, writes: Sequence[Write], now: float) -> Sequence[Any]:
        """Writes that need not wait for each other's results: in this order, in one flush or round trip, each as its own method does it.

        Returns their results in order; a refused Put's is a Conflict, and hinders none of the others. All are durable when this returns.
        Where it raises StoreUnavailable any of them may have been done.
        """

    async def revoke(self, sid: str, *, until: float, now: float) -> None:
        """Append to the revocation feed."""

    async def revocations(self, after: int, now: float) -> Sequence[Revocation]:
        """Live revocations with a cursor greater than `after`, in order."""

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """One line of the audit trail. `detail` holds no secret."""

    at: float
    event: str
    request_id: str
    subject: str = ""
    rule: str = ""
    step: str = ""
    outcome: str = ""
    address: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)


class Records(Protocol):
    """What stays. Values are bytes, sealed by the caller where they are secret."""

    async def get(self, kind: str, owner: str, name: str) -> Entry | None: ...

    async def put(self, kind: str, owner: str, name: str, value: bytes, *, version: int, now: float) -> int:
        """Write if the stored version is `version` (0: there is none); returns the new version. Raises Conflict."""

    async def delete(self, kind: str, owner: str, name: str) -> None: ...

    async def audit(self, event: AuditEvent) -> None: ...

    async def ping(self) -> None: ...

    async def close(self) -> None: ...


class PublishedKeys(Protocol):
    """The keys that one page or issuer of others publishes (RFC 7517)."""

    async def key(self, kid: str, now: float) -> PyJWK | None:
        """The key of that name, None where there is none. Raises StoreUnavailable where the keys cannot be had."""


class Mailer(Protocol):
    async def send(self, to: str, subject: str, text: str) -> None:
        """Hand one plain-text message to the mail server. Raises MailFailed."""


class Vault(Protocol):
    """Sealing and keyed hashes; keys are derived per purpose from the key file."""

    def seal(self, purpose: str, plain: bytes, *, place: str) -> bytes:
        """AES-256-GCM; `place` (space and key) is authenticated, so that a value cannot be moved."""

    def open(self, purpose: str, sealed: bytes, *, place: str) -> bytes:
        """Raises SealBroken."""

    def mac(self, purpose: str, data: bytes) -> bytes:
        """HMAC-SHA-256 with the purpose's current key: 32 bytes."""

    def macs(self, purpose: str, data: bytes) -> tuple[bytes, ...]:
        """The same by every key that still verifies, the current one first."""


class Entropy(Protocol):
    """Where randomness comes from; tests give a seeded one."""

    def token(self) -> str:
        """256 random bits, base64url without padding (43 characters)."""

    def digits(self, count: int) -> str:
        """Uniform decimal digits."""

    def bytes(self, count: int) -> bytes: ...
