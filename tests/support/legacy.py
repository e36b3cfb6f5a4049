"""A small application with the habits that identity must cope with, each switched on by name, and the gateway in front of it.

It believes any name whose password is "right", keeps what it is sent, and shows by `/who` whom it takes a session for.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import yarl
from aiohttp import web

from tests.support.gateway import NAVIGATION, Clock, Reply, Running, running

HUMAN: dict[str, Any] = {"kind": "captcha", "provider": "altcha", "cost": 100, "max_number": 50}
CODE: dict[str, Any] = {"kind": "otp", "methods": ["email"], "email": "{subject.id}@bank.example"}
LOGIN: dict[str, Any] = {
    "from": "login_form",
    "upstream": "bank",
    "path": "/login",
    "logout": "/logout",
    "cookie": "SID",
    "success": {"status": [302]},
}


@dataclass
class Habits:
    """keeps_value: a login keeps the session's value. cookie_path: of the session cookie. beside: a login also deletes the cookie of
    another path. pieces: `/who` comes in two pieces."""

    keeps_value: bool = False
    cookie_path: str = "/"
    beside: bool = False
    pieces: bool = False


@dataclass
class Legacy:
    """sessions: value to user ("" for nobody). requests: (method, path, user, body) of everything that was posted."""

    habits: Habits
    sessions: dict[str, str] = field(default_factory=dict)
    posted: list[tuple[str, str, str, str]] = field(default_factory=list)
    heads: list[list[tuple[str, str]]] = field(default_factory=list)

    def _give(self, answer: web.StreamResponse, user: str) -> None:
        value = secrets.token_hex(8)
        self.sessions[value] = user
        answer.headers.add("Set-Cookie", f"SID={value}; Path={self.habits.cookie_path}; HttpOnly")

    async def handle(self, request: web.Request) -> web.StreamResponse:
        held = request.cookies.get("SID", "")
        user = self.sessions.get(held, "")
        self.heads.append([(n.decode(), v.decode("latin-1")) for n, v in request.raw_headers])
        body = (await request.read()).decode("latin-1")
        if request.method not in ("GET", "HEAD", "OPTIONS"):
            self.posted.append((request.method, request.path_qs, user, body))
        match request.path.rstrip("/").rpartition("/")[2]:
            case "login" | "other-login" | "json-login" if request.method == "POST":
                return await self._log_in(request, held)
            case "login":
                answer = web.Response(text="<form>", content_type="text/html")
                if held not in self.sessions:
                    self._give(answer, "")
                return answer
            case "logout":
                self.sessions.pop(held, None)
                answer = web.Response(status=302, headers={"Location": "/"})
                answer.headers.add("Set-Cookie", f"SID=; Path={self.habits.cookie_path}; Max-Age=0")
                return answer
            case "rotate":
                answer = web.Response(text=user)
                self._give(answer, user)
                return answer
            case "who" if self.habits.pieces:
                pieces = web.StreamResponse(headers={"Content-Type": "application/json"})
                await pieces.prepare(request)
                await pieces.write(b'{"na')
                for _ in range(50):  # turns of the loop that the reader is on too: the first piece is there before the second
                    await asyncio.sleep(0)
                await pieces.write(f'me": "{user}"}}'.encode())
                return pieces
            case "who":
                return web.json_response({"name": user})
            case _:
                return web.Response(text=f"done for {user}", content_type="text/plain")

    async def _log_in(self, request: web.Request, held: str) -> web.Response:
        if request.content_type == "application/json":
            fields = await request.json()
        else:
            fields = await request.post()
        name = str(fields.get("username", request.query.get("username", "")))
        if fields.get("password") != "right":
            return web.Response(text="wrong", content_type="text/html")
        answer = web.Response(status=302, headers={"Location": "/home"})
        if self.habits.keeps_value and held:
            self.sessions[held] = name
        else:
            self.sessions.pop(held, None)
            self._give(answer, name)
        if self.habits.beside:
            answer.headers.add("Set-Cookie", "SID=; Path=/old; Max-Age=0")
        return answer


@dataclass
class Client:
    """A client that sends exactly the cookies it is told to, and takes over what is set (deletions too), whatever the path."""

    base: str
    session: aiohttp.ClientSession
    cookies: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=lambda: dict(NAVIGATION))

    async def request(
        self, method: str, path: str, *, cookie: str | None = None, headers: dict[str, str] | None = None, **options: Any
    ) -> Reply:
        """cookie: the whole header in place of what is kept, "" for none. headers: beside the usual; one with the value "" is left out."""
        sent = {n: v for n, v in {**self.headers, **(headers or {})}.items() if v}
        line = "; ".join(f"{n}={v}" for n, v in self.cookies.items()) if cookie is None else cookie
        if line:
            sent["Cookie"] = line
        url = yarl.URL(self.base + path, encoded=True)
        async with self.session.request(method, url, headers=sent, allow_redirects=False, **options) as answer:
            reply = Reply(answer.status, answer.headers, await answer.read(), answer.url)
        for value in reply.headers.getall("Set-Cookie", []):
            name, _, rest = value.partition("=")
            if "max-age=0" in value.lower():
                if "path=/old" not in value.lower():
                    self.cookies.pop(name, None)
            else:
                self.cookies[name] = rest.partition(";")[0]
        return reply

    async def get(self, path: str, **options: Any) -> Reply:
        return await self.request("GET", path, **options)

    async def post(self, path: str, data: Any = None, **options: Any) -> Reply:
        return await self.request("POST", path, data=data, **options)

    async def log_in(self, name: str = "alice", path: str = "/login", **options: Any) -> Reply:
        return await self.post(path, {"username": name, "password": "right"}, **options)

    async def proved(self, **options: Any) -> Any:
        """What the gateway says of this client's pass."""
        return (await self.get("/.stepup/pass", headers={"Accept": "application/json"}, **options)).json

    async def app_says(self, **options: Any) -> str:
        """Whom the application takes this client for, through the gateway."""
        return str((await self.get("/who", **options)).json["name"])


