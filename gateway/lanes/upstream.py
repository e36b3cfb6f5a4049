"""One connection to an upstream. The request head goes out byte for byte as it was prepared; `reading` reads the answers.

A connection whose exchange did not end cleanly is never used again.
"""

from __future__ import annotations

import asyncio
import re
import select
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

from gateway.errors import BadTarget, UpstreamBroke, UpstreamTimeout, UpstreamUnreachable
from gateway.lanes.duplex import Alarm, Duplex, Tap
from gateway.lanes.reading import BadAnswer, Reading, ResponseHead
from gateway.spec.sections import UpstreamTlsSpec
from gateway.wire.head import Headers

__all__ = ["Endpoint", "ResponseHead", "UpstreamConnection", "connect", "parse_endpoint", "request_head", "tls_context"]

MAX_INFORMATIONAL = 16  # 1xx answers before the final one

_TARGET = re.compile(rb"[^\x00-\x20\x7f]+")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where an upstream listens. `authority` is host[:port] as a Host header writes it; an IPv6 host stands in brackets there only."""

    url: str
    tls: bool
    host: str
    port: int
    authority: str


def parse_endpoint(url: str) -> Endpoint:
    """`http://host[:port]` or `https://…` as an Endpoint."""
    parts = urlsplit(url)
    tls = parts.scheme == "https"
    host = parts.hostname or ""
    shown = f"[{host}]" if ":" in host else host
    default = 443 if tls else 80
    port = parts.port or default
    return Endpoint(url=url, tls=tls, host=host, port=port, authority=shown if port == default else f"{shown}:{port}")


def tls_context(spec: UpstreamTlsSpec | None) -> ssl.SSLContext:
    """The TLS side of an upstream's settings. Raises OSError when a file cannot be read or is no certificate."""
    context = ssl.create_default_context(cafile=spec.ca_file if spec else None)
    context.set_alpn_protocols(["http/1.1"])
    if spec is not None and spec.cert_file is not None:
        context.load_cert_chain(spec.cert_file, spec.key_file)
    if spec is not None and not spec.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def request_head(method: str, target: bytes, headers: Headers) -> bytes:
    """The bytes of a request head. Raises BadTarget for a target, and ValueError for a header, that would not stay one line."""
    if not _TARGET.fullmatch(target):
        raise BadTarget("the target holds a space or a control character")
    head = b"".join([method.encode("ascii"), b" ", target, b" HTTP/1.1\r\n", *[b"%b: %b\r\n" % field for field in headers], b"\r\n"])
    if head.count(b"\n") != len(headers) + 2 or head.count(b"\r") != len(headers) + 2 or b"\x00" in head:
        raise ValueError("a header holds a line break or NUL")
    return head


