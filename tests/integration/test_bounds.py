"""Every bound that a client can run into, driven to its edge by a real socket: what is just within passes, one more gets what the settings
reference says, and is counted."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import aiohttp
import pytest

from gateway.spec.sections import LimitsSpec, TransactionsSpec, UpstreamSpec
from tests.support.front import CHROME, FETCH, Front, cookie_line, cookies, fronting
from tests.support.raw import OK, PATIENCE, RawMessage, RawPeer, RawUpstream, Truncated, raw_upstream, until

Outcome = int | Literal["close"]
LANES = ("slow", "auto")
SECTIONS: dict[str, type[LimitsSpec | UpstreamSpec | TransactionsSpec]] = {
    "limits": LimitsSpec,
    "upstreams": UpstreamSpec,
    "transactions": TransactionsSpec,
}
GET = "GET /x HTTP/1.1\nHost: HOST\n\n"
PAGE = CHROME.decode().replace("\r\n", "\n") + "Content-Type: a/b\n"
FORM = "Content-Type: application/x-www-form-urlencoded\n"
RULES = [
    {"name": "gated", "match": {"path": "/gated"}, "require": "human"},
    {"name": "form", "match": {"path": "/form"}, "when": 'request.form.a == "deny"', "deny": {"status": 403}},
]
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"


@dataclass
class Place:
    """A gateway and its upstream, and the clients that a case holds open."""

    front: Front
    upstream: RawUpstream
    held: AsyncExitStack

    def bytes(self, text: str) -> bytes:
        return text.replace("\n", "\r\n").encode("latin-1").replace(b"HOST", self.front.host)

    async def client(self) -> RawPeer:
        return await self.held.enter_async_context(self.front.client())

    async def metric(self, line: str) -> float:
        url = f"http://127.0.0.1:{self.front.app.admin_port}/metrics"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            lines = (await answer.text()).splitlines()
        return next((float(each.rpartition(" ")[2]) for each in lines if each.startswith(line + " ")), 0.0)

    async def reaches(self, line: str, wanted: float) -> None:
        """The metric is, or soon becomes, exactly this."""
        async with asyncio.timeout(PATIENCE):
            while (found := await self.metric(line)) < wanted:  # noqa: ASYNC110 -- what is waited for tells nobody
                await asyncio.sleep(0.02)
        assert found == wanted


async def outcome(client: RawPeer) -> Outcome:
    """The status of the answer, whole; "close" where the connection ends without one, or within it."""
    try:
        answer = await client.response()
    except Truncated:
        return "close"
    if answer.status in (429, 503):
        assert answer.head.get(b"retry-after") is not None
    return answer.status


async def one(place: Place, text: str) -> Outcome:
    """One request on a connection of its own."""
    client = await place.client()
    await client.send(place.bytes(text))
    return await outcome(client)


Act = Callable[[Place], Awaitable[Outcome]]


def sending(text: str) -> Act:
    return lambda place: one(place, text)


def posting(path: str, body: str, *, chunked: bool = False, fields: str = FORM) -> Act:
    framing = f"Transfer-Encoding: chunked\n\n{len(body):x}\n{body}\n0\n\n" if chunked else f"Content-Length: {len(body)}\n\n{body}"
    return sending(f"POST {path} HTTP/1.1\nHost: HOST\n{fields}{framing}")


def trickling(path: str, pieces: int, pause: float, *, more: bool) -> Act:
    """A body of single bytes with a pause before each; `more` are announced than come."""

    async def act(place: Place) -> Outcome:
        client = await place.client()
        length = pieces + 1000 * more
        await client.send(place.bytes(f"POST {path} HTTP/1.1\nHost: HOST\n{FORM}Content-Length: {length}\n\n"))
        answered = asyncio.ensure_future(outcome(client))
        for _ in range(pieces):
            await asyncio.sleep(pause)  # the subject is time
            with suppress(ConnectionError):
                await client.send(b"x")
        return await answered

    return act


def connecting(count: int) -> Act:
    """So many connections at once; what the last of them gets."""

    async def act(place: Place) -> Outcome:
        found: Outcome = "close"
        for _ in range(count):
            client = await place.client()
            await client.send(place.bytes(GET))
            found = await outcome(client)
        return found

    return act


def pausing(text: str, pause: float) -> Act:
    """A head in two pieces, `pause` seconds between them."""

    async def act(place: Place) -> Outcome:
        client = await place.client()
        first, second = place.bytes(text)[:7], place.bytes(text)[7:]
        await client.send(first)
        answered = asyncio.ensure_future(outcome(client))
        await asyncio.sleep(pause)  # the subject is time
        with suppress(ConnectionError):
            await client.send(second)
        return await answered

    return act


def again(pause: float) -> Act:
    """A second request on a connection, `pause` seconds after the first."""

    async def act(place: Place) -> Outcome:
        client = await place.client()
        await client.send(place.bytes(GET))
        assert await outcome(client) == 200
        await asyncio.sleep(pause)  # the subject is time
        with suppress(ConnectionError):
            await client.send(place.bytes(GET))
        return await outcome(client)

    return act


def reading(*, reads: bool) -> Act:
    """An answer of 30 MB, which the client begins to read and then does, or does not, go on reading."""

    async def act(place: Place) -> Outcome:
        client = await place.client()
        await client.send(place.bytes("GET /big HTTP/1.1\nHost: HOST\n\n"))
        head = await client.head()
        if not reads:
            client.pause()
            await place.reaches(refused("slow_reader"), 1)
            client.writer.transport.resume_reading()  # type: ignore[attr-defined]  # a stream's transport is one that reads
        try:
            return 200 if len(await client.body(head)) == 30_000_000 else "close"
        except Truncated:
            return "close"

    return act


def tunnel(pause: float) -> Act:
    async def act(place: Place) -> Outcome:
        client = await place.client()
        await client.send(place.bytes("GET /ws HTTP/1.1\nHost: HOST\nConnection: Upgrade\nUpgrade: websocket\n\n"))
        assert (await client.head()).status == 101
        await asyncio.sleep(pause)  # the subject is time
        try:
            await client.send(b"ping")
            return 200 if await client.exactly(4) == b"ping" else "close"
        except (Truncated, ConnectionError):
            return "close"

    return act


def answering_a_step(size: int) -> Act:
    """A wrong answer of so many bytes to a captcha."""

    async def act(place: Place) -> Outcome:
        asked = await place.front.ask("GET /gated", FETCH)
        fields = cookie_line(cookies(asked)) + FETCH + b"Content-Type: application/json\r\n"
        answer = json.dumps({"altcha": ""}).encode()
        padded = answer.replace(b'""', b'"%b"' % (b"x" * (size - len(answer))))
        assert len(padded) == size
        return (await place.front.ask(f"POST /.stepup/t/{json.loads(asked.body)['state']}", fields, padded)).status

    return act


async def while_busy(place: Place) -> Outcome:
    """A request while another one holds the upstream's only connection."""
    first = await place.client()
    await first.send(place.bytes("GET /silent HTTP/1.1\nHost: HOST\n\n"))
    await until(lambda: bool(place.upstream.requests))
    return await one(place, GET)


