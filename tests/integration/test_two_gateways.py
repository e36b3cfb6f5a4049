"""Two gateways behind one origin, sharing one Redis and one key file. What one begins the other goes on with."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gateway.app import GatewayApp
from gateway.errors import KeyMismatch
from tests.support.gateway import NAVIGATION, Browser, Running, demo_config, read, running
from tests.support.ports import free_port
from tests.support.process import GatewayProcess, eventually
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.redis


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis"), "--save", "") as found:
        yield found


@dataclass
class Pair:
    """Two gateways. Browsers know the first one's origin; a request that reaches the second has that origin in its Host."""

    first: Running
    second: GatewayApp
    second_base: str

    def browser(self) -> Browser:
        return self.first.browser()

    def at_second(self, browser: Browser) -> Browser:
        """The same browser, its requests taken to the second gateway."""
        host = self.first.base.removeprefix("http://")
        return Browser(browser.session, self.second_base, headers={**NAVIGATION, "Host": host})

    def code(self) -> str:
        """The code in the newest mail of whichever gateway sent one."""
        if not self.first.app.mailbox or not self.first.app.mailbox.messages:
            self.first.app.mailbox = self.second.mailbox
        return self.first.code()


def second_config(folder: Path, first: Running, **changes: Any) -> tuple[Path, str, str]:
    """A configuration for another gateway in front of the same app, for the same origin. Also its own two origins."""
    port, admin_port = free_port(), free_port()
    app_port = int(first.upstream.rpartition(":")[2])
    path = demo_config(folder, app_port=app_port, port=port, admin_port=admin_port, public_url=[first.base], **changes)
    return path, f"http://127.0.0.1:{port}", f"http://127.0.0.1:{admin_port}"


def copy_key(source: Path, folder: Path) -> None:
    (folder / "var").mkdir(parents=True)
    shutil.copy(source.parent / "var/secret.key", folder / "var/secret.key")


@asynccontextmanager
async def two(tmp_path: Path, server: RedisServer) -> AsyncIterator[Pair]:
    server.command("FLUSHALL")
    stores = {"state": server.url, "records": "sqlite:///var/records.db", "redis_deadline": "2s"}
    async with running(tmp_path / "first", stores=stores) as first:
        copy_key(first.config, tmp_path / "second")
        path, base, _ = second_config(tmp_path / "second", first, stores=stores)
        second = await GatewayApp.start(read(path), demo=True)
        try:
            yield Pair(first, second, base)
        finally:
            await second.close()


@pytest.fixture
async def pair(tmp_path: Path, server: RedisServer) -> AsyncIterator[Pair]:
    async with two(tmp_path, server) as found:
        yield found


async def test_a_transfer_moves_between_gateways_at_every_step_and_goes_through_once(pair: Pair) -> None:
    one = pair.browser()
    other = pair.at_second(one)
    await pair.first.log_in(one)
    asked = await pair.first.transfer(other, "Wanderer-Unique")
    assert asked.status == 303
    page = await one.get(asked.location)
    code = pair.first.code()
    ready = await other.post(asked.location, {"code": code, "stepup_token": page.hidden("stepup_token")})
    assert ready.location.startswith("/continue?")
    ticket = (await one.get(ready.location)).location
    sent = await asyncio.gather(other.get(ticket), one.get(ticket), other.get(ticket), one.get(ticket))
    assert {reply.status for reply in sent} <= {302, 409, 410}
    assert [reply.status for reply in sent].count(302) == 1
    assert await pair.first.ledger(one, "Wanderer-Unique") == 1
    assert await pair.first.ledger(other, "Wanderer-Unique") == 1


async def test_a_login_on_one_gateway_is_a_login_on_the_other(pair: Pair) -> None:
    browser = pair.browser()
    await pair.first.log_in(browser)
    account = await pair.at_second(browser).get("/account")
    assert account.status == 200
    assert "alice" in account.text


async def test_a_code_proved_on_one_gateway_counts_on_the_other(pair: Pair) -> None:
    browser = pair.browser()
    await pair.first.log_in(browser)
    asked = await pair.first.transfer(browser, "Proof-Unique")
    await pair.first.pass_code(browser, asked.location)
    await eventually(lambda: pair.second.feed.age(pair.second.clock()) < 5)
    again = await pair.first.transfer(pair.at_second(browser), "Second-Unique")
    assert again.status == 302


