"""The endpoint itself, asked byte by byte: on a listener of a proxy's own, and with its secret on the public one.

What real proxies make of it stands in test_behind_proxies.py.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import structlog

from gateway.app import GatewayApp
from tests.support.front import CHROME, FETCH, Front, cookie_line, cookies, fronting
from tests.support.gateway import Clock, decoded
from tests.support.ports import free_port
from tests.support.proxies import asking
from tests.support.raw import OK, RawMessage, answering, raw_client, raw_upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

SECRETS = {name: f"the secret of {name}, long enough" for name in ("nginx", "caddy", "envoy")}
LOGIN = {
    "from": "login_form", "upstream": "app", "path": "/login", "logout": "/logout", "username": "username", "cookie": "SID",
    "success": {"status": [302, 303]},
}  # fmt: skip
RULES: list[dict[str, Any]] = [
    {"name": "vault", "match": {"path": "/vault/**"}, "require": "human"},
    {"name": "once", "match": {"path": "/once"}, "require": "human", "max_age": "once"},
    {"name": "closed", "match": {"path": "/closed"}, "deny": {"status": 451, "message": "Closed for today."}},
    {"name": "soft", "match": {"path": "/soft"}, "require": "human", "on_error": "allow"},
]


def auth(front: Front, dialect: str, line: str, *, address: bytes = b"203.0.113.7") -> tuple[str, bytes]:
    """The first line and the headers by which a proxy asks about `GET /x` at the gateway's public host."""
    method, target = line.split()
    names = {"nginx": (b"X-Original-Method", b"X-Original-URI", b"X-Original-Host", b"X-Original-Proto", b"X-Original-Address")}
    forwarded = (b"X-Forwarded-Method", b"X-Forwarded-Uri", b"X-Forwarded-Host", b"X-Forwarded-Proto", b"X-Forwarded-For")
    if dialect == "envoy":
        return line, b"X-Forwarded-Proto: http\r\nX-Forwarded-For: %b\r\n" % address
    values = (method.encode(), target.encode(), front.host, b"http", address)
    lines = [b"%b: %b\r\n" % pair for pair in zip(names.get(dialect, forwarded), values, strict=True)]
    return "GET /decision", b"".join(lines)


async def ask(front: Front, port: int, line: str, fields: bytes = b"", body: bytes = b"") -> RawMessage:
    """One request at a port, with the public Host."""
    async with raw_client(port) as client:
        framing = b"Content-Length: %d\r\n" % len(body) if body else b""
        await client.send(front.head(line, fields + framing) + body)
        return await client.response(method=line.split(maxsplit=1)[0])


class Place:
    def __init__(self, front: Front) -> None:
        self.front = front
        self.app: GatewayApp = front.app

    async def decide(self, dialect: str, line: str, fields: bytes = b"", body: bytes = b"") -> RawMessage:
        """As the proxy of that dialect asks, on its own listener."""
        own, told = auth(self.front, dialect, line)
        return await ask(self.front, self.app.forward_auth_listeners[dialect].port, own, told + fields, body)

    async def passed(self, line: str) -> bytes:
        """Pass the captcha in front of a request, at the public listener: what the proxies route there."""
        return await self.front.passed(line)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    listeners = {dialect: asking(dialect, free_port())["edge"] for dialect in ("nginx", "traefik", "caddy", "envoy")}
    secrets = {f"{name}-by-secret": {"dialect": name, "secret": secret} for name, secret in SECRETS.items()}
    async with (
        raw_upstream(answering(OK)) as upstream,
        fronting(
            tmp_path_factory.mktemp("gateway"), upstream.url, rules=RULES, identity=[LOGIN], forward_auth={**listeners, **secrets},
            transactions={"loop_limit": 1000, "max_per_address": 10_000}, clock=Clock(time.time()),
        ) as front,
    ):  # fmt: skip
        yield Place(front)


