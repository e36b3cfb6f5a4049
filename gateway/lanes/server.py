"""The public listener: aiohttp's HTTP/1.1 server with every bound set and every doubtful request refused.

A handler gets an aiohttp `BaseRequest` whose `protocol` is a `Connection`; `raw_target` and `request.raw_headers` are the
bytes as they came. Refusals are tiny plain answers that close the connection.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from http import HTTPStatus
from time import perf_counter
from typing import Any, Protocol

import structlog
from aiohttp.web_request import BaseRequest
from aiohttp.web_response import StreamResponse
from aiohttp.web_server import Server

from gateway.errors import ClientGone
from gateway.lanes.connection import Connection, Sent, connection_of, plain
from gateway.lanes.handshake import Handshake
from gateway.lanes.strict import judge
from gateway.spec.sections import LimitsSpec

Handler = Callable[[BaseRequest], Awaitable[StreamResponse]]
OnBadRequest = Callable[[int, str], str]
OnCut = Callable[[str], None]
"""Hears of connections that end without an answer to a request, by reason: `too_many_connections`, `too_many_connections_of_address`,
`tls_handshake_timeout`, `tls_handshake`, `slow_reader`, `keepalive` (unused after an answer), `unused` (never a byte)."""

_TURNED_AWAY = 64  # connections above the bound that may stand for a moment, to read why
_MOMENT = 1.0  # seconds

log = structlog.get_logger(__name__)

_LOOK = 0.02  # seconds between two looks at what is still being answered, while it shuts down


def raw_target(request: BaseRequest) -> bytes:
    """The request target, byte for byte as the client sent it."""
    return request.raw_path.encode("utf-8", "surrogateescape")


class Front(Protocol):
    """A connection of the fast lane, in front of one of ours."""

    @property
    def slow(self) -> Connection | None: ...

    def regain(self, data: bytes, *, full: bool) -> None: ...

    def lost(self) -> None: ...

    @property
    def busy(self) -> bool:
        """A request is in hand, or an answer on its way out."""

    def retire(self) -> None: ...

    def close_now(self) -> None: ...


class Fast(Protocol):
    """The fast lane as the listener sees it: it makes the connections, and knows those that are open."""

    @property
    def connections(self) -> Collection[Front]: ...

    def connection(self, listener: Listener) -> asyncio.Protocol: ...

    def close(self) -> None: ...


class Listener(Server):
    """aiohttp's server, counting connections and judging heads before the handler sees them. fast: the lane in front of it, if any."""

    def __init__(
        self, handler: Handler, limits: LimitsSpec, on_bad_request: OnBadRequest, fast: Fast | None = None, on_cut: OnCut = lambda _: None
    ) -> None:
        super().__init__(self._serve)
        self._handler = handler
        self._limits = limits
        self._fast = fast
        self.on_bad_request = on_bad_request
        self.on_cut = on_cut
        self._addresses: Counter[str] = Counter()
        self._admitted = 0
        self._turned_away = 0
        self._running = 0
        self._quiet = asyncio.Event()
        self._quiet.set()
        self.handshakes: set[asyncio.Task[None]] = set()  # of TLS, under way

    def __call__(self) -> Any:
        return Connection(self, self._limits) if self._fast is None else self._fast.connection(self)

    def behind(self, front: Front) -> Connection:
        """The slow lane's protocol for a connection that the fast lane hands over."""
        return Connection(self, self._limits, front)

    @property
    def connections(self) -> list[Connection]:  # type: ignore[override]  # made by __call__
        """Every open connection."""
        return [connection for connection in super().connections if isinstance(connection, Connection)]

    @property
    def open(self) -> int:
        """Client connections, of both lanes."""
        return self._admitted

    def admit(self, address: str) -> bool:
        """Count a connection in; False when there are too many in all or of this address."""
        if self._admitted >= self._limits.max_connections:
            self.on_cut("too_many_connections")
            return False
        if self._addresses[address] >= self._limits.max_connections_per_address:
            self.on_cut("too_many_connections_of_address")
            return False
        self._addresses[address] += 1
        self._admitted += 1
        return True

    def turn_away(self, transport: asyncio.Transport) -> None:
        """Tell a connection that was not admitted why, and end it. Its protocol must ignore what comes.

        A bounded number of these stand for a moment, for a client whose request meets a closed socket may never read the answer; further
        ones are closed at once.
        """
        if self._turned_away >= _TURNED_AWAY:
            transport.abort()
            return
        self._turned_away += 1
        transport.write(plain(503, "Too many connections", "Retry-After: 5"))
        if transport.can_write_eof():
            transport.write_eof()
        else:
            transport.close()
        asyncio.get_running_loop().call_later(_MOMENT, self._end_turned_away, transport)

    def _end_turned_away(self, transport: asyncio.Transport) -> None:
        self._turned_away -= 1
        transport.abort()

    def states(self) -> dict[str, int]:
        """Open client connections by what they do: `handshake` (of TLS), `idle`, `active`, `tunnel`."""
        found = Counter(connection.state for connection in self.connections if connection.front is None)
        for front in self._fast.connections if self._fast is not None else ():
            slow = front.slow
            found[slow.state if slow is not None else "active" if front.busy else "idle"] += 1
        return {state: found[state] for state in ("idle", "active", "tunnel")} | {"handshake": len(self.handshakes)}

    def dismiss(self, address: str) -> None:
        self._admitted -= 1
        self._addresses[address] -= 1
        if not self._addresses[address]:
            del self._addresses[address]

    def refuse(self, request: BaseRequest, status: int, reason: str) -> Sent:
        """Answer with a refusal and end the connection."""
        number = self.on_bad_request(status, reason)
        if request.transport is not None:
            request.transport.write(plain(status, HTTPStatus(status).phrase, number=number))
        return Sent(status, keep_alive=False)

    async def drain(self, timeout: float) -> None:
        """End unused connections now, busy ones after their answer, all after `timeout` seconds."""
        for handshake in tuple(self.handshakes):
            handshake.cancel()
        fronts = list(self._fast.connections) if self._fast is not None else []
        for front in fronts:
            if front.slow is not None:
                front.slow.retire()
            else:
                front.retire()
        for connection in self.connections:
            if connection.front is None:
                connection.retire()
        if timeout > 0:
            try:
                async with asyncio.timeout(timeout):
                    await self._quiet.wait()
                    while any(front.busy for front in fronts):  # noqa: ASYNC110 -- a connection that ends does not tell who waits here
                        await asyncio.sleep(_LOOK)
            except TimeoutError:
                log.warning("requests cut off at shutdown", count=self._running + sum(front.busy for front in fronts))
        for front in fronts:
            front.close_now()
        if self._fast is not None:
            self._fast.close()
        await self.shutdown(0.05)

    async def _serve(self, request: BaseRequest) -> StreamResponse:
        connection = connection_of(request)
        connection.answering = False
        connection.serving += 1
        connection.began = perf_counter()
        if not connection.trusted:
            connection.cut(reset=False)
            return Sent(499, keep_alive=False)
        refused = judge(request.method, raw_target(request), request.version, request.raw_headers, request_line=self._limits.request_line)
        if refused is not None:
            return self.refuse(request, refused.status, refused.reason)
        self._running += 1
        self._quiet.clear()
        try:
            response = await self._handler(request)
            # A client that waits for a 100 and gets a final answer may or may not send its body: nobody can tell what comes next.
            unasked = "expect" in request.headers and not request.content.is_eof() and not request.content.total_bytes
            if unasked or connection.draining:
                response.force_close()
            return response  # noqa: TRY300 -- `else` would leave the faults of these lines outside of the net
        except (ClientGone, ConnectionError):
            connection.cut(reset=False)
            return Sent(499, "Client Closed Request", keep_alive=False)
        except Exception as error:  # the last net: a fault in the gateway must not leak aiohttp's own error page
            log.exception("unhandled fault", error=str(error))
            if connection.answering or request.writer.output_size > 0:
                connection.cut(reset=False)
            elif connection.transport is not None:
                connection.transport.write(plain(500, "Internal Server Error"))
            return Sent(500, keep_alive=False)
        finally:
            self._running -= 1
            if not self._running:
                self._quiet.set()


