"""Forwards what was allowed, and reads the answer on its way back: logins are learned, sessions vouched for, the pass kept.

Headers are edited, bytes are not. A login that a transaction waited for leads back to it, the login's own cookies kept.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from aiohttp import web

from gateway.errors import StoreUnavailable
from gateway.flow.asked import Asked
from gateway.flow.browser import known_browser
from gateway.flow.gate import Judged
from gateway.flow.identity import Identified, Login, SessionSource
from gateway.flow.issuer import Issuer
from gateway.flow.repository import Transactions, transaction_id
from gateway.flow.sessions import After, Sessions
from gateway.flow.traffic import UpstreamTraffic
from gateway.lanes.answers import Answers
from gateway.lanes.body import Body, ClientBody, GivenBody
from gateway.lanes.forward import Exchange, Hold, Relayed, forward
from gateway.lanes.intercept import TAKEN, Interceptor, Seen
from gateway.lanes.pool import UpstreamPool
from gateway.lanes.tunnels import Tunnels
from gateway.lanes.upstream import ResponseHead, UpstreamConnection
from gateway.spec.sections import LimitsSpec
from gateway.tokens.passes import Pass
from gateway.wire.forwarding import Networks, is_trusted
from gateway.wire.head import Headers, RequestHead
from gateway.wire.headers import Rewrite, request_for_upstream, response_for_client
from gateway.wire.media import navigation
from gateway.wire.subject import Proof

TOKEN_HEADER = b"X-Stepup-Token"


class Diverted(Exception):
    def __init__(self, response: web.Response) -> None:
        super().__init__("answer replaced")
        self.response = response


class Watch(Protocol):
    """Whoever looks into one answer of an upstream before the client gets any of it. `head` and `held` return the headers that the client
    shall get, or raise Diverted."""

    quiet: bool
    """The client gets no pass of ours with this answer."""

    def request(self, headers: Headers) -> Headers:
        """The headers of the request, for an answer that can be read."""

    async def head(self, answer: ResponseHead, edited: Headers, after: After) -> Headers: ...

    def hold(self, answer: ResponseHead) -> Hold | None:
        """Whether its body is to be held, and how much of it. Asked behind `head`."""

    async def held(self, answer: ResponseHead, edited: Headers, body: bytes, whole: bool) -> Headers: ...


Watcher = Callable[[Asked, RequestHead, Judged], Awaitable[Watch | None]]
"""Gets a request that is about to go out (the second is what the upstream gets); None: its answer passes unseen."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """One upstream as the lane uses it. identity: configured identity headers, folded; nobody but a trusted proxy may send them."""

    pool: UpstreamPool
    rewrite: Rewrite | None
    identity: frozenset[bytes]
    traffic: UpstreamTraffic


class Relay:
    def __init__(
        self, *, upstreams: Callable[[], dict[str, Upstream]], sessions: Sessions, issuer: Issuer, transactions: Transactions,
        answers: Answers, limits: LimitsSpec, trusted: Networks, tunnels: Tunnels, intercepts: Interceptor, watcher: Watcher,
    ) -> None:  # fmt: skip
        self._intercepts = intercepts
        self._watcher = watcher
        self._tunnels = tunnels
        self._upstreams = upstreams
        self._sessions = sessions
        self._issuer = issuer
        self._transactions = transactions
        self._answers = answers
        self._limits = limits
        self._trusted = trusted

    def source(self, judged: Judged) -> SessionSource | None:
        return self._sessions.source(judged.route.upstream) if judged.route else None

    def pool(self, upstream: str) -> UpstreamPool:
        return self._upstreams()[upstream].pool

    def upstream(self, name: str) -> Upstream:
        return self._upstreams()[name]

    def outgoing(self, asked: Asked, judged: Judged, identified: Identified, steps: tuple[str, ...]) -> Headers:
        """The header fields of a request as its upstream gets them, for a caller that sends it by itself."""
        assert judged.route is not None, "what has no route is refused"  # noqa: S101 - decide() never allows it
        upstream = self._upstreams()[judged.route.upstream]
        return self._headers(asked, asked.head, judged, identified, upstream, steps=steps, gated=True)

    async def incoming(self, asked: Asked, judged: Judged, identified: Identified, answer: ResponseHead, *, gated: bool) -> Headers:
        """The header fields of an answer to it as the client gets them."""
        assert judged.route is not None, "what has no route is refused"  # noqa: S101 - decide() never allows it
        upstream = self._upstreams()[judged.route.upstream]
        return await self._on_head(asked, asked.head, judged, upstream, identified, None, None, None, gated=gated)(answer)

    async def forward(
        self, request: web.BaseRequest, asked: Asked, judged: Judged, incoming: ClientBody, *, steps: tuple[str, ...], gated: bool
    ) -> Relayed:
        """Send an allowed request on. May raise StoreUnavailable (a pass that must end first), ClientGone, UpstreamFault, BodyTooLarge."""
        source = self.source(judged)
        body: bytes | None = None
        is_login = source is not None and source.is_login(asked.head)
        if is_login:
            incoming.check()
            peeked = await incoming.peek(self._limits.condition_body)
            body = peeked.data if peeked.whole else None
        return await self._send(
            request, asked, asked.head, judged, incoming, body if is_login else None, is_login=is_login, steps=steps, gated=gated
        )

    async def replay(
        self,
        request: web.BaseRequest,
        asked: Asked,
        head: RequestHead,
        judged: Judged,
        body: bytes,
        connection: UpstreamConnection,
        *,
        steps: tuple[str, ...],
        answered: Callable[[], Awaitable[None]],
    ) -> Relayed:
        """Send a stored request on a connection of its own: never retried, and not given up when the client goes.

        answered: called once, when the head of the upstream's answer is there and before the client gets any of it.
        """
        source = self.source(judged)
        is_login = source is not None and source.is_login(head)
        return await self._send(
            request,
            asked,
            head,
            judged,
            GivenBody(body),
            body if is_login else None,
            is_login=is_login,
            steps=steps,
            gated=True,
            connection=connection,
            answered=answered,
        )

    async def _send(
        self, request: web.BaseRequest, asked: Asked, head: RequestHead, judged: Judged, body: Body, login_body: bytes | None, *,
        is_login: bool, steps: tuple[str, ...], gated: bool, connection: UpstreamConnection | None = None,
        answered: Callable[[], Awaitable[None]] | None = None,
    ) -> Relayed:  # fmt: skip
        assert judged.route is not None, "what has no route is refused"  # noqa: S101 - decide() never allows it
        name = judged.route.upstream
        upstream = self._upstreams()[name]
        identified, login = judged.identified, None
        if is_login:
            try:
                login, identified = await self._sessions.before_login(asked, head, name, identified, login_body)
            except BaseException:
                if connection is not None:
                    upstream.pool.release(connection)
                raise
        watch = await self._watcher(asked, head, judged)
        headers = self._headers(asked, head, judged, identified, upstream, steps=steps, gated=gated)
        exchange = Exchange(
            method=head.method,
            target=head.target.raw,
            headers=headers if watch is None else watch.request(headers),
            body=body,
            on_head=self._on_head(asked, head, judged, upstream, identified, login, answered, watch, gated=gated),
            hold=watch.hold if watch is not None else None,
            on_held=watch.held if watch is not None else None,
            outlive=connection is not None,
            on_tunnel=partial(self._tunnels.watch, judged, asked.now),
            traffic=upstream.traffic,
        )
        return await forward(request, exchange, upstream.pool, self._limits, connection=connection)

    def _headers(
        self,
        asked: Asked,
        head: RequestHead,
        judged: Judged,
        identified: Identified,
        upstream: Upstream,
        *,
        steps: tuple[str, ...],
        gated: bool,
    ) -> Headers:
        source = self._sessions.source(judged.route.upstream) if judged.route else None
        added: list[tuple[bytes, bytes]] = []
        if (gated and steps) or judged.claims:
            added.append((TOKEN_HEADER, self.token(head, judged, identified, steps, asked.now)))
        if _upgrades(head):
            added += [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
        trusted = is_trusted(asked.head.peer, self._trusted)
        return upstream_fields(head, identified, upstream, source, trusted=trusted, added=tuple(added))

    def token(self, head: RequestHead, judged: Judged, identified: Identified, steps: tuple[str, ...], now: float) -> bytes:
        """The upstream token for a request that these steps let through, or that rule functions say something about."""
        known = {**judged.facts.proofs, **judged.facts.granted}
        proofs: dict[str, Proof] = {s: known[s] for s in steps if s in known}
        holder: Pass | None = identified.holder
        upstream = judged.route.upstream if judged.route else ""
        made = self._issuer.upstream_token(
            holder, identified.subject, proofs, origin=head.origin, upstream=upstream, now=now, claims=judged.claims
        )
        return made.encode("ascii")

    def _on_head(
        self, asked: Asked, head: RequestHead, judged: Judged, upstream: Upstream, identified: Identified, login: Login | None,
        answered: Callable[[], Awaitable[None]] | None, watch: Watch | None, *, gated: bool,
    ) -> Callable[[ResponseHead], Awaitable[Headers]]:  # fmt: skip
        name = judged.route.upstream if judged.route else ""
        watched = self._intercepts.watches(name)

        async def edit(answer: ResponseHead) -> Headers:
            if answered is not None:
                await answered()
            after = await self._sessions.after_answer(asked, head, name, identified, login, answer.status, answer.headers)
            cookies = () if watch is not None and watch.quiet else tuple((b"Set-Cookie", c) for c in after.cookies)
            rewrite = replace(upstream.rewrite, public=asked.head.origin) if upstream.rewrite else None
            edited = response_for_client(answer.headers, names=answer.names, gated=gated, rewrite=rewrite, added=cookies)
            if answer.status == 101:
                edited = (*edited, (b"Connection", b"Upgrade"), (b"Upgrade", b"websocket"))
            if watched and answer.status in TAKEN:
                who = after.identified or identified
                seen = Seen(asked, head, name, who, judged.facts.granted, answer.status, edited)
                if (taken := await self._intercepts.take(seen)) is not None:
                    raise Diverted(taken)
            if after.learned and navigation(asked.head) == "navigation" and (state := await self._waiting(asked)) is not None:
                given = tuple(v for n, v in edited if n.lower() == b"set-cookie")
                raise Diverted(self._answers.see_other(self._answers.transaction_path(state), given))
            return edited if watch is None else await watch.head(answer, edited, after)

        return edit

    async def _waiting(self, asked: Asked) -> str | None:
        """The state of the transaction that waited for this browser's login. A store that is away costs the way back, not the login."""
        for secret in known_browser(asked.head):
            for binding in self._transactions.bindings(secret):
                try:
                    state = await self._transactions.recall("waiting", binding, asked.now, once=True)
                    found = await self._transactions.load(transaction_id(state), asked.now) if state is not None else None
                except StoreUnavailable:
                    return None
                if found is not None and found.transaction.open:
                    return state
        return None


def upstream_fields(
    head: RequestHead, identified: Identified, upstream: Upstream, source: SessionSource | None, *, trusted: bool, added: Headers = ()
) -> Headers:
    """The header fields of a request as this upstream gets them. trusted: its peer may speak for others; added: ours, at the end."""
    return request_for_upstream(
        head,
        host=(head.get("host") or head.host).encode("latin-1"),
        trusted=trusted,
        identity=upstream.identity,
        drop_cookies=identified.strip,
        session_cookies=source.cookie_names if source else frozenset(),
        added=added,
    )


def _upgrades(head: RequestHead) -> bool:
    """Only WebSocket upgrades are carried (RFC 9110 §7.8: a proxy may ignore others)."""
    return (head.get("upgrade") or "").strip().lower() == "websocket"
