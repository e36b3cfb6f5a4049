"""The admin listener: who may speak to it, what the probes say, and the demo's mailbox."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from yarl import URL

from gateway.app import STEP_FOLDERS
from gateway.errors import StoreUnavailable
from gateway.lanes.server import serve
from gateway.spec.sections import LimitsSpec, ThemeSpec
from gateway.web.admin import Admin
from gateway.web.pages import Pages, Shown
from gateway.web.static import Static
from tests.support.gateway import running
from tests.support.raw import raw_client

TOKEN = "correct-horse-battery-staple"
SHOWN = Shown(nonce="c29tZS1mcmVzaC1ub25jZQ", request_id="r-1")
HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


class Stores:
    """Checks whose outcome a test decides."""

    def __init__(self) -> None:
        self.away: str | None = None

    async def state(self) -> None:
        if self.away is not None:
            raise StoreUnavailable(self.away)

    async def records(self) -> None:
        """Always there."""


class Listener:
    def __init__(self, session: aiohttp.ClientSession, port: int) -> None:
        self._session = session
        self.url = URL(f"http://127.0.0.1:{port}")
        self.port = port

    async def ask(self, path: str, method: str = "GET", **headers: str) -> tuple[int, Any, Any]:
        """Status, headers, and the body: parsed where it is JSON."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self._session.request(method, self.url.join(URL(path)), headers=named) as answer:
            body: Any = await answer.text()
            if "json" in answer.headers.get("Content-Type", "") and body:
                body = await answer.json(content_type=None)
            return answer.status, answer.headers, body


@asynccontextmanager
async def listener(
    *, hosts: tuple[str, ...] = (), token: str | None = None, stores: Stores | None = None, mail: list[dict[str, str]] | None = None
) -> AsyncIterator[Listener]:
    stores = stores or Stores()
    static = Static("/.stepup", STEP_FOLDERS)
    pages = Pages(ThemeSpec(name="Example Bank"), static, STEP_FOLDERS, prefix="/.stepup", mailbox_url=None)
    checks: dict[str, Callable[[], Awaitable[None]]] = {"state": stores.state, "records": stores.records}
    admin = Admin(
        hosts=hosts,
        token=token,
        checks=checks,
        metrics=lambda: b"stepup_x 1.0\n",
        pages=lambda: pages,
        shown=lambda: SHOWN,
        mailbox=None if mail is None else lambda: mail,
    )
    server = await serve(
        admin.handle, host="127.0.0.1", port=0, ssl_context=None, limits=LimitsSpec(), on_bad_request=lambda _status, _reason: ""
    )
    try:
        async with aiohttp.ClientSession() as session:
            yield Listener(session, server.port)
    finally:
        await server.close(0)


# -- Host (DNS rebinding) ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8090", "localhost", "LOCALHOST:1", "[::1]", "[::1]:8090", "admin.internal:9"])
@pytest.mark.parametrize("path", ["/health/live", "/metrics"])
async def test_known_hosts_are_answered(host: str, path: str) -> None:
    async with listener(hosts=("Admin.Internal",)) as there:
        assert (await there.ask(path, Host=host))[0] == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8090",
        "127.0.0.1.evil.example",
        "127.0.0.1@evil.example:80",
        "evil.example:1:127.0.0.1",
        "[::1].x",
        ":1",
    ],
)
@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/metrics", "/dev/mailbox"])
async def test_another_host_gets_421_whatever_it_asks_for(host: str, path: str) -> None:
    async with listener(mail=[{"to": "a", "subject": "b", "text": "secret"}]) as there:
        status, _, body = await there.ask(path, Host=host)
        assert (status, body["error"]) == (421, "wrong_host")
        assert "admin.hosts" in body["detail"]


