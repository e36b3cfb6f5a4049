"""A gateway and the demo's legacy app, in this process, on free loopback ports, with a folder of their own.

`Browser` speaks to them like one: cookies, Sec-Fetch headers, no redirect followed unless asked.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from html import unescape
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from yarl import URL

from gateway.app import REGISTRY, GatewayApp
from gateway.demo.app import BANK
from gateway.demo.app import start as start_app
from gateway.demo.state import Bank
from gateway.settings.load import Loaded, load
from tests.support.altcha_client import payload
from tests.support.ports import free_port

NAVIGATION = {
    "Accept": "text/html,application/xhtml+xml,*/*;q=0.8",
    "Sec-Fetch-Mode": "navigate",
    "Sec-Fetch-Dest": "document",
    "Sec-Fetch-Site": "same-origin",
}
SCRIPT = {"Accept": "application/json", "Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty", "Sec-Fetch-Site": "same-origin"}

DEMO = Path(__file__).parents[2] / "gateway.yaml"


class Clock:
    """The gateway's time: stands still unless advanced."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


def demo_config(
    folder: Path, *, app_port: int, port: int, admin_port: int, hosts: Sequence[str] = (), terms: bool = False, **changes: Any
) -> Path:
    """gateway.yaml of the repository, with these ports and whatever else is changed, written into `folder`. hosts: further public names.

    terms: the demo asks for its terms before /account, where every login leads; else its users have nothing to accept, so that tests of
    other steps meet these and no others.
    """
    raw: dict[str, Any] = yaml.safe_load(DEMO.read_text())
    raw["listen"] = f"127.0.0.1:{port}"
    raw["public_url"] = [f"http://{name}:{port}" for name in ("127.0.0.1", "localhost", *hosts)]
    raw["steps"]["human"] |= {"cost": 100, "max_number": 50}  # a puzzle, but a quick one
    raw["admin"] = {"listen": f"127.0.0.1:{admin_port}"}
    raw |= changes
    if "document" in raw["steps"].get("terms", {}):
        document = DEMO.parent / raw["steps"]["terms"]["document"]
        raw["steps"] = {**raw["steps"], "terms": {**raw["steps"]["terms"], "document": str(document)}}
    if not terms:
        raw["rules"] = [rule for rule in raw["rules"] if rule["name"] != "account-needs-terms"]
    text = yaml.safe_dump(raw, sort_keys=False).replace("127.0.0.1:8081", f"127.0.0.1:{app_port}")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "gateway.yaml"
    path.write_text(text)
    return path


def read(path: Path, environ: Mapping[str, str] | None = None) -> Loaded:
    found = load(path, environ=environ or {}, kinds=REGISTRY)
    assert isinstance(found, Loaded), str(found)
    return found


@dataclass
class Reply:
    """One answer, its body read."""

    status: int
    headers: Any
    body: bytes
    url: URL

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def location(self) -> str:
        return str(self.headers["Location"])

    def hidden(self, name: str) -> str:
        """The value of a hidden field."""
        found = re.search(rf'name="{re.escape(name)}"[^>]*value="([^"]*)"', self.text) or re.search(
            rf'value="([^"]*)"[^>]*name="{re.escape(name)}"', self.text
        )
        assert found, f"no field {name} in {self.text[:2000]}"
        return unescape(found[1])


@dataclass
class Browser:
    """One cookie jar. `base` is an origin."""

    session: aiohttp.ClientSession
    base: str
    headers: Mapping[str, str] = field(default_factory=lambda: NAVIGATION)

    async def request(
        self, method: str, path: str, *, follow: bool = False, headers: Mapping[str, str] | None = None, **options: Any
    ) -> Reply:
        url = URL(path if "://" in path else self.base + path, encoded=True)
        sent = {**self.headers, **(headers or {})}
        async with self.session.request(method, url, headers=sent, allow_redirects=False, **options) as answer:
            reply = Reply(answer.status, answer.headers, await answer.read(), answer.url)
        hops = 0
        while follow and reply.status in (301, 302, 303, 307, 308):
            hops += 1
            assert hops < 10, "a redirect loop"
            target = URL(str(reply.url)).join(URL(reply.location, encoded=True))
            async with self.session.get(target, headers=sent, allow_redirects=False) as answer:
                reply = Reply(answer.status, answer.headers, await answer.read(), answer.url)
        return reply

    async def get(self, path: str, **options: Any) -> Reply:
        return await self.request("GET", path, **options)

    async def post(self, path: str, data: Any = None, **options: Any) -> Reply:
        return await self.request("POST", path, data=data, **options)

    async def json(self, method: str, path: str, body: Any = None, **options: Any) -> Reply:
        """As a script of the page does."""
        extra = {"json": body} if body is not None else {}
        return await self.request(method, path, headers={**SCRIPT, **options.pop("headers", {})}, **extra, **options)

    def cookie(self, name: str) -> str | None:
        found = self.session.cookie_jar.filter_cookies(URL(self.base)).get(name)
        return found.value if found else None