@asynccontextmanager
async def black_hole() -> AsyncIterator[str]:
    """An address that takes no more connections: the url of a listener whose queue is full."""
    with ExitStack() as held:
        listener = held.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            each = held.enter_context(socket.socket())
            each.settimeout(0)
            each.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@dataclass(frozen=True)
class Bound:
    """within, beyond: what is done, and must get `passes` and `answer`. counted: the metric's line that is one more then."""

    within: Act
    beyond: Act
    answer: Outcome
    counted: str
    config: Mapping[str, Any] = field(default_factory=dict)
    passes: Outcome = 200


def refused(reason: str) -> str:
    return f'stepup_refusals_total{{reason="{reason}"}}'


def fault(kind: str) -> str:
    return f'stepup_upstream_errors_total{{kind="{kind}",upstream="app"}}'


LINE = "GET /{} HTTP/1.1\nHost: HOST\n\n"
FIELD = "GET /x HTTP/1.1\nHost: HOST\nX-Field: {}\n\n"

BOUNDS: dict[str, Bound] = {
    "limits.max_connections": Bound(connecting(2), connecting(3), 503, refused("too_many_connections"), {"max_connections": 2}),
    "limits.max_connections_per_address": Bound(
        connecting(2), connecting(3), 503, refused("too_many_connections_of_address"), {"max_connections_per_address": 2}
    ),
    "limits.request_line": Bound(
        sending(LINE.format("x" * (100 - len("GET / HTTP/1.1")))),
        sending(LINE.format("x" * (101 - len("GET / HTTP/1.1")))),
        414, refused("malformed 414"), {"request_line": 100},
    ),
    "limits.header_size": Bound(
        sending(FIELD.format("x" * 60)),
        sending(FIELD.format("x" * 61)),
        431, refused("malformed 431"), {"header_size": 60},
    ),
    "limits.header_count": Bound(
        sending("GET /x HTTP/1.1\nHost: HOST\nA: 1\nB: 1\n\n"),
        sending("GET /x HTTP/1.1\nHost: HOST\nA: 1\nB: 1\nC: 1\n\n"),
        431, refused("malformed 431"), {"header_count": 3},
    ),
    "limits.head_timeout": Bound(pausing(GET, 0.1), pausing(GET, 1.5), 408, refused("head_timeout"), {"head_timeout": "1s"}),
    "limits.keepalive": Bound(
        again(0.1), again(1.5), "close", 'stepup_client_closed_total{reason="keepalive"}', {"keepalive": "1s"}
    ),
    "limits.body_idle_timeout": Bound(
        trickling("/x", 3, 0.5, more=False), trickling("/x", 1, 0.1, more=True), 408, refused("body_timeout"), {"body_idle_timeout": "1s"}
    ),
    "limits.body_timeout": Bound(
        trickling("/form", 3, 0.1, more=False), trickling("/form", 15, 0.1, more=True), 408, refused("body_timeout"), {"body_timeout": "1s"}
    ),
    "limits.upload_timeout": Bound(
        trickling("/x", 3, 0.1, more=False), trickling("/x", 15, 0.1, more=True), 408, refused("body_timeout"), {"upload_timeout": "1s"}
    ),
    "limits.write_idle_timeout": Bound(
        reading(reads=True), reading(reads=False), "close", refused("slow_reader"), {"write_idle_timeout": "1s"}
    ),
    "limits.max_upload": Bound(posting("/x", "x" * 10), posting("/x", "x" * 11), 413, refused("too_large"), {"max_upload": 10}),
    "limits.max_upload, in chunks": Bound(
        posting("/x", "x" * 10, chunked=True), posting("/x", "x" * 11, chunked=True), 413, refused("too_large"), {"max_upload": 10}
    ),
    "limits.condition_body": Bound(
        posting("/form", "a=xxxxxxxx"), posting("/form", "a=xxxxxxxxx"), 403,
        'stepup_decisions_total{decision="deny",upstream="app"}', {"condition_body": 10},
    ),
    "limits.answer_body": Bound(
        answering_a_step(100), answering_a_step(101), 413, refused("too_large"), {"answer_body": 100}, passes=422
    ),
    "transactions.max_body": Bound(
        posting("/gated", "x" * 10, fields=PAGE), posting("/gated", "x" * 11, fields=PAGE), 413, refused("too_large"), {"max_body": 10},
        passes=303,
    ),
    "limits.tunnel_idle_timeout": Bound(
        tunnel(0.1), tunnel(1.5), "close", 'stepup_tunnels_closed_total{reason="idle",upstream="app"}', {"tunnel_idle_timeout": "1s"}
    ),
    "upstreams.first_byte_timeout": Bound(
        sending("GET /late HTTP/1.1\nHost: HOST\n\n"), sending("GET /silent HTTP/1.1\nHost: HOST\n\n"), 504, fault("upstream_timeout"),
        {"first_byte_timeout": "1s"},
    ),
    "upstreams.idle_timeout": Bound(
        sending("GET /pause HTTP/1.1\nHost: HOST\n\n"), sending("GET /half HTTP/1.1\nHost: HOST\n\n"), "close", fault("upstream_timeout"),
        {"idle_timeout": "1s"},
    ),
    "upstreams.total_timeout": Bound(
        sending("GET /late HTTP/1.1\nHost: HOST\n\n"), sending("GET /silent HTTP/1.1\nHost: HOST\n\n"), 504, fault("upstream_timeout"),
        {"total_timeout": "1s"},
    ),
    "upstreams.total_timeout, within an answer": Bound(
        sending("GET /pause HTTP/1.1\nHost: HOST\n\n"), sending("GET /half HTTP/1.1\nHost: HOST\n\n"), "close", fault("upstream_timeout"),
        {"total_timeout": "1s"},
    ),
    "upstreams.max_connections": Bound(
        connecting(3), while_busy, 503, fault("upstream_busy"), {"max_connections": 1, "connect_timeout": "300ms"}
    ),
}  # fmt: skip

