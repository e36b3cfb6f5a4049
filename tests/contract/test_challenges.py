"""The 401 of whoever cannot be redirected, in every lane: a challenge by RFC 9110 §11.6.1, RFC 6750 §3 and RFC 9470 §3, and a problem by
RFC 9457 §3."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest
import pytest_asyncio

from tests.support.challenge import TEXT, VALUE, Challenge, challenge
from tests.support.front import FETCH, Front
from tests.support.lanes import LANES
from tests.support.raw import OK, RawMessage, RawPeer, RawUpstream, raw_upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

STEPS = {"human": {"kind": "captcha", "cost": 1, "max_number": 5}, "again": {"kind": "captcha", "cost": 1, "max_number": 5}}
RULES = [
    {"name": "five", "match": {"path": ["/five", "/mixed", "/lasting", "/two"]}, "require": "human", "max_age": "5m"},
    {"name": "session", "match": {"path": ["/session", "/lasting"]}, "require": "again"},
    {"name": "once", "match": {"path": ["/once", "/mixed"]}, "require": "again", "max_age": "once"},
    {"name": "two", "match": {"path": "/two"}, "require": ["human", "again"], "max_age": "1m"},
    {"name": "no", "match": {"path": "/no"}, "deny": {"status": 403}},
]
UPGRADE = b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=LANES)
async def front(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Front]:
    async def script(upstream: RawUpstream, peer: RawPeer) -> None:
        while True:
            upstream.requests.append(await peer.message())
            await peer.send(OK)

    async with raw_upstream(script) as upstream:
        urls = {"app": {"url": upstream.url, "keepalive": "1s"}}
        async with LANES[request.param](tmp_path_factory.mktemp("lane"), urls, rules=RULES, steps=STEPS) as found:
            yield found


def read(answer: RawMessage) -> Challenge:
    assert answer.status == 401
    [field] = answer.head.all(b"www-authenticate")
    return challenge(field.decode("ascii"))


@pytest.mark.parametrize(
    ("path", "steps", "max_age"),
    [
        ("/five", ["human"], "300"),
        ("/session", ["again"], None),
        ("/once", ["again"], "0"),
        ("/mixed", ["human", "again"], "0"),
        ("/lasting", ["human", "again"], "300"),
        ("/two", ["human", "again"], "60"),
    ],
)
async def test_the_challenge_names_what_is_lacking_and_how_fresh_it_must_be(
    front: Front, path: str, steps: list[str], max_age: str | None
) -> None:
    answer = await front.ask(f"GET {path}", FETCH)
    found = read(answer)
    assert found.scheme == "Bearer"
    assert found.parameters["error"] == "insufficient_user_authentication"
    assert TEXT.fullmatch(found.parameters["error_description"])
    values = found.parameters["acr_values"].split(" ")
    assert values == steps
    assert all(VALUE.fullmatch(value) for value in values)
    assert found.parameters.get("max_age") == max_age
    assert set(found.parameters) <= {"error", "error_description", "acr_values", "max_age"}
    problem = json.loads(answer.body)
    assert (problem["steps"], problem.get("max_age")) == (steps, int(max_age) if max_age else None)


async def test_the_body_is_a_problem_that_nobody_keeps(front: Front) -> None:
    answer = await front.ask("GET /five", FETCH)
    assert answer.head.get(b"content-type") == b"application/problem+json"
    assert answer.head.get(b"cache-control") == b"no-store"
    problem = json.loads(answer.body)
    assert urlsplit(problem["type"]).scheme
    assert (problem["status"], problem["title"], problem["error"]) == (401, "Step-up required", "interaction_required")
    assert problem["error_description"] == read(answer).parameters["error_description"]
    assert urlsplit(problem["step_up_url"]).netloc == front.host.decode()


@pytest.mark.parametrize(
    ("line", "fields"),
    [
        ("GET /five", b""),
        ("POST /five", FETCH),
        ("DELETE /five", FETCH),
        ("HEAD /five", FETCH),
        ("GET /five", b"Sec-Fetch-Mode: no-cors\r\nSec-Fetch-Dest: image\r\n"),
        ("GET /five", UPGRADE),
        ("GET /five", b"Authorization: Bearer of.somebody.else\r\n" + FETCH),
        ("OPTIONS /five", FETCH),
    ],
)
async def test_whatever_cannot_be_redirected_gets_one_challenge(front: Front, line: str, fields: bytes) -> None:
    answer = await front.ask(line, fields)
    assert read(answer).parameters["error"] == "insufficient_user_authentication"
    assert answer.head.get(b"location") is None
    assert bool(answer.body) is not line.startswith("HEAD")


async def test_a_refusal_that_no_step_up_helps_against_is_no_challenge(front: Front) -> None:
    answer = await front.ask("GET /no", FETCH)
    assert (answer.status, answer.head.get(b"www-authenticate")) == (403, None)


async def test_who_has_done_it_is_not_challenged_for_it_again(front: Front) -> None:
    cookies = await front.passed("GET /five")
    assert (await front.ask("GET /five", FETCH + cookies)).status == 200
    assert read(await front.ask("GET /two", FETCH + cookies)).parameters["acr_values"] == "again"
