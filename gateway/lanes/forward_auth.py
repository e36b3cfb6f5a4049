"""Answers proxies that ask for the decision and forward by themselves: nginx auth_request, Traefik, Caddy, Envoy ext_authz.

The request that a proxy holds back goes through the very same gate as one that the gateway forwards itself. Whoever is not the proxy finds
nothing here. Only `Allow` is answered with a status that lets a request pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from aiohttp import web

from gateway.flow.asked import Asked
from gateway.flow.cookies import PassCookies
from gateway.flow.gate import Judged
from gateway.flow.identity import Identified
from gateway.flow.ports import Entropy
from gateway.flow.sessions import Sessions
from gateway.flow.trail import Trail
from gateway.lanes.answer import Answer
from gateway.lanes.answers import Answers
from gateway.lanes.connection import Sent
from gateway.lanes.relay import Relay, Upstream
from gateway.lanes.server import Handler, raw_target
from gateway.lanes.slow import SlowLane
from gateway.lanes.upstream import ResponseHead
from gateway.policy.facts import Body, BodyUnavailable
from gateway.spec.sections import ForwardAuthSpec, LimitsSpec
from gateway.wire.forward_auth import Integration, Premises, Refused, allow_headers, body_sent, carried, integration_of, original_head
from gateway.wire.forwarding import is_trusted
from gateway.wire.head import Headers, lowered

ENDPOINT = "forward-auth"


def integrations(spec: Mapping[str, ForwardAuthSpec], prefix: str) -> tuple[Integration, ...]:
    """The proxies of the settings."""
    mount = f"{prefix}/{ENDPOINT}".encode("ascii")
    return tuple(
        Integration(name, proxy.dialect) if proxy.secret is None else Integration(name, proxy.dialect, proxy.secret.encode("ascii"), mount)
        for name, proxy in spec.items()
    )


class ForwardAuth:
    def __init__(
        self, *, lane: SlowLane, proxies: Sequence[Integration], premises: Premises, relay: Relay, sessions: Sessions, passes: PassCookies,
        upstreams: Callable[[], Mapping[str, Upstream]], answers: Answers, trail: Trail, entropy: Entropy, clock: Callable[[], float],
        limits: LimitsSpec,
    ) -> None:  # fmt: skip
        self._lane = lane
        self.proxies = {each.name: each for each in proxies}
        self.with_secret = tuple(each for each in proxies if each.secret is not None)
        self._premises = premises
        self._relay = relay
        self._sessions = sessions
        self._passes = passes
        self._upstreams = upstreams
        self._answers = answers
        self._trail = trail
        self._entropy = entropy
        self._clock = clock
        self._limits = limits

    async def public(self, request: web.BaseRequest) -> web.StreamResponse:
        """The public listener: a proxy with its secret, and everybody else."""
        proxy = integration_of(self.with_secret, raw_target(request), request.raw_headers) if self.with_secret else None
        return await self._lane.handle(request) if proxy is None else await self._answer(request, proxy)

    def listener(self, name: str) -> Handler:
        """For the listener of one proxy's own."""
        proxy = self.proxies[name]

        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            return await self._answer(request, proxy)

        return handle

    async def _answer(self, request: web.BaseRequest, proxy: Integration) -> web.StreamResponse:
        request_id = self._entropy.token()[:12]
        headers = tuple(request.raw_headers)
        head = original_head(proxy, request.method, raw_target(request), headers, request.remote or "", self._premises)
        if isinstance(head, Refused):
            self._trail.event("refused", request_id=request_id, kind="forward_auth", reason=f"{proxy.name}: {head.private}")
            return await self._carried(request, proxy, self._answers.bare(403, "denied", request_id), "")
        asked = Asked(head, request_id, self._clock())
        whole = body_sent(proxy.dialect, headers)
        incoming = self._lane.body(request)

        async def nothing() -> Body | BodyUnavailable:
            return BodyUnavailable("the proxy did not send the body, or not all of it")

        async def let_pass(judged: Judged, steps: tuple[str, ...], *, gated: bool) -> web.StreamResponse:
            login_body = None
            if whole and (source := self._relay.source(judged)) is not None and source.is_login(head):
                peeked = await incoming.peek(self._limits.condition_body)
                login_body = peeked.data if peeked.whole else None
            allowed = await self._allow(proxy, asked, judged, steps, gated=gated, login_body=login_body)
            return await _sent(request, 200, allowed, b"", self._limits)

        reader = self._lane.reader(asked, incoming) if whole else nothing
        answer = await self._lane.guarded(asked, self._lane.decided(asked, incoming, reader, let_pass, kept=whole))
        return answer if isinstance(answer, Sent) else await self._carried(request, proxy, answer, head.origin)

    async def _allow(
        self, proxy: Integration, asked: Asked, judged: Judged, steps: tuple[str, ...], *, gated: bool, login_body: bytes | None
    ) -> Headers:
        """`allowed`, and before it what a login on its way means for the pass. May raise StoreUnavailable (a pass that must end first)."""
        source, identified = self._relay.source(judged), judged.identified
        if source is not None and judged.route is not None and source.is_login(asked.head):
            _, identified = await self._sessions.before_login(asked, asked.head, judged.route.upstream, identified, login_body)
        return self.allowed(proxy, asked, judged, identified, steps, gated=gated)

    def allowed(
        self, proxy: Integration, asked: Asked, judged: Judged, identified: Identified, steps: tuple[str, ...], *, gated: bool
    ) -> Headers:
        """The headers of the 200 for a request that may pass. gated, steps: of the decision. Not for a login path, unless `before_login`
        was asked first: identified is what it left."""
        assert judged.route is not None, "what has no route is refused"  # noqa: S101 - decide() never allows it
        head, source, held = asked.head, self._relay.source(judged), identified.holder
        renewed = self._passes.issue(head, replace(held, seen=asked.now), asked.now) if held and self._passes.due(held, asked.now) else None
        return allow_headers(
            proxy,
            head,
            token=self._relay.token(head, judged, identified, steps, asked.now) if (gated and steps) or judged.claims else b"",
            subject=identified.subject.id,
            strip=identified.strip,
            session_cookies=source.cookie_names if source else frozenset(),
            identity=self._upstreams()[judged.route.upstream].identity,
            trusted=is_trusted(head.peer, self._premises.trusted),
            cookies=() if renewed is None else (renewed,),
        )

    async def _carried(self, request: web.BaseRequest, proxy: Integration, answer: web.StreamResponse, origin: str) -> web.StreamResponse:
        """An answer of the lane that is no `Allow`."""
        body = answer.body if isinstance(answer, web.Response) else None
        headers = tuple((name.encode("ascii"), value.encode("latin-1")) for name, value in answer.headers.items())
        status, headers, data = carried(proxy, answer.status, headers, body if isinstance(body, bytes) else b"", origin)
        return await _sent(request, status, headers, data, self._limits)


async def _sent(request: web.BaseRequest, status: int, headers: Headers, body: bytes, limits: LimitsSpec) -> Sent:
    """Bytes as they are: aiohttp would write a header's value anew, as UTF-8."""
    answer = Answer(request, write_idle=limits.write_idle_timeout)
    framed = (*((n, v) for n, v in headers if n.lower() != b"content-length"), (b"Content-Length", b"%d" % len(body)))
    answer.start(ResponseHead(status, _REASONS.get(status, b""), framed, b"1.1", lowered(framed)), framed, last=False)
    if body and request.method != "HEAD":
        await answer.write(body)
    await answer.finish()
    return Sent(status, keep_alive=answer.keep_alive)


_REASONS = {200: b"OK", 303: b"See Other", 401: b"Unauthorized", 403: b"Forbidden", 503: b"Service Unavailable"}
