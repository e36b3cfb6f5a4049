"""What happens when a part is away: closed, said clearly, and over by itself when the part is back. Nothing is ever sent twice."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pyotp
import pytest
import yaml

from gateway.demo.app import start as start_app
from tests.support.altcha_client import payload
from tests.support.gateway import DEMO, Browser, Clock, Reply, Running, running
from tests.support.ports import free_port
from tests.support.process import eventually
from tests.support.raw import OK, RawMessage, RawPeer, RawUpstream, Script, raw_client, raw_upstream
from tests.support.redis_server import RedisServer

RECORDS = "sqlite:///var/records.db"
HUMAN = {"kind": "captcha", "provider": "altcha", "cost": 100, "max_number": 50}


def rules(*more: dict[str, Any]) -> list[dict[str, Any]]:
    """The demo's rules without the captcha before a login, and others before them."""
    return [*more, *(rule for rule in yaml.safe_load(DEMO.read_text())["rules"] if rule["name"] != "login-needs-human")]


class Away:
    """A state store, and how to take it away and give it back."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.reads_work = False

    def begin(self) -> None:
        raise NotImplementedError

    def end(self) -> None:
        raise NotImplementedError


class FrozenRedis(Away):
    def __init__(self, server: RedisServer) -> None:
        super().__init__(server.url)
        self._server = server

    def begin(self) -> None:
        self._server.freeze()

    def end(self) -> None:
        self._server.thaw()


class KilledRedis(FrozenRedis):
    """With an append-only file, so that it comes back with what it had."""

    def begin(self) -> None:
        self._server.kill()

    def end(self) -> None:
        self._server.start()


class LockedSqlite(Away):
    """Another process holds the lock for writing and does not let go; who only reads is not disturbed."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"sqlite:///{path}")
        self.reads_work = True
        self._path = path
        self._lock: sqlite3.Connection

    def begin(self) -> None:
        self._lock = sqlite3.connect(self._path, isolation_level=None, timeout=10)
        self._lock.execute("BEGIN IMMEDIATE")

    def end(self) -> None:
        self._lock.execute("ROLLBACK")
        self._lock.close()


class SpoiltSqlite(Away):
    """The file was moved away, and what stands in its place cannot be opened. At no moment is there nothing: a new store would be made."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"sqlite:///{path}")
        self._path = path
        self._aside = path.with_name("aside.db")

    def begin(self) -> None:
        self._aside.hardlink_to(self._path)
        folder = self._path.with_name("folder")
        folder.symlink_to(self._path.parent, target_is_directory=True)
        folder.replace(self._path)

    def end(self) -> None:
        self._aside.replace(self._path)


@contextmanager
def store_that_goes_away(kind: str, folder: Path) -> Iterator[Away]:
    folder.mkdir(parents=True)
    with ExitStack() as held:
        match kind:
            case "redis frozen" | "redis killed":
                server = held.enter_context(RedisServer(folder, "--appendonly", "yes", "--appendfsync", "always", "--save", ""))
                yield FrozenRedis(server) if kind == "redis frozen" else KilledRedis(server)
            case "sqlite locked":
                yield LockedSqlite(folder / "state.db")
            case _:
                yield SpoiltSqlite(folder / "state.db")


AWAY = [
    pytest.param("redis frozen", marks=pytest.mark.redis),
    pytest.param("redis killed", marks=pytest.mark.redis),
    "sqlite locked",
    "sqlite spoilt",
]


@pytest.fixture(params=AWAY)
def away(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Away]:
    with store_that_goes_away(request.param, tmp_path / "store") as found:
        yield found


SOFT = {"name": "soft", "match": {"path": "/upload"}, "require": "human", "max_age": "session", "on_error": "allow"}
ALICES = {"name": "alices", "match": {"path": "/echo"}, "when": "subject.id != 'alice'", "deny": {"status": 403}}


@asynccontextmanager
async def on_store(tmp_path: Path, away: Away) -> AsyncIterator[Running]:
    """A gateway on that store, its clock in our hands."""
    stores = {"state": away.url, "records": RECORDS, "sqlite_deadline": "300ms", "redis_deadline": "1s"}
    async with running(tmp_path / "gateway", clock=Clock(time.time()), stores=stores, rules=rules(SOFT, ALICES)) as gateway:
        yield gateway


async def ready(gateway: Running) -> tuple[int, dict[str, str]]:
    async with aiohttp.ClientSession() as session, session.get(gateway.admin + "/health/ready") as answer:
        return answer.status, (await answer.json())["checks"]


async def logged_in(gateway: Running) -> Browser:
    """Straight through the app's form: nothing is asked of a login here."""
    browser = gateway.browser()
    await browser.get("/login")
    done = await browser.post("/login", {"username": "alice", "password": "wonderland"})
    assert (done.status, done.location) == (302, "/account")
    return browser


