"""The admin listener: probes, metrics, the demo's mailbox. Host is checked (DNS rebinding), and off loopback a token is needed."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Sequence

from aiohttp import web

from gateway.errors import GatewayError
from gateway.web.answers import response
from gateway.web.pages import Letter, Pages, Shown
from gateway.web.problem import json_page
from gateway.wire.head import RequestHead
from gateway.wire.media import prefers_json
from gateway.wire.target import parse_target

Check = Callable[[], Awaitable[None]]
"""Raises GatewayError when what it checks does not work."""

Page = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

LOCAL = frozenset({"127.0.0.1", "localhost", "[::1]"})


class Admin:
    def __init__(
        self, *, hosts: Sequence[str], token: str | None, checks: dict[str, Check], metrics: Callable[[], bytes],
        pages: Callable[[], Pages], shown: Callable[[], Shown], mailbox: Callable[[], Sequence[dict[str, str]]] | None,
    ) -> None:  # fmt: skip
        self._hosts = LOCAL | frozenset(h.lower() for h in hosts)
        self._token = token
        self._checks = checks
        self._metrics = metrics
        self._pages = pages
        self._shown = shown
        self._mailbox = mailbox
        self._paths: dict[str, Page] = {"/health/live": self._live, "/health/ready": self._ready, "/metrics": self._show_metrics}
        if mailbox is not None:
            self._paths["/dev/mailbox"] = self._show_mailbox

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        host = request.headers.get("Host", "").lower()
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        if name not in self._hosts:
            return response(json_page(421, {"error": "wrong_host", "detail": "add this host to admin.hosts, or use 127.0.0.1"}))
        if not request.path.startswith("/health/") and not self._known(request.headers.get("Authorization", "")):
            return response(json_page(401, {"error": "token_required"}, headers=(("WWW-Authenticate", "Bearer"),)))
        if (page := self._paths.get(request.path)) is None:
            return response(json_page(404, {"error": "not_found"}))
        if request.method not in ("GET", "HEAD"):
            return response(json_page(405, {"error": "method_not_allowed"}, headers=(("Allow", "GET, HEAD"),)))
        return await page(request)

    def _known(self, authorization: str) -> bool:
        if self._token is None:
            return True
        scheme, _, given = authorization.partition(" ")
        right = hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), self._token.encode())
        return scheme.lower() == "bearer" and right

    async def _live(self, _request: web.BaseRequest) -> web.StreamResponse:
        return response(json_page(200, {"status": "alive"}))

    async def _ready(self, _request: web.BaseRequest) -> web.StreamResponse:
        """503 while anything that gated requests need is away; the body says which."""
        said: dict[str, str] = {}
        for name, check in self._checks.items():
            try:
                await check()
            except GatewayError as error:
                said[name] = str(error)
            else:
                said[name] = "ok"
        ready = all(word == "ok" for word in said.values())
        return response(json_page(200 if ready else 503, {"status": "ready" if ready else "not ready", "checks": said}))

    async def _show_metrics(self, _request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=self._metrics(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def _show_mailbox(self, request: web.BaseRequest) -> web.StreamResponse:
        messages = list(self._mailbox() if self._mailbox else ())
        head = RequestHead("GET", parse_target(b"/dev/mailbox"), tuple(request.raw_headers), request.scheme, "", "", "", "")
        if "text/html" not in request.headers.get("Accept", "") or prefers_json(head):
            return response(json_page(200, messages))
        letters = [Letter(m["to"], m["subject"], m["text"]) for m in messages]
        return response(self._pages().mailbox(self._shown(), letters))
