"""A WebSocket that was opened because of a pass ends with what it was opened by. Through a whole gateway, with a real WebSocket."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.gateway import Browser, Clock, Running, running
from tests.support.raw import until

LOGIN: dict[str, Any] = {"name": "login", "match": {"path": "/login", "method": "POST"}, "require": "human"}
GATED: dict[str, Any] = {"name": "ws", "match": {"path": "/ws"}, "require": "human", "max_age": "5m"}
HOUR = 3600.0
SOON = 1.0  # seconds: a revocation must have come through


@asynccontextmanager
async def websocket(browser: Browser) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    async with browser.session.ws_connect(browser.base + "/ws", protocols=("echo",)) as socket:
        yield socket


async def echoes(socket: aiohttp.ClientWebSocketResponse) -> None:
    await socket.send_str("still there?")
    async with asyncio.timeout(5):
        assert await socket.receive_str() == "still there?"


async def ends(socket: aiohttp.ClientWebSocketResponse, within: float = SOON) -> None:
    """The connection is gone without a closing frame: nobody knows where one would fit into the stream."""
    async with asyncio.timeout(within):
        message = await socket.receive()
    assert message.type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR)
    assert socket.close_code == aiohttp.WSCloseCode.ABNORMAL_CLOSURE


async def metric(there: Running, name: str) -> float | None:
    """The value of a metric's line, None where there is no such line."""
    async with aiohttp.ClientSession() as session, session.get(there.admin + "/metrics") as answer:
        lines = (await answer.text()).splitlines()
    return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(name + " ")), None)


async def closed(there: Running, reason: str) -> float | None:
    return await metric(there, f'stepup_tunnels_closed_total{{reason="{reason}",upstream="bank"}}')


async def revoke(browser: Browser) -> None:
    page = await browser.get("/.stepup/pass")
    done = await browser.post("/.stepup/pass/revoke", {"stepup_token": page.hidden("stepup_token")})
    assert done.status == 200


async def log_out(browser: Browser) -> None:
    assert (await browser.get("/logout")).status == 302


@pytest.mark.parametrize("end", [revoke, log_out])
@pytest.mark.parametrize("rules", [[LOGIN, GATED], [LOGIN]], ids=["gated", "ungated, but somebody's"])
async def test_a_tunnel_ends_with_its_pass(tmp_path: Path, end: Any, rules: list[Any]) -> None:
    async with running(tmp_path, rules=rules) as there:
        browser, other = there.browser(), there.browser()
        await there.log_in(browser)
        await there.log_in(other)
        async with websocket(browser) as socket, websocket(other) as others:
            await echoes(socket)
            assert await metric(there, 'stepup_tunnels{upstream="bank"}') == 2
            assert await metric(there, 'stepup_client_connections{state="tunnel"}') == 2
            await end(browser)
            await ends(socket)
            await echoes(others)
            assert await closed(there, "revoked") == 1
            assert await metric(there, 'stepup_tunnels{upstream="bank"}') == 1


async def test_a_tunnel_ends_when_its_proof_is_too_old(tmp_path: Path) -> None:
    clock = Clock(time.time())
    async with running(tmp_path, clock=clock, rules=[LOGIN, GATED]) as there:
        browser = there.browser()
        await there.log_in(browser)
        await there.advance(200)
        async with websocket(browser) as socket:
            await there.advance(99)
            await asyncio.sleep(0.6)  # two looks at least: the subject of the test is that they do nothing
            await echoes(socket)
            await there.advance(2)
            await ends(socket)
        assert await closed(there, "max_age") == 1


async def test_the_strictest_rule_that_opened_it_counts(tmp_path: Path) -> None:
    clock = Clock(time.time())
    strict = {**GATED, "name": "strict", "max_age": "1m"}
    async with running(tmp_path, clock=clock, rules=[LOGIN, GATED, strict, {**GATED, "name": "loose", "max_age": "session"}]) as there:
        browser = there.browser()
        await there.log_in(browser)
        async with websocket(browser) as socket:
            await there.advance(61)
            await ends(socket)


@pytest.mark.parametrize("rules", [[LOGIN, {**GATED, "max_age": "session"}], [LOGIN]], ids=["gated", "ungated, but somebody's"])
async def test_a_tunnel_outlives_idle_but_not_the_pass(tmp_path: Path, rules: list[Any]) -> None:
    """A pass unused for an hour is over for requests. A tunnel that is open is its use."""
    clock = Clock(time.time())
    async with running(tmp_path, clock=clock, rules=rules) as there:
        browser = there.browser()
        await there.log_in(browser)
        async with websocket(browser) as socket:
            await there.advance(7.9 * HOUR)
            await asyncio.sleep(0.6)  # two looks at least: the subject of the test is that they do nothing
            await echoes(socket)
            await there.advance(0.1 * HOUR + 1)
            await ends(socket)
        assert await closed(there, "pass_over") == 1


async def test_a_tunnel_of_nobody_that_no_rule_asked_for_is_left_alone(tmp_path: Path) -> None:
    clock = Clock(time.time())
    async with running(tmp_path, clock=clock, rules=[LOGIN]) as there:
        nobody, somebody = there.browser(), there.browser()
        await there.log_in(somebody)
        await nobody.get("/login")
        async with websocket(nobody) as socket, websocket(somebody) as other:
            await revoke(somebody)
            await ends(other)
            await there.advance(30 * HOUR)
            await asyncio.sleep(0.6)  # two looks at least: the subject of the test is that they do nothing
            await echoes(socket)


async def test_a_tunnel_that_its_ends_close_is_counted_so(tmp_path: Path) -> None:
    async with running(tmp_path, rules=[]) as there:
        async with websocket(there.browser()) as socket:
            await echoes(socket)
            await socket.close()
        counts = there.app.metrics.traffic.upstream("bank")
        await until(lambda: counts.tunnels == 0)
        assert counts.closed == {"ended": 1}
        assert counts.sent > len("still there?") < counts.received