async def proved(gateway: Running) -> Browser:
    """Logged in, with a code that is good for five minutes and a captcha that is good for a session."""
    browser = await logged_in(gateway)
    asked = await gateway.transfer(browser, "Before-Unique")
    await gateway.pass_code(browser, asked.location)
    asked = await browser.get("/upload")
    page = await gateway.pass_captcha(browser, asked.location)
    assert (page.status, page.url.path) == (200, "/upload")
    return browser


def refused_for_now(reply: Reply) -> None:
    assert reply.status == 503, reply.text
    assert int(reply.headers["Retry-After"]) > 0


@pytest.mark.parametrize(
    "kind", [pytest.param("redis frozen", id="redis", marks=pytest.mark.redis), pytest.param("sqlite locked", id="sqlite")]
)
async def test_the_whole_flow_on_either_store(tmp_path: Path, kind: str) -> None:
    with store_that_goes_away(kind, tmp_path / "store") as store:
        async with running(tmp_path / "gateway", stores={"state": store.url, "records": RECORDS, "redis_deadline": "2s"}) as gateway:
            browser = gateway.browser()
            page = await gateway.log_in(browser)
            assert (page.status, page.url.path) == (200, "/account")
            asked = await gateway.transfer(browser, "Flow-Unique")
            going = await gateway.pass_code(browser, asked.location, follow=False)
            ticket = await browser.get(going.location)
            assert "stepup_resume=rt_" in ticket.location
            done = await browser.get(ticket.location)
            assert (done.status, done.location) == (302, "/account")
            assert (await browser.get(ticket.location)).status == 410
            assert (await browser.get(going.location)).status == 410
            assert await gateway.ledger(browser, "Flow-Unique") == 1


async def test_without_its_state_store_the_gateway_refuses_what_is_gated_and_nothing_else(tmp_path: Path, away: Away) -> None:
    async with on_store(tmp_path, away) as gateway:
        browser = await logged_in(gateway)
        suspended = await browser.get("/admin")
        assert suspended.status == 303
        away.begin()
        try:
            page = await browser.get("/admin?other")
            refused_for_now(page)
            assert page.headers["Content-Type"].startswith("text/html")
            assert "nothing was sent" in page.text
            script = await browser.json("GET", "/admin?other")
            refused_for_now(script)
            assert script.headers["Content-Type"] == "application/problem+json"
            assert script.json["status"] == 503
            refused_for_now(await gateway.transfer(browser, "Lost-Unique"))
            if not away.reads_work:
                refused_for_now(await browser.get(suspended.location))
            assert await gateway.ledger(browser, "Lost-Unique") == 0
            other = await logged_in(gateway)
            assert "alice" in (await other.get("/account")).text
            status, checks = await ready(gateway)
            assert (status, checks["records"]) == (503, "ok")
            assert checks["state"] != "ok"
            async with aiohttp.ClientSession() as session, session.get(gateway.admin + "/health/live") as live:
                assert live.status == 200
        finally:
            away.end()

        async def back() -> bool:
            return (await ready(gateway))[0] == 200

        await eventually(back)
        asked = await gateway.transfer(browser, "After-Unique")
        done = await gateway.pass_code(browser, asked.location)
        assert (done.status, done.url.path) == (200, "/account")
        assert await gateway.ledger(browser, "After-Unique") == 1
        assert (await gateway.pass_captcha(browser, suspended.location)).status == 200


