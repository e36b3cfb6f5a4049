"""Whole step-ups over HTTP, as a browser makes them: begin, interstitial, answer, /continue, ticket; or as a script does, by JSON.

Every flow is another browser with a connection and cookies of its own. The puzzle costs next to nothing: the gateway is what is measured.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from urllib.parse import urlencode

from tests.bench.browser import fields
from tests.support.altcha_client import payload

_TOKEN = re.compile(r'name="stepup_token"[^>]*value="([^"]*)"')
_CHALLENGE = re.compile(r"data-challenge='([^']*)'")
_NAVIGATION = fields()
_SCRIPT = ("Accept: application/json", "Sec-Fetch-Mode: cors", "Sec-Fetch-Dest: empty", "Sec-Fetch-Site: same-origin")


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str:
        return next(v for n, v in self.headers if n == name)


@dataclass(slots=True)
class Visitor:
    """One browser: one connection, one cookie jar (path and expiry are not looked at)."""

    port: int
    cookies: dict[str, str] = field(default_factory=dict)
    _reader: asyncio.StreamReader | None = None
    _writer: asyncio.StreamWriter | None = None

    async def ask(self, method: str, target: str, *, body: bytes = b"", kind: str = "", script: bool = False) -> Answer:
        if self._writer is None or self._reader is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self.port)
        lines = [f"{method} {target} HTTP/1.1", f"Host: 127.0.0.1:{self.port}", *(_SCRIPT if script else _NAVIGATION)]
        if self.cookies:
            lines.append("Cookie: " + "; ".join(f"{n}={v}" for n, v in self.cookies.items()))
        if method == "POST":
            lines += [f"Content-Type: {kind}", f"Content-Length: {len(body)}", f"Origin: http://127.0.0.1:{self.port}"]
        self._writer.write("\r\n".join((*lines, "", "")).encode() + body)
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = tuple((n.lower(), v.strip()) for n, _, v in (line.partition(":") for line in head[1:] if line))
        for name, value in headers:
            if name == "set-cookie":
                key, _, content = value.partition(";")[0].partition("=")
                self.cookies[key] = content
        length = next((int(v) for n, v in headers if n == "content-length"), 0)
        return Answer(int(head[0].split()[1]), headers, await self._reader.readexactly(length))

    async def form(self, target: str, **fields: str) -> Answer:
        return await self.ask("POST", target, body=urlencode(fields).encode(), kind="application/x-www-form-urlencoded")

    async def json(self, target: str, fields: dict[str, str]) -> Answer:
        return await self.ask("POST", target, body=json.dumps(fields).encode(), kind="application/json", script=True)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def _must(answer: Answer, status: int, step: str) -> Answer:
    if answer.status != status:
        raise RuntimeError(f"{step}: {answer.status} in place of {status}: {answer.body[:500]!r}")
    return answer


async def _solve(visitor: Visitor, page: str) -> str:
    """Answer the captcha at `page` by its form; where that leads."""
    html = _must(await visitor.ask("GET", page), 200, "interstitial").body.decode()
    token, challenge = _TOKEN.search(html), _CHALLENGE.search(html)
    assert token is not None, html
    assert challenge is not None, html
    solved = payload(json.loads(challenge[1]))
    return _must(await visitor.form(page, altcha=solved, stepup_token=token[1]), 303, "answer").header("location")


async def by_form(visitor: Visitor) -> None:
    """A POST is suspended, its captcha answered by the page's form, and resumed by its ticket."""
    page = _must(await visitor.form("/pay", to="Marlene", amount="10"), 303, "begin").header("location")
    onward = await _solve(visitor, page)
    back = _must(await visitor.ask("GET", onward), 303, "continue").header("location")
    _must(await visitor.ask("GET", back), 200, "resume")


async def by_json(visitor: Visitor) -> None:
    """A script's POST gets the 401; the script solves the captcha by JSON, continues and repeats its request."""
    asked = json.loads(_must(await visitor.json("/pay", {"to": "Marlene"}), 401, "begin").body)
    page = "/.stepup/t/" + asked["state"]
    shown = json.loads(_must(await visitor.ask("GET", page, script=True), 200, "interstitial").body)
    passed = json.loads(_must(await visitor.json(page, {"altcha": payload(shown["step"]["data"])}), 200, "answer").body)
    _must(await visitor.ask("GET", passed["continue"], script=True), 204, "continue")
    _must(await visitor.json("/pay", {"to": "Marlene"}), 200, "repeat")


@dataclass(frozen=True, slots=True)
class Flows:
    """What a window of `seconds` saw; latencies in seconds, sorted."""

    flows: int
    seconds: float
    cpu: float
    latencies: tuple[float, ...]

    @property
    def per_cpu_second(self) -> float:
        return self.flows / self.cpu

    @property
    def median(self) -> float:
        """Milliseconds."""
        return self.latencies[len(self.latencies) // 2] * 1000


async def run(port: int, flow: Callable[[Visitor], Awaitable[None]], cpu: Callable[[], float], *, visitors: int, seconds: float) -> Flows:
    """So many browsers at a time, one flow each, again and again."""
    latencies: list[float] = []
    began, used = time.perf_counter(), cpu()

    async def visit() -> None:
        while time.perf_counter() - began < seconds:
            visitor = Visitor(port)
            start = time.perf_counter()
            await flow(visitor)
            latencies.append(time.perf_counter() - start)
            visitor.close()

    await asyncio.gather(*(visit() for _ in range(visitors)))
    return Flows(len(latencies), time.perf_counter() - began, cpu() - used, tuple(sorted(latencies)))


async def logged_in(port: int, name: str = "alice") -> str:
    """The cookies of somebody who has logged in and passed the captcha of /gated."""
    visitor = Visitor(port)
    _must(await visitor.form("/login", username=name, password="wonderland"), 302, "login")
    asked = _must(await visitor.ask("GET", "/gated"), 303, "begin").header("location")
    onward = await _solve(visitor, asked)
    _must(await visitor.ask("GET", onward), 303, "continue")
    _must(await visitor.ask("GET", "/gated"), 200, "gated")
    visitor.close()
    return "; ".join(f"{n}={v}" for n, v in visitor.cookies.items())
