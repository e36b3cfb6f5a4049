"""What was passed for a code or a refresh token when it was issued: a map from the token's keyed hash, sealed, in the state store.

An entry moves on at rotation. It is a proof only as long as it is known: what is lost, expired or over the bound is unknown, and asked
anew.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from gateway.errors import Conflict, SealBroken
from gateway.flow.ports import Leave, Put, StateStore, Vault, Write
from gateway.wire.subject import NOBODY, Proof, Subject

CODE_TTL: Final = 600.0  # RFC 6749 §4.1.2: a code lives ten minutes at most
GRACE: Final = 60.0  # seconds that a rotated refresh token is still known: a client whose answer got lost may send it again
_SPACE: Final = "issued"
_VOIDED: Final = "issued-void"

Kind = Literal["code", "refresh"]


@dataclass(frozen=True, slots=True)
class Passed:
    """subject: whom the token is for, NOBODY where that is not known. proofs: what they had proved. client: its id, "" for any. sid: of the
    pass that they were in, "" for none: whoever has it forgotten takes them back."""

    subject: Subject = NOBODY
    proofs: Mapping[str, Proof] = field(default_factory=dict)
    client: str = ""
    sid: str = ""


@dataclass(frozen=True, slots=True)
class Known:
    """An entry, its key and its version."""

    passed: Passed
    key: str
    version: int


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


class Issued:
    """Every method may raise StoreUnavailable."""

    def __init__(self, state: StateStore, vault: Vault) -> None:
        self._state = state
        self._vault = vault

    async def remember_code(
        self, upstream: str, code: str, subject: Subject, proofs: Mapping[str, Proof], *, client: str = "", sid: str = "", now: float
    ) -> None:
        """To be called before an answer with an authorization code is let through: the refresh token that it is exchanged for inherits."""
        await self._write(self._key("code", upstream, code), Passed(subject, proofs, client, sid), 0, now + CODE_TTL, now)

    async def find(self, kind: Kind, upstream: str, token: str, client: str, now: float) -> Known | None:
        """What was passed for a token, if it was issued to this client. None: unknown."""
        if not token:
            return None
        for mac in self._vault.macs(_SPACE, _named(kind, upstream, token)):
            key = _b64(mac)
            entry = await self._state.get(_SPACE, key, now)
            if entry is not None:
                try:
                    passed = _decoded(self._vault.open(_SPACE, entry.value, place=f"{_SPACE}/{key}"))
                except SealBroken:
                    return None
                if client != passed.client and passed.client:
                    return None
                return Known(await self._standing(passed, now), key, entry.version)
        return None

    async def void(self, sid: str, *, ttl: float, now: float) -> None:
        """What was proved in this pass counts for no token any more. ttl: seconds that one which is out by now may go unused."""
        key = _b64(self._vault.mac(_VOIDED, sid.encode()))
        try:
            await self._state.put(_VOIDED, key, b"", version=0, expires=now + ttl, now=now)
        except Conflict:
            return  # it is void already

    async def _standing(self, passed: Passed, now: float) -> Passed:
        """What is left of it: the subject alone, where the pass was taken back. Its successors are written so too."""
        for mac in self._vault.macs(_VOIDED, passed.sid.encode()) if passed.sid else ():
            if await self._state.get(_VOIDED, _b64(mac), now) is not None:
                return Passed(passed.subject, {}, passed.client)
        return passed

    async def forget(self, known: Known) -> None:
        """A code that was exchanged."""
        await self._state.delete(_SPACE, known.key)

    async def issued(self, upstream: str, token: str, passed: Passed, *, before: Known | None, ttl: float, most: int, now: float) -> bool:
        """A refresh token was issued, or (the same one, as `before`) used. before: the one whose place it takes. most: that are remembered
        of one subject. False: it is not remembered, and will be unknown."""
        key = self._key("refresh", upstream, token)
        group = _b64(self._vault.mac(_SPACE, _named("of", upstream, f"{passed.subject.source}\x00{passed.subject.counter}"))[:18])
        if before is not None and before.key == key:
            await self._state.join(_SPACE, group, key, cap=most, expires=now + ttl, now=now)
            return await self._write(key, passed, before.version, now + ttl, now)
        along: list[Write] = [] if before is None else [Leave(_SPACE, group, before.key)]
        if before is not None:
            sealed = self._vault.seal(_SPACE, _encoded(before.passed), place=f"{_SPACE}/{before.key}")
            along.append(Put(_SPACE, before.key, sealed, before.version, now + GRACE))
        if along:
            await self._state.together(along, now)
        if not await self._state.join(_SPACE, group, key, cap=most, expires=now + ttl, now=now):
            return False
        return await self._write(key, passed, 0, now + ttl, now)

    async def _write(self, key: str, passed: Passed, version: int, expires: float, now: float) -> bool:
        """The latest counts: an upstream may give the same token out again."""
        sealed = self._vault.seal(_SPACE, _encoded(passed), place=f"{_SPACE}/{key}")
        for _ in range(3):
            try:
                await self._state.put(_SPACE, key, sealed, version=version, expires=expires, now=now)
            except Conflict:
                entry = await self._state.get(_SPACE, key, now)
                version = entry.version if entry else 0
            else:
                return True
        return False

    def _key(self, kind: Kind, upstream: str, token: str) -> str:
        return _b64(self._vault.mac(_SPACE, _named(kind, upstream, token)))


def _named(kind: str, upstream: str, token: str) -> bytes:
    """Unambiguous: JSON quotes what could run together."""
    return json.dumps([kind, upstream, token]).encode("ascii")


def _encoded(passed: Passed) -> bytes:
    subject = passed.subject
    return json.dumps({
        "subject": [subject.id, dict(subject.claims), subject.source], "client": passed.client, "sid": passed.sid,
        "proofs": [[p.step, p.at, list(p.amr), p.edition] for p in passed.proofs.values()],
    }).encode("ascii")  # fmt: skip


def _decoded(data: bytes) -> Passed:
    document = json.loads(data)
    # What was written before editions were kept has three parts: it counts where nothing has editions.
    proofs = {step: Proof(step, at, tuple(amr), *edition) for step, at, amr, *edition in document["proofs"]}
    return Passed(Subject(*document["subject"]), proofs, document["client"], document.get("sid", ""))