@pytest.mark.parametrize("away", [*AWAY[:2], "sqlite spoilt"], indirect=True)  # a lock for writing does not stop the feed from being read
async def test_a_pass_counts_for_five_seconds_without_news_of_revocations(tmp_path: Path, away: Away) -> None:
    async with on_store(tmp_path, away) as gateway:
        assert gateway.clock is not None
        browser = await proved(gateway)
        away.begin()
        try:
            gateway.clock.advance(4.9)
            assert (await gateway.transfer(browser, "Young-Unique")).status == 302
            assert (await browser.get("/echo")).status == 200
            gateway.clock.advance(0.2)
            refused_for_now(await gateway.transfer(browser, "Old-Unique"))
            assert (await browser.get("/account")).status == 200
            assert (await browser.get("/upload")).status == 200  # on_error: allow
            refused_for_now(await browser.get("/echo"))  # alice may, and whoever holds a revoked pass may not
            refused_for_now(await browser.json("GET", "/admin"))
        finally:
            away.end()

        async def passes() -> bool:
            return (await gateway.transfer(browser, "Again-Unique")).status == 302

        await eventually(passes)
        assert await gateway.ledger(browser, "Young-Unique") == 1
        assert await gateway.ledger(browser, "Old-Unique") == 0
        assert await gateway.ledger(browser, "Again-Unique") == 1


@pytest.mark.parametrize("lane", ["auto", "slow"])
async def test_a_clock_that_is_set_back_makes_no_pass_and_no_proof_last_longer(tmp_path: Path, lane: str) -> None:
    clock = Clock(time.time())
    gated = [{"name": "gated", "match": {"path": "/account"}, "require": "human", "max_age": "5m"}]
    async with running(tmp_path, clock=clock, rules=gated, lane=lane) as gateway:
        browser = gateway.browser()
        await gateway.pass_captcha(browser, (await browser.get("/account")).location)
        for _ in range(2):  # the second one finds whatever the first has left behind
            assert (await browser.get("/account")).status == 302, "the application's own: to its login"
        await gateway.advance(-4)
        assert (await browser.get("/account")).status == 302, "as far as clocks may differ"
        assert (await browser.json("GET", "/.stepup/pass")).json["steps"] == [{"step": "human", "age": 0, "amr": []}]
        await gateway.advance(-60)
        assert (await browser.get("/account")).location.startswith("/.stepup/t/")
        assert (await browser.json("GET", "/.stepup/pass")).json["steps"] == []


async def test_a_clock_that_is_set_back_makes_old_news_of_revocations_no_younger(tmp_path: Path) -> None:
    clock = Clock(time.time())
    async with running(tmp_path, clock=clock, rules=rules()) as gateway:
        await gateway.app.feed.refresh()
        assert gateway.app.feed.age(clock()) == 0
        clock.advance(-60)
        assert gateway.app.feed.age(clock()) == float("inf")
        await gateway.app.feed.refresh()
        assert gateway.app.feed.age(clock()) == 0


async def test_a_rule_that_says_on_error_allow_lets_pass_while_the_store_is_away(tmp_path: Path, away: Away) -> None:
    async with on_store(tmp_path, away) as gateway:
        browser = gateway.browser()
        assert (await browser.get("/upload")).status == 303
        away.begin()
        try:
            page = await browser.get("/upload?again")
            assert page.status == 200, page.text
        finally:
            away.end()

        async def asked() -> bool:
            return (await browser.get("/upload?again")).status == 303

        await eventually(asked)


