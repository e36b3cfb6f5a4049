"""Kill -9 between any two steps. A gateway in a process of its own, killed and started again on the same folder."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pyotp
import pytest
import yaml

from tests.support.altcha_client import payload
from tests.support.gateway import DEMO, Browser, Reply
from tests.support.process import Outside, eventually, outside
from tests.support.raw import OK, RawPeer, RawUpstream, raw_upstream
from tests.support.redis_server import RedisServer


@pytest.fixture
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """Where state and records are. Redis stays up: it is the gateway that is killed."""
    records = "sqlite:///var/records.db"
    if request.param == "sqlite":
        yield {"state": "sqlite:///var/state.db", "records": records}
        return
    folder = tmp_path / "redis"
    folder.mkdir()
    with RedisServer(folder, "--save", "") as server:
        yield {"state": server.url, "records": records, "redis_deadline": "2s"}


async def killed_and_started_again(gateway: Outside) -> None:
    gateway.process.kill()
    await gateway.process.start()


EVERYWHERE = ("suspended", "mailed", "ready", "ticket", "done")


@pytest.mark.parametrize(
    ("stores", "moments"),
    [("sqlite", EVERYWHERE), pytest.param("redis", ("mailed", "ticket"), marks=pytest.mark.redis)],
    indirect=["stores"],
    ids=["sqlite", "redis"],
)
async def test_a_flow_goes_on_after_a_kill_between_any_two_of_its_steps(
    tmp_path: Path, stores: dict[str, Any], moments: tuple[str, ...]
) -> None:
    async with outside(tmp_path / "gateway", stores=stores) as gateway:

        async def kill_when(moment: str) -> None:
            if moment in moments:
                await killed_and_started_again(gateway)

        browser = gateway.browser()
        await browser.get("/login")
        asked = await browser.post("/login", {"username": "alice", "password": "wonderland"})
        assert asked.status == 303
        await kill_when("suspended")
        account = await gateway.pass_captcha(browser, asked.location)
        assert (account.status, account.url.path) == (200, "/account")
        asked = await gateway.transfer(browser, "Killed-Unique")
        code_page = await browser.get(asked.location)
        await kill_when("mailed")
        assert "alice" in (await browser.get("/account")).text  # who is logged in, the pass says and nothing else
        answer = {"code": gateway.code(), "stepup_token": code_page.hidden("stepup_token")}
        ready = await browser.post(asked.location, answer)
        assert (ready.status, ready.location.partition("?")[0]) == (303, "/continue")
        await kill_when("ready")
        ticket = (await browser.get(ready.location)).location
        assert "stepup_resume=rt_" in ticket
        await kill_when("ticket")
        assert await gateway.ledger(browser, "Killed-Unique") == 0
        sent = await browser.get(ticket)
        assert (sent.status, sent.location) == (302, "/account")
        await eventually(lambda: len(gateway.process.logged("transaction", outcome="resumed")) == 2)  # after the login's
        await kill_when("done")
        again = await browser.get(ticket)
        assert again.status == 410
        assert "already sent" in again.text
        assert await gateway.ledger(browser, "Killed-Unique") == 1


async def test_an_authenticator_app_that_was_set_up_is_still_asked_for_after_a_kill(tmp_path: Path) -> None:
    raw = yaml.safe_load(DEMO.read_text())
    raw["steps"]["code"] |= {"period": 120, "enrol": "allow"}
    raw["steps"]["human"] |= {"cost": 100, "max_number": 50}
    raw["rules"][1]["max_age"] = "once"
    async with outside(tmp_path / "gateway", steps=raw["steps"], rules=raw["rules"]) as gateway:
        browser = gateway.browser()
        await gateway.log_in(browser)
        asked = await gateway.transfer(browser, "Enrolled-Unique")
        await browser.json("GET", asked.location)
        shown = await browser.json("POST", asked.location, {"action": "enrol"})
        key = shown.json["step"]["data"]["enrol"]["key"].replace(" ", "")
        app = pyotp.TOTP(key, interval=120)
        passed = await browser.json("POST", asked.location, {"code": app.now()})
        assert passed.json["status"] == "passed", passed.text
        await killed_and_started_again(gateway)
        asked = await gateway.transfer(browser, "Second-Unique")
        shown = await browser.json("GET", asked.location)
        assert shown.json["step"]["data"] == {"method": "totp", "methods": ["totp", "email"]}
        records = sqlite3.connect(tmp_path / "gateway/var/records.db")
        trail = records.execute("SELECT step, outcome FROM audit WHERE step = 'code'").fetchall()
        records.close()
        assert trail == [("code", "passed")]


class Holding:
    """An upstream that takes a whole POST and then keeps its answer back until it is told."""

    def __init__(self) -> None:
        self.arrived = asyncio.Event()
        self.release = asyncio.Event()

    async def __call__(self, upstream: RawUpstream, peer: RawPeer) -> None:
        upstream.requests.append(await peer.message())
        self.arrived.set()
        await self.release.wait()
        await peer.send(OK)


@asynccontextmanager
async def before_a_slow_application(folder: Path, script: Any, **changes: Any) -> AsyncIterator[tuple[Outside, RawUpstream]]:
    """A second application under /hold, whose POSTs need a captcha; nobody needs to be logged in."""
    raw = yaml.safe_load(DEMO.read_text())
    async with raw_upstream(script) as upstream:
        more = {
            "upstreams": raw["upstreams"] | {"slow": {"url": upstream.url}},
            "routes": [{"path": "/hold/**", "upstream": "slow"}, {"upstream": "bank"}],
            "rules": [{"name": "held", "match": {"path": "/hold/**", "method": "POST"}, "require": "human"}, *raw["rules"]],
        }
        async with outside(folder, **more, **changes) as gateway:
            yield gateway, upstream


async def ticket_for(gateway: Outside, browser: Browser, path: str, data: dict[str, str]) -> str:
    """Suspend a POST, pass its captcha, and stop where the ticket would be used."""
    await browser.get("/")
    first = await browser.post(path, data)
    assert first.status == 303, first.text
    shown = await browser.json("GET", first.location)
    passed = await browser.json("POST", first.location, {"altcha": payload(shown.json["step"]["data"])})
    going: Reply = await browser.get(passed.json["continue"])
    assert going.status == 303, going.text
    return going.location


async def test_killed_while_sending_ends_as_unknown_and_is_never_sent_again(tmp_path: Path) -> None:
    holding = Holding()
    async with before_a_slow_application(tmp_path / "gateway", holding, transactions={"sending_timeout": "2s"}) as (gateway, upstream):
        browser = gateway.browser()
        ticket = await ticket_for(gateway, browser, "/hold/order", {"item": "one"})
        sending = asyncio.ensure_future(browser.get(ticket))
        await holding.arrived.wait()
        meanwhile = await browser.get(ticket)
        assert meanwhile.status == 409
        assert "being sent" in meanwhile.text
        gateway.process.kill()
        with pytest.raises(Exception, match=r"disconnect|Cannot connect|reset"):
            await sending
        holding.release.set()
        await gateway.process.start()

        async def unknown() -> Reply | None:
            page = await browser.get(ticket)
            assert page.status in (409, 410), page.text
            return page if page.status == 410 else None

        page: Reply = await eventually(unknown)
        assert "Look in the application before you try again" in page.text
        assert len(upstream.requests) == 1
        assert upstream.requests[0].body == b"item=one"
        state = await browser.json("GET", ticket)
        assert state.json["error"]["code"] == "outcome_unknown"
        assert len(upstream.requests) == 1
