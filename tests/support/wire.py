"""A whole gateway between a client that sends any bytes and an upstream that forgives nothing; and the law that holds between the two.

The law: requests that the upstream saw = requests that were decided to pass (but for one that broke off before it could be sent), each
answered by its own answer; every message that the gateway
writes, either way, is one by the strict reader of `rfc9112`; and no byte of a client or an upstream is ever an unhandled fault.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from structlog.processors import format_exc_info
from structlog.testing import capture_logs

from tests.support.front import Front
from tests.support.lanes import Start
from tests.support.raw import PATIENCE, until
from tests.support.rfc9112 import Malformed, Message, request, responses

HOST = b"GATEWAY.TEST:80"  # stands in what tests send for the gateway's host, and is as long, so that lengths stay true
FAULTS = ("unhandled fault", "internal error")


def echo(request: Message, number: int) -> bytes:
    """Says which request it answers."""
    body = b"" if request.method == b"HEAD" else request.target
    return b"HTTP/1.1 200 OK\r\nX-Seq: %d\r\nContent-Length: %d\r\n\r\n%b" % (number, len(request.target), body)


@dataclass
class Strict:
    """An upstream that reads strictly. reply: what it says to the n-th request of the present exchange, `segments` one by one behind it;
    closing: it closes behind each reply.

    arrived: whole requests, in the order in which they ended. broken: those whose connection ended before they did. stubs: what came of a
    head that broke off. carriers: number of the connection of each one that arrived. faults: bytes that are no request.
    """

    reply: Callable[[Message, int], bytes] = echo
    segments: Sequence[bytes] = ()
    closing: bool = False
    port: int = 0
    connections: int = 0
    arrived: list[Message] = field(default_factory=list)
    carriers: list[int] = field(default_factory=list)
    broken: list[Message] = field(default_factory=list)
    stubs: list[bytes] = field(default_factory=list)
    tunnelled: bytearray = field(default_factory=bytearray)
    faults: list[str] = field(default_factory=list)
    open: set[_Connection] = field(default_factory=set)

    def clear(self) -> None:
        for each in (self.arrived, self.carriers, self.broken, self.stubs, self.tunnelled):
            each.clear()

    @property
    def quiet(self) -> bool:
        """No request is half here."""
        return not any(connection.buffer for connection in self.open)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


async def deliver(transport: asyncio.Transport, segments: Iterable[bytes], *, closing: bool = False) -> None:
    """Write them so that each is in the gateway's hands before the next one goes: it lives in this event loop, which reads what is there
    once a round."""
    for index, segment in enumerate(segments):
        if index:
            for _ in range(3):
                await asyncio.sleep(0)
        transport.write(segment)
    if closing:
        transport.close()


class _Connection(asyncio.Protocol):
    def __init__(self, upstream: Strict) -> None:
        self.upstream = upstream
        self.buffer = b""
        self.switched = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.upstream.connections += 1
        self.number = self.upstream.connections
        self.upstream.open.add(self)

    def data_received(self, data: bytes) -> None:
        upstream = self.upstream
        if self.switched:
            upstream.tunnelled += data
            return
        self.buffer += data
        while message := self._next():
            upstream.arrived.append(message)
            upstream.carriers.append(self.number)
            answer = upstream.reply(message, len(upstream.arrived))
            self.transport.write(answer)
            if upstream.segments:
                self.task = asyncio.ensure_future(deliver(self.transport, [b"", *upstream.segments], closing=upstream.closing))
            if answer.startswith(b"HTTP/1.1 101"):
                self.switched = True
                upstream.tunnelled += self.buffer
                self.buffer = b""
            elif upstream.closing:
                self.buffer = b""
                if not upstream.segments:
                    self.transport.close()

    def _next(self) -> Message | None:
        """The first message in the buffer, taken out of it when it is whole."""
        try:
            found = request(self.buffer) if self.buffer else None
        except Malformed as error:
            self.upstream.faults.append(str(error))
            self.buffer = b""
            self.transport.abort()
            return None
        if found is None or not found[0].complete:
            return None
        self.buffer = self.buffer[found[1] :]
        return found[0]

    def half(self) -> Message | None:
        """The request whose body is not whole yet."""
        found = request(self.buffer) if self.buffer else None
        return found[0] if found is not None else None

    def connection_lost(self, exc: BaseException | None) -> None:
        self.upstream.open.discard(self)
        if not self.buffer:
            return
        message = self.half()
        if message is None:
            self.upstream.stubs.append(self.buffer)
        else:
            self.upstream.broken.append(message)
        self.buffer = b""


class Client(asyncio.Protocol):
    """Sends, and keeps all that comes."""

    def __init__(self) -> None:
        self.came = b""
        self.reset = False
        self.over = asyncio.get_running_loop().create_future()
        self._stir = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.came += data
        self._stir.set()

    def connection_lost(self, exc: BaseException | None) -> None:
        self.reset = exc is not None
        if not self.over.done():
            self.over.set_result(None)
        self._stir.set()

    async def send(self, segments: Iterable[bytes]) -> None:
        await deliver(self.transport, segments)

    async def end(self) -> None:
        """Wait until the gateway ends the connection."""
        async with asyncio.timeout(PATIENCE):
            await asyncio.shield(self.over)

    async def until(self, count: int) -> None:
        """Wait until so many bytes came, or the connection ended."""
        async with asyncio.timeout(PATIENCE):
            while len(self.came) < count and not self.over.done():
                self._stir.clear()
                await self._stir.wait()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an exchange. decided: decisions by kind. waited: the gateway gave up waiting for the rest (408)."""

    came: bytes
    answers: tuple[Message, ...]
    arrived: tuple[Message, ...]
    broken: tuple[Message, ...]
    decided: Counter[str]

    @property
    def statuses(self) -> list[int]:
        return [answer.status for answer in self.answers]

    @property
    def targets(self) -> list[bytes]:
        return [request.target for request in self.arrived]


