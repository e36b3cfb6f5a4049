"""What the fast lane answers a proxy that asks is, to the byte, what the slow lane answers; and it is the fast lane that answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.lanes.fast.asking import AskingConnection
from tests.support.front import Front, fronting
from tests.support.ports import free_port
from tests.support.raw import OK, RawMessage, answering, raw_client, raw_upstream

RULES = [
    {"name": "gated", "match": {"path": "/gated/**"}, "require": "human"},
    {"name": "no-delete", "match": {"path": "/things/**", "method": "DELETE"}, "deny": {"status": 403}},
]


def asked(front: Front, method: str, uri: str, fields: bytes = b"") -> bytes:
    return (
        b"GET /auth HTTP/1.1\r\nHost: gateway\r\nX-Original-Method: %b\r\nX-Original-URI: %b\r\nX-Original-Host: %b\r\n"
        b"X-Original-Proto: http\r\nX-Original-Address: 127.0.0.1\r\n%b\r\n"
    ) % (method.encode(), uri.encode(), front.host, fields)


async def answers(tmp_path: Path, lane: str) -> list[RawMessage]:
    """To these asks in one connection."""
    port = free_port()
    integrations = {"edge": {"dialect": "nginx", "listen": f"127.0.0.1:{port}"}}
    async with (
        raw_upstream(answering(OK)) as upstream,
        fronting(tmp_path / lane, upstream.url, rules=RULES, lane=lane, forward_auth=integrations) as front,
    ):
        held = await front.passed("GET /gated")
        asks = [
            asked(front, "GET", "/x"),
            asked(front, "GET", "/y?a=1", b"Cookie: a=1; stepup=x; b=2\r\n"),
            asked(front, "GET", "/y?a=2", b"Cookie: a=1; stepup=x; b=2\r\n"),
            asked(front, "GET", "/gated/x", held),
            asked(front, "GET", "/gated/x", held),
            asked(front, "GET", "/gated/x"),
            asked(front, "GET", "/things/1?_method=DELETE"),
            asked(front, "DELETE", "/things/1"),
            asked(front, "GET", "/a%2f..%2fgated/x"),
            asked(front, "GET", "/.stepup/jwks.json"),
            asked(front, "GET", "/x", b"X-Original-URI: /gated\r\n"),
        ]
        found = []
        async with raw_client(port) as client:
            for ask in asks:
                await client.send(ask)
                found.append(await client.response())
        return found


def comparable(answer: RawMessage) -> tuple[int, list[bytes]]:
    """Status and names; values hold tokens, states and times."""
    return answer.status, sorted(name.lower() for name, _ in answer.head.fields if name.lower() not in (b"date", b"server"))


async def test_both_lanes_answer_alike(tmp_path: Path) -> None:
    slow = await answers(tmp_path, "slow")
    fast = await answers(tmp_path, "auto")
    assert list(map(comparable, fast)) == list(map(comparable, slow))
    assert [each.status for each in fast] == [200, 200, 200, 200, 200, 401, 403, 403, 401, 403, 403]
    assert fast[1].head.get(b"cookie") == slow[1].head.get(b"cookie") == b"a=1; b=2"
    assert fast[3].head.get(b"x-stepup-token")
    assert fast[0].head.get(b"x-stepup-token") == b""


async def test_an_allow_never_reaches_the_slow_lane(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    given: list[bytes] = []
    original = AskingConnection._hand_over

    def noted(self: AskingConnection, data: bytes) -> None:
        given.append(data)
        original(self, data)

    monkeypatch.setattr(AskingConnection, "_hand_over", noted)
    integrations = {"edge": {"dialect": "nginx", "listen": f"127.0.0.1:{port}"}}
    async with (
        raw_upstream(answering(OK)) as upstream,
        fronting(tmp_path, upstream.url, rules=RULES, forward_auth=integrations) as front,
        raw_client(port) as client,
    ):
        await client.send(b"".join(asked(front, "GET", f"/{number}") for number in range(9)) + asked(front, "GET", "/gated"))
        assert [(await client.response()).status for _ in range(10)] == [200] * 9 + [401]
        assert [each.count(b"/gated") for each in given] == [1]