@dataclass
class Running:
    """The two servers, and the way through them. bank: what the application remembers, where it runs in this process."""

    app: GatewayApp
    base: str
    admin: str
    upstream: str
    config: Path
    clock: Clock | None
    jars: list[aiohttp.ClientSession] = field(default_factory=list)
    bank: Bank | None = None

    def browser(self, base: str | None = None) -> Browser:
        session = aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True), auto_decompress=False)
        self.jars.append(session)
        return Browser(session, base or self.base)

    async def restart(self) -> None:
        """End the gateway and start it again, with the same folder and ports. The demo's mail is forgotten; the bank goes on."""
        await self.app.close()
        self.app = await GatewayApp.start(read(self.config), demo=True, clock=self.clock)

    async def advance(self, seconds: float) -> None:
        """Let time go by, here and for the revocation feed, which would otherwise look old until it is read again."""
        assert self.clock is not None
        self.clock.advance(seconds)
        await self.app.feed.refresh()

    @property
    def mails(self) -> list[dict[str, str]]:
        assert self.app.mailbox is not None
        return list(self.app.mailbox.messages)

    def code(self) -> str:
        """The code in the newest mail."""
        found = re.findall(r"\b\d{6}\b", self.mails[0]["text"])
        assert len(found) == 1, self.mails[0]["text"]
        return str(found[0])

    async def pass_captcha(self, browser: Browser, page: str) -> Reply:
        """Solve the captcha at a transaction's path, as its script does; follows to wherever that leads."""
        shown = await browser.json("GET", page)
        assert shown.json["step"]["kind"] == "captcha", shown.text
        html = await browser.get(page)
        return await browser.post(
            page, {"altcha": payload(shown.json["step"]["data"]), "stepup_token": html.hidden("stepup_token")}, follow=True
        )

    async def pass_code(self, browser: Browser, page: str, *, follow: bool = True) -> Reply:
        html = await browser.get(page)
        assert html.status == 200, html.text
        return await browser.post(page, {"code": self.code(), "stepup_token": html.hidden("stepup_token")}, follow=follow)

    async def log_in(self, browser: Browser, user: str = "alice", password: str = "wonderland") -> Reply:
        """Through the app's form and the demo's captcha, to the page behind it."""
        await browser.get("/login")
        asked = await browser.post("/login", {"username": user, "password": password})
        assert asked.status == 303, asked.text
        return await self.pass_captcha(browser, asked.location)

    async def transfer(self, browser: Browser, to: str, amount: str = "10") -> Reply:
        """Type a transfer and send it; the answer is the gateway's or the app's."""
        form = await browser.get("/transfer")
        assert form.status == 200, form.text
        return await browser.post("/transfer", {"to": to, "amount": amount, "csrf": form.hidden("csrf")})

    async def ledger(self, browser: Browser, to: str) -> int:
        """How often a transfer to that name stands in the ledger."""
        page = await browser.get("/account")
        assert page.status == 200, page.text
        return page.text.count(to)


@asynccontextmanager
async def running(
    folder: Path, *, clock: Clock | None = None, stop: bool = True, hosts: Sequence[str] = (), terms: bool = False, **changes: Any
) -> AsyncIterator[Running]:
    """Demo app and gateway. hosts: further public names, in `public_url`. terms: as for `demo_config`. changes: top-level keys of
    gateway.yaml."""
    runner = await start_app("127.0.0.1", 0)
    app_port = runner.addresses[0][1]
    port, admin_port = free_port(), free_port()
    path = demo_config(folder, app_port=app_port, port=port, admin_port=admin_port, hosts=hosts, terms=terms, **changes)
    app = await GatewayApp.start(read(path), demo=True, clock=clock)
    found = Running(app, f"http://127.0.0.1:{port}", f"http://127.0.0.1:{admin_port}", f"http://127.0.0.1:{app_port}", path, clock)
    found.bank = runner.app[BANK]
    try:
        yield found
    finally:
        for jar in found.jars:
            await jar.close()
        if stop:
            await found.app.close()
        await runner.cleanup()


def decoded(part: str) -> Any:
    """A JWT's part, unverified: to look at what was sent."""
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
