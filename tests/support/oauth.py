"""A small OAuth provider that knows nothing of the gateway: `/oauth/token` with every grant, rotation with reuse detection, `/oauth/ro`.

Started in the test's process on a port of its own; `gateway_before` puts a gateway in front of it that mails its codes into a mailbox.
"""

from __future__ import annotations

import base64
import json
import re
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

import aiohttp
import yaml
from aiohttp import web

from gateway.app import GatewayApp
from tests.support.gateway import Browser, Clock, Running, read
from tests.support.ports import free_port

USERS = {"alice": "wonderland", "bob": "builder"}
CLIENTS = {"web": "s3cret"}  # and public ones, of any other name
REALM = "http://auth0.com/oauth/grant-type/password-realm"


@dataclass
class Provider:
    """calls: what arrived, as (path, headers, body bytes). live: refresh tokens that work, to (user, client). retired: used ones."""

    calls: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    live: dict[str, tuple[str, str]] = field(default_factory=dict)
    retired: set[str] = field(default_factory=set)
    codes: dict[str, str] = field(default_factory=dict)
    rotates: bool = True
    answer: Callable[[web.Request], web.Response | None] = lambda _: None
    """What is answered in place of everything."""

    def application(self) -> web.Application:
        made = web.Application()
        made.router.add_route("*", "/{path:.*}", self._any)
        return made

    def forms(self) -> list[dict[str, str]]:
        """The bodies that arrived, as parameters."""
        return [self._fields(headers.get("Content-Type", ""), body) for _, headers, body in self.calls]

    async def _any(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.calls.append((request.path, dict(request.headers), body))
        if (instead := self.answer(request)) is not None:
            return instead
        fields = self._fields(request.content_type, body)
        path = request.path.lower()
        if path == "/oauth/ro":
            return self._password(fields, fields.get("client_id", ""))
        if path != "/oauth/token":
            return web.Response(text="the provider's own page")
        client = self._client(request, fields)
        if client is None:
            return self._error(401, "invalid_client")
        match fields.get("grant_type"):
            case "password" | "http://auth0.com/oauth/grant-type/password-realm":
                return self._password(fields, client)
            case "refresh_token":
                return self._refresh(fields.get("refresh_token", ""), client)
            case "authorization_code":
                user = self.codes.pop(fields.get("code", ""), None)
                return self._grant(user, client) if user else self._error(400, "invalid_grant")
            case "client_credentials":
                return web.json_response({"access_token": secrets.token_urlsafe(9), "token_type": "Bearer"})
            case _:
                return self._error(400, "unsupported_grant_type")

    def _client(self, request: web.Request, fields: dict[str, str]) -> str | None:
        name, secret = fields.get("client_id", ""), fields.get("client_secret", "")
        scheme, _, rest = request.headers.get("Authorization", "").partition(" ")
        if scheme == "Basic":
            name, _, secret = base64.b64decode(rest).decode().partition(":")
        return None if CLIENTS.get(name, secret) != secret else name

    def _password(self, fields: dict[str, str], client: str) -> web.Response:
        user = fields.get("username", "")
        if USERS.get(user) != fields.get("password"):
            return self._error(403, "invalid_grant", "Wrong email or password.")
        return self._grant(user, client)

    def _refresh(self, token: str, client: str) -> web.Response:
        if token in self.retired:
            self.live.clear()  # somebody has stolen one (RFC 9700 §4.14.2)
            return self._error(400, "invalid_grant", "reused")
        if token not in self.live:
            return self._error(400, "invalid_grant")
        user, owner = self.live[token]
        if owner != client:
            return self._error(400, "invalid_grant")
        if not self.rotates:
            return web.json_response({"access_token": secrets.token_urlsafe(9), "token_type": "Bearer"})
        del self.live[token]
        self.retired.add(token)
        return self._grant(user, client)

    def _grant(self, user: str, client: str) -> web.Response:
        token = "rt-" + secrets.token_urlsafe(16)
        self.live[token] = (user, client)
        document = {"access_token": f"at-{user}-" + secrets.token_urlsafe(9), "refresh_token": token, "token_type": "Bearer", "for": user}
        return web.json_response(document, headers={"Cache-Control": "no-store", "X-Provider": "small"})

    @staticmethod
    def _error(status: int, error: str, description: str = "no") -> web.Response:
        return web.json_response({"error": error, "error_description": description}, status=status)

    @staticmethod
    def _fields(content_type: str, body: bytes) -> dict[str, str]:
        if content_type.startswith("application/json"):
            return {str(k): str(v) for k, v in json.loads(body).items()}
        return dict(parse_qsl(body.decode()))


@dataclass
class Client(Browser):
    """An app or a back end: no cookies, no Fetch metadata. It calls, does the steps, and repeats."""

    async def call(self, form: dict[str, Any] | bytes, *, path: str = "/oauth/token", **options: Any) -> Any:
        headers = {"Content-Type": "application/x-www-form-urlencoded", **options.pop("headers", {})}
        data = form if isinstance(form, bytes) else urlencode(form).encode()
        return await self.request("POST", path, data=data, headers=headers, **options)

    async def step(self, url: str, answer: dict[str, str] | None = None, *, headers: Mapping[str, str] | None = None) -> Any:
        """The transaction as JSON, or an answer to its open step."""
        if answer is None:
            return await self.request("GET", url, headers={"Accept": "application/json", **(headers or {})})
        return await self.request("POST", url, json=answer, headers={"Accept": "application/json", **(headers or {})})


@dataclass
class Before(Running):
    provider: Provider = field(default_factory=Provider)

    def client(self) -> Client:
        session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False)
        self.jars.append(session)
        return Client(session, self.base, {"User-Agent": "app/1"})

    async def passed(self, client: Client, asked: Any, headers: Mapping[str, str] | None = None) -> str:
        """The continue token of a call that was answered `interaction_required`, after the mailed code was given."""
        url = asked.json["step_up_url"]
        shown = await client.step(url, headers=headers)
        assert shown.json["step"]["kind"] == "otp", shown.text
        done = await client.step(url, {"code": self.code()}, headers=headers)
        assert done.json["status"] == "passed", done.text
        return str(done.json["token"])


