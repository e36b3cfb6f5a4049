"""One exchange: a client's request to an upstream and its answer back, bytes as they come, nothing held beyond bounds.

Retried once, on a fresh connection, and only when a kept connection turned out dead, nothing of an answer came, the method
is idempotent (RFC 9110 §9.2.2) and nothing of a body was taken. A caller that brings its own connection (a replay) is never retried.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from time import perf_counter

from aiohttp.web_request import BaseRequest

from gateway.errors import BodyTooLarge, ClientGone, GatewayError, UpstreamBroke, UpstreamFault, UpstreamTimeout
from gateway.flow.traffic import UpstreamTraffic
from gateway.lanes.answer import Answer
from gateway.lanes.body import Body
from gateway.lanes.connection import Connection, Sent, connection_of
from gateway.lanes.pool import UpstreamPool
from gateway.lanes.tunnel import Tunnel
from gateway.lanes.upstream import ResponseHead, UpstreamConnection
from gateway.spec.sections import LimitsSpec, UpstreamSpec
from gateway.wire.head import Headers

_TOUCHED = (b"\ntransfer-encoding\n", b"\ncontent-length\n", b"\nconnection\n", b"\nupgrade\n")
IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})


@dataclass(frozen=True, slots=True)
class Hold:
    """How much of an answer's body is held at most, in bytes, and for how long it may take to arrive, in seconds."""

    limit: int
    timeout: float


@dataclass(frozen=True, slots=True)
class Exchange:
    """What to send and what to do with the answer.

    headers: as they shall go out, in order. `Content-Length` and `Transfer-Encoding` are set here to fit `body`, `Host`
    by the upstream's `host_header`; an `Upgrade` the client's connection cannot carry is dropped.
    on_head: gets the head of the answer (also of a 101) as it came and returns the headers that the client shall get.
    outlive: a client that goes does not end the exchange; the answer is then read and dropped.
    on_tunnel: gets the handle of a tunnel before bytes flow.
    hold: says whether the body of an answer is read before the client gets any of it. on_held: gets the head, the headers that `on_head`
    made, what was read, and whether that is all; it returns the headers that the client shall get.
    traffic: where the exchange is counted.
    """

    method: str
    target: bytes
    headers: Headers
    body: Body
    on_head: Callable[[ResponseHead], Awaitable[Headers]]
    outlive: bool = False
    on_tunnel: Callable[[Tunnel], None] | None = None
    hold: Callable[[ResponseHead], Hold | None] | None = None
    on_held: Callable[[ResponseHead, Headers, bytes, bool], Awaitable[Headers]] | None = None
    traffic: UpstreamTraffic = field(default_factory=UpstreamTraffic)


class Relayed(Sent):
    """An answer that was sent on. `fault` is None when it was whole, ClientGone or an UpstreamFault when it broke off after
    its head; `sent` counts the bytes of its body."""

    def __init__(self, head: ResponseHead, *, keep_alive: bool, sent: int, fault: GatewayError | None) -> None:
        super().__init__(head.status, head.reason.decode("latin-1"), keep_alive=keep_alive)
        self.sent = sent
        self.fault = fault


async def forward(
    request: BaseRequest, exchange: Exchange, pool: UpstreamPool, limits: LimitsSpec, *, connection: UpstreamConnection | None = None
) -> Relayed:
    """Send `exchange` to the upstream of `pool` and its answer to the client of `request`. Returns when the answer is out.

    `connection` must come from `pool.acquire`; forward releases it in any case.
    Before the head of an answer has come, or while it is held: raises UpstreamUnreachable (nothing was sent), UpstreamBroke,
    UpstreamTimeout, BodyTooLarge, BodyTimeout, ClientGone, BadTarget; the client has got nothing but 1xx then and can be answered.
    Behind it nothing of these is raised: the client's connection is cut and `Relayed.fault` says why.
    """
    given = connection is not None
    began = perf_counter()
    try:
        exchange.body.check()
        if connection is None:
            connection = await pool.acquire()
    except BaseException:
        if connection is not None:
            pool.release(connection)
        raise
    try:
        return await _Attempt(request, exchange, pool, limits, connection, began).run()
    except UpstreamBroke:
        repeatable = exchange.method in IDEMPOTENT and (not exchange.body.present or exchange.body.untouched)
        if given or not connection.reused or connection.responded or not repeatable:
            raise
    exchange.traffic.retries += 1
    return await _Attempt(request, exchange, pool, limits, await pool.acquire(fresh=True), began).run()


def prepare(exchange: Exchange, spec: UpstreamSpec, authority: str, *, upgrade: bool) -> Headers:
    """The exchange's headers with Host, framing and, unless `upgrade`, no switch of protocols."""
    body = exchange.body
    host = {"keep": None, "rewrite": authority}.get(spec.host_header, spec.host_header)
    return framed(exchange.headers, host=host, present=body.present, length=body.length, upgrade=upgrade)


