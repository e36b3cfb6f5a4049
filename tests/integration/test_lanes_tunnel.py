"""After a 101 the bytes are the two ends' own."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from tests.support.certificates import Authority
from tests.support.lane import lane, limits
from tests.support.raw import OK, RawPeer, RawUpstream, answering, raw_client, raw_upstream, until

UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n"
    b"Sec-WebSocket-Protocol: chat\r\n\r\n"
)
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: y\r\n\r\n"


async def echo(upstream: RawUpstream, peer: RawPeer) -> None:
    upstream.requests.append(await peer.message())
    await peer.send(SWITCHED)
    while data := await peer.reader.read(65536):
        await peer.send(data)


async def echo_messages(request: web.Request) -> web.WebSocketResponse:
    ws = web.WebSocketResponse(protocols=("chat",))
    await ws.prepare(request)
    async for message in ws:
        if message.data == "bye":
            await ws.close(code=4001)
        elif message.type is aiohttp.WSMsgType.TEXT:
            await ws.send_str(message.data)
        elif message.type is aiohttp.WSMsgType.BINARY:
            await ws.send_bytes(message.data)
    return ws


@pytest.fixture
async def websocket_app() -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_get("/ws", echo_messages)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def test_websocket_works_through_the_lane_with_its_subprotocol(websocket_app: str) -> None:
    async with (
        lane(websocket_app) as made,
        aiohttp.ClientSession() as session,
        session.ws_connect(f"http://127.0.0.1:{made.port}/ws", protocols=("other", "chat")) as ws,
    ):
        assert ws.protocol == "chat"
        await ws.send_str("hello")
        assert await ws.receive_str() == "hello"
        await ws.ping()
        big = b"x" * 1_000_000
        await ws.send_bytes(big)
        assert await ws.receive_bytes() == big
        await ws.send_str("bye")
        assert (await ws.receive()).type is aiohttp.WSMsgType.CLOSE
        assert ws.close_code == 4001


async def test_websocket_works_over_tls(websocket_app: str, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    trusting = ssl.create_default_context(cafile=authority.ca_file)
    async with (
        lane(websocket_app, context=authority.issue("localhost").server_context()) as made,
        aiohttp.ClientSession() as session,
        session.ws_connect(f"https://localhost:{made.port}/ws", ssl=trusting) as ws,
    ):
        for size in (1, 70_000, 1_000_000):
            await ws.send_bytes(b"x" * size)
            assert len(await ws.receive_bytes()) == size


async def test_upgrade_passes_untouched_and_so_does_every_byte_behind_it() -> None:
    noise = bytes(range(256)) * 4
    async with raw_upstream(echo) as upstream, lane(upstream.url) as made, raw_client(made.port) as client:
        await client.send(UPGRADE + b"early")  # bytes that came with the request
        head = await client.head()
        assert head.line == b"HTTP/1.1 101 Switching Protocols"
        assert head.fields == ((b"Upgrade", b"websocket"), (b"Connection", b"Upgrade"), (b"Sec-WebSocket-Accept", b"y"))
        await client.send(noise)
        assert await client.exactly(5 + len(noise)) == b"early" + noise
        assert upstream.requests[0].head.get(b"sec-websocket-protocol") == b"chat"
        assert upstream.requests[0].head.get(b"upgrade") == b"websocket"


async def test_bytes_that_come_with_the_101_arrive() -> None:
    async def script(upstream: RawUpstream, peer: RawPeer) -> None:
        await peer.message()
        await peer.send(SWITCHED + b"welcome")
        await peer.rest()

    async with raw_upstream(script) as upstream, lane(upstream.url) as made, raw_client(made.port) as client:
        await client.send(UPGRADE)
        await client.head()
        assert await client.exactly(7) == b"welcome"


async def test_declined_upgrade_is_a_plain_answer_and_the_connection_goes_on() -> None:
    async with (
        raw_upstream(answering(b"HTTP/1.1 426 No\r\nContent-Length: 2\r\n\r\nno", OK)) as upstream,
        lane(upstream.url) as made,
        raw_client(made.port) as client,
    ):
        await client.send(UPGRADE)
        assert (await client.response()).status == 426
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await client.response()).status == 200


async def test_101_that_nobody_asked_for_is_a_502() -> None:
    async with raw_upstream(answering(SWITCHED)) as upstream, lane(upstream.url) as made, raw_client(made.port) as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await client.response()).status == 502


async def test_half_closed_client_still_gets_what_the_upstream_says() -> None:
    async def script(upstream: RawUpstream, peer: RawPeer) -> None:
        await peer.message()
        await peer.send(SWITCHED)
        said = await peer.rest()
        await peer.send(b"heard " + said)

    async with raw_upstream(script) as upstream, lane(upstream.url) as made, raw_client(made.port) as client:
        await client.send(UPGRADE)
        await client.head()
        await client.send(b"bye")
        client.writer.write_eof()
        assert await client.rest() == b"heard bye"


async def test_client_that_ends_its_side_before_the_switch_is_half_closed_in_the_tunnel_too() -> None:
    async def script(upstream: RawUpstream, peer: RawPeer) -> None:
        await peer.message()
        arrived.set()
        await ended.wait()
        await peer.send(SWITCHED)
        said = await peer.rest()
        await peer.send(b"heard " + said)

    arrived, ended = asyncio.Event(), asyncio.Event()
    async with raw_upstream(script) as upstream, lane(upstream.url) as made, raw_client(made.port) as client:
        await client.send(UPGRADE + b"bye")
        await arrived.wait()
        client.writer.write_eof()
        ended.set()
        await client.head()
        assert await client.rest() == b"heard bye"


async def test_tunnel_ends_for_both_when_one_end_goes() -> None:
    ended = asyncio.Event()

    async def script(upstream: RawUpstream, peer: RawPeer) -> None:
        await peer.message()
        await peer.send(SWITCHED)
        try:
            await peer.rest()
        finally:
            ended.set()

    async with raw_upstream(script) as upstream, lane(upstream.url) as made:
        async with raw_client(made.port) as client:
            await client.send(UPGRADE)
            await client.head()
            await client.reset()
        async with asyncio.timeout(5):
            await ended.wait()
        await until(lambda: made.server is not None and made.server.connections == 0)
        assert made.pool.status()[0].open == 0


async def test_tunnel_can_be_closed_from_outside() -> None:
    async with raw_upstream(echo) as upstream, lane(upstream.url) as made, raw_client(made.port) as client:
        await client.send(UPGRADE)
        await client.head()
        made.tunnels[0].close()
        assert await client.rest() == b""
        await until(lambda: bool(made.relayed))
        assert made.relayed[0].status == 101


async def test_silent_tunnel_ends() -> None:
    async with (
        raw_upstream(echo) as upstream,
        lane(upstream.url, bounds=limits(tunnel_idle_timeout="500ms")) as made,
        raw_client(made.port) as client,
    ):
        await client.send(UPGRADE + b"x")
        await client.head()
        assert await client.rest() == b"x"


async def test_tunnel_outlasts_the_timeouts_of_ordinary_answers() -> None:
    spec: dict[str, Any] = {"idle_timeout": "50ms", "first_byte_timeout": "50ms", "total_timeout": "50ms"}
    async with (
        raw_upstream(echo) as upstream,
        lane(upstream.url, bounds=limits(head_timeout="50ms", keepalive="50ms"), **spec) as made,
        raw_client(made.port) as client,
    ):
        await client.send(UPGRADE)
        await client.head()
        await asyncio.sleep(0.15)  # the subject of the test is time
        await client.send(b"still here")
        assert await client.exactly(10) == b"still here"


async def test_tunnel_holds_back_a_sender_whose_peer_does_not_read() -> None:
    sent = 0

    async def script(upstream: RawUpstream, peer: RawPeer) -> None:
        nonlocal sent
        await peer.message()
        await peer.send(SWITCHED)
        while sent < 200_000_000:
            await peer.send(b"x" * 65536)
            sent += 65536

    async with raw_upstream(script) as upstream, lane(upstream.url) as made, raw_client(made.port, limit=1024) as client:
        await client.send(UPGRADE)
        await client.head()
        held = -1
        while held != sent:
            held = sent
            await asyncio.sleep(0.05)
        assert sent < 100_000_000
        await client.reset()