class RunningServer:
    """A listener in service. `port` is the port it got."""

    def __init__(self, listener: Listener, servers: Sequence[asyncio.Server]) -> None:
        """servers: one for each address."""
        self._listener = listener
        self._servers = servers
        self.port = int(servers[0].sockets[0].getsockname()[1])

    @property
    def connections(self) -> int:
        """Open client connections."""
        return self._listener.open

    def states(self) -> dict[str, int]:
        """See `Listener.states`."""
        return self._listener.states()

    async def close(self, drain: float) -> None:
        """Accept no more, let running requests go on for `drain` seconds, then end them."""
        for server in self._servers:
            server.close()
        await self._listener.drain(drain)
        for server in self._servers:
            await server.wait_closed()


async def serve(
    handler: Handler,
    *,
    host: str,
    port: int,
    ssl_context: ssl.SSLContext | None,
    limits: LimitsSpec,
    on_bad_request: OnBadRequest,
    on_cut: OnCut = lambda _: None,
    socks: Sequence[socket.socket] = (),
    fast: Fast | None = None,
) -> RunningServer:
    """Listen on `host:port`, or on `socks`. Raises OSError. `on_bad_request(status, reason)` hears of every refused request;
    `reason` never quotes the client's bytes, and it gives the number that the answer carries. `on_cut(reason)` hears of every connection
    that ends without an answer."""
    loop = asyncio.get_running_loop()
    listener = Listener(handler, limits, on_bad_request, fast, on_cut)
    factory: Any = listener
    where: list[dict[str, Any]] = [{"sock": sock} for sock in socks] or [{"host": host, "port": port}]
    tls: dict[str, Any] = {}
    if ssl_context is not None and isinstance(loop, asyncio.BaseEventLoop):
        factory = partial(Handshake, listener, ssl_context, limits.head_timeout)
    elif ssl_context is not None:  # uvloop reads before `start_tls` is called: it speaks TLS itself, and handshakes are not counted
        tls = {"ssl": ssl_context, "ssl_handshake_timeout": limits.head_timeout}
    return RunningServer(listener, [await loop.create_server(factory, backlog=1024, **each, **tls) for each in where])
