"""What is remembered beside a provider: authorization requests under way, pushed ones, and what was passed under its session.

Keys are keyed hashes of what the browser or the provider holds, values are sealed. All of it may be lost without anything getting open.
"""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import Any, Final

from gateway.errors import Conflict, SealBroken
from gateway.flow.oauth.request import AuthorizationRequest
from gateway.flow.ports import Entry, StateStore, Vault
from gateway.spec.oauth import OAuthSpec
from gateway.spec.sections import PassSpec
from gateway.tokens.compact import b64encode
from gateway.tokens.passes import Pass, read_pass, sign_pass
from gateway.wire.cookies import one, parse_cookies
from gateway.wire.head import RequestHead

_EXCHANGES: Final = "exchanges"
_PUSHED: Final = "pushed"
_PASSED: Final = "passed"
_ROTATED: Final = 10.0
"""Seconds for which the old value of a rotated session counts: requests that are under way still carry it."""


class OAuthMemory:
    """Every method may raise StoreUnavailable."""

    def __init__(self, state: StateStore, vault: Vault, passes: PassSpec) -> None:
        self._state = state
        self._vault = vault
        self._passes = passes

    # -- authorization requests of one browser --------------------------------------------------------------------------

    async def remember(self, upstream: str, browser: str, asked: AuthorizationRequest, spec: OAuthSpec, now: float) -> None:
        """Keep a request until its answer; one that is there already is renewed, and stays what it was."""
        key = self._key(_EXCHANGES, upstream, browser)
        for _ in range(4):
            entry, found = await self._exchanges(key, now)
            same = [each for each in found if each.target == asked.target]
            if same:
                asked = replace(asked, reasked=asked.reasked or same[0].reasked)
            kept = [*(each for each in found if each.target != asked.target), asked][-spec.max_exchanges :]
            if same and kept == found:
                return
            try:
                await self._put(_EXCHANGES, key, [_written(each) for each in kept], entry, now + spec.exchange_ttl, now)
            except Conflict:
                continue
            return

    async def recall(
        self, upstream: str, browsers: tuple[str, ...], uri: str, state: str | None, now: float
    ) -> AuthorizationRequest | None:
        """The latest request of this browser that an answer to this redirect URI, with this state, may belong to."""
        for browser in browsers:
            _, found = await self._exchanges(self._key(_EXCHANGES, upstream, browser), now)
            fitting = [each for each in found if each.fits(uri, state)] if uri else found[-1:]
            if fitting:
                return fitting[-1]
        return None

    async def began(
        self, upstream: str, browsers: tuple[str, ...], posted: AuthorizationRequest, now: float
    ) -> AuthorizationRequest | None:
        """The latest request of this browser for which the provider may have shown the page whose form says this."""
        for browser in browsers:
            _, found = await self._exchanges(self._key(_EXCHANGES, upstream, browser), now)
            fitting = [each for each in found if posted.follows(each)]
            if fitting:
                return fitting[-1]
        return None

    async def _exchanges(self, key: str, now: float) -> tuple[Entry | None, list[AuthorizationRequest]]:
        entry = await self._state.get(_EXCHANGES, key, now)
        return entry, [_read(each) for each in self._opened(_EXCHANGES, key, entry) or ()]

    # -- pushed ones ------------------------------------------------------------------------------------------------------

    async def push(self, upstream: str, request_uri: str, asked: AuthorizationRequest, *, expires: float, now: float) -> None:
        key = self._key(_PUSHED, upstream, request_uri)
        await self._put(_PUSHED, key, _written(asked), await self._state.get(_PUSHED, key, now), expires, now)

    async def pushed(self, upstream: str, request_uri: str, now: float) -> AuthorizationRequest | None:
        key = self._key(_PUSHED, upstream, request_uri)
        found = self._opened(_PUSHED, key, await self._state.get(_PUSHED, key, now))
        return None if found is None else _read(found)

    # -- what was passed, under the provider's session --------------------------------------------------------------------

    async def passed(self, upstream: str, cookie: tuple[str, str], origin: str, now: float) -> Pass | None:
        """The pass that was kept under a session cookie (name, value), where it still counts. Revocation is the caller's."""
        for mac in self._vault.macs(_PASSED, _plain(upstream, *cookie)):
            key = b64encode(mac)
            value = self._opened(_PASSED, key, await self._state.get(_PASSED, key, now))
            if value is not None:
                spec = self._passes
                held = read_pass(value, self._vault, origin=origin, now=now, max_age=spec.max_age, idle=spec.idle)
                return held if isinstance(held, Pass) else None
        return None

    async def keep(self, upstream: str, cookie: tuple[str, str], held: Pass, now: float) -> None:
        """Keep a pass under a session cookie, as long as it would live in a browser."""
        value = sign_pass(replace(held, seen=now, grant=""), self._vault, now)
        if value is None:
            return
        key = self._key(_PASSED, upstream, *cookie)
        expires = min(held.issued + self._passes.max_age, now + self._passes.idle)
        await self._put(_PASSED, key, value, await self._state.get(_PASSED, key, now), expires, now)

    async def rotate(self, upstream: str, old: tuple[str, str], new: tuple[str, str] | None, now: float) -> None:
        """The provider gave its session another value (None: it ended it). What was kept goes along; the old value counts 10 s more."""
        key = self._key(_PASSED, upstream, *old)
        entry = await self._state.get(_PASSED, key, now)
        value = self._opened(_PASSED, key, entry)
        if entry is None or value is None:
            return
        if new is None:
            await self._state.delete(_PASSED, key)
            return
        successor = self._key(_PASSED, upstream, *new)
        await self._put(_PASSED, successor, value, await self._state.get(_PASSED, successor, now), now + self._passes.idle, now)
        await self._put(_PASSED, key, value, entry, now + _ROTATED, now)

    # -- odds -------------------------------------------------------------------------------------------------------------

    def _key(self, space: str, *parts: str) -> str:
        return b64encode(self._vault.mac(space, _plain(*parts)))

    async def _put(self, space: str, key: str, value: Any, entry: Entry | None, expires: float, now: float) -> None:
        sealed = self._vault.seal(space, json.dumps(value).encode(), place=f"{space}/{key}")
        try:
            await self._state.put(space, key, sealed, version=entry.version if entry else 0, expires=expires, now=now)
        except Conflict:
            if space == _EXCHANGES:
                raise  # another tab's must not be lost; of the others the first is as good as the last

    def _opened(self, space: str, key: str, entry: Entry | None) -> Any:
        """What was sealed there; None where there is nothing, or nothing that our keys open."""
        if entry is None:
            return None
        try:
            return json.loads(self._vault.open(space, entry.value, place=f"{space}/{key}"))
        except SealBroken:
            return None


def _plain(*parts: str) -> bytes:
    """Unambiguous: JSON quotes what could run together."""
    return json.dumps(parts).encode("ascii")


def _written(asked: AuthorizationRequest) -> dict[str, Any]:
    return {
        "target": base64.b64encode(asked.target).decode("ascii"), "extra": asked.extra, "readable": asked.readable, "pushed": asked.pushed,
        "reasked": asked.reasked,
    }  # fmt: skip


def _read(value: dict[str, Any]) -> AuthorizationRequest:
    extra = tuple((name, text) for name, text in value["extra"])
    target = base64.b64decode(value["target"])
    return AuthorizationRequest(target, extra, value["readable"], value["pushed"], value["reasked"])


def sessions(spec: OAuthSpec, head: RequestHead) -> tuple[tuple[str, str], ...]:
    """The provider's session cookies in a request, as (name, value); one that stands there twice is none."""
    pairs = parse_cookies(head)
    return tuple((name, value) for name in spec.session_cookie if (value := one(pairs, name)))
