"""Clients that go at any byte, in any way, take nothing with them: no exception leaves a callback, no connection stays, and the gateway
serves the next one. Both lanes, over TCP and TLS."""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import structlog
from structlog.testing import capture_logs

from tests.support.certificates import Authority
from tests.support.front import CHROME, FETCH, Front
from tests.support.lanes import LANES
from tests.support.raw import OK, RawPeer, RawUpstream, Truncated, raw_upstream, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

RULES = [
    {"name": "admin", "match": {"path": "/admin/**"}, "deny": {"status": 451}},
    {"name": "gated", "match": {"path": "/gated/**"}, "require": "human"},
    {"name": "form", "match": {"path": "/form"}, "when": 'request.form.a == "x"', "deny": {"status": 403}},
]
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
FORM = b"Content-Type: application/x-www-form-urlencoded\r\n"
CHUNKS = b"Transfer-Encoding: chunked\r\n\r\n3\r\na=y\r\n2\r\n&b\r\n0\r\n\r\n"
MESSAGES = (
    b"GET /x HTTP/1.1\r\n%b\r\n",
    b"GET /big HTTP/1.1\r\n%b\r\n",
    b"GET /late HTTP/1.1\r\n%b\r\n",
    b"GET /half HTTP/1.1\r\n%b\r\n",
    b"GET /ws HTTP/1.1\r\n%bConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nping",
    b"POST /x HTTP/1.1\r\n%bContent-Length: 10\r\n\r\n0123456789",
    b"POST /x HTTP/1.1\r\n%bExpect: 100-continue\r\nContent-Length: 10\r\n\r\n0123456789",
    b"POST /form HTTP/1.1\r\n%b" + FORM + CHUNKS,
    b"POST /admin HTTP/1.1\r\n%bContent-Length: 10\r\n\r\n0123456789",
    b"POST /gated HTTP/1.1\r\n%b" + CHROME + FORM + CHUNKS,
    b"GET /gated HTTP/1.1\r\n%b" + FETCH + b"\r\n",
    b"POST /.stepup/pass/revoke HTTP/1.1\r\n%b" + FORM + b"Content-Length: 10\r\n\r\n0123456789",
    b"POST /x HTTP/1.1\r\n%bTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n",
    b"GET /\x00 HTTP/1.1\r\n%b\r\n",
)
ROUNDS = 250
_NO_FAULT = ("unhandled fault", "internal error")


class Errors(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(f"{record.name}: {record.getMessage()} {record.exc_info}")


async def script(upstream: RawUpstream, peer: RawPeer) -> None:
    while True:
        message = await peer.message()
        match message.head.target:
            case b"/big":
                await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n" + b"x" * 3_000_000)
            case b"/late":
                await asyncio.sleep(0.02)  # the subject is an answer that is not there yet
                await peer.send(OK)
            case b"/half":
                await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
                return
            case b"/ws":
                await peer.send(SWITCHED)
                while data := await peer.reader.read(65536):
                    await peer.send(data)
                return
            case _:
                await peer.send(OK)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=[(lane, tls) for lane in LANES for tls in (False, True)], ids=str)
async def front(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Front]:
    lane, tls = request.param
    folder: Path = tmp_path_factory.mktemp("lane")
    more: dict[str, Any] = {}
    if tls:
        authority = Authority(folder)
        issued = authority.issue("localhost")
        more = {
            "context": ssl.create_default_context(cafile=authority.ca_file),
            "tls": {"cert_file": issued.cert_file, "key_file": issued.key_file},
        }
    limits = {"head_timeout": "2s", "body_idle_timeout": "2s", "keepalive": "2s", "write_idle_timeout": "2s"}
    async with (
        raw_upstream(script) as upstream,
        LANES[lane](folder, {"app": {"url": upstream.url}}, rules=RULES, limits=limits, **more) as made,
    ):
        yield made


async def leave(front: Front, draw: random.Random) -> None:
    """Send some requests up to any byte, in any pieces, read something or nothing, and go in one of the ways there are."""
    sent = b"".join(message.replace(b"%b", b"Host: %b\r\n" % front.host) for message in draw.choices(MESSAGES, k=draw.randint(1, 3)))
    if draw.random() < 0.7:
        sent = sent[: draw.randint(0, len(sent))]
    cut = draw.randint(0, len(sent))
    async with front.client() as client:
        with suppress(ConnectionError):
            for piece in (sent[:cut], sent[cut:]):
                await client.send(piece)
                for _ in range(draw.randint(0, 6)):
                    await asyncio.sleep(0)
        match draw.randint(0, 3):
            case 0:
                await client.reset()
            case 1:
                client.pause()
                await client.reset()
            case 2 if client.writer.can_write_eof():
                client.writer.write_eof()
                with suppress(Truncated):
                    await client.rest()
            case _:
                pass  # closed by the end of this block, maybe with bytes unread


@pytest.mark.parametrize("seed", range(2))
async def test_clients_that_leave_at_any_byte_take_nothing_with_them(front: Front, seed: int) -> None:
    draw = random.Random(seed)
    unhandled: list[Any] = []
    errors = Errors()
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: unhandled.append(context))
    logging.getLogger().addHandler(errors)
    try:
        with capture_logs(processors=[structlog.processors.format_exc_info]) as lines:
            for _ in range(0, ROUNDS, 5):
                await asyncio.gather(*(leave(front, draw) for _ in range(5)))
            await until(lambda: not any(front.app.public.states().values()))
            pool = front.app.live.upstreams["app"].pool
            await until(lambda: all(site.open == site.idle for site in pool.status()))
            assert pool.waiting == 0
            assert front.app.metrics.traffic.upstream("app").tunnels == 0
            assert (await front.ask("GET /x")).status == 200
    finally:
        loop.set_exception_handler(before)
        logging.getLogger().removeHandler(errors)
    assert [line for line in lines if line["event"] in _NO_FAULT] == []
    assert errors.records == []
    assert unhandled == []