# -- token ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [None, "", "Bearer", "Bearer wrong", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x", "Bearer \u00ff"])
@pytest.mark.parametrize("path", ["/metrics", "/dev/mailbox", "/nothing"])
async def test_with_a_token_nothing_but_the_probes_is_shown_without_it(path: str, given: str | None) -> None:
    async with listener(token=TOKEN, mail=[]) as there:
        headers = {} if given is None else {"Authorization": given}
        status, answered, body = await there.ask(path, **headers)
        assert (status, body) == (401, {"error": "token_required"})
        assert answered["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_the_token_opens_metrics(scheme: str) -> None:
    async with listener(token=TOKEN) as there:
        status, headers, body = await there.ask("/metrics", Authorization=f"{scheme} {TOKEN}")
        assert (status, body) == (200, "stepup_x 1.0\n")
        assert headers["Content-Type"].startswith("text/plain; version=0.0.4")


@pytest.mark.parametrize("path", ["/health/live", "/health/ready"])
async def test_probes_need_no_token(path: str) -> None:
    async with listener(token=TOKEN) as there:
        assert (await there.ask(path))[0] == 200


# -- probes --------------------------------------------------------------------------------------------------------------


async def test_ready_tells_what_is_away_and_recovers_while_live_stays() -> None:
    stores = Stores()
    async with listener(stores=stores) as there:
        assert (await there.ask("/health/ready"))[2] == {"status": "ready", "checks": {"state": "ok", "records": "ok"}}
        stores.away = "no answer within 2 s"
        status, headers, body = await there.ask("/health/ready")
        assert status == 503
        assert body == {"status": "not ready", "checks": {"state": "no answer within 2 s", "records": "ok"}}
        assert headers["Cache-Control"] == "no-store"
        assert (await there.ask("/health/live"))[0] == 200
        stores.away = None
        assert (await there.ask("/health/ready"))[0] == 200


async def test_other_paths_and_methods_are_refused_in_json_and_name_no_software() -> None:
    async with listener() as there:
        for method, path, status in (("GET", "/", 404), ("GET", "/dev/mailbox", 404), ("POST", "/metrics", 405)):
            found, headers, body = await there.ask(path, method)
            assert (found, set(body)) == (status, {"error"})
            assert "aiohttp" not in headers["Server"]
            assert headers.get("Allow") == ("GET, HEAD" if status == 405 else None)


# -- mailbox -------------------------------------------------------------------------------------------------------------

MAILS = [
    {"to": "alice@bank.example.com", "subject": "Your code for Bank", "text": "Your code is 123456.\n"},
    {"to": "bob@bank.example.com", "subject": "<b>old</b>", "text": "</pre><script>alert(1)</script>"},
]


@pytest.mark.parametrize("accept", [None, "*/*", "application/json", "application/json, text/html;q=0.5", "text/plain"])
async def test_the_mailbox_is_json_for_whoever_does_not_ask_for_a_page(accept: str | None) -> None:
    async with listener(mail=MAILS) as there:
        headers: dict[str, str] = {}
        if accept is not None:
            headers["Accept"] = accept
        status, _, body = await there.ask("/dev/mailbox", **headers)
        assert (status, body) == (200, MAILS)


@pytest.mark.parametrize("accept", [HTML["Accept"], "text/html", "text/html, application/json;q=0.9"])
async def test_the_mailbox_is_a_page_for_browsers(accept: str) -> None:
    async with listener(mail=MAILS) as there:
        status, headers, body = await there.ask("/dev/mailbox", Accept=accept)
        assert status == 200
        assert headers["Content-Type"] == "text/html; charset=utf-8"
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert body.index("123456") < body.index("bob@bank.example.com")
        assert "<script>alert" not in body
        assert "<b>old" not in body
        assert "&lt;b&gt;old" in body


async def test_an_empty_mailbox_is_a_page_too() -> None:
    async with listener(mail=[]) as there:
        assert (await there.ask("/dev/mailbox"))[2] == []
        assert (await there.ask("/dev/mailbox", **HTML))[0] == 200


# -- of a gateway --------------------------------------------------------------------------------------------------------


async def test_the_mailbox_of_a_gateway_shows_the_newest_mail_first_and_is_not_on_the_public_listener(tmp_path: Path) -> None:
    async with running(tmp_path) as there:
        assert there.app.mailbox is not None
        await there.app.mailbox.send("a@bank.example.com", "First", "1")
        await there.app.mailbox.send("a@bank.example.com", "Second", "2")
        browser = there.browser(there.admin)
        found = await browser.request("GET", "/dev/mailbox", headers={"Accept": "application/json"})
        assert found.json == [
            {"to": "a@bank.example.com", "subject": "Second", "text": "2"},
            {"to": "a@bank.example.com", "subject": "First", "text": "1"},
        ]
        public = there.browser()
        for path in ("/dev/mailbox", "/metrics", "/health/ready", "/health/live"):
            assert (await public.get(path)).status == 404  # the app's own answer


async def test_without_the_demos_mail_there_is_no_mailbox(tmp_path: Path) -> None:
    async with running(tmp_path, mail={"smtp": "smtp://127.0.0.1:1"}) as there:
        assert (await there.browser(there.admin).get("/dev/mailbox")).status == 404


async def test_metrics_of_a_gateway_count_decisions_by_upstream(tmp_path: Path) -> None:
    async with running(tmp_path) as there:
        await there.browser().get("/")
        await there.browser().get("/admin")
        text = (await there.browser(there.admin).get("/metrics")).text
        assert 'stepup_decisions_total{decision="allow",upstream="bank"} 1.0' in text
        assert 'stepup_decisions_total{decision="step-up",upstream="bank"} 1.0' in text
        assert 'stepup_rule_hits_total{mode="enforce",rule="admin-needs-both"} 1.0' in text


async def test_what_a_client_can_hold_of_the_admin_listener_is_bounded_too(tmp_path: Path) -> None:
    limits = {"head_timeout": "100ms", "keepalive": "100ms", "max_connections": 2}
    async with running(tmp_path, limits=limits) as there:
        port = there.app.admin_port
        async with raw_client(port) as slow, raw_client(port) as silent:
            await slow.send(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n")
            async with raw_client(port) as one_too_many:
                turned_away = await one_too_many.response()
            assert (turned_away.status, turned_away.head.get(b"retry-after")) == (503, b"5")
            assert (await slow.response()).status == 408
            assert await silent.rest() == b""
        async with raw_client(port) as large:
            await large.send(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"x" * 20_000 + b"\r\n\r\n")
            assert (await large.response()).status == 431
        async with raw_client(port) as unused:
            await unused.send(b"HEAD /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert (await unused.response(method="HEAD")).status == 200
            assert await unused.rest() == b"", "closed when it was not used again"