DIALECTS = ["nginx", "traefik", "caddy", "envoy"]


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_an_allow_is_200_with_every_header_that_is_copied(place: Place, dialect: str) -> None:
    answer = await place.decide(dialect, "GET /open", FETCH)
    assert (answer.status, answer.body) == (200, b"")
    for name in (b"x-stepup-token", b"x-stepup-subject", b"cookie"):
        assert answer.head.all(name) == [b""], name
    assert answer.head.all(b"set-cookie") == []
    assert answer.head.get(b"cache-control") == b"no-store"


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_pass_gives_a_token_for_this_upstream(place: Place, dialect: str) -> None:
    passed = await place.passed("GET /vault/1")
    answer = await place.decide(dialect, "GET /vault/1?x", FETCH + passed)
    assert answer.status == 200
    claims = decoded((answer.head.get(b"x-stepup-token") or b"").decode().split(".")[1])
    assert (claims["aud"], claims["iss"], claims["acr"]) == ("app", place.front.origin, "human")
    assert claims["exp"] - claims["iat"] == 60
    assert (await place.decide(dialect, "GET /open", FETCH + passed)).head.all(b"x-stepup-token") == [b""], "no pass was used"


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_cookies_go_on_byte_for_byte_without_ours_and_without_unknown_sessions(place: Place, dialect: str) -> None:
    line = b"Cookie: a=\xe9\xff; SID=forged; stepup=x; stepup-browser=y; b=%41\r\n"
    answer = await place.decide(dialect, "GET /open", FETCH + line)
    assert answer.head.all(b"cookie") == [b"a=\xe9\xff; b=%41"]


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_one_connection_serves_many_questions(place: Place, dialect: str) -> None:
    own, told = auth(place.front, dialect, "GET /vault/1")
    open_, free = auth(place.front, dialect, "GET /open")
    async with raw_client(place.app.forward_auth_listeners[dialect].port) as client:
        for _ in range(3):
            await client.send(place.front.head(own, told + FETCH) + place.front.head(open_, free + FETCH))
            statuses = [(await client.response()).status, (await client.response()).status]
            assert statuses == [401, 200]


async def test_what_cannot_be_told_is_refused_with_a_private_reason(place: Place) -> None:
    for dialect in DIALECTS:
        own, told = auth(place.front, dialect, "GET /open")
        with structlog.testing.capture_logs() as logs:
            answer = await ask(place.front, place.app.forward_auth_listeners[dialect].port, own, told + told)
        assert answer.status == 403
        assert not answer.head.all(b"x-stepup-token")
        (refused,) = [line for line in logs if line["event"] == "refused"]
        assert refused["kind"] == "forward_auth"
        assert "2 x-" in refused["reason"]
        assert b"2 x-" not in answer.body
        assert refused["request_id"].encode() in answer.body or dialect == "nginx"


async def test_refusals_are_what_the_dialect_can_carry(place: Place) -> None:
    for dialect in ("traefik", "caddy", "envoy"):
        page = await place.decide(dialect, "GET /closed", CHROME)
        assert (page.status, b"Closed for today." in page.body) == (451, True)
        script = await place.decide(dialect, "GET /closed", FETCH)
        assert (script.status, json.loads(script.body)["detail"]) == (451, "Closed for today.")
    page = await place.decide("nginx", "GET /closed", CHROME)
    assert (page.status, page.body) == (403, b"")
    script = await place.decide("nginx", "GET /closed", FETCH)
    assert script.status == 403
    assert json.loads(script.head.get(b"x-stepup-problem") or b"")["detail"] == "Closed for today."


async def test_own_paths_and_tickets_are_not_asked_about(place: Place) -> None:
    for dialect in DIALECTS:
        for line in ("GET /.stepup/t/su_x", "GET /continue?state=su_x", "POST /.stepup/pass/revoke", "GET /open?stepup_resume=x"):
            assert (await place.decide(dialect, line, FETCH)).status == 403, (dialect, line)