def framed(headers: Headers, *, host: str | None, present: bool, length: int | None, upgrade: bool) -> Headers:
    """Header fields with this Host (None: as it is) and the framing of a body. `present`: bytes may follow; `length`: how many, None for
    chunks."""
    names = b"\n".join([b"", *[name for name, _ in headers], b""]).lower()
    if host is None and not present and not upgrade and not any(map(names.__contains__, _TOUCHED)):
        return headers  # nothing to touch: most requests
    out: list[tuple[bytes, bytes]] = []
    sized = False
    for name, value in headers:
        match name.lower():
            case b"transfer-encoding":
                continue
            case b"content-length" if sized or length is None or value != b"%d" % length:
                continue
            case b"content-length":
                sized = True
                out.append((name, value))
            case b"host" if host is not None:
                out.append((name, host.encode("ascii")))
            case b"upgrade" | b"connection" if not upgrade:
                continue
            case _:
                out.append((name, value))
    if present and length is None:
        out.append((b"Transfer-Encoding", b"chunked"))
    elif present and not sized:
        out.append((b"Content-Length", b"%d" % (length or 0)))
    return tuple(out)


class _Attempt:
    """One try on one connection; it releases the connection."""

    def __init__(
        self, request: BaseRequest, exchange: Exchange, pool: UpstreamPool, limits: LimitsSpec, connection: UpstreamConnection, began: float
    ) -> None:
        self._request = request
        self._exchange = exchange
        self._pool = pool
        self._spec = pool.spec
        self._limits = limits
        self._upstream = connection
        self._began = began
        self._uploaded = 0
        self._gone: ClientGone | None = None
        self._failed = False
        self._answered = False
        self._upload: asyncio.Task[None] | None = None
        self._timers: list[asyncio.TimerHandle] = []
        self._client: Connection | None = None
        self._answer: Answer | None = None
        try:
            self._client = connection_of(request)
            self._answer = Answer(request, write_idle=limits.write_idle_timeout)
        except ClientGone as gone:
            self._gone = gone

    async def run(self) -> Relayed:
        try:
            if self._client is None or self._client.transport is None:
                self._client_lost()
            else:
                self._client.on_lost = self._client_lost
            if self._spec.total_timeout is not None:
                self._abort_after(self._spec.total_timeout, "not complete within")
            head = await self._head()
            return await self._pass_on(head)
        finally:
            if self._client is not None:
                self._client.on_lost = None
            self._upstream.alarm.clear()
            for timer in self._timers:
                timer.cancel()
            if self._upload is not None:
                self._upload.cancel()
                await asyncio.gather(self._upload, return_exceptions=True)
            self._pool.release(self._upstream, failed=self._failed)

    async def _pass_on(self, head: ResponseHead) -> Relayed:
        answered = done = perf_counter()
        relayed: Relayed | None = None
        try:
            headers = await self._exchange.on_head(head)
            done = perf_counter()
            if head.status != 101:
                relayed = await self._relay(head, headers)
                return relayed
        finally:
            own = done - answered + (self._began - self._client.began if self._client is not None else 0.0)
            received = relayed.sent if relayed is not None else 0
            self._exchange.traffic.exchange(head.status, answered - self._began, own, self._uploaded, received)
        return await self._tunnel(head, headers)

    async def _head(self) -> ResponseHead:
        exchange, body = self._exchange, self._exchange.body
        upgrade = self._client is not None and self._client.upgrading and any(name.lower() == b"upgrade" for name, _ in exchange.headers)
        headers = prepare(exchange, self._spec, self._upstream.endpoint.authority, upgrade=upgrade)
        chunked = body.present and body.length is None
        try:
            self._upstream.send_head(exchange.method, exchange.target, headers, has_body=body.present, chunked=chunked, upgrade=upgrade)
            if body.present:
                self._upload = asyncio.create_task(self._send_body())
            else:
                self._await_first_byte()
            return await self._upstream.response(self._informational)
        except UpstreamFault as fault:
            # A kept connection that was closed meanwhile says nothing about the upstream's health.
            self._failed = isinstance(fault, UpstreamTimeout) or not self._upstream.reused or self._upstream.responded
            raise
        finally:
            self._answered = True

    async def _send_body(self) -> None:
        try:
            while piece := await self._exchange.body.read():
                await self._upstream.send_piece(piece, self._spec.idle_timeout)
                self._uploaded += len(piece)
            self._upstream.send_end()
        except UpstreamBroke:
            pass  # it may have answered before it closed: the reading side finds out
        except GatewayError as error:
            self._upstream.abort(error)
        self._await_first_byte()

    def _await_first_byte(self) -> None:
        if not self._answered:
            self._upstream.alarm.set(self._spec.first_byte_timeout, self._expire_first_byte)

    def _expire_first_byte(self) -> None:
        if not self._answered:
            fault = UpstreamTimeout(f"{self._upstream.endpoint.url}: no answer within {self._spec.first_byte_timeout:g} s")
            self._upstream.abort(fault)

    def _abort_after(self, timeout: float, what: str) -> None:
        fault = UpstreamTimeout(f"{self._upstream.endpoint.url}: {what} {timeout:g} s")
        self._timers.append(asyncio.get_running_loop().call_later(timeout, self._upstream.abort, fault))

    def _client_lost(self) -> None:
        if self._gone is None:
            self._gone = ClientGone("the client closed its connection")
        if not self._exchange.outlive:
            self._upstream.abort(self._gone)
        elif self._spec.total_timeout is None:
            self._abort_after(self._spec.first_byte_timeout, "client gone, and the answer not complete within")

    def _informational(self, head: ResponseHead) -> None:
        if self._answer is None or self._gone is not None or (head.status == 100 and self._exchange.body.continued):
            return
        if self._exchange.hold is not None and head.status != 100:
            return  # whoever looks into the answer does not see these, so they do not leave
        try:
            self._answer.informational(head)
        except ClientGone:
            if not self._exchange.outlive:
                raise

    async def _relay(self, head: ResponseHead, headers: Headers) -> Relayed:
        answer, body = self._answer, self._exchange.body
        fault: GatewayError | None = None
        held: list[bytes | bytearray] = []
        hold = self._exchange.hold(head) if self._exchange.hold is not None else None
        if hold is not None and self._exchange.on_held is not None:
            held, whole = await self._hold(hold)
            headers = await self._exchange.on_held(head, headers, b"".join(held), whole)
        if answer is not None:
            # A client that waits for a 100 and gets a final answer may or may not send its body: nobody can tell what comes next.
            unasked = body.present and body.untouched and "expect" in self._request.headers
            answer.start(head, headers, last=unasked)
        try:
            for early in held:
                await self._pass(early)
            piece = self._upstream.read_ready()
            while piece != b"":
                if piece is None:
                    await self._pass(b"")
                    piece = await self._upstream.read(self._spec.idle_timeout)
                else:
                    await self._pass(piece)
                    piece = self._upstream.read_ready()
            if answer is not None and self._gone is None:
                await answer.finish()
            fault = self._gone
        except (ClientGone, UpstreamFault, BodyTooLarge) as error:
            fault = error
            if answer is not None:
                answer.cut()
        keep_alive = answer is not None and answer.keep_alive
        return Relayed(head, keep_alive=keep_alive, sent=answer.sent if answer is not None else 0, fault=fault)

    async def _hold(self, hold: Hold) -> tuple[list[bytes | bytearray], bool]:
        """What is held of the body, and whether it is all of it."""
        traffic, held, size = self._exchange.traffic, [], 0
        traffic.holding += 1
        try:
            async with asyncio.timeout(hold.timeout):
                while piece := await self._upstream.read(self._spec.idle_timeout):
                    held.append(piece)
                    size += len(piece)
                    if size > hold.limit:
                        return held, False
        except TimeoutError as error:
            raise UpstreamTimeout(
                f"{self._upstream.endpoint.url}: the answer, held to be looked into, did not come in {hold.timeout:g} s"
            ) from error
        finally:
            traffic.holding -= 1
            traffic.held += size
        return held, True

    async def _pass(self, piece: bytes | bytearray) -> None:
        """Bytes of the answer to the client; b"" sends the head alone."""
        if self._answer is None or self._gone is not None:
            return
        try:
            if piece:
                await self._answer.write(piece)
            else:
                self._answer.flush()
        except ClientGone:
            if not self._exchange.outlive:
                raise
            self._client_lost()

    async def _tunnel(self, head: ResponseHead, headers: Headers) -> Relayed:
        if self._client is None or self._answer is None:
            raise ClientGone("the client closed its connection")
        for timer in self._timers:
            timer.cancel()
        self._client.on_lost = None
        self._answer.switch(head, headers)
        traffic = self._exchange.traffic
        ends = self._client.take_over(), self._upstream.detach()
        tunnel = Tunnel(*ends, idle_timeout=self._limits.tunnel_idle_timeout, traffic=traffic)
        traffic.tunnels += 1
        try:
            if self._exchange.on_tunnel is not None:
                self._exchange.on_tunnel(tunnel)
            await tunnel.run()
        finally:
            traffic.tunnel_closed(tunnel.reason or "broken")
        return Relayed(head, keep_alive=False, sent=tunnel.received, fault=None)