async def test_a_right_code_counts_once_over_both(pair: Pair) -> None:
    one = pair.browser()
    other = pair.at_second(one)
    await pair.first.log_in(one)
    asked = await pair.first.transfer(one, "Race-Unique")
    page = await one.get(asked.location)
    answer = {"code": pair.first.code(), "stepup_token": page.hidden("stepup_token")}
    replies = await asyncio.gather(*(where.post(asked.location, answer) for where in (one, other) * 5))
    assert {r.status for r in replies} <= {303, 422}, [r.text for r in replies]
    ready = next(r for r in replies if r.status == 303)
    landed = await asyncio.gather(*(where.get(ready.location, follow=True) for where in (one, other) * 10))
    assert [r.url.path for r in landed].count("/account") == 1
    assert await pair.first.ledger(one, "Race-Unique") == 1


async def test_wrong_answers_are_counted_over_both(pair: Pair) -> None:
    one = pair.browser()
    other = pair.at_second(one)
    await pair.first.log_in(one)
    asked = await pair.first.transfer(one, "Guess-Unique")
    await one.json("GET", asked.location)
    wrong = "000000" if pair.first.code() != "000000" else "111111"
    statuses = [(await where.json("POST", asked.location, {"code": wrong})).status for where in (one, other, one, other)]
    assert statuses == [422, 422, 422, 429]


@pytest.mark.parametrize("way", ["revoke", "logout"])
async def test_what_is_forgotten_on_one_gateway_is_forgotten_on_the_other_within_a_second(pair: Pair, way: str) -> None:
    browser = pair.browser()
    await pair.first.log_in(browser)
    kept = browser.cookie("stepup")
    assert kept is not None
    session = browser.cookie("JSESSIONID")
    old = {"Cookie": f"stepup={kept}; JSESSIONID={session}"}
    thief = pair.at_second(pair.browser())  # holds a copy of both cookies
    shown = await thief.json("GET", "/.stepup/pass", headers=old)
    assert shown.json["subject"] == "alice"
    if way == "revoke":
        page = await browser.get("/.stepup/pass")
        done = await browser.post("/.stepup/pass/revoke", {"stepup_token": page.hidden("stepup_token")})
        assert done.status == 200
    else:
        assert (await browser.get("/logout")).status == 302

    async def forgotten() -> bool:
        return (await thief.json("GET", "/.stepup/pass", headers=old)).json["subject"] == ""  # type: ignore[no-any-return]

    await eventually(forgotten, within=1.0)
    assert (await pair.first.browser().json("GET", "/.stepup/pass", headers=old)).json["subject"] == ""


@pytest.mark.parametrize("way", ["revoke", "logout"])
async def test_a_tunnel_on_one_gateway_ends_within_a_second_of_what_is_said_to_the_other(pair: Pair, way: str) -> None:
    browser = pair.browser()
    await pair.first.log_in(browser)
    held = f"stepup={browser.cookie('stepup')}; JSESSIONID={browser.cookie('JSESSIONID')}"
    host = pair.first.base.removeprefix("http://")
    there = pair.browser().session.ws_connect(pair.second_base + "/ws", protocols=("echo",), headers={"Cookie": held, "Host": host})
    async with there as socket:
        await socket.send_str("hello")
        assert await socket.receive_str() == "hello"
        if way == "revoke":
            page = await browser.get("/.stepup/pass")
            assert (await browser.post("/.stepup/pass/revoke", {"stepup_token": page.hidden("stepup_token")})).status == 200
        else:
            assert (await browser.get("/logout")).status == 302
        async with asyncio.timeout(1.0):
            await socket.receive()
        assert socket.closed
    await eventually(lambda: pair.second.metrics.traffic.upstream("bank").closed == {"revoked": 1})


async def test_a_gateway_with_another_key_does_not_start_on_the_same_store(tmp_path: Path, server: RedisServer) -> None:
    server.command("FLUSHALL")
    stores = {"state": server.url, "records": "sqlite:///var/records.db", "redis_deadline": "2s"}
    async with running(tmp_path / "first", stores=stores) as first:
        path, _, _ = second_config(tmp_path / "second", first, stores=stores)
        with pytest.raises(KeyMismatch, match="copy the key file"):
            await GatewayApp.start(read(path), demo=True)


async def test_the_command_says_that_the_key_is_another_one_and_ends(tmp_path: Path, server: RedisServer) -> None:
    server.command("FLUSHALL")
    stores = {"state": server.url, "records": "sqlite:///var/records.db", "redis_deadline": "2s"}
    async with running(tmp_path / "first", stores=stores) as first:
        path, _, admin = second_config(tmp_path / "second", first, stores=stores, mail={"smtp": "smtp://127.0.0.1:9"})
        process = GatewayProcess(path, admin)
        with pytest.raises(AssertionError, match="copy the key file"):
            await process.start()
        assert await process.ended() == 1
