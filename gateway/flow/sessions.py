"""What an upstream's answer, or a step that acted at the upstream, does to the pass: cookies to send, passes to revoke.

Revoking after an answer is best effort: the answer is on its way, and the pass's own bounds still hold. Revoking before a request
(a second name on a living session) is not.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Protocol

from gateway.errors import GatewayError, StoreUnavailable
from gateway.flow.asked import Asked
from gateway.flow.cookies import PassCookies
from gateway.flow.identity import Identified, Identity, Login, SessionSource, by_pass_alone
from gateway.flow.issuer import Issuer
from gateway.flow.trail import Trail
from gateway.spec.sections import PassSpec
from gateway.tokens.passes import Pass
from gateway.wire.cookies import format_set_cookie, names_ours, parse_cookies
from gateway.wire.head import Headers, RequestHead

Errand = Callable[[str, str, RequestHead, tuple[tuple[str, str], ...]], Awaitable[Headers]]
"""(upstream, path, the user's head, cookies): a GET at the upstream in the user's name; the answer's headers."""


class Revoker(Protocol):
    async def revoke(self, sid: str, *, until: float, now: float) -> None: ...


@dataclass(frozen=True, slots=True)
class After:
    """cookies: Set-Cookie values of ours to send. learned: a login just succeeded. identified: who is known from this answer on, None where
    it is who was known before. held: the pass from now on."""

    cookies: tuple[bytes, ...] = ()
    learned: bool = False
    identified: Identified | None = None
    held: Pass | None = None


@dataclass(frozen=True, slots=True)
class Parting:
    """How an app session was ended: Set-Cookie values to send, and where to log in again."""

    cookies: tuple[bytes, ...]
    login_url: str


def _arrives(identified: Identified, source: SessionSource) -> bool:
    """The subject comes with each request (a header, a token): no answer changes who it is."""
    return identified.subject.known and identified.subject.source != source.name


class Sessions:
    def __init__(
        self,
        *,
        identity: Callable[[], Identity],
        issuer: Issuer,
        passes: PassCookies,
        revoker: Revoker,
        errand: Errand,
        trail: Trail,
        spec: PassSpec,
        forgotten: Callable[[str, float], Awaitable[None]],
    ) -> None:
        """forgotten: told of a pass (its sid) that its owner takes back, and when; may raise StoreUnavailable."""
        self._forgotten = forgotten
        self._identity = identity
        self._issuer = issuer
        self._passes = passes
        self._revoker = revoker
        self._errand = errand
        self._trail = trail
        self._spec = spec

    def source(self, upstream: str) -> SessionSource | None:
        return self._identity().session_source(upstream)

    async def before_login(
        self, asked: Asked, head: RequestHead, upstream: str, identified: Identified, body: bytes | None
    ) -> tuple[Login | None, Identified]:
        """Read a login on its way. Another name on a living session ends the pass first; raises StoreUnavailable when it cannot.

        body: None where it could not be read whole.
        """
        source = self.source(upstream)
        if source is None:
            return None, identified
        login = source.read_login(head, body)
        if not source.second_name(login, identified) or identified.holder is None:
            return login, identified
        await self._revoker.revoke(identified.holder.sid, until=identified.holder.issued + self._spec.max_age, now=asked.now)
        self._trail.event("pass voided", request_id=asked.request_id, reason="a second name on one session", subject=identified.subject.id)
        return login, Identified(strip=source.cookie_names, note="pass voided: a second name on one session")

    async def after_answer(
        self, asked: Asked, head: RequestHead, upstream: str, identified: Identified, login: Login | None, status: int, headers: Headers
    ) -> After:
        """Read an answer of the upstream (or of a step that acted there): `head` is the request it answers."""
        source = self.source(upstream)
        held = identified.holder
        if source is None:
            if held is None or not self._passes.due(held, asked.now):
                return After(held=held)
            held = replace(held, seen=asked.now)
            return After((self._passes.issue(asked.head, held, asked.now),), held=held)
        observed = await source.observe(head, identified, login, status, headers, asked.now, self._issuer.new_sid())
        if observed.learned and observed.pass_ is not None:
            self._trail.event("login", request_id=asked.request_id, subject=observed.pass_.subject.id, upstream=upstream)
        await self._revoke(asked, observed.revoke)
        if observed.pass_ is not None and (observed.changed or self._passes.due(observed.pass_, asked.now)):
            seen = replace(observed.pass_, seen=asked.now)
            cookies = (self._passes.issue(asked.head, seen, asked.now),)
            now = by_pass_alone(observed.pass_) if observed.changed else None
            return After(cookies, observed.learned, now if now is None or not _arrives(identified, source) else identified, seen)
        if observed.changed:
            return After((self._passes.clear(asked.head),), identified=identified if _arrives(identified, source) else Identified())
        return After(held=observed.pass_)

    async def end(self, asked: Asked, upstream: str, identified: Identified) -> Parting:
        """End the app session: log out at the upstream where a path for that is configured, forget the session here and in the browser."""
        source = self.source(upstream)
        if source is None:
            return Parting((self._passes.clear(asked.head),), "/")
        cookies = tuple((n, v) for n, v in parse_cookies(asked.head) if n in source.cookie_names and n not in identified.strip)
        relayed: tuple[bytes, ...] = ()
        if source.logout_path is not None and cookies:
            try:
                headers = await self._errand(upstream, source.logout_path, asked.head, cookies)
                relayed = tuple(
                    v
                    for n, v in headers
                    if n.lower() == b"set-cookie"
                    and not names_ours(v)
                    and v.partition(b"=")[0].strip().decode("latin-1") not in source.cookie_names
                )
            except GatewayError as error:
                self._trail.event("logout failed", request_id=asked.request_id, upstream=upstream, reason=str(error))
        await self._revoke(asked, identified.holder.sid if identified.holder else None)
        secure = asked.head.scheme == "https"
        forgotten = tuple(format_set_cookie(n, "", secure=secure, max_age=0) for n, _ in cookies)
        return Parting((*relayed, *forgotten, self._passes.clear(asked.head)), source.login_url)

    async def forget(self, asked: Asked, identified: Identified) -> bytes:
        """Revoke the pass that came along, wherever it is. Raises StoreUnavailable when it cannot be made known."""
        if identified.presented is not None:
            await self._forgotten(identified.presented.sid, asked.now)
            await self._revoker.revoke(identified.presented.sid, until=asked.now + self._spec.max_age, now=asked.now)
        return self._passes.clear(asked.head)

    async def _revoke(self, asked: Asked, sid: str | None) -> None:
        if sid is None:
            return
        try:
            await self._revoker.revoke(sid, until=asked.now + self._spec.max_age, now=asked.now)
        except StoreUnavailable as error:
            self._trail.event("revocation not stored", request_id=asked.request_id, reason=str(error))