# Bounds of the same sections that no client runs into by itself, and where they are tested.
ELSEWHERE = {
    "limits.drain": "test_cli_run.py: what is under way at SIGTERM",
    "upstreams.connect_timeout": "below: it takes an upstream that takes no connection",
    "upstreams.keepalive": "test_lanes_upstream.py: unused connections to the upstream",
}


async def script(upstream: RawUpstream, peer: RawPeer) -> None:
    """What the upstream does, by path."""
    while True:
        message: RawMessage = await peer.message()
        upstream.requests.append(message)
        match message.head.target:
            case b"/silent":
                await peer.rest()
                return
            case b"/late":
                await asyncio.sleep(0.1)  # the subject is time
                await peer.send(OK)
            case b"/half":
                await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no")
                await peer.rest()
                return
            case b"/pause":
                await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no")
                await asyncio.sleep(0.1)  # the subject is time
                await peer.send(b"k")
            case b"/big":
                await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 30000000\r\n\r\n")
                for _ in range(30):
                    await peer.send(b"x" * 1_000_000)
            case b"/ws":
                await peer.send(SWITCHED)
                while data := await peer.reader.read(65536):
                    await peer.send(data)
                return
            case _:
                await peer.send(OK)


@asynccontextmanager
async def placed(folder: Path, name: str, config: Mapping[str, Any], lane: str) -> AsyncIterator[Place]:
    section = name.partition(".")[0]
    settings: dict[str, Any] = {} if section == "upstreams" else {section: dict(config)}
    async with (
        raw_upstream(script) as upstream,
        fronting(folder, {"app": {"url": upstream.url, **(config if not settings else {})}}, rules=RULES, lane=lane, **settings) as front,
        AsyncExitStack() as held,
    ):
        yield Place(front, upstream, held)