async def connect(endpoint: Endpoint, context: ssl.SSLContext | None, server_name: str | None, timeout: float) -> UpstreamConnection:
    """A new connection, TLS included. Raises UpstreamUnreachable; nothing of a request has been sent then."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout):
            _, duplex = await loop.create_connection(
                Duplex,
                endpoint.host,
                endpoint.port,
                ssl=context if endpoint.tls else None,
                server_hostname=(server_name or endpoint.host) if endpoint.tls else None,
            )
    except TimeoutError as error:
        raise UpstreamUnreachable(f"{endpoint.url}: no connection within {timeout:g} s") from error
    except (OSError, ValueError) as error:  # ValueError: a host name that IDNA or the resolver cannot encode
        raise UpstreamUnreachable(f"{endpoint.url}: {error}") from error
    return UpstreamConnection(endpoint, duplex)


class UpstreamConnection:
    """One connection, one exchange at a time: `send_head`, then pieces and `send_end`, beside them `response` and `read`.

    `reused` says that an exchange went over it before, `responded` that bytes of the present answer came.
    Errors of `response` and `read`: UpstreamBroke, UpstreamTimeout, or what `abort` was told.
    """

    def __init__(self, endpoint: Endpoint, duplex: Duplex) -> None:
        self.endpoint = endpoint
        self.reused = False
        self.responded = False
        self.duplex = self._duplex = duplex
        self._reading: Reading | None = None  # None: no exchange is under way
        self.site: Any = None  # the pool's
        self.discard: Callable[[], None] | None = None
        self._raw = False  # an exchange over `duplex` itself is under way
        self.parser: Any = None  # whatever a raw user keeps from one exchange to the next
        self._chunked = False
        self._poll: select.poll | None = None
        self.alarm = Alarm()  # for the deadlines of exchanges, one after the other

    # sending

    def send_head(self, method: str, target: bytes, headers: Headers, *, has_body: bool, chunked: bool, upgrade: bool = False) -> None:
        """Send the head. With `has_body`, `send_piece` and `send_end` must follow; their framing is what the headers say:
        `chunked`, else Content-Length. Raises UpstreamBroke when the connection is gone, BadTarget, ValueError."""
        head = request_head(method, target, headers)
        self._chunked = chunked
        self._reading = Reading(method, has_body=has_body, upgrade=upgrade)
        try:
            self._duplex.write(head)
        except OSError as error:
            raise UpstreamBroke(f"{self.endpoint.url}: {error}") from error

    async def send_piece(self, data: bytes, timeout: float) -> None:
        """Send bytes of the body and wait until the upstream takes them. Raises UpstreamTimeout when it takes nothing
        for `timeout` seconds, UpstreamBroke when it is gone."""
        try:
            self._duplex.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)
            await self._duplex.drain(timeout)
        except TimeoutError as error:
            raise UpstreamTimeout(f"{self.endpoint.url}: takes no bytes of the request for {timeout:g} s") from error
        except OSError as error:
            raise UpstreamBroke(f"{self.endpoint.url}: {error}") from error

    def send_end(self) -> None:
        """The body is complete."""
        if self._chunked:
            try:
                self._duplex.write(b"0\r\n\r\n")
            except OSError as error:
                raise UpstreamBroke(f"{self.endpoint.url}: {error}") from error
        self._exchange.end_request()

    # receiving

    async def response(self, on_informational: Callable[[ResponseHead], None]) -> ResponseHead:
        """The final head, or that of a 101 that was asked for. 1xx before it go to `on_informational`. Waits without bound:
        the caller's timers call `abort`."""
        reading = self._exchange
        for _ in range(MAX_INFORMATIONAL + 1):
            while (head := self._checked(reading.head)) is None:
                await self._receive(reading, None)
            if head.status >= 200 or head.status == 101:
                return head
            on_informational(head)
        raise UpstreamBroke(f"{self.endpoint.url}: more than {MAX_INFORMATIONAL} informational answers")

    async def read(self, timeout: float | None) -> bytes | bytearray:
        """The next bytes of the answer's body, b"" at its clean end; trailers are dropped."""
        reading = self._exchange
        while (piece := self._checked(reading.body)) is None:
            await self._receive(reading, timeout)
        return piece

    def read_ready(self) -> bytes | bytearray | None:
        """Like `read`, but only what is here already: None when bytes must be waited for."""
        return self._checked(self._exchange.body)

    def detach(self) -> Duplex:
        """After a 101: the bare connection. What came behind the head is read first. The caller must close it."""
        self.alarm.stop()
        self._duplex.unread(self._exchange.behind)
        return self._duplex

    # life

    @property
    def complete(self) -> bool:
        """Request and answer have ended cleanly and the connection may carry another exchange."""
        return self._reading is not None and self._reading.clean and self._duplex.alive

    @property
    def unused(self) -> bool:
        """Nothing was sent over it since it was made, or rested."""
        return self._reading is None and not self._raw

    def tapped(self, tap: Tap) -> Duplex:
        """Begin an exchange of which the caller does the bytes himself; `tap` gets what comes. End it by `untapped`, or by `abort`."""
        self._raw = True
        self._duplex.tap = tap
        return self._duplex

    def untapped(self, *, clean: bool) -> None:
        """The exchange is over; clean: the connection may carry another one."""
        self._duplex.tap = None
        if clean:
            self._duplex.hold(False)  # a client that was slow to the last byte is not the next one's concern
            self._raw = False
            self.reused = True

    def rest(self, on_stir: Callable[[], None]) -> None:
        """Make ready for the next exchange; `on_stir` is called when the upstream closes or sends unasked meanwhile."""
        if self._reading is not None:
            self._reading = None
            self.reused = True
        self.responded = False
        self._duplex.on_stir = on_stir

    def rouse(self) -> bool:
        """Take it from rest. False when the upstream has closed it, or sent what nobody asked for: then it must not be used."""
        if not self.rouse_lightly() or self._duplex.fileno < 0:
            return False
        # A FIN that has arrived but that the event loop has not read yet shows here.
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(self._duplex.fileno, select.POLLIN | select.POLLRDHUP)
        return not self._poll.poll(0)

    def rouse_lightly(self) -> bool:
        """The same as far as the event loop knows, without asking the system: for a request that may be repeated."""
        self._duplex.on_stir = None
        return self._duplex.alive

    def abort(self, reason: BaseException) -> None:
        """End the exchange and the connection at once; whoever waits on it gets `reason`."""
        self.alarm.stop()
        self._duplex.on_stir = None
        self._duplex.abort(reason)

    async def aclose(self) -> None:
        """Close and wait until it is gone."""
        self.alarm.stop()
        self._duplex.on_stir = None
        self._duplex.close()
        try:
            async with asyncio.timeout(1.0):
                await self._duplex.wait_lost()
        except TimeoutError:
            self._duplex.abort(UpstreamBroke("closed"))
            await self._duplex.wait_lost()

    @property
    def _exchange(self) -> Reading:
        assert self._reading is not None, "send_head comes first"  # noqa: S101 -- tells mypy
        return self._reading

    def _checked(self, part: Callable[[], T]) -> T:
        try:
            return part()
        except BadAnswer as error:
            raise UpstreamBroke(f"{self.endpoint.url}: {error}") from error

    async def _receive(self, reading: Reading, timeout: float | None) -> None:
        try:
            data = await self._duplex.read(timeout)
            reading.receive(data)
        except TimeoutError as error:
            raise UpstreamTimeout(f"{self.endpoint.url}: silent for {timeout:g} s") from error
        except (OSError, BadAnswer) as error:
            raise UpstreamBroke(f"{self.endpoint.url}: {error}") from error
        if data:
            self.responded = True