async def test_a_form_that_envoy_shows_is_kept_and_one_that_it_cuts_off_is_not(place: Place) -> None:
    form = CHROME + b"Content-Type: application/x-www-form-urlencoded\r\n"
    for partial, ticketed in ((b"false", True), (b"true", False)):
        said = b"X-Envoy-Auth-Partial-Body: %b\r\n" % partial
        answer = await place.decide("envoy", "POST /vault/1", form + said, b"amount=5&to=Carol")
        assert answer.status == 303
        ready, binding = await place.front.solve(answer)
        done = await place.front.ask(f"GET {ready['continue']}", binding + CHROME)
        assert (done.status == 303) is ticketed, done
        if ticketed:
            ticket = (done.head.get(b"location") or b"").decode()
            assert ticket.startswith("/vault/1?stepup_resume=")
            passed = cookie_line([*cookies(answer), *cookies(done)])
            assert (await place.front.ask(f"GET {ticket}", passed + CHROME)).body == b"ok"
        else:
            assert b"a form must be sent again" in done.body


async def test_what_is_asked_once_is_let_through_once(place: Place) -> None:
    for dialect in DIALECTS:
        asked = await place.decide(dialect, "POST /once", FETCH)
        assert asked.status == 401
        if dialect == "nginx":
            asked = replace(asked, body=asked.head.get(b"x-stepup-problem") or b"")
        ready, binding = await place.front.solve(asked)
        done = await place.front.ask(f"GET {ready['continue']}", binding + FETCH)
        passed = cookie_line([*cookies(asked), *cookies(done)])
        first = await place.decide(dialect, "POST /once", FETCH + passed)
        assert (first.status, bool(first.head.get(b"x-stepup-token"))) == (200, True), dialect
        assert (await place.decide(dialect, "POST /once", FETCH + passed)).status == 401, dialect


async def test_a_login_through_a_proxy_that_only_asks_leaves_nobody_logged_in(place: Place) -> None:
    """The gateway does not see the answer: it learns nothing, and the session stays nobody's."""
    answer = await place.decide("envoy", "POST /login", FETCH + b"X-Envoy-Auth-Partial-Body: false\r\n", b"username=alice")
    assert (answer.status, answer.head.all(b"x-stepup-subject")) == (200, [b""])
    answer = await place.decide("envoy", "GET /open", FETCH + b"Cookie: SID=fresh\r\n")
    assert (answer.head.all(b"x-stepup-subject"), answer.head.all(b"cookie")) == ([b""], [b""])


async def test_under_https_only_the_prefixed_cookies_are_given_and_count(tmp_path: Path) -> None:
    listeners = {"nginx": asking("nginx", free_port())["edge"]}
    origin = "https://bank.example.com"
    async with raw_upstream(answering(OK)) as upstream, fronting(
        tmp_path, upstream.url, rules=RULES, forward_auth=listeners, public_url=[origin]
    ) as front:  # fmt: skip
        told = (
            b"X-Original-Method: GET\r\nX-Original-URI: /vault/1\r\nX-Original-Host: bank.example.com\r\n"
            b"X-Original-Proto: https\r\nX-Original-Address: 203.0.113.7\r\n"
        )
        answer = await ask(front, front.app.forward_auth_listeners["nginx"].port, "GET /", told + CHROME)
        assert answer.status == 401
        (cookie,) = answer.head.all(b"set-cookie")
        assert cookie.startswith(b"__Host-stepup-browser=")
        assert b"; Secure" in cookie
        answer = await ask(front, front.app.forward_auth_listeners["nginx"].port, "GET /", told.replace(b"https", b"http") + CHROME)
        assert answer.status == 403, "http://bank.example.com is not in public_url"


# -- with a secret --------------------------------------------------------------------------------------------------------

ENDPOINT = "/.stepup/forward-auth"


def secret(name: str, value: str | None = None) -> bytes:
    return f"X-Stepup-Forward-Auth: {SECRETS[name] if value is None else value}\r\n".encode()


