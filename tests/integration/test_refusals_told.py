"""Whatever is refused has a number, and the log a reason under it (design.md 7.10); every refusal is counted by its kind."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from structlog.testing import capture_logs

from gateway.flow.asked import Asked
from gateway.wire.head import RequestHead
from gateway.wire.target import parse_target
from tests.support.altcha_client import payload
from tests.support.gateway import SCRIPT, Reply
from tests.support.legacy import Client, Place, legacy
from tests.support.raw import RawMessage, raw_client

FORM = "application/x-www-form-urlencoded"
RULES: list[dict[str, Any]] = [
    {"name": "send", "match": {"path": "/send", "method": "POST"}, "require": "human", "max_age": "once"},
    {"name": "nobody", "match": {"path": "/nobody"}, "require": "code"},
]
BEGIN: dict[str, Any] = {
    "partner": {
        "issuer": "https://partner.example",
        "audience": "us",
        "secret": "0123456789abcdef0123456789abcdef",
        "continue_url": "https://partner.example/continue",
        "steps": "human",
    }
}
ASKING: dict[str, Any] = {"clients": {"api": {"secret": "another-secret-another-secret-00", "audience": "bank"}}}
NUMBERS = (r'"request_id": "([^"]+)"', r'class="id">([^<]+)<', r"Request number ([\w-]{12})\.$")
LARGE = b"x" * (64 * 1024 + 1)

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass
class Told:
    place: Place
    lines: list[Any]

    def of(self, reply: Reply | RawMessage) -> list[Any]:
        """The lines of the log under the number that an answer carries."""
        text = reply.body.decode()
        number = next(filter(None, (re.search(form, text) for form in NUMBERS)), None)
        assert number, text[:200]
        return [line for line in self.lines if line.get("request_id") == number[1] and line["event"] == "refused"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def told(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Told]:
    with capture_logs() as lines:
        changes: dict[str, Any] = {"begin": BEGIN, "introspection": ASKING, "guessing": {"foreign_per_address": 1000}}
        async with legacy(tmp_path_factory.mktemp("told"), rules=RULES, identity=[], **changes) as place:
            yield Told(place, lines)


async def solved(client: Client, page: str) -> str:
    """Solve the captcha by JSON; the ticket's address."""
    shown = await client.get(page, headers=SCRIPT)
    done = await client.post(page, json={"altcha": payload(shown.json["step"]["data"])}, headers=SCRIPT)
    return (await client.get(done.json["continue"])).location


@pytest.mark.parametrize("headers", [{}, SCRIPT], ids=["page", "script"])
@pytest.mark.parametrize(
    ("method", "path", "sent", "status", "kind"),
    [
        ("DELETE", "/.stepup/t/su_x", {}, 405, "bad_request"),
        ("PUT", "/continue?state=su_x", {}, 405, "bad_request"),
        ("GET", "/continue?state=theirs", {}, 400, "bad_request"),
        ("GET", "/continue", {}, 400, "bad_request"),
        ("GET", "/continue?state=su_x", {}, 404, "unknown"),
        ("GET", "/.stepup/nothing", {}, 404, "unknown"),
        ("GET", "/.stepup/static/nothing", {}, 404, "unknown"),
        ("PUT", "/.stepup/jwks.json", {}, 405, "bad_request"),
        ("POST", "/.stepup/pass", {}, 405, "bad_request"),
        ("GET", "/.stepup/pass/revoke", {}, 405, "bad_request"),
        ("POST", "/.stepup/pass/revoke", {"data": b"x", "headers": {"Content-Type": "text/plain"}}, 415, "bad_request"),
        ("POST", "/.stepup/pass/revoke", {"data": {"stepup_token": "made-up"}}, 403, "forged"),
        ("POST", "/.stepup/pass/revoke", {"data": LARGE, "headers": {"Content-Type": FORM}}, 413, "too_large"),
        ("GET", "/.stepup/begin/nobody", {}, 404, "unknown"),
        ("PUT", "/.stepup/begin/partner", {}, 405, "bad_request"),
        ("POST", "/.stepup/begin/partner", {"data": b"{}", "headers": {"Content-Type": "text/plain"}}, 415, "bad_request"),
        ("POST", "/.stepup/begin/partner", {"data": b"\xff", "headers": {"Content-Type": FORM}}, 400, "bad_request"),
        ("POST", "/.stepup/introspect", {"data": LARGE, "headers": {"Content-Type": FORM}}, 413, "too_large"),
        ("POST", "/.stepup/introspect", {"data": {"token": "t"}}, 401, "invalid_client"),
        ("GET", "/nobody", {}, 403, "no_subject"),
    ],
)
async def test_what_our_paths_refuse_is_told_under_its_number(
    told: Told, method: str, path: str, sent: dict[str, Any], status: int, kind: str, headers: dict[str, str]
) -> None:
    more = {**sent, "headers": {**headers, **sent.get("headers", {})}}
    refused = await told.place.client().request(method, path, **more)
    assert refused.status == status, refused.text
    assert [(line["kind"], bool(line["reason"])) for line in told.of(refused)] == [(kind, True)]
    if status == 405:
        assert method not in refused.headers["Allow"].split(", ")
    if status == 413 and headers is SCRIPT:
        assert refused.json["limit"] == 64 * 1024, "the bound that was passed, and no other one"