@pytest.mark.redis
async def test_a_gateway_starts_while_redis_is_away_and_serves_when_it_comes(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    folder.mkdir()
    server = RedisServer(folder, "--save", "")
    async with running(tmp_path / "gateway", stores={"state": server.url, "records": RECORDS}, rules=rules()) as gateway:
        browser = await logged_in(gateway)
        refused_for_now(await gateway.transfer(browser, "Early-Unique"))
        assert (await ready(gateway))[0] == 503
        with server:

            async def suspended() -> bool:
                return (await gateway.transfer(browser, "Early-Unique")).status == 303

            await eventually(suspended)
            assert (await ready(gateway))[0] == 200


async def test_without_its_records_codes_by_mail_still_work_and_no_app_is_set_up(tmp_path: Path) -> None:
    steps = yaml.safe_load(DEMO.read_text())["steps"] | {"human": HUMAN}
    steps["code"] |= {"period": 120, "enrol": "allow"}
    stores = {"state": "sqlite:///var/state.db", "records": RECORDS, "sqlite_deadline": "300ms"}
    async with running(tmp_path, stores=stores, steps=steps, rules=rules()) as gateway:
        browser = await logged_in(gateway)
        asked = await gateway.transfer(browser, "Mailed-Unique")
        other = await browser.get("/admin")
        lock = sqlite3.connect(tmp_path / "var/records.db", isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        try:
            done = await gateway.pass_code(browser, asked.location)
            assert (done.status, done.url.path) == (200, "/account")
            status, checks = await ready(gateway)
            assert (status, checks["state"]) == (503, "ok")
            assert checks["records"] != "ok"
            await gateway.pass_captcha(browser, other.location)
            shown = await browser.json("POST", other.location, {"action": "enrol"})
            key = shown.json["step"]["data"]["enrol"]["key"].replace(" ", "")
            refused_for_now(await browser.json("POST", other.location, {"code": pyotp.TOTP(key, interval=120).now()}))
        finally:
            lock.execute("ROLLBACK")
            lock.close()
        assert (await ready(gateway))[0] == 200
        assert await gateway.ledger(browser, "Mailed-Unique") == 1


# -- the application ----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def before(tmp_path: Path, url: str, **upstream: Any) -> AsyncIterator[Running]:
    """A gateway whose second application, under /hold, stands at `url`; its POSTs need a captcha, and nobody needs to be logged in."""
    raw = yaml.safe_load(DEMO.read_text())
    held = {"name": "held", "match": {"path": ["/hold/**", "/echo"], "method": "POST"}, "require": "human"}
    async with running(
        tmp_path,
        upstreams=raw["upstreams"] | {"slow": {"url": url, **upstream}},
        routes=[{"path": ["/hold/**", "/echo"], "upstream": "slow"}, {"upstream": "bank"}],
        rules=rules(held),
    ) as gateway:
        yield gateway


async def ticket_for(browser: Browser, path: str, body: bytes) -> str:
    """Suspend a POST, pass its captcha, and stop where the ticket would be used."""
    await browser.get("/")
    first = await browser.post(path, body, headers={"Content-Type": "text/plain"})
    assert first.status == 303, first.text
    shown = await browser.json("GET", first.location)
    passed = await browser.json("POST", first.location, {"altcha": payload(shown.json["step"]["data"])})
    going = await browser.get(passed.json["continue"])
    assert going.status == 303, going.text
    return going.location


async def test_a_client_that_goes_while_its_request_is_sent_does_not_stop_it(tmp_path: Path) -> None:
    arrived, released = asyncio.Event(), asyncio.Event()

    async def slow(upstream: RawUpstream, peer: RawPeer) -> None:
        head = await peer.head()
        arrived.set()
        await released.wait()
        upstream.requests.append(RawMessage(head, await peer.body(head)))
        await peer.send(OK)

    async with raw_upstream(slow) as upstream, before(tmp_path, upstream.url) as gateway:
        browser = gateway.browser()
        body = b"0123456789abcdef" * 60_000  # more than the sockets on the way hold
        ticket = await ticket_for(browser, "/hold/order", body)
        host = gateway.base.removeprefix("http://")
        cookies = "; ".join(f"{c.key}={c.value}" for c in browser.session.cookie_jar)
        async with raw_client(int(host.rpartition(":")[2])) as client:
            await client.send(f"GET {ticket} HTTP/1.1\r\nHost: {host}\r\nCookie: {cookies}\r\nAccept: text/html\r\n\r\n".encode())
            await arrived.wait()
            await client.reset()
        released.set()

        async def done() -> bool:
            page = await browser.get(ticket)
            assert page.status in (409, 410), page.text
            return "already sent" in page.text

        await eventually(done)
        assert [request.body for request in upstream.requests] == [body]


async def test_an_application_that_is_down_at_the_ticket_costs_nothing(tmp_path: Path) -> None:
    port = free_port()
    async with before(tmp_path, f"http://127.0.0.1:{port}") as gateway:
        browser = gateway.browser()
        ticket = await ticket_for(browser, "/echo", b"hello")
        for _ in range(2):
            page = await browser.get(ticket)
            assert page.status == 502
            assert "not answering" in page.text
        state = await browser.json("GET", ticket)
        assert state.status == 502
        assert state.headers["Content-Type"] == "application/problem+json"
        runner = await start_app("127.0.0.1", port)
        try:
            done = await browser.get(ticket)
            assert done.status == 200
            assert done.json["method"] == "POST"
            assert (await browser.get(ticket)).status == 410
        finally:
            await runner.cleanup()


async def breaks_off(upstream: RawUpstream, peer: RawPeer) -> None:
    upstream.requests.append(await peer.message())


async def answers_badly(upstream: RawUpstream, peer: RawPeer) -> None:
    upstream.requests.append(await peer.message())
    await peer.send(b"SMTP/1.0 220 hello\r\n\r\n")


@pytest.mark.parametrize("script", [breaks_off, answers_badly])
async def test_an_application_that_breaks_off_leaves_the_outcome_unknown_and_is_never_asked_again(tmp_path: Path, script: Script) -> None:
    async with raw_upstream(script) as upstream, before(tmp_path, upstream.url) as gateway:
        browser = gateway.browser()
        ticket = await ticket_for(browser, "/hold/order", b"once")
        first = await browser.get(ticket)
        assert first.status == 410
        assert "Look in the application before you try again" in first.text
        for _ in range(3):
            again = await browser.get(ticket)
            assert again.status == 410
            assert "Look in the application before you try again" in again.text
        assert [request.body for request in upstream.requests] == [b"once"]


async def test_an_answer_that_is_cut_short_was_an_answer(tmp_path: Path) -> None:
    async def cut(upstream: RawUpstream, peer: RawPeer) -> None:
        upstream.requests.append(await peer.message())
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")

    async with raw_upstream(cut) as upstream, before(tmp_path, upstream.url) as gateway:
        browser = gateway.browser()
        ticket = await ticket_for(browser, "/hold/order", b"once")
        with pytest.raises(aiohttp.ClientPayloadError):
            await browser.get(ticket)

        async def done() -> bool:
            return "already sent" in (await browser.get(ticket)).text

        await eventually(done)
        assert len(upstream.requests) == 1


async def test_an_application_that_does_not_answer_in_time_leaves_the_outcome_unknown(tmp_path: Path) -> None:
    gone = asyncio.Event()

    async def silent(upstream: RawUpstream, peer: RawPeer) -> None:
        upstream.requests.append(await peer.message())
        await peer.rest()
        gone.set()

    async with raw_upstream(silent) as upstream, before(tmp_path, upstream.url, first_byte_timeout="200ms") as gateway:
        browser = gateway.browser()
        ticket = await ticket_for(browser, "/hold/order", b"once")
        page = await browser.get(ticket)
        assert page.status == 410
        assert "Look in the application" in page.text
        await gone.wait()
        assert len(upstream.requests) == 1
