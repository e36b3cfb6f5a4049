"""The pass: what one browser has proved so far, and for which sessions of the application that holds.

As a cookie value it is `base64url(JSON).base64url(HMAC-SHA-256)`, at most 2 KiB: verified before it is read, by any key that still
counts, without a store. It is signed, not secret: what is in it belongs to the browser that holds it.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Protocol

from gateway.tokens.compact import b64decode, b64encode
from gateway.wire.subject import NOBODY, Proof, Subject

MAX_SIZE = 2048
CLOCK_SKEW = 5.0  # seconds that another gateway's clock may be ahead
KEPT_PAST = 3
_PURPOSE = "pass"
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Vouched:
    """A session value that the upstream gave to this browser, as a truncated keyed hash of `upstream:name=value`.

    until: None while it is the current one; the time it stops counting after a rotation. bound: the pass's subject
    holds for it (False for a session from before a login).
    """

    digest: str
    until: float | None = None
    bound: bool = False


@dataclass(frozen=True, slots=True)
class Pass:
    """sid: 128 random bits, what a revocation names. origin: the public origin it was issued for.

    grant: id of a script's READY transaction with steps asked `once`, "" for none.
    issued, seen: seconds since the epoch; over at issued + passes.max_age or seen + passes.idle.
    """

    sid: str
    origin: str
    issued: float
    seen: float
    subject: Subject = NOBODY
    proofs: Mapping[str, Proof] = field(default_factory=dict)
    sessions: tuple[Vouched, ...] = ()
    grant: str = ""

    def with_grant(self, transaction: str) -> Pass:
        """The pass that may use up this READY transaction, by repeating its request."""
        return replace(self, grant=transaction)


class Macs(Protocol):
    """The half of flow.ports.Vault that a pass needs."""

    def mac(self, purpose: str, data: bytes) -> bytes: ...

    def macs(self, purpose: str, data: bytes) -> tuple[bytes, ...]: ...


class NoPass(StrEnum):
    """Why a cookie value is no pass; for the log."""

    MALFORMED = "malformed"
    FORGED = "signature does not verify"
    FOREIGN = "issued for another origin"
    EARLY = "issued in the future"
    OVER = "older than passes.max_age"
    IDLE = "unused for longer than passes.idle"


def sign_pass(held: Pass, vault: Macs, now: float) -> str | None:
    """The cookie value, or None where it would be longer than 2 KiB. Of the session values that no longer count, the latest stay: they tell
    that a transaction's session is this one's past."""
    past = [v for v in held.sessions if v.until is not None and now >= v.until]
    sessions = [[v.digest, v.until, int(v.bound)] for v in held.sessions if v not in past[:-KEPT_PAST]]
    proofs = [[[p.step, p.edition] if p.edition else p.step, p.at, *p.amr] for p in held.proofs.values()]
    subject = [held.subject.id, held.subject.source, dict(held.subject.claims)] if held.subject != NOBODY else []
    document = [_FORMAT, held.sid, held.origin, held.issued, held.seen, subject, proofs, sessions, held.grant]
    payload = b64encode(json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass"))
    value = f"{payload}.{b64encode(vault.mac(_PURPOSE, payload.encode('ascii')))}"
    return value if len(value) <= MAX_SIZE else None


def read_pass(value: str, vault: Macs, *, origin: str, now: float, max_age: float, idle: float) -> Pass | NoPass:
    """The pass in a cookie value, or why there is none. origin: where the request came in; max_age, idle: seconds.

    Revocation is the caller's; so are duplicates of the cookie.
    """
    payload, dot, signature = value.partition(".")
    mac = b64decode(signature)
    plain = b64decode(payload)
    if len(value) > MAX_SIZE or not dot or mac is None or plain is None:
        return NoPass.MALFORMED
    if not any(hmac.compare_digest(mac, expected) for expected in vault.macs(_PURPOSE, payload.encode("ascii"))):
        return NoPass.FORGED
    held = _decode(plain)
    if held is None:
        return NoPass.MALFORMED
    if held.origin != origin:
        return NoPass.FOREIGN
    if early(held, now):
        return NoPass.EARLY
    if now >= held.issued + max_age:
        return NoPass.OVER
    if now >= held.seen + idle:
        return NoPass.IDLE
    return held


def early(held: Pass, now: float) -> bool:
    """Issued, or seen, later than clocks may differ: its proofs would be young for too long."""
    return held.issued > now + CLOCK_SKEW or held.seen > now + CLOCK_SKEW


def _decode(plain: bytes) -> Pass | None:
    """What we signed ourselves; None where another version of the gateway did."""
    try:
        document: Any = json.loads(plain.decode("utf-8", "surrogatepass"))
        if document[0] != _FORMAT:
            return None
        _, sid, origin, issued, seen, who, proofs, sessions, grant = document
        return Pass(
            sid=sid,
            origin=origin,
            issued=issued,
            seen=seen,
            subject=Subject(who[0], who[2], who[1]) if who else NOBODY,
            proofs={proof.step: proof for proof in map(_read_proof, proofs)},
            sessions=tuple(Vouched(digest, until, bool(bound)) for digest, until, bound in sessions),
            grant=grant,
        )
    except (ValueError, TypeError, LookupError):
        return None


def _read_proof(entry: list[Any]) -> Proof:
    """`[step, at, amr…]`, or `[[step, edition], at, amr…]`."""
    named, at, *amr = entry
    step, edition = (named, "") if isinstance(named, str) else named
    return Proof(step, at, tuple(amr), edition)


def session_digest(vault: Macs, upstream: str, name: str, value: str) -> str:
    """What a pass keeps of a session value: 128 bits of a keyed hash over upstream, cookie name and value; 22 characters."""
    return _digest(vault.mac("session", _session(upstream, name, value)))


def session_digests(vault: Macs, upstream: str, name: str, value: str) -> tuple[str, ...]:
    """The same by every key that still counts, the current one first: a pass from before a rotation holds an older one."""
    return tuple(_digest(mac) for mac in vault.macs("session", _session(upstream, name, value)))


def _digest(mac: bytes) -> str:
    return b64encode(mac[:16])


def _session(upstream: str, name: str, value: str) -> bytes:
    """Unambiguous: JSON quotes what could run together."""
    return json.dumps([upstream, name, value]).encode("ascii")
