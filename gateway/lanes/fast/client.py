"""One client connection of the fast lane, from the client's bytes to the upstream's and back: top to bottom is a request's way.

It carries what it knows to be allowed and plain. Whatever else comes goes to the slow lane before a byte of it was sent anywhere: the
connection with the bytes read so far; after the answer, and with the next request, the connection comes back (`regain`).

A request is sent at most once, but for one of an idempotent method without a body, when a kept connection turns out dead and nothing of an
answer came (RFC 9110 §9.2.2).
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from math import inf
from time import perf_counter
from typing import TYPE_CHECKING, Final, cast

import httptools
import structlog
from aiohttp import web

from gateway.errors import BodyTooLarge, ClientGone, GatewayError, StoreUnavailable, UpstreamBroke, UpstreamFault, UpstreamTimeout
from gateway.flow.asked import Asked
from gateway.flow.sessions import After
from gateway.lanes.answer import Framing, frame, head_bytes, informational_bytes
from gateway.lanes.body import BodyTimeout
from gateway.lanes.chunks import BadChunks, Chunks
from gateway.lanes.connection import Connection, plain
from gateway.lanes.duplex import Duplex, unsent_of
from gateway.lanes.fast.known import Block, Place, Seen, Standing, Verdict, Way, ticketed
from gateway.lanes.fast.lane import FastLane, written
from gateway.lanes.fast.lines import CACHING, DROPPED, ORDINARY, UNUSUAL, classify, known, made_private, private, status, statuses
from gateway.lanes.faults import refusal
from gateway.lanes.forward import IDEMPOTENT
from gateway.lanes.intercept import TAKEN
from gateway.lanes.intercept import Seen as Answered
from gateway.lanes.reading import MAX_HEAD, BadAnswer, Reading, ResponseHead
from gateway.lanes.upstream import MAX_INFORMATIONAL, UpstreamConnection
from gateway.wire.head import Headers
from gateway.wire.headers import METHODS, response_for_client

if TYPE_CHECKING:
    from gateway.lanes.server import Listener

log = structlog.get_logger(__name__)

IDLE: Final = 0  # between requests, or within a head
BUSY: Final = 1  # a request is on its way
SPENT: Final = 2  # its answer is out, and the rest of its body is being read away
SLOW: Final = 3  # the slow lane has the connection
OVER: Final = 4

_LINGER = 5.0  # seconds for the rest of a body whose answer is out already
_MOST_AHEAD = 64 * 1024  # bytes of further requests, or of a body that nobody takes yet, before reading stops
_VISIBLE = bytes(range(0x21, 0x7F))
_METHODS = {name.encode("ascii"): name for name in METHODS if name != "CONNECT"}
_REPEATABLE = frozenset(name.encode("ascii") for name in IDEMPOTENT)
_PRIVATE = b"Cache-Control: private, no-cache\r\n"
_CLOSE = b"Connection: close\r\n"


class _Nobody:
    """Wants to hear of nothing."""


class FastConnection(asyncio.Protocol):
    __slots__ = (
        "_address", "_ahead", "_answered", "_arrive", "_block", "_chunked", "_chunks", "_closing", "_cut", "_duplex", "_early", "_eof",
        "_full", "_gated", "_got", "_head", "_hints", "_lane", "_last", "_left", "_limits", "_line", "_listener", "_loop", "_method",
        "_now", "_own", "_paused", "_peeking", "_place", "_reading", "_request_id", "_retried", "_seen", "_slow", "_sought", "_standing",
        "_started", "_state", "_status", "_target", "_task", "_total", "_transport", "_unsent", "_upload", "_uploaded", "_upstream",
        "_verdict", "_way", "due",
    )  # fmt: skip

    _block: Block
    _seen: Seen
    _place: Place
    _way: Way
    _standing: Standing
    _verdict: Verdict
    _transport: asyncio.Transport

    def __init__(self, lane: FastLane, listener: Listener) -> None:
        """listener: the slow lane's, which counts connections and makes its own when one is handed over."""
        self._lane = lane
        self._limits = lane.limits
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._address: str | None = None
        self._state = OVER
        self._slow: Connection | None = None
        self.due = inf  # of the loop's time: `expire` is called then
        self._total = inf
        self._arrive = inf  # its body must be here
        self._ahead = b""  # what came and has not been looked at
        self._peeking: httptools.HttpRequestParser | None = None  # looks at a head that comes in pieces
        self._paused = False  # nothing is read from the client
        self._full = False  # the client does not take bytes as fast as they come
        self._unsent = 0
        self._eof = False  # the client will send no more
        self._closing = False  # no further request is served
        # of the request in hand
        self._line = self._method = self._target = b""
        self._request_id = ""
        self._now = 0.0
        self._last = False  # the connection ends after it
        self._upload = 0  # bytes of its body that have not come; 1 while there may be further chunks
        self._uploaded = 0
        self._chunks: Chunks | None = None
        self._early: list[bytes] = []  # of its body, while there is no connection
        self._retried = False
        self._task: asyncio.Task[None] | None = None
        self._upstream: UpstreamConnection | None = None
        self._duplex: Duplex | None = None
        self._sought = 0.0  # when a connection was; by the finest clock, as the two below
        self._own = 0.0  # seconds that this lane took by itself
        # of the answer
        self._answered = 0.0  # when its head came; 0: it has not, or the exchange is counted
        self._status = 0
        self._got = 0  # bytes of its body
        self._started = False  # the client has bytes of it
        self._left = -1  # bytes of its body that have not come; -1: not even the head
        self._head = b""  # bytes that are no whole head yet; then the head that waits for its body's first bytes
        self._reading: Reading | None = None  # for answers that are not quite plain
        self._chunked = False
        self._gated = False
        self._hints = 0
        self._cut = False  # the upstream closed while something was learned from the head

    # -- asyncio.Protocol ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no instance of it
        peer = transport.get_extra_info("peername")
        address = str(peer[0]) if peer else ""
        if not self._listener.admit(address):
            self._listener.turn_away(self._transport)
            return
        self._address = address
        self._state = IDLE
        self.due = self._loop.time() + self._limits.head_timeout
        self._lane.begin(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost()
        if self._slow is not None:
            slow, self._slow = self._slow, None
            slow.front = None
            slow.connection_lost(exc)

    def lost(self) -> None:
        """The connection is gone, whichever lane had it."""
        if self._address is not None:
            self._listener.dismiss(self._address)
            self._address = None
            self._lane.end(self)
        self._state = OVER
        self.due = inf
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self._drop_upstream(ClientGone("the client closed its connection"))

    def data_received(self, data: bytes) -> None:
        try:
            if self._state != IDLE:
                self._more(data)
            elif self._full:  # answers wait to be read: no further one is made
                self._ahead += data
                if len(self._ahead) > _MOST_AHEAD:
                    self._pause()
            elif self._ahead:
                self._begin(self._ahead + data)
            else:
                self._begin(data)
        except Exception:  # the last net: whatever it was, this connection pays for it and no other
            log.exception("unhandled fault")
            self._abort()

    def eof_received(self) -> bool:
        self._eof = True
        if self._state == BUSY and not self._upload:
            return self._transport.can_write_eof()  # the answer is still wanted; TLS has no half-open state
        return False

    def pause_writing(self) -> None:
        self._full = True
        if self._state == BUSY and self._duplex is not None:
            self._duplex.hold(True)
        self._unsent = unsent_of(self._transport)
        self.due = self._loop.time() + self._limits.write_idle_timeout

    def resume_writing(self) -> None:
        self._full = False
        if self._state == BUSY:
            if self._duplex is not None and self._task is None:
                self._duplex.hold(False)
                self._await_answer()
        elif self._state == IDLE:
            self._next()

    # -- a request ----------------------------------------------------------------------------------------------------

    def _begin(self, data: bytes) -> None:
        """Bytes at the beginning of a request."""
        lane = self._lane
        store = lane.known
        end = data.find(b"\r\n\r\n")
        if end < 0:
            self._peek(data)
            return
        began = perf_counter()
        self._ahead = b""
        cut = data.find(b"\r\n")
        parts = data[:cut].split(b" ")
        if len(parts) != 3 or cut > self._limits.request_line:
            self._hand_over(data)
            return
        method, target, version = parts
        if version != b"HTTP/1.1" or method not in _METHODS or target[:1] != b"/" or target.translate(None, _VISIBLE):
            self._hand_over(data)
            return
        fields = data[cut + 2 : end + 4]
        block = store.blocks.get(fields) or store.block(data[:cut], fields)
        if block is None:
            self._hand_over(data)
            return
        seen = block.seen.get(self._address) or store.see(block, self._address or "")  # type: ignore[arg-type]
        if seen is None:
            self._hand_over(data)
            return
        mark = target.find(b"?")
        path = target if mark < 0 else target[:mark]
        place = seen.places.get(path) or store.place(seen, path)
        if place is None or place.way is None:
            self._hand_over(data)
            return
        way = place.way
        if mark >= 0 and (b"%" in target or b"stepup" in target) and ticketed(target, place.readings):
            self._hand_over(data)
            return
        now = lane.clock()
        standing = seen.standings.get(way)
        if standing is None or now >= standing.until or (standing.passing and store.revoked(standing)):
            standing = store.standing(block, seen, way, now)
            if standing is None:
                self._hand_over(data)
                return
        if place.free:
            verdict: Verdict | None = standing.free
        else:
            # A query that can name a method (`_method=DELETE`) is judged for itself.
            simple = mark < 0 or not (b"%" in target or b"ethod" in target.lower())
            verdict = standing.verdicts.get((method, path)) if simple else None
            if verdict is None or now >= verdict.until:
                verdict = store.verdict(block, seen, place, standing, method, target, now, kept=simple)
        if verdict is None or (verdict.relied and not store.fresh(now)):
            self._hand_over(data)
            return

        # From here on it is an Allow, and this lane's.
        self._block = block
        self._seen = seen
        self._place = place
        self._way = way
        self._standing = standing
        self._verdict = verdict
        self._line = data[: cut + 2]
        self._method = method
        self._target = target
        self._now = now
        self._last = block.last
        self._gated = verdict.gated
        self._request_id = request_id = lane.request_id()
        verdict.told.tell(request_id, _METHODS[method], place.shown, now, plain=place.plain)
        self._state = BUSY
        self._sought = perf_counter()
        self._own = self._sought - began
        pool = way.pool
        if pool.spec.total_timeout is not None:
            self._total = self._loop.time() + pool.spec.total_timeout
        if block.length == 0:
            connection = pool.lend(sure=method not in _REPEATABLE)
        else:
            self._expect_body(block.length, data[: end + 4])
            connection = pool.lend(sure=True)
        if connection is not None:
            self._send(connection)
        else:
            self._dial(fresh=False)
        if len(data) > end + 4:
            self._more(data[end + 4 :])

    def _peek(self, data: bytes) -> None:
        """A head that has not come whole. What is wrong with it already, or too long, is the slow lane's to refuse."""
        new = data[len(self._ahead) :]
        if self._peeking is None:
            self._peeking = httptools.HttpRequestParser(_Nobody())
            if not self._closing:
                self.due = self._loop.time() + self._limits.head_timeout
        try:
            self._peeking.feed_data(new)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._hand_over(data)
            return
        if len(data) > _MOST_AHEAD or (len(data) > self._limits.request_line and b"\r\n" not in data):
            self._hand_over(data)
            return
        self._ahead = data

    def _hand_over(self, data: bytes) -> None:
        """To the slow lane, with what was read and not served."""
        self._ahead = b""
        self._peeking = None
        self._state = SLOW
        self.due = inf
        transport = self._transport
        slow = self._slow
        if slow is None:
            slow = self._slow = self._listener.behind(self)
            transport.set_protocol(slow)
            slow.connection_made(transport)
        else:
            transport.set_protocol(slow)
            slow.unpark()
        if self._full:
            slow.pause_writing()
        if self._paused:
            self._paused = False
            transport.resume_reading()
        slow.take(data)
        if self._eof:
            slow.eof_received()

    def regain(self, data: bytes, *, full: bool) -> None:
        """The slow lane is done with what it was given: here is the next request. full: the client does not take bytes at present."""
        self._state = IDLE
        self._full = full
        self._transport.set_protocol(self)
        self.data_received(data)

    # -- its body -----------------------------------------------------------------------------------------------------

    def _expect_body(self, length: int | None, head: bytes) -> None:
        self._uploaded = 0
        self._upload = 1 if length is None else length
        self._chunks = Chunks(head, httptools.HttpRequestParser) if length is None else None
        self._arrive = self._loop.time() + self._limits.upload_timeout
        self._await_body()

    def _await_body(self) -> None:
        self.due = min(self._loop.time() + self._limits.body_idle_timeout, self._total, self._arrive)

    def _more(self, data: bytes) -> None:
        """Bytes behind a head: of its body, or of further requests."""
        if self._state == OVER:
            return
        if self._upload:
            data = self._take(data)
        if not data or self._state == OVER:
            return
        if self._state == IDLE:  # the body that was read away has ended
            self._begin(self._ahead + data)
            return
        self._ahead += data
        if len(self._ahead) > _MOST_AHEAD:
            self._pause()

    def _take(self, data: bytes) -> bytes:
        """Pass bytes of a body on; returns what stands behind it."""
        if self._chunks is None:
            piece = data[: self._upload]
            self._upload -= len(piece)
            behind = data[len(piece) :]
        else:
            try:
                piece, behind = self._chunks.feed(data)
            except BadChunks as error:
                self._broken_body(ClientGone(f"the body is malformed: {error}"))
                return b""
            self._uploaded += len(piece)
            if self._uploaded > self._limits.max_upload:
                self._broken_body(BodyTooLarge(f"more than {self._limits.max_upload} bytes"))
                return b""
            self._upload = 0 if self._chunks.ended else 1
            piece = b"%x\r\n%b\r\n" % (len(piece), piece) if piece else b""
            if not self._upload:
                piece += b"0\r\n\r\n"
        if self._state == SPENT:
            if not self._upload:
                self._rest()
            return behind
        if self._duplex is None:
            self._early.append(piece)
            self._pause()
        elif piece:
            self._pass_up(piece)
        if not self._upload:
            self._chunks = None
            if self._reading is not None:
                self._reading.end_request()
            self._await_answer()
        elif not self._paused:
            self._await_body()
        return behind

    def _pass_up(self, piece: bytes) -> None:
        duplex = self._duplex
        if duplex is None:
            return
        try:
            duplex.write(piece)
        except OSError:
            return  # it may have answered before it closed: `ended` finds out
        if duplex.full:
            self._unsent = duplex.unsent
            self._pause()
            self.due = min(self._loop.time() + self._way.spec.idle_timeout, self._total)

    def _pause(self) -> None:
        if not self._paused and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()

    def _resume(self) -> None:
        if self._paused and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()

    def _broken_body(self, error: GatewayError) -> None:
        """The rest of the request cannot be read: nothing behind it can."""
        self._upload = 0
        self._last = True
        self._fail(error)

    # -- to the upstream ----------------------------------------------------------------------------------------------

    def _dial(self, *, fresh: bool) -> None:
        self.due = self._total
        self._task = self._loop.create_task(self._dialled(fresh=fresh))

    async def _dialled(self, *, fresh: bool) -> None:
        pool = self._way.pool
        try:
            connection = await pool.acquire(fresh=fresh)
        except UpstreamFault as error:
            self._task = None
            self._fail(error)
            return
        except Exception:
            log.exception("unhandled fault")
            self._abort()
            return
        self._task = None
        if self._state != BUSY:
            pool.release(connection)
            return
        self._send(connection)

    def _send(self, connection: UpstreamConnection) -> None:
        """The head, and what has come of the body."""
        self._upstream = connection
        self._duplex = duplex = connection.tapped(self)
        standing = self._standing
        authority = connection.endpoint.authority
        out = standing.outs.get(authority) or self._lane.known.out(standing, self._way, authority, self._block.length)
        try:
            duplex.write(b"".join((self._line, out, self._verdict.tail)))
        except OSError as error:
            self._broke(UpstreamBroke(f"{connection.endpoint.url}: {error}"))
            return
        if self._full:
            duplex.hold(True)
        if self._early:
            early, self._early = b"".join(self._early), []
            self._resume()
            self._pass_up(early)
        if duplex.full:
            return  # `_pass_up` has said how long
        spec, limits = self._way.spec, self._limits
        self.due = min(self._loop.time() + (limits.body_idle_timeout if self._upload else spec.first_byte_timeout), self._total)

    def _await_answer(self) -> None:
        """The request is out."""
        spec = self._way.spec
        self.due = min(self._loop.time() + (spec.idle_timeout if self._started else spec.first_byte_timeout), self._total)

    # -- and back: duplex.Tap -----------------------------------------------------------------------------------------

    def received(self, data: bytes) -> None:
        """Bytes of the answer."""
        try:
            self._received(data)
        except Exception:
            log.exception("unhandled fault")
            self._abort()

    def _received(self, data: bytes) -> None:
        connection = self._upstream
        if connection is None:
            return
        if self._left > 0:
            self._go_on(connection, data)
            return
        if self._reading is not None:
            self._read(data)
            return
        connection.responded = True
        if self._head:
            data = self._head + data
            self._head = b""
        end = data.find(b"\r\n\r\n")
        if end < 0 or end > MAX_HEAD:
            if len(data) > MAX_HEAD:
                self._broke(UpstreamBroke(f"{connection.endpoint.url}: the head of the answer is too long"))
            else:
                self._head = data
            return
        lines = data[:end].split(b"\r\n")
        first = lines[0]
        standing = self._standing
        gated = self._gated
        way = self._way
        if (
            (statuses.get(first) or status(first)) == UNUSUAL or self._method == b"HEAD" or standing.due <= self._now or way.watched
            or (way.takes and first[9:10] in b"34")
        ):  # fmt: skip
            self._read(data)
            return
        length = -1
        dropped: list[bytes] = []
        caching: bytes | None = None
        del lines[0]
        for line in lines:
            kind = known.get(line)
            if kind is None:
                kind = classify(line)
            if kind == ORDINARY:
                continue
            if kind >= 0 and length < 0:
                length = kind
            elif kind == DROPPED:
                dropped.append(line)
            elif kind == CACHING and caching is None:
                caching = line
            else:
                self._read(data)
                return
        if length < 0:
            self._read(data)
            return
        body = len(data) - end - 4
        surplus = body > length
        if surplus:
            data = data[: end + 4 + length]
            body = length
        parser = connection.parser
        if parser is None:
            parser = connection.parser = httptools.HttpResponseParser(_Nobody())
        try:
            parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._broke(UpstreamBroke(f"{connection.endpoint.url}: llhttp: {type(error).__name__}"))
            return
        if dropped or gated or self._last:
            for line in dropped:
                lines.remove(line)
            if gated and caching is not None:
                lines[lines.index(caching)] = private.get(caching) or made_private(caching)
            lines.insert(0, first)
            head = b"\r\n".join(lines)
            extra = (_PRIVATE if gated and caching is None else b"") + (_CLOSE if self._last else b"")
            data = b"".join((head, b"\r\n", extra, b"\r\n", data[end + 4 :]))
        self._started = True
        self._answered = perf_counter()
        self._status = int(first[9:12])
        self._got = body
        self._transport.write(data)
        self._own += perf_counter() - self._answered
        if body == length:
            self._complete(clean=not surplus)
        else:
            self._left = length - body
            if not self._full:
                self.due = min(self._loop.time() + self._way.spec.idle_timeout, self._total)

    def _go_on(self, connection: UpstreamConnection, data: bytes) -> None:
        """More of a body of known length."""
        left = self._left - len(data)
        surplus = left < 0
        if surplus:
            data = data[: self._left]
            left = 0
        try:
            connection.parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._broke(UpstreamBroke(f"{connection.endpoint.url}: llhttp: {type(error).__name__}"))
            return
        self._left = left
        self._got += len(data)
        self._transport.write(data)
        if not left:
            self._complete(clean=not surplus)
        elif not self._full:
            self.due = min(self._loop.time() + self._way.spec.idle_timeout, self._total)

    # answers that are not quite plain

    def _read(self, data: bytes) -> None:
        """b"": the upstream has closed."""
        reading = self._reading
        if reading is None:
            reading = self._reading = Reading(self._method.decode("ascii"), has_body=self._block.length != 0, upgrade=False)
            if not self._upload and self._block.length != 0:
                reading.end_request()
        try:
            reading.receive(data)
            self._pump(reading)
        except (BadAnswer, ValueError) as error:
            url = self._upstream.endpoint.url if self._upstream is not None else self._way.name
            self._broke(UpstreamBroke(f"{url}: {error}"))

    def _pump(self, reading: Reading) -> None:
        """Pass on what can be. Raises BadAnswer, and ValueError for a head that cannot be passed on."""
        while self._left < 0:
            head = reading.head()
            if head is None:
                return
            if head.status == 101:
                raise BadAnswer("protocols switched unasked")
            if head.status < 200:
                self._hints += 1
                if self._hints > MAX_INFORMATIONAL:
                    raise BadAnswer(f"more than {MAX_INFORMATIONAL} informational answers")
                self._transport.write(informational_bytes(head))
                continue
            if self._teaches(head):
                if self._duplex is not None:
                    self._duplex.hold(True)
                self.due = self._total
                self._task = self._loop.create_task(self._learn(reading, head))
                return
            self._start(head, ())
        self._pump_body(reading)

    def _pump_body(self, reading: Reading) -> None:
        out: list[bytes] = [self._head]
        self._head = b""
        while (piece := reading.body()) is not None:
            if piece == b"":
                if self._chunked:
                    out.append(b"0\r\n\r\n")
                self._write(out)
                self._complete(clean=reading.clean)
                return
            self._got += len(piece)
            out.append(b"%x\r\n%b\r\n" % (len(piece), bytes(piece)) if self._chunked else bytes(piece))
        self._write(out)
        if not self._full:
            self.due = min(self._loop.time() + self._way.spec.idle_timeout, self._total)

    def _write(self, pieces: list[bytes]) -> None:
        if data := b"".join(pieces):
            self._started = True
            self._transport.write(data)

    def _start(self, head: ResponseHead, cookies: tuple[bytes, ...]) -> None:
        """The head, edited; it waits for what comes of its body at once."""
        self._answered = perf_counter()
        self._status = head.status
        self._got = 0
        edited = self._edited(head, cookies)
        headers, framing = frame(head, edited, method=self._method.decode("ascii"), http11=True)
        if self._last:
            headers = (*headers, (b"Connection", b"close"))
        self._head = head_bytes(head.status, head.reason, headers)
        self._chunked = framing is Framing.CHUNKED
        self._left = 0
        self._own += perf_counter() - self._answered

    def _edited(self, head: ResponseHead, cookies: tuple[bytes, ...]) -> Headers:
        """The header fields of an answer as the client gets them."""
        rewrite = self._way.upstream.rewrite
        if rewrite is not None:
            rewrite = replace(rewrite, public=self._seen.located.origin)
        added = tuple([(b"Set-Cookie", cookie) for cookie in cookies])
        return response_for_client(head.headers, names=head.names, gated=self._gated, rewrite=rewrite, added=added)

    def _teaches(self, head: ResponseHead) -> bool:
        """The identity source has something to see in it, or the pass is to be dated anew."""
        way = self._way
        if self._standing.due <= self._now:
            return True
        if way.takes and head.status in TAKEN:
            return True
        return way.source is not None and (b"set-cookie" in head.names or not way.watched.isdisjoint(head.names))

    async def _learn(self, reading: Reading, head: ResponseHead) -> None:
        known_ = self._lane.known
        asked = known_.asked(self._block, self._seen, self._place, self._method, self._target, self._request_id, self._now)
        try:
            after = await self._lane.sessions.after_answer(
                asked, asked.head, self._way.name, self._standing.identified, None, head.status, head.headers
            )
            if self._way.takes and head.status in TAKEN and (taken := await self._taken(asked, head, after)) is not None:
                self._task = None
                self._replace(head, taken)
                return
            self._task = None
            self._start(head, after.cookies)
            if self._duplex is not None and not self._full:
                self._duplex.hold(False)
            self._pump_body(reading)
            if self._cut and self._upstream is not None:
                self.ended()
        except (BadAnswer, ValueError) as error:
            self._broke(UpstreamBroke(f"{self._way.name}: {error}"))
        except StoreUnavailable as error:
            self._task = None
            self._fail(error)
        except Exception:
            log.exception("unhandled fault")
            self._abort()

    async def _taken(self, asked: Asked, head: ResponseHead, after: After) -> web.Response | None:
        """The answer that a rule puts in place of this one."""
        edited = self._edited(head, after.cookies)
        who = after.identified or self._standing.identified
        return await self._lane.intercepts.take(Answered(asked, asked.head, self._way.name, who, {}, head.status, edited))

    def _replace(self, head: ResponseHead, response: web.Response) -> None:
        """Another answer goes out; the upstream's is dropped, and its connection with it, unless it was whole."""
        self._answered = perf_counter()
        self._status = head.status
        self._got = 0
        self._drop_upstream(ClientGone("the answer is replaced"))
        self._left = -1
        self._put(response)

    # ends

    def ended(self) -> None:
        """The upstream has closed."""
        connection = self._upstream
        if connection is None:
            return
        if self._task is not None:  # something is being learned from the head
            self._cut = True
            return
        if self._reading is not None:
            if self._left < 0 or self._state == BUSY:
                self._read(b"")
                if self._upstream is connection and self._task is None:
                    self._broke(UpstreamBroke(f"{connection.endpoint.url}: closed before the end of an answer"))
            return
        self._broke(UpstreamBroke(f"{connection.endpoint.url}: closed without an answer"))

    def writable(self) -> None:
        """The upstream takes bytes again."""
        if self._state == BUSY and len(self._ahead) <= _MOST_AHEAD:
            self._resume()
            if self._upload:
                self._await_body()
            else:
                self._await_answer()

    def _complete(self, *, clean: bool) -> None:
        """The answer is out."""
        self._count()
        connection = self._upstream
        self._upstream = self._duplex = None
        if connection is not None:
            clean = clean and not self._upload
            connection.untapped(clean=clean)
            if clean and not self._cut:
                self._way.pool.put_back(connection)
            else:
                self._way.pool.release(connection)
        self._reading = None
        self._left = -1
        if self._upload:
            self._state = SPENT
            self._early = []
            self._resume()
            self.due = self._loop.time() + _LINGER
            return
        self._rest()

    def _rest(self) -> None:
        """Between two requests."""
        self._state = IDLE
        self._started = self._retried = self._cut = False
        self._total = inf
        self._hints = 0
        self._chunks = None
        self._head = b""
        if self._last or self._closing:
            self._close()
        elif self._full:
            self.due = self._loop.time() + self._limits.write_idle_timeout
        elif self._ahead or self._eof or self._paused:
            self._next()
        else:
            self.due = self._loop.time() + self._limits.keepalive

    def _next(self) -> None:
        """Whatever has come of the next request."""
        self.due = self._loop.time() + self._limits.keepalive
        ahead, self._ahead, self._peeking = self._ahead, b"", None
        self._resume()
        if ahead:
            self._begin(ahead)
        if self._eof and self._state == IDLE:
            self._close()

    # -- faults -------------------------------------------------------------------------------------------------------

    def _broke(self, error: UpstreamBroke) -> None:
        """The upstream's connection is of no use any more: once more on another one, or an end."""
        connection = self._upstream
        again = (
            connection is not None and connection.reused and not connection.responded and not self._retried and not self._started
            and self._block.length == 0 and self._method in _REPEATABLE
        )  # fmt: skip
        if not again:
            self._fail(error)
            return
        self._drop_upstream(error)
        self._retried = True
        self._way.upstream.traffic.retries += 1
        self._dial(fresh=True)

    def _count(self) -> None:
        """An answer that came is over, whole or not."""
        if not self._answered:
            return
        length = self._block.length
        sent = self._uploaded if length is None else length - self._upload
        self._way.upstream.traffic.exchange(self._status, self._answered - self._sought, self._own, sent, self._got)
        self._answered = 0.0

    def _drop_upstream(self, error: BaseException) -> None:
        self._count()
        connection = self._upstream
        self._upstream = self._duplex = None
        self._reading = None
        if connection is None:
            return
        # A kept connection that was closed meanwhile says nothing about the upstream's health.
        failed = isinstance(error, UpstreamFault) and self._left < 0 and (
            isinstance(error, UpstreamTimeout) or not connection.reused or connection.responded
        )  # fmt: skip
        connection.untapped(clean=False)
        self._way.pool.release(connection, failed=failed)

    def _fail(self, error: GatewayError) -> None:
        """Answer with what is wrong, where an answer is still possible; else the client must notice that its answer is not whole."""
        if self._state != BUSY:
            return
        self._drop_upstream(error)
        self._left = -1
        self._early = []
        asked = self._lane.known.asked(self._block, self._seen, self._place, self._method, self._target, self._request_id, self._now)
        response = refusal(error, asked, self._way.name, answers=self._lane.answers, trail=self._lane.trail, limits=self._limits)
        if self._started:
            self._close()
            return
        self._put(response)

    def _put(self, response: web.Response) -> None:
        """An answer of our own."""
        self._early = []
        self._last = self._last or bool(self._upload)
        self._transport.write(written(response, method=self._method, last=self._last))
        if self._upload:
            self._state = SPENT
            self._resume()
            self.due = self._loop.time() + _LINGER
        else:
            self._rest()

    def expire(self, now: float) -> None:
        """Somebody took too long."""
        if self._state == BUSY:
            self._expire_exchange(now)
        elif self._state == IDLE and self._full:
            self._cut_off(now)
        elif self._state == IDLE and self._ahead:
            reason = f"the request head took longer than {self._limits.head_timeout:g} s"
            number = self._listener.on_bad_request(408, reason)
            self._transport.write(plain(408, "Request Timeout", number=number))
            self._close()
        elif self._state in (IDLE, SPENT):
            if self._state == IDLE:
                self._listener.on_cut("keepalive" if self._request_id or self._slow is not None else "unused")
            self._close()
        else:
            if unsent_of(self._transport):
                self._listener.on_cut("slow_reader")
            self._abort()

    def _expire_exchange(self, now: float) -> None:
        spec = self._way.spec
        url = self._upstream.endpoint.url if self._upstream is not None else self._way.name
        if now >= self._total:
            self._fail(UpstreamTimeout(f"{url}: not complete within {spec.total_timeout:g} s"))
        elif self._full:
            self._cut_off(now)
        elif self._upload and (now >= self._arrive or not self._paused):
            self._last = True
            self._upload = 0
            late = f"the body did not arrive within {self._limits.upload_timeout:g} s"
            self._fail(BodyTimeout(late if now >= self._arrive else f"nothing of the body for {self._limits.body_idle_timeout:g} s"))
        elif self._upload or (self._duplex is not None and self._duplex.full):
            unsent = self._duplex.unsent if self._duplex is not None else 0
            if unsent < self._unsent:
                self._unsent = unsent
                self.due = now + spec.idle_timeout
            else:
                self._fail(UpstreamTimeout(f"{url}: takes no bytes of the request for {spec.idle_timeout:g} s"))
        elif not self._started:
            self._fail(UpstreamTimeout(f"{url}: no answer within {spec.first_byte_timeout:g} s"))
        else:
            self._fail(UpstreamTimeout(f"{url}: silent for {spec.idle_timeout:g} s"))

    def _cut_off(self, now: float) -> None:
        """A client that takes nothing for too long."""
        unsent = unsent_of(self._transport)
        if unsent < self._unsent:
            self._unsent = unsent
            self.due = now + self._limits.write_idle_timeout
            return
        if self._state == BUSY:
            reason = f"the client read nothing for {self._limits.write_idle_timeout:g} s"
            self._lane.trail.event("client gone", request_id=self._request_id, reason=reason)
        self._listener.on_cut("slow_reader")
        self._abort()

    # -- ends of the connection -----------------------------------------------------------------------------------------

    @property
    def slow(self) -> Connection | None:
        """Who has the connection, where it is not this lane."""
        return self._slow if self._state == SLOW else None

    @property
    def busy(self) -> bool:
        return self._state in (BUSY, SPENT) or (self._state == OVER and unsent_of(self._transport) > 0)

    def retire(self) -> None:
        """Close now if no request is in hand, else after its answer."""
        self._closing = self._last = True
        if self._state in (IDLE, SPENT):
            self._close()

    def close_now(self) -> None:
        """Close, whatever is in hand."""
        self._abort()

    def _close(self) -> None:
        """What was written goes out, for as long as the client reads."""
        self._state = OVER
        self.due = self._loop.time() + self._limits.write_idle_timeout
        self._transport.close()

    def _abort(self) -> None:
        self._state = OVER
        self.due = inf
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self._drop_upstream(ClientGone("the connection is over"))
        self._transport.abort()