def bare_client(gateway: Running, base: str | None = None) -> Client:
    """A client without a cookie jar; closed with the gateway."""
    session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False)
    gateway.jars.append(session)
    return Client(base or gateway.base, session)


@dataclass
class Place:
    gateway: Running
    app: Legacy
    upstream: str

    def client(self, base: str | None = None) -> Client:
        return bare_client(self.gateway, base)


@asynccontextmanager
async def legacy(
    folder: Path,
    habits: Habits | None = None,
    *,
    rules: list[dict[str, Any]] | None = None,
    login: dict[str, Any] | None = None,
    identity: list[dict[str, Any]] | None = None,
    upstream: dict[str, Any] | None = None,
    clock: Clock | None = None,
    app: Legacy | None = None,
    **changes: Any,
) -> AsyncIterator[Place]:
    """app: in place of one with `habits`. login, upstream: settings of the form and the upstream beside the usual. identity: all sources,
    in place of the form. changes: other keys of gateway.yaml."""
    app = app or Legacy(habits or Habits())
    web_app = web.Application()
    web_app.router.add_route("*", "/{tail:.*}", app.handle)
    runner = web.AppRunner(web_app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        form = {**LOGIN, **(login or {})}
        if "whoami" in form:
            form["whoami"] = {**form["whoami"], "url": url + "/who"}
        settings = {
            "upstreams": {"bank": {"url": url, **(upstream or {})}},
            "identity": [form] if identity is None else identity,
            "steps": {"human": HUMAN, "code": CODE},
            "rules": rules or [],
            **changes,
        }
        async with running(folder, clock=clock, **settings) as gateway:
            yield Place(gateway, app, url)
    finally:
        await runner.cleanup()