@dataclass
class Wire:
    front: Front
    upstream: Strict
    lines: list[Any]
    unhandled: list[Any]

    def decided(self) -> Counter[str]:
        found: Counter[str] = Counter()
        for family in self.front.app.metrics.decisions.collect():
            for sample in family.samples:
                if sample.name.endswith("_total"):
                    found[sample.labels["decision"]] += int(sample.value)
        return found

    async def client(self) -> Client:
        _, client = await asyncio.get_running_loop().create_connection(Client, "127.0.0.1", self.front.port)
        return client

    async def exchange(self, *segments: bytes, leaves: bool = False, methods: Sequence[bytes] = ()) -> Outcome:
        """Send these on a connection of their own, read until the gateway ends it (or leave as soon as all is sent), and hold the law.

        methods: of the requests, where one of them is HEAD.
        """
        self.upstream.clear()
        before = self.decided()
        client = await self.client()
        try:
            await client.send(map(self.hosted, segments))
            if not leaves:
                await client.end()
        finally:
            client.transport.close()
        await client.end()
        if leaves:
            await self.settle()
        return self.judged(client, before, methods, left=leaves)

    def hosted(self, data: bytes) -> bytes:
        """With the gateway's host in place of HOST."""
        assert len(HOST) == len(self.front.host)
        return data.replace(HOST, self.front.host)

    async def settle(self) -> None:
        """What was begun is over: another connection has been served from its first byte to its last."""
        other = await self.client()
        other.transport.write(b"GET /.stepup/jwks.json HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n" % self.front.host)
        await other.end()
        await until(lambda: self.upstream.quiet)

    def judged(self, client: Client, before: Counter[str], methods: Sequence[bytes] | None, *, left: bool) -> Outcome:
        """The outcome of an exchange that is over, once it has passed the law. methods: as for `exchange`, None: no answer is read."""
        decided = self.decided()
        decided.subtract(before)
        self.sound()
        upstream = self.upstream
        broken = (*upstream.broken, *[half for each in upstream.open if (half := each.half()) is not None])
        read = () if methods is None else responses(client.came, list(methods))
        answers = tuple(answer for answer in read if not 100 <= answer.status < 200 or answer.status == 101)
        outcome = Outcome(client.came, answers, tuple(upstream.arrived), broken, +decided)
        seen, allowed = len(outcome.arrived) + len(broken), decided["allow"]
        # One that was decided may never be sent: its body broke off first, or the client left. It is the last, and nobody calls it served.
        unsent = allowed - seen
        assert unsent == 0 or (unsent == 1 and (left or outcome.statuses[-1:] != [200])), (
            f"{seen} arrived, {decided} were decided: {outcome}"
        )
        if not left and upstream.reply is echo:
            given = [(answer.all(b"x-seq"), answer.body) for answer in answers if answer.all(b"x-seq")]
            wanted = [([b"%d" % n], b"" if m.method == b"HEAD" else m.target) for n, m in enumerate(outcome.arrived, 1)]
            assert given == wanted, outcome
            assert all(answer.complete for answer in answers), outcome
        return outcome

    def sound(self) -> None:
        """Nothing went wrong inside, and all that was written upstream could be read."""
        faults = [line for line in self.lines if line["event"] in FAULTS]
        unhandled, strict = list(self.unhandled), list(self.upstream.faults)
        self.lines.clear()
        self.unhandled.clear()
        self.upstream.faults.clear()
        assert not faults, [(line["event"], line.get("exception", "")[-1500:]) for line in faults]
        assert not unhandled, unhandled
        assert not strict, strict


class _Errors(logging.Handler):
    """What libraries (aiohttp, asyncio) log as errors."""

    def __init__(self, found: list[Any]) -> None:
        super().__init__(logging.ERROR)
        self._found = found

    def emit(self, record: logging.LogRecord) -> None:
        self._found.append((record.name, record.getMessage(), record.exc_info))


@asynccontextmanager
async def listening(upstream: Strict) -> AsyncIterator[Strict]:
    server = await asyncio.get_running_loop().create_server(lambda: _Connection(upstream), "127.0.0.1", 0)
    upstream.port = server.sockets[0].getsockname()[1]
    try:
        yield upstream
    finally:
        server.close()
        for connection in list(upstream.open):
            connection.transport.abort()
        await server.wait_closed()


@asynccontextmanager
async def wired(start: Start, folder: Path, *, upstreams: Sequence[str] = ("app",), spec: Any = None, **config: Any) -> AsyncIterator[Wire]:
    """A gateway of this lane; all of `upstreams` lead to the one strict upstream. spec: further keys of each of them, by name."""
    loop = asyncio.get_running_loop()
    unhandled: list[Any] = []
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: unhandled.append(context))
    libraries = _Errors(unhandled)
    logging.getLogger().addHandler(libraries)
    try:
        async with listening(Strict()) as upstream:
            urls = {name: {"url": upstream.url, **(spec or {}).get(name, {})} for name in upstreams}
            with capture_logs(processors=[format_exc_info]) as lines:
                async with start(folder, urls, **config) as front:
                    wire = Wire(front, upstream, lines, unhandled)
                    yield wire
                wire.sound()
    finally:
        loop.set_exception_handler(before)
        logging.getLogger().removeHandler(libraries)
