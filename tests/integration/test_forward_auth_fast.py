"""What the fast lane answers a proxy that asks is, to the byte, what the slow lane answers; and it is the fast lane that answers. On a
listener of the proxy's own, and on the public one, where it shows its secret."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.lanes.fast.client import FastConnection
from tests.support.front import Front, fronting
from tests.support.ports import free_port
from tests.support.raw import OK, RawMessage, answering, raw_client, raw_upstream

SECRET = "the secret of the edge, long enough"
RULES = [
    {"name": "gated", "match": {"path": "/gated/**"}, "require": "human"},
    {"name": "no-delete", "match": {"path": "/things/**", "method": "DELETE"}, "deny": {"status": 403}},
]
WAYS = pytest.mark.parametrize("dialect", ["nginx", "envoy"])
PLACES = pytest.mark.parametrize("secret", [False, True], ids=["listener", "secret"])


@dataclass
class Edge:
    """A proxy that asks. port: where."""

    front: Front
    port: int
    dialect: str
    secret: bool

    def ask(self, method: str, uri: str, fields: bytes = b"") -> bytes:
        place = b"/.stepup/forward-auth" if self.secret else b""
        shown = b"X-Stepup-Forward-Auth: %b\r\n" % SECRET.encode() if self.secret else b""
        if self.dialect == "envoy":
            told = b"X-Forwarded-Proto: http\r\nX-Forwarded-For: 127.0.0.1\r\n"
            start = b"%b %b%b HTTP/1.1\r\nHost: %b\r\n" % (method.encode(), place, uri.encode(), self.front.host)
        else:
            told = (
                b"X-Original-Method: %b\r\nX-Original-URI: %b\r\nX-Original-Host: %b\r\n"
                b"X-Original-Proto: http\r\nX-Original-Address: 127.0.0.1\r\n"
            ) % (method.encode(), uri.encode(), self.front.host)
            start = b"GET %b HTTP/1.1\r\nHost: gateway\r\n" % (place or b"/auth")
        return start + told + shown + fields + b"\r\n"


@asynccontextmanager
async def edge(folder: Path, dialect: str, *, secret: bool, lane: str = "auto") -> AsyncIterator[Edge]:
    port = free_port()
    integration = {"dialect": dialect, "secret": SECRET} if secret else {"dialect": dialect, "listen": f"127.0.0.1:{port}"}
    async with (
        raw_upstream(answering(OK)) as upstream,
        fronting(folder, upstream.url, rules=RULES, lane=lane, forward_auth={"edge": integration}) as front,
    ):
        yield Edge(front, front.port if secret else port, dialect, secret)


@pytest.fixture
def handed_over(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What the slow lane gets."""
    given: list[bytes] = []
    original = FastConnection._hand_over

    def noted(self: FastConnection, data: bytes) -> None:
        given.append(data)
        original(self, data)

    monkeypatch.setattr(FastConnection, "_hand_over", noted)
    return given


async def answers(folder: Path, dialect: str, *, secret: bool, lane: str) -> list[RawMessage]:
    """To these asks in one connection."""
    async with edge(folder / lane, dialect, secret=secret, lane=lane) as proxy:
        held = await proxy.front.passed("GET /gated")
        asks = [
            proxy.ask("GET", "/x"),
            proxy.ask("GET", "/y?a=1", b"Cookie: a=1; stepup=x; b=2\r\n"),
            proxy.ask("GET", "/y?a=2", b"Cookie: a=1; stepup=x; b=2\r\n"),
            proxy.ask("GET", "/gated/x", held),
            proxy.ask("GET", "/gated/x", held),
            proxy.ask("GET", "/gated/x"),
            proxy.ask("GET", "/things/1?_method=DELETE"),
            proxy.ask("DELETE", "/things/1"),
            proxy.ask("GET", "/a%2f..%2fgated/x"),
            proxy.ask("GET", "/.stepup/jwks.json"),
            proxy.ask("GET", "/x", b"X-Original-URI: /gated\r\nX-Forwarded-Proto: http\r\n"),
        ]
        found = []
        async with raw_client(proxy.port) as client:
            for ask in asks:
                await client.send(ask)
                found.append(await client.response())
        return found


def comparable(answer: RawMessage) -> tuple[int, list[bytes]]:
    """Status and names; values hold tokens, states and times."""
    return answer.status, sorted(name.lower() for name, _ in answer.head.fields if name.lower() not in (b"date", b"server"))


@WAYS
@PLACES
async def test_both_lanes_answer_alike(tmp_path: Path, dialect: str, secret: bool) -> None:
    slow = await answers(tmp_path, dialect, secret=secret, lane="slow")
    fast = await answers(tmp_path, dialect, secret=secret, lane="auto")
    assert list(map(comparable, fast)) == list(map(comparable, slow))
    assert [each.status for each in fast] == [200, 200, 200, 200, 200, 401, 403, 403, 401, 403, 403]
    assert fast[1].head.get(b"cookie") == slow[1].head.get(b"cookie") == b"a=1; b=2"
    assert fast[3].head.get(b"x-stepup-token")
    assert fast[0].head.get(b"x-stepup-token") == b""


@WAYS
@PLACES
async def test_an_allow_never_reaches_the_slow_lane(tmp_path: Path, handed_over: list[bytes], dialect: str, secret: bool) -> None:
    async with edge(tmp_path, dialect, secret=secret) as proxy, raw_client(proxy.port) as client:
        await client.send(b"".join(proxy.ask("GET", f"/{number}") for number in range(400)) + proxy.ask("GET", "/gated"))
        assert [(await client.response()).status for _ in range(401)] == [200] * 400 + [401]
        assert [each.count(b"/gated") for each in handed_over] == [1]


async def test_a_proxy_asks_and_forwards_on_one_connection(tmp_path: Path, handed_over: list[bytes]) -> None:
    async with edge(tmp_path, "nginx", secret=True) as proxy, raw_client(proxy.port) as client:
        through = proxy.front.head("GET /through")
        await client.send(proxy.ask("GET", "/a") + through + proxy.ask("GET", "/b"))
        bodies = []
        for _ in range(3):
            answer = await client.response()
            assert answer.status == 200
            bodies.append((answer.body, answer.head.get(b"x-stepup-subject")))
        assert bodies == [(b"", b""), (b"ok", None), (b"", b"")]
        assert handed_over == []
        for byte in proxy.ask("GET", "/c"):
            await client.send(bytes([byte]))
        assert (await client.response()).head.get(b"x-stepup-subject") == b""


async def test_who_shows_no_secret_is_the_slow_lanes(tmp_path: Path, handed_over: list[bytes]) -> None:
    async with edge(tmp_path, "nginx", secret=True) as proxy:
        right = proxy.ask("GET", "/x")
        wrong = {
            "none": right.replace(SECRET.encode(), b""),
            "another": right.replace(SECRET.encode(), SECRET.encode()[:-1] + b"!"),
            "twice": right.replace(b"\r\n\r\n", b"\r\nX_Stepup-Forward_Auth: " + SECRET.encode() + b"\r\n\r\n"),
            "another path": right.replace(b"/forward-auth ", b"/forward-auth/x "),
        }
        for name, ask in wrong.items():
            async with raw_client(proxy.port) as client:
                await client.send(ask.replace(b"Host: gateway", b"Host: " + proxy.front.host))
                assert (await client.response()).status == 404, name
        assert len(handed_over) == len(wrong)
