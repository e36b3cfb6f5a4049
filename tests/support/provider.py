"""The certified provider of tests/node behind a gateway of its own, and a client that asks it, as a browser and as an application do."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import yaml

from gateway.app import GatewayApp
from tests.support.altcha_client import payload
from tests.support.gateway import Browser, Clock, Reply, Running, read
from tests.support.node import NodeProcess, provider
from tests.support.ports import free_port

CALLBACK = "http://127.0.0.1:1/cb"
VERIFIER = "a-verifier-of-the-test-that-is-long-enough-for-rfc-7636"
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()
HUMAN = {"name": "sign-in-needs-a-human", "match": {"upstream": "idp", "path": "/auth"}, "require": ["human"]}
OAUTH = {"authorize": "/auth", "token": "/token", "par": "/request", "session_cookie": "_session"}
FRAME = {
    "Accept": "text/html", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe", "Sec-Fetch-Site": "cross-site",
}  # fmt: skip


@dataclass
class Identity(Running):
    """A gateway with the provider as its upstream `idp`."""

    node: NodeProcess | None = None

    def authorize(self, path: str = "/auth", /, **changes: str | None) -> str:
        """The address of an authorize request: code with PKCE. None leaves a parameter out."""
        asked = {
            "client_id": "app", "response_type": "code", "redirect_uri": CALLBACK, "scope": "openid", "state": "abc", "nonce": "n",
            "code_challenge": CHALLENGE, "code_challenge_method": "S256", **changes,
        }  # fmt: skip
        return f"{path}?" + urlencode({name: value for name, value in asked.items() if value is not None})

    async def sign_in(self, browser: Browser, path: str, *, user: str = "alice") -> Reply:
        """Ask, and go through the provider's login, up to the answer that leads away from it: to the client, or to a step."""
        answer = await browser.get(path)
        return await self.log_in_at(browser, answer, user=user)

    async def log_in_at(self, browser: Browser, answer: Reply, *, user: str = "alice") -> Reply:
        while answer.status in (302, 303):
            if not at_provider(answer.location, self.base):
                return answer
            answer = await browser.get(answer.location)
        if "/interaction/" not in str(answer.url):
            return answer
        answer = await browser.post(urlsplit(str(answer.url)).path, {"login": user, "password": "right"})
        while answer.status in (302, 303) and at_provider(answer.location, self.base):
            answer = await browser.get(answer.location)
        return answer

    async def pass_captcha_to(self, browser: Browser, page: str) -> Reply:
        """Solve the captcha of a transaction, and go on to the answer that leads away from us."""
        shown = await browser.json("GET", page)
        assert shown.json["step"]["kind"] == "captcha", shown.text
        html = await browser.get(page)
        answer = await browser.post(page, {"altcha": payload(shown.json["step"]["data"]), "stepup_token": html.hidden("stepup_token")})
        while True:
            onward = answer.headers.get("Refresh", "").partition("url=")[2] or answer.headers.get("Location", "")
            if not at_provider(onward, self.base) and not onward.startswith("/continue"):
                return answer
            answer = await browser.get(onward)

    async def push(self, browser: Browser, **changes: str | None) -> str:
        """Push an authorize request (RFC 9126), as the application does; its name."""
        data = dict(parse_qsl(self.authorize(**changes).partition("?")[2]))
        reply = await browser.json("POST", "/request", None, data=data)
        assert reply.status == 201, reply.text
        return str(reply.json["request_uri"])

    async def metric(self, name: str) -> float:
        text = (await self.browser(self.admin).get("/metrics")).text
        return next((float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name + " ")), 0.0)

    async def token(self, browser: Browser, code: str) -> dict[str, Any]:
        data = {"grant_type": "authorization_code", "code": code, "redirect_uri": CALLBACK, "client_id": "app", "code_verifier": VERIFIER}
        return dict((await browser.json("POST", "/token", None, data=data)).json)


def at_provider(location: str, base: str) -> bool:
    """Another page of the provider: neither a step of ours nor the client."""
    path = location.removeprefix(base)
    return path.startswith(("/auth", "/interaction"))


def answered(reply: Reply) -> dict[str, str]:
    """What an answer brings the client, by query or fragment of its redirect URI; it must lead there."""
    assert reply.status in (302, 303), (reply.status, reply.text[:500])
    assert reply.location.startswith(CALLBACK), reply.location
    parts = urlsplit(reply.location)
    return dict(parse_qsl(parts.query) + parse_qsl(parts.fragment))


@asynccontextmanager
async def identity_provider(
    folder: Path, *, rules: Sequence[Mapping[str, Any]] = (HUMAN,), oauth: Mapping[str, Any] | None = None, clock: Clock | None = None,
    options: Mapping[str, Any] | None = None, name: str = "127.0.0.1", **changes: Any,
) -> AsyncIterator[Identity]:  # fmt: skip
    """oauth: `upstreams.idp.oauth`, OAUTH unless set. options: of provider.mjs. name: the gateway's public host. changes: top-level keys of
    gateway.yaml, `tls` among them."""
    base = f"{'https' if 'tls' in changes else 'http'}://{name}:{free_port()}"
    async with (
        provider(**{"issuer": base, "redirect_uris": [CALLBACK], **(options or {})}) as node,
        before(folder, node.url, base=base, rules=rules, oauth=oauth, clock=clock, **changes) as found,
    ):
        found.node = node
        yield found


@asynccontextmanager
async def before(
    folder: Path, url: str, *, base: str = "", rules: Sequence[Mapping[str, Any]] = (HUMAN,), oauth: Mapping[str, Any] | None = None,
    clock: Clock | None = None, **changes: Any,
) -> AsyncIterator[Identity]:  # fmt: skip
    """A gateway before the upstream `idp` at `url`."""
    admin_port = free_port()
    base = base or f"http://127.0.0.1:{free_port()}"
    path = _settings(folder, base, url, rules=rules, oauth=OAUTH if oauth is None else oauth, admin_port=admin_port, **changes)
    app = await GatewayApp.start(read(path), clock=clock)
    found = Identity(app, base, f"http://127.0.0.1:{admin_port}", url, path, clock)
    try:
        yield found
    finally:
        for jar in found.jars:
            await jar.close()
        await app.close()


def _settings(
    folder: Path, base: str, url: str, *, rules: Sequence[Mapping[str, Any]], oauth: Mapping[str, Any], admin_port: int, **changes: Any
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "gateway.yaml"
    raw: dict[str, Any] = {
        "listen": f"127.0.0.1:{urlsplit(base).port}",
        "public_url": base,
        "admin": {"listen": f"127.0.0.1:{admin_port}"},
        "stores": {"state": "sqlite:///state.db", "records": "sqlite:///records.db"},
        "secrets": {"key_file": "secret.key"},
        "upstreams": {"idp": {"url": url, "oauth": dict(oauth)}},
        "steps": {"human": {"kind": "captcha", "provider": "altcha", "cost": 100, "max_number": 50}},
        "rules": list(rules),
        **changes,
    }
    path.write_text(yaml.safe_dump(raw, sort_keys=False))
    return path