RULES = [{"name": "tokens-need-a-code", "match": {"path": ["/oauth/token", "/oauth/ro"]}, "require": "code", "max_age": "10m"}]


@asynccontextmanager
async def gateway_before(
    folder: Path, *, clock: Clock | None = None, refresh: str = "inherit", oauth: dict[str, Any] | None = None, **changes: Any
) -> AsyncIterator[Before]:
    """changes: top-level keys of gateway.yaml. oauth: further keys of `upstreams.idp.oauth`."""
    provider = Provider()
    runner = web.AppRunner(provider.application(), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    upstream = f"http://127.0.0.1:{runner.addresses[0][1]}"
    port, admin = free_port(), free_port()
    raw: dict[str, Any] = {
        "listen": f"127.0.0.1:{port}",
        "public_url": f"http://127.0.0.1:{port}",
        "admin": {"listen": f"127.0.0.1:{admin}"},
        "mail": {"demo": True},
        "upstreams": {
            "idp": {
                "url": upstream,
                "oauth": {"token": "/oauth/token", "resource_owner": "/oauth/ro", "refresh": refresh, **(oauth or {})},
            }
        },
        "steps": {"code": {"kind": "otp", "methods": ["email"], "email": "{subject.id}@example.com"}},
        "rules": RULES,
        **changes,
    }
    path = folder / "gateway.yaml"
    path.write_text(yaml.safe_dump(raw, sort_keys=False))
    app = await GatewayApp.start(read(path), demo=True, clock=clock)
    found = Before(app, f"http://127.0.0.1:{port}", f"http://127.0.0.1:{admin}", upstream, path, clock, provider=provider)
    try:
        yield found
    finally:
        for jar in found.jars:
            await jar.close()
        await found.app.close()
        await runner.cleanup()


def basic(name: str, secret: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{secret}".encode()).decode()


def hidden(html: str) -> str:
    """The form's token."""
    found = re.search(r'name="stepup_token" value="([^"]+)"', html)
    assert found, html[:2000]
    return found[1]
