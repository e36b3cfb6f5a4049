"""A single-page application that knows nothing of step-ups but one script tag, and the gateway in front of it.

Its policy allows what its own origin serves, and nothing inline. Every button shows below itself what its request came to.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.support.gateway import Clock
from tests.support.legacy import Habits, Legacy, Place, legacy

TAG = '<script src="/.stepup/static/stepup.js"></script>'
POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'"

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>Till</title>
{tag}
<script src="/app.js" defer></script></head>
<body><main><h1>Till</h1>
<form id="login"><label>User <input name="username" value="alice"></label>
<label>Password <input name="password" type="password" value="right"></label> <button>Log in</button> <output></output></form>
<p><button id="pay">Pay</button> <output></output></p>
<p><button id="order">Order</button> <output></output></p>
<p><label>Document <input type="file" id="file"></label> <button id="upload">Upload</button> <output></output></p>
<p><button id="both">Pay twice</button> <output></output></p>
<p><button id="check">Check</button> <output></output></p>
</main></body></html>
"""

SCRIPT = """"use strict";
const button = (id, action) => {
  const found = document.getElementById(id);
  found.addEventListener(id === "login" ? "submit" : "click", async (event) => {
    event.preventDefault();
    const output = found.parentElement.querySelector(`#${id} output, #${id} ~ output`);
    output.textContent = "…";
    try {
      output.textContent = await action(found);
    } catch (error) {
      output.textContent = String(error);
    }
  });
};
const json = (path, body) => fetch(path, {
  method: "POST", headers: { "Content-Type": "application/json", "X-Till": "7" }, body: JSON.stringify(body),
});
const said = async (answer) => `${answer.status} ${await answer.text()}`;

button("login", async (form) => said(await fetch("/login", { method: "POST", body: new URLSearchParams(new FormData(form)) })));
button("pay", async () => said(await json("/api/pay", { to: "Marlene & Söhne", amount: 25 })));
button("both", async () => (await Promise.all([1, 2].map(async (n) => said(await json(`/api/pay/${n}`, { amount: n }))))).join(" / "));
button("upload", async () => {
  const form = new FormData();
  form.append("note", "für dich");
  form.append("document", document.getElementById("file").files[0]);
  return said(await fetch("/api/upload", { method: "POST", body: form }));
});
button("check", async () => said(await fetch("/api/check", { method: "POST", body: "x" })));
button("order", () => new Promise((resolve) => {
  const seen = [];
  const request = new XMLHttpRequest();
  request.onreadystatechange = () => seen.push(request.readyState);
  request.addEventListener("loadstart", () => seen.push("loadstart"));
  request.onload = () => seen.push("load");
  request.onloadend = () => resolve(`${request.status} ${request.responseText} [${seen.join()}]`);
  request.open("POST", "/api/order");
  request.setRequestHeader("Content-Type", "application/x-www-form-urlencoded");
  request.setRequestHeader("X-Till", "7");
  request.send("what=tea&much=2");
}));
"""

RULES: list[dict[str, Any]] = [
    {"name": "login", "match": {"path": "/login", "method": "POST"}, "require": "human", "max_age": "once"},
    {"name": "check", "match": {"path": "/api/check/**"}, "require": "human", "max_age": "once"},
    {"name": "till", "match": {"path": ["/api/pay/**", "/api/order", "/api/upload"], "method": "POST"}, "require": "code", "max_age": "5m"},
    {"name": "vault", "match": {"path": "/api/vault"}, "require": ["human", "code"], "max_age": "5m"},
]


@dataclass
class Spa(Legacy):
    """tag: what the page holds of the gateway; policy: of its page. friend: an origin whose scripts may read the answers."""

    tag: str = TAG
    policy: str = POLICY
    friend: str = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        answer = await self._answer(request)
        if self.friend:
            answer.headers.update({"Access-Control-Allow-Origin": self.friend, "Access-Control-Allow-Credentials": "true"})
        return answer

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        match request.path:
            case "/":
                headers = {"Content-Security-Policy": self.policy}
                return web.Response(text=PAGE.format(tag=self.tag), content_type="text/html", headers=headers)
            case "/app.js":
                return web.Response(text=SCRIPT, content_type="text/javascript")
            case "/home":
                return web.Response(text=f"home of {self.sessions.get(request.cookies.get('SID', ''), '')}")
            case "/api/upload" if request.method == "POST":
                form = await request.post()
                found = form["document"]
                assert isinstance(found, web.FileField)
                return web.Response(text=f"{form['note']!s} {found.filename} {hashlib.sha256(found.file.read()).hexdigest()[:16]}")
            case _:
                return await super().handle(request)

    def arrived(self, path: str) -> list[str]:
        """The bodies that were posted there."""
        return [body for _, p, _, body in self.posted if p == path]


@asynccontextmanager
async def spa(folder: Path, *, app: Spa | None = None, clock: Clock | None = None, **changes: Any) -> AsyncIterator[tuple[Place, Spa]]:
    """The application and its gateway. changes: as for `legacy`."""
    made = app or Spa(Habits())
    login = {"path": ["/login", "/other-login"], **changes.pop("login", {})}
    async with legacy(folder, app=made, clock=clock, rules=changes.pop("rules", RULES), login=login, **changes) as place:
        yield place, made
