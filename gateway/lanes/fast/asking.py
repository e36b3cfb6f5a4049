"""Forward-auth, on the listener of one proxy and, by secrets, on the public one: an `Allow` is answered here, anything else is the slow
lane's.

What such a proxy asks differs from one request to the next in little but the address: the line that names it is taken out, and what is left
is remembered as other blocks of header fields are (see `known`). It is judged by the very same functions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from gateway.lanes.fast.client import FastConnection
from gateway.lanes.fast.known import Block, Known, Seen, Standing, Verdict, ticketed
from gateway.lanes.heads import Located
from gateway.wire.forward_auth import (
    SECRET_HEADER,
    Integration,
    Premises,
    Refused,
    allow_headers,
    integration_of,
    original_head,
    target_source,
)
from gateway.wire.forwarding import is_trusted
from gateway.wire.head import RequestHead, header_key

if TYPE_CHECKING:
    from gateway.lanes.fast.lane import FastLane
    from gateway.lanes.server import Listener

MOST_ASKS = 2048
_VISIBLE = bytes(range(0x21, 0x7F))
_SECRET = b"\r\n" + SECRET_HEADER.lower() + b":"


class Ask:
    """What a proxy asks, but for the address: of the original request its method, its header fields and where it came from."""

    __slots__ = ("block", "head", "method", "seen")

    def __init__(self, block: Block, seen: Seen, head: RequestHead) -> None:
        self.block = block
        self.seen = seen
        self.head = head
        self.method = head.method.encode("ascii")


class Asking:
    """One integration. Its asks are forgotten with everything else that is known."""

    def __init__(self, proxy: Integration, premises: Premises, known: Known) -> None:
        self._proxy = proxy
        self._premises = premises
        self._known = known
        self._generation = known.generation
        source = target_source(proxy.dialect)
        self.marker = None if source is None else b"\r\n" + source + b":"
        """Begins the line that names the address, lower-case; None: it is the request's own target."""
        self.mount = proxy.mount
        self.longest = premises.longest
        self._asks: dict[tuple[bytes, bytes, str], Ask] = {}

    def ask(self, line: bytes, fields: bytes, rest: bytes, peer: str) -> Ask | None:
        """line, fields: of the auth request, whole. rest: the fields without the one that names the address."""
        if self._generation != self._known.generation:
            self._generation = self._known.generation
            self._asks.clear()
        method, target, _ = line.split(b" ")
        key = (method if self.marker is None else line, rest, peer)
        found = self._asks.get(key)
        if found is not None:
            return found
        sent = self._known.block(line, fields, kept=False)
        if sent is None or sent.length != 0:
            return None
        head = original_head(self._proxy, method.decode("ascii"), target, sent.headers, peer, self._premises)
        if isinstance(head, Refused):
            return None
        trusted = is_trusted(peer, self._premises.trusted)
        located = Located(head.scheme, head.host, head.origin, head.client_ip, head.peer, trusted)
        block = Block(head.headers, length=0, last=sent.last)
        if len(self._asks) >= MOST_ASKS:
            self._asks.clear()
        made = self._asks[key] = Ask(block, self._known.seen(located), head)
        return made

    def answer(self, ask: Ask, standing: Standing, verdict: Verdict) -> bytes:
        """The 200, as the slow lane writes it."""
        way_source, identified = standing.way.source, standing.identified
        headers = allow_headers(
            self._proxy, ask.head, token=verdict.token, subject=identified.subject.id, strip=identified.strip,
            session_cookies=way_source.cookie_names if way_source else frozenset(), identity=standing.way.upstream.identity,
            trusted=ask.seen.located.trusted,
        )  # fmt: skip
        lines = [b"%b: %b\r\n" % field for field in headers]
        last = b"Connection: close\r\n" if ask.block.last else b""
        made = b"".join([b"HTTP/1.1 200 OK\r\n", *lines, b"Content-Length: 0\r\n", last, b"\r\n"])
        if made.count(b"\n") != len(lines) + 3 + bool(last):
            raise ValueError("a header holds a line break")
        verdict.answers[ask] = made
        return made