async def test_with_its_secret_a_proxy_is_answered_whatever_host_it_names(place: Place) -> None:
    for dialect in ("nginx", "caddy"):
        _, told = auth(place.front, dialect, "GET /vault/1")
        answer = await place.front.ask(f"GET {ENDPOINT}", FETCH + told + secret(dialect), host=b"gateway.internal")
        assert answer.status == 401, dialect
        _, told = auth(place.front, dialect, "GET /open")
        answer = await place.front.ask(f"GET {ENDPOINT}", FETCH + told + secret(dialect), host=b"gateway.internal")
        assert (answer.status, answer.head.all(b"x-stepup-token")) == (200, [b""]), dialect
    _, told = auth(place.front, "envoy", "GET /open")
    assert (await place.front.ask(f"GET {ENDPOINT}/open", FETCH + told + secret("envoy"))).status == 200
    assert (await place.front.ask(f"GET {ENDPOINT}/vault/%31", FETCH + told + secret("envoy"))).status == 401
    assert (await place.front.ask(f"GET {ENDPOINT}/open", FETCH + told + secret("envoy"), host=b"evil.example")).status == 403


async def test_without_it_there_is_nothing(place: Place) -> None:
    _, told = auth(place.front, "nginx", "GET /open")
    right = secret("nginx")
    unknown = await place.front.ask("GET /.stepup/nothing", FETCH)
    shapes = {
        "no secret": b"",
        "a wrong one": secret("nginx", "x" * len(SECRETS["nginx"])),
        "the beginning": secret("nginx", SECRETS["nginx"][:-1]),
        "twice": right + right,
        "in two spellings": right + right.replace(b"-", b"_", 1),
        "with another": right + secret("caddy"),
        "in a cookie": b"Cookie: X-Stepup-Forward-Auth=" + SECRETS["nginx"].encode() + b"\r\n",
    }
    for shape, fields in shapes.items():
        for path in (ENDPOINT, ENDPOINT + "/open", ENDPOINT + "/", ENDPOINT + "?x=1"):
            answer = await place.front.ask(f"GET {path}", FETCH + told + fields)
            assert answer.status == 404, (shape, path)
            assert [n for n, _ in answer.head.fields] == [n for n, _ in unknown.head.fields]
            for told_twice in (answer, unknown):
                assert json.loads(told_twice.body).keys() == json.loads(unknown.body).keys()
            differing = {k for k, v in json.loads(answer.body).items() if v != json.loads(unknown.body)[k]}
            assert differing == {"request_id"}, shape
    assert (await place.front.ask(f"GET {ENDPOINT}/open", FETCH + told + right)).status == 404, "nginx has no paths behind it"


async def test_the_secret_is_in_no_log(place: Place) -> None:
    _, told = auth(place.front, "nginx", "GET /vault/1")
    with structlog.testing.capture_logs() as logs:
        await place.front.ask(f"GET {ENDPOINT}", FETCH + told + secret("nginx"))
        await place.front.ask(f"GET {ENDPOINT}", FETCH + told + told + secret("nginx"))
        await place.front.ask(f"GET {ENDPOINT}", FETCH + secret("nginx") * 2)
    assert logs
    assert not any(SECRETS["nginx"] in str(line) for line in logs)


# -- without a store ------------------------------------------------------------------------------------------------------


async def test_without_its_store_nothing_gated_passes(tmp_path: Path) -> None:
    state = tmp_path / "state.db"
    listeners = {dialect: asking(dialect, free_port())["edge"] for dialect in DIALECTS}
    stores = {"state": f"sqlite:///{state}", "sqlite_deadline": "200ms"}
    async with raw_upstream(answering(OK)) as upstream, fronting(
        tmp_path / "gateway", upstream.url, rules=RULES, forward_auth=listeners, stores=stores
    ) as front:  # fmt: skip
        place = Place(front)
        lock = sqlite3.connect(state, isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        try:
            for dialect in DIALECTS:
                answer = await place.decide(dialect, "GET /vault/1", FETCH)
                assert (answer.status, answer.head.get(b"retry-after")) == (503, b"5"), dialect
                assert not answer.head.all(b"x-stepup-token")
                assert (await place.decide(dialect, "GET /open", FETCH)).status == 200, dialect
                assert (await place.decide(dialect, "GET /soft", FETCH)).status == 200, "the rule says on_error: allow"
        finally:
            lock.execute("ROLLBACK")
            lock.close()
        assert (await place.decide("nginx", "GET /vault/1", FETCH)).status == 401