@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("name", BOUNDS)
async def test_what_is_just_within_passes_and_one_more_gets_its_answer(tmp_path: Path, name: str, lane: str) -> None:
    bound = BOUNDS[name]
    async with placed(tmp_path / "within", name, bound.config, lane) as place:
        assert await bound.within(place) == bound.passes
        assert await place.metric(bound.counted) == 0
    async with placed(tmp_path / "beyond", name, bound.config, lane) as place:
        assert await bound.beyond(place) == bound.answer
        await place.reaches(bound.counted, 1)


async def test_an_upstream_that_takes_no_connection_is_a_502_in_time(tmp_path: Path) -> None:
    async with (
        black_hole() as url,
        fronting(tmp_path, {"app": {"url": url, "connect_timeout": "300ms"}}) as front,
        front.client() as client,
        AsyncExitStack() as held,
    ):
        place = Place(front, RawUpstream(), held)
        await client.send(place.bytes(GET))
        assert await outcome(client) == 502
        assert await place.metric(fault("upstream_down")) == 1


@pytest.mark.parametrize("name", BOUNDS)
def test_the_settings_reference_says_what_a_bound_answers(name: str) -> None:
    section, _, key = name.partition(",")[0].partition(".")
    text = SECTIONS[section].model_fields[key].description or ""
    wanted: dict[Outcome, str] = {"close": "closed|breaks off", 403: "counts as met"}
    if key == "max_connections_per_address":
        wanted[503] = "the same above"
    assert re.search(wanted.get(BOUNDS[name].answer, str(BOUNDS[name].answer)), text), text


def test_every_bound_has_a_case() -> None:
    keys = {f"limits.{key}" for key in LimitsSpec.model_fields}
    keys |= {f"upstreams.{key}" for key in UpstreamSpec.model_fields if key.endswith("_timeout") or key in ("max_connections", "keepalive")}
    assert {name.partition(",")[0] for name in BOUNDS if not name.startswith("transactions.")} | set(ELSEWHERE) == keys


@pytest.mark.parametrize("lane", LANES)
async def test_connections_far_above_the_bound_are_all_turned_away_and_leave_nothing(tmp_path: Path, lane: str) -> None:
    """The first of them are told so; when too many stand there at once, the others are only closed."""
    async with placed(tmp_path, "limits.max_connections", {"max_connections": 1}, lane) as place:
        served = await place.client()
        await served.send(place.bytes(GET))
        assert await outcome(served) == 200
        found = [await outcome(await place.client()) for _ in range(100)]
        assert found == [503] * 64 + ["close"] * 36
        assert await place.metric(refused("too_many_connections")) == 100
        await served.send(place.bytes(GET))
        assert await outcome(served) == 200
        listener = place.front.app.public._listener
        await until(lambda: not listener._turned_away)
        assert place.front.app.public.connections == 1