class Mounted:
    """The proxies that ask on the public listener, each known by its secret."""

    def __init__(self, proxies: Sequence[Integration], premises: Premises, known: Known) -> None:
        self.mount = proxies[0].mount
        self._proxies = tuple(proxies)
        self._askings = {proxy.name: Asking(proxy, premises, known) for proxy in proxies}

    def whose(self, data: bytes, end: int) -> Asking | None:
        """See AskingConnection."""
        start, cut = data.find(b" ") + 1, data.find(b"\r\n")
        if not data.startswith(self.mount, start):
            return None
        stop = data.find(b" ", start)
        return self._by_secret(data[start:stop], data[cut : end + 2]) if stop < cut else None

    def _by_secret(self, target: bytes, fields: bytes) -> Asking | None:
        """fields: each after its line break."""
        folded = header_key(fields)
        start = folded.find(_SECRET)
        if start < 0:
            return None
        first = start + len(_SECRET)
        given = ((SECRET_HEADER, fields[first : fields.find(b"\r\n", first)].strip(b" \t")),)
        proxy = integration_of(self._proxies, target, given) if folded.find(_SECRET, first) < 0 else None
        return self._askings[proxy.name] if proxy is not None else None


class AskingConnection(FastConnection):
    """A connection on which auth requests come, alone or among others. whose: the one that they are from, None for what is none; told of
    the bytes from its beginning and where its head ends."""

    __slots__ = ("_whose",)

    def __init__(self, lane: FastLane, listener: Listener, *, whose: Callable[[bytes, int], Asking | None]) -> None:
        super().__init__(lane, listener)
        self._whose = whose

    def _begin(self, data: bytes) -> None:
        while True:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                if data:
                    self._peek(data)
                return
            asking = self._whose(data, end)
            if asking is None:
                super()._begin(data)
                return
            self._ahead = b""
            self._peeking = None
            if not self._serve(asking, data, end):
                self._hand_over(data)
                return
            data = data[end + 4 :]
            if self._last or self._closing:
                self._close()
                return
            if self._full:  # `resume_writing` goes on
                self._ahead = data
                return
            self.due = self._loop.time() + self._limits.keepalive

    def _serve(self, asking: Asking, data: bytes, end: int) -> bool:
        """Answer an auth request that comes to an Allow."""
        lane = self._lane
        store = lane.known
        cut = data.find(b"\r\n")
        line = data[:cut]
        parts = line.split(b" ")
        if len(parts) != 3 or parts[2] != b"HTTP/1.1" or cut > self._limits.request_line or line.translate(None, _VISIBLE) != b"  ":
            return False
        if asking.marker is None:
            raw, rest = parts[1].removeprefix(asking.mount), data[cut : end + 4]
        else:
            folded = data[cut:end].lower()
            start = folded.find(asking.marker)
            if start < 0 or folded.find(asking.marker, start + 1) >= 0:
                return False
            stop = data.find(b"\r\n", cut + start + 2)
            raw = data[cut + start + len(asking.marker) : stop].strip(b" \t")
            rest = data[cut : cut + start] + data[stop : end + 4]
        if raw[:1] != b"/" or len(raw) > asking.longest or raw.translate(None, _VISIBLE):
            return False
        ask = asking.ask(line, data[cut + 2 : end + 4], rest, self._address or "")
        if ask is None:
            return False
        mark = raw.find(b"?")
        path = raw if mark < 0 else raw[:mark]
        seen = ask.seen
        place = seen.places.get(path) or store.place(seen, path)
        if place is None or place.way is None:
            return False
        if mark >= 0 and (b"%" in raw or b"stepup" in raw) and ticketed(raw, place.readings):
            return False
        now = lane.clock()
        standing = seen.standings.get(place.way)
        if standing is None or now >= standing.until or (standing.passing and store.revoked(standing)):
            standing = store.standing(ask.block, seen, place.way, now)
        if standing is None or standing.due <= now:
            return False
        if place.free:
            verdict: Verdict | None = standing.free
        else:
            simple = mark < 0 or not (b"%" in raw or b"ethod" in raw.lower())
            verdict = standing.verdicts.get((ask.method, path)) if simple else None
            if verdict is None or now >= verdict.until:
                verdict = store.verdict(ask.block, seen, place, standing, ask.method, raw, now, kept=simple)
        if verdict is None or (verdict.relied and not store.fresh(now)):
            return False
        self._last = ask.block.last
        answer = verdict.answers.get(ask) or asking.answer(ask, standing, verdict)
        verdict.told.tell(lane.request_id(), ask.head.method, place.shown, now, plain=place.plain)
        self._transport.write(answer)
        return True