async def test_what_a_transaction_refuses_is_told_under_its_number(told: Told) -> None:
    client = told.place.client()
    page = (await client.post("/send", {"x": "1"})).location
    for body, status in ((b"{}{", 400), (b"[]", 400), (b'{"altcha": 1}', 400)):
        refused = await client.post(page, data=body, headers={**SCRIPT, "Content-Type": "application/json"})
        assert (refused.status, [line["kind"] for line in told.of(refused)]) == (status, ["bad_request"])
    plain = await client.post(page, data=b"x", headers={"Content-Type": "text/plain"})
    assert (plain.status, [line["kind"] for line in told.of(plain)]) == (415, ["bad_request"])
    ticket = await solved(client, page)
    elsewhere = await client.get(ticket.replace("/send", "/open"))
    assert (elsewhere.status, [line["kind"] for line in told.of(elsewhere)]) == (400, ["bad_request"])
    assert (await client.get(ticket)).status == 200
    for used in (ticket, page, page.replace("/.stepup/t/", "/continue?state=")):
        over = await client.get(used)
        assert (over.status, [line["kind"] for line in told.of(over)]) == (410, ["already_sent"]), used
    secrets = (page.rpartition("/")[2], ticket.rpartition("=")[2])
    assert not any(secret in str(told.lines) for secret in secrets)


async def test_what_was_cancelled_is_no_refusal_until_it_is_asked_for_again(told: Told) -> None:
    client = told.place.client()
    page = (await client.post("/send", {"x": "1"})).location
    token = (await client.get(page)).hidden("stepup_token")
    assert (await client.post(page, {"action": "cancel", "stepup_token": token})).status == 303
    assert not [line for line in told.lines if line["event"] == "refused" and line["kind"] == "cancelled"]
    over = await client.get(page)
    assert (over.status, [line["kind"] for line in told.of(over)]) == (410, ["cancelled"])


async def test_a_fault_of_ours_is_counted_too(told: Told) -> None:
    async def broken() -> web.StreamResponse:
        raise RuntimeError("a fault of ours")

    head = RequestHead("GET", parse_target(b"/"), (), "http", "127.0.0.1", told.place.gateway.base, "127.0.0.1", "127.0.0.1")
    await told.place.gateway.app.lane.guarded(Asked(head, "its-number", 0.0), broken())
    assert [line["kind"] for line in told.lines if line.get("request_id") == "its-number" and line["event"] == "refused"] == ["internal"]


@pytest.mark.parametrize("lane", ["auto", "slow"])
@pytest.mark.parametrize(
    ("sent", "status", "kind"),
    [
        (b"GET / HTTP/1.1\r\nHost : x\r\n\r\n", 400, "malformed 400"),
        (b"FETCH / HTTP/1.1\r\nHost: x\r\n\r\n", 400, "malformed 400"),
        (b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n", 405, "malformed 405"),
        (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414, "malformed 414"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 17_000 + b"\r\n\r\n", 431, "malformed 431"),
        (b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505, "malformed 505"),
        (b"GET / HTTP/1.1\r\n", 408, "head_timeout"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 421, "wrong_host"),
    ],
)
async def test_a_head_that_is_refused_is_told_under_its_number(tmp_path: Path, lane: str, sent: bytes, status: int, kind: str) -> None:
    with capture_logs() as lines:
        async with (
            legacy(tmp_path, rules=RULES, lane=lane, limits={"head_timeout": "200ms"}) as place,
            raw_client(int(place.gateway.base.rpartition(":")[2])) as client,
        ):
            await client.send(sent)
            answer = await client.response()
    assert answer.head.status == status
    assert [(line["kind"], bool(line["reason"])) for line in Told(place, lines).of(answer)] == [(kind, True)]


async def test_what_is_too_large_for_the_application_is_not_said_to_wait_for_a_confirmation(tmp_path: Path) -> None:
    async with legacy(tmp_path, rules=RULES, limits={"max_upload": 10}, transactions={"max_body": 5}) as place:
        client = place.client()
        passed_on, kept = await client.post("/open", b"x" * 11), await client.post("/send", b"x" * 6)
        assert (passed_on.status, kept.status) == (413, 413)
        assert "onfirm" not in passed_on.text
        assert "Confirm first" in kept.text
        script = await client.post("/open", b"x" * 11, headers=SCRIPT)
        assert (script.status, script.json["error"], script.json["limit"]) == (413, "too_large", 10)
        assert "onfirm" not in script.json["detail"]
