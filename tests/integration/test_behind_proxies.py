"""Attacks on the gateway behind the real nginx, Caddy and Envoy (and Traefik's part, played by its documentation).

They run with the files of config/.

Clients come from 127.0.0.2: the proxies and the gateway trust 127.0.0.1, which is themselves.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from gateway.wire.target import parse_target
from tests.integration.test_proxying_targets import HIDDEN, UNREADABLE, spelled
from tests.support.front import CHROME, FETCH, Front, cookie_line, cookies
from tests.support.gateway import Clock
from tests.support.proxies import CONFIG, fronted
from tests.support.raw import RawMessage, RawPeer, RawUpstream, answering, raw_upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

REAL = ("nginx", "caddy", "envoy")
DIALECTS = (*REAL, "traefik")
SECRET = "a secret of sixteen letters or more"
OWN = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nSet-Cookie: app=1; Path=/\r\nSet-Cookie: other=2\r\n\r\nok"
RULES: list[dict[str, Any]] = [
    {"name": "admin", "match": {"path": "/admin/**"}, "deny": {}},
    {"name": "vault", "match": {"path": "/vault/**"}, "require": "human"},
    {"name": "once", "match": {"path": "/once"}, "require": "human", "max_age": "once"},
    {"name": "send", "match": {"path": "/send", "method": "POST"}, "require": "human"},
    {"name": "staff", "match": {"path": "/staff/**"}, "who": "anonymous", "deny": {}},
    {"name": "office", "match": {"path": "/office/**"}, "except": {"network": ["10.0.0.0/8"]}, "deny": {}},
]
IDENTITY = [{"from": "header", "name": "X-Forwarded-User"}]


@dataclass
class Place:
    dialect: str
    front: Front
    upstream: RawUpstream
    clock: Clock

    async def ask(self, line: str | bytes, fields: bytes = b"", body: bytes | None = None) -> tuple[RawMessage, RawMessage | None]:
        """The answer, and what the application was asked, None where it was not."""
        self.upstream.requests.clear()
        answer = await self.front.ask(line, fields, body)
        assert len(self.upstream.requests) <= 1
        return answer, self.upstream.requests[0] if self.upstream.requests else None


async def _place(dialect: str, folder: Path, **config: Any) -> AsyncIterator[Place]:
    clock = Clock(time.time())
    further = {"second": {"dialect": dialect, "secret": SECRET}}
    limits = {"transactions": {"max_per_address": 100_000, "loop_limit": 1000}}
    async with (
        raw_upstream(answering(OWN)) as upstream,
        fronted(dialect, folder, upstream, clock=clock, further=further, rules=RULES, **{**limits, **config}) as front,
    ):
        front.source = "127.0.0.2"
        yield Place(dialect, front, upstream, clock)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=DIALECTS)
async def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    async for made in _place(request.param, tmp_path_factory.mktemp(request.param), identity=IDENTITY):
        yield made


# -- what was judged is what is forwarded ------------------------------------------------------------------------------


def protected(target: bytes) -> bool:
    """Some server reads it as a path that the rules protect."""
    return any(reading.casefold().startswith(("/admin", "/vault")) for reading in parse_target(target).readings)


@pytest.mark.parametrize("shape", HIDDEN)
async def test_no_spelling_of_a_protected_path_gets_past_the_question(place: Place, shape: str) -> None:
    for word, statuses in [*((w, (400, 401, 403)) for w in spelled("vault")), *((w, (400, 403)) for w in spelled("admin"))]:
        target = shape.format(word)
        answer, seen = await place.ask("GET " + target, FETCH)
        if seen is None:
            assert answer.status in statuses, target
        else:  # Traefik itself resolves dots and merges slashes before it asks and forwards
            assert place.dialect == "traefik"
            assert not protected(seen.head.target), (target, seen.head.target)


@pytest.mark.parametrize("target", UNREADABLE.values(), ids=UNREADABLE)
async def test_a_target_that_cannot_be_judged_does_not_arrive_as_a_protected_one(place: Place, target: bytes) -> None:
    _, seen = await place.ask(b"GET " + target, FETCH)
    if seen is not None:  # the proxy made something else of it, and that is what it asked about
        assert not protected(seen.head.target), seen.head.target


async def test_open_targets_arrive_byte_for_byte(place: Place) -> None:
    for target in (b"/open/%2F%2f;x=1/%C3%A4?a=%20b&&c", b"/open/a+b%20c?x=%2e%2e/%2F", b"/open//x/./y?", b"/open/a,b@c:d!e?q=[1]"):
        answer, seen = await place.ask(b"GET " + target)
        assert answer.status == 200
        assert seen is not None
        if place.dialect != "traefik":  # see sanitizePath of its entry points
            assert seen.head.target.removesuffix(b"?") == target.removesuffix(b"?")  # RFC 3986 §6.2.3: an empty query may go


# -- what clients say of themselves -------------------------------------------------------------------------------------

SPOOFED = (
    b"X-Original-URI: /open\r\nX-Original-Method: GET\r\nX-Original-Host: open.example\r\nX-Original-Proto: https\r\n"
    b"X-Original-Address: 10.0.0.1\r\nX-Forwarded-Uri: /open\r\nX-Forwarded-Method: GET\r\nX-Forwarded-Host: open.example\r\n"
    b"X-Forwarded-Proto: https\r\nX-Rewrite-URL: /open\r\nX-Envoy-Original-Path: /open\r\nX-Envoy-Original-Method: GET\r\n"
    b"X-HTTP-Method-Override: GET\r\n"
)


@pytest.mark.parametrize("line", ["GET /vault/1", "GET /admin/1", "POST /send"])
async def test_a_spoofed_original_request_counts_for_nothing(place: Place, line: str) -> None:
    body = b"a=1" if line.startswith("POST") else None
    for fields in (SPOOFED, SPOOFED + SPOOFED, SPOOFED + b"Connection: X-Forwarded-Uri, X-Original-URI, X-Forwarded-Method\r\n"):
        answer, seen = await place.ask(line, FETCH + fields, body)
        assert seen is None
        assert answer.status == (403 if "admin" in line else 401), answer


async def test_a_spoofed_address_counts_for_nothing(place: Place) -> None:
    for name in (b"X-Forwarded-For", b"X-Real-IP", b"Forwarded", b"X-Original-Address", b"X-Envoy-External-Address", b"Client-IP"):
        value = b"for=10.0.0.1" if name == b"Forwarded" else b"10.0.0.1"
        answer, seen = await place.ask("GET /office/1", FETCH + name + b": " + value + b"\r\n")
        assert (answer.status, seen) == (403, None), name


async def test_a_spoofed_identity_header_counts_for_nothing_and_does_not_arrive(place: Place) -> None:
    for name in (b"X-Forwarded-User", b"x-forwarded-user", b"X_Forwarded_User", b"X-Forwarded_User"):
        answer, seen = await place.ask("GET /staff/1", FETCH + name + b": alice\r\n")
        assert seen is None, name
        assert answer.status in (400, 403), name
        _, seen = await place.ask("GET /open", FETCH + name + b": alice\r\n")
        assert seen is None or not any(v == b"alice" for _, v in seen.head.fields), name


async def test_a_client_cannot_say_what_the_gateway_says(place: Place) -> None:
    fields = b"X-Stepup-Token: forged\r\nX-Stepup-Subject: alice\r\nx-stepup-token: forged\r\n"
    _, seen = await place.ask("GET /open", FETCH + fields)
    assert seen is not None
    assert not any(v in (b"forged", b"alice") for _, v in seen.head.fields), seen.head
    for spelling in (b"X_Stepup_Token", b"X_STEPUP_SUBJECT", b"X-Stepup_Token"):
        _, seen = await place.ask("GET /open", FETCH + spelling + b": forged\r\n")
        assert seen is None or not any(v == b"forged" for _, v in seen.head.fields), spelling


async def test_connection_takes_nothing_away_that_the_gateway_adds(place: Place) -> None:
    passed = await place.front.passed("GET /vault/1")
    plain = passed.rstrip(b"\r\n") + b"; theme=dark\r\n"
    for fields in (b"", b"Connection: X-Stepup-Token, X-Stepup-Subject, Cookie\r\n", b"Connection: close, x-stepup-token\r\n"):
        answer, seen = await place.ask("GET /vault/1", FETCH + plain + fields)
        if b"Cookie" in fields and seen is None:
            assert answer.status == 401  # its own cookie is gone, and the pass with it
            continue
        assert seen is not None, (fields, answer)
        assert seen.head.get(b"x-stepup-token"), fields
        assert seen.head.get(b"cookie") == b"theme=dark", "the gateway's cookies stay here"
        assert not seen.head.all(b"x-stepup-forward-auth")


async def test_the_endpoint_does_not_exist_for_clients(place: Place) -> None:
    proxy_says = b"X-Stepup-Forward-Auth: %b\r\n"
    told = b"X-Original-Method: GET\r\nX-Original-URI: /open\r\nX-Original-Host: %b\r\nX-Original-Proto: http\r\n" % place.front.host
    told += b"X-Original-Address: 10.0.0.1\r\nX-Forwarded-Method: GET\r\nX-Forwarded-Uri: /open\r\n"
    unknown, _ = await place.ask("GET /.stepup/nothing", FETCH)
    for path in ("/.stepup/forward-auth", "/.stepup/forward-auth/open", "/.stepup/forward-auth?x"):
        for fields in (b"", told, told + proxy_says % b"guessed", told + proxy_says % SECRET.encode(), proxy_says % SECRET.encode() * 2):
            answer, seen = await place.ask("GET " + path, FETCH + fields)
            assert (answer.status, seen) == (404, None), (path, fields)
            assert {n.lower() for n, _ in answer.head.fields} == {n.lower() for n, _ in unknown.head.fields}
            assert json.loads(answer.body).keys() == json.loads(unknown.body).keys()
            assert not answer.head.all(b"x-stepup-token")


async def test_the_location_that_asks_is_nobodys_to_open(place: Place) -> None:
    for path in ("/stepup-decision", "/decision"):
        _, seen = await place.ask("GET " + path, FETCH)
        # Either the proxy keeps it to itself, or it is an ordinary path of the application, asked about like any other.
        assert seen is None or not seen.head.get(b"x-stepup-token")


# -- what is carried back -----------------------------------------------------------------------------------------------


async def test_a_pass_that_is_due_is_dated_anew_and_the_applications_cookies_stay(place: Place) -> None:
    passed = await place.front.passed("GET /vault/1")
    answer, _ = await place.ask("GET /vault/1", FETCH + passed)
    assert answer.head.all(b"set-cookie") == [b"app=1; Path=/", b"other=2"]
    place.clock.advance(400)
    await place.front.app.feed.refresh()
    answer, seen = await place.ask("GET /vault/1", FETCH + passed)
    assert seen is not None
    given = answer.head.all(b"set-cookie")
    assert sorted(c.partition(b"=")[0] for c in given) == [b"app", b"other", b"stepup"]
    renewed = next(c for c in given if c.startswith(b"stepup=")).partition(b";")[0]
    answer, seen = await place.ask("GET /vault/1", FETCH + b"Cookie: " + renewed + b"\r\n")
    assert seen is not None


async def test_a_step_up_looks_like_one_for_people_and_for_scripts(place: Place) -> None:
    answer, _ = await place.ask("GET /vault/1?x=1", CHROME)
    assert answer.status == 303
    location = (answer.head.get(b"location") or b"").decode()
    assert location.removeprefix(place.front.origin).startswith("/.stepup/t/su_")
    assert any(c.startswith(b"stepup-browser=") for c in answer.head.all(b"set-cookie"))
    answer, _ = await place.ask("GET /vault/1", FETCH)
    assert answer.status == 401
    assert (answer.head.get(b"content-type") or b"").startswith(b"application/problem+json")
    told = json.loads(answer.body)
    assert (told["error"], told["steps"]) == ("interaction_required", ["human"])
    assert told["step_up_url"].startswith(place.front.origin + "/.stepup/t/su_")
    (challenge,) = answer.head.all(b"www-authenticate")
    assert b"insufficient_user_authentication" in challenge
    assert any(c.startswith(b"stepup-browser=") for c in answer.head.all(b"set-cookie"))


async def test_a_script_can_go_all_the_way(place: Place) -> None:
    passed = await place.front.passed("POST /send")
    answer, seen = await place.ask("POST /send", FETCH + passed, b"a=1")
    assert answer.status == 200
    assert seen is not None
    assert (seen.body, bool(seen.head.get(b"x-stepup-token"))) == (b"a=1", True)


async def test_a_page_that_is_asked_for_once_is_fetched_by_the_gateway_with_a_ticket(place: Place) -> None:
    asked, _ = await place.ask("GET /once?x=%2F", CHROME)
    assert asked.status == 303
    ready, binding = await place.front.solve(asked)
    done, _ = await place.ask(f"GET {ready['continue']}", binding + CHROME)
    assert done.status == 303
    ticket = (done.head.get(b"location") or b"").decode()
    assert ticket.startswith("/once?x=%2F&stepup_resume=")
    line = cookie_line([*cookies(asked), *cookies(done)])
    answer, seen = await place.ask(f"GET {ticket}", line + CHROME)
    assert answer.status == 200
    assert seen is not None
    assert (seen.head.target, bool(seen.head.get(b"x-stepup-token"))) == (b"/once?x=%2F", True)
    answer, seen = await place.ask(f"GET {ticket}", line + CHROME)
    assert (answer.status, seen) == (410, None)
    answer, seen = await place.ask("GET /once?x=%2F", line + CHROME)
    assert (answer.status, seen) == (303, None)


# -- without the gateway ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_where_the_gateway_is_away_nothing_passes(tmp_path: Path, dialect: str) -> None:
    async for place in _place(dialect, tmp_path):
        answer, seen = await place.ask("GET /open", FETCH)
        assert (answer.status, seen is None) == (200, False)
        await place.front.app.close()
        place.upstream.requests.clear()
        answer = await place.front.ask("GET /open", FETCH)
        assert answer.status in (500, 502, 503)
        assert place.upstream.requests == []


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_the_files_say_what_is_not_protected(dialect: str) -> None:
    assert "is NOT protected" in CONFIG.joinpath(FILES[dialect]).read_text()


async def test_a_location_that_does_not_ask_is_not_protected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the comments warn of is true: it is the proxy's configuration that protects."""
    config = tmp_path / "config"
    config.mkdir()
    text = CONFIG.joinpath("nginx.conf").read_text()
    hole = "        location /vault/hole/ { auth_request off; proxy_pass http://application; }\n\n"
    config.joinpath("nginx.conf").write_text(text.replace("        location / {\n", hole + "        location / {\n", 1))
    monkeypatch.setattr("tests.support.proxies.CONFIG", config)
    async for place in _place("nginx", tmp_path / "place"):
        answer, seen = await place.ask("GET /vault/hole/1", FETCH)
        assert (answer.status, seen is not None) == (200, True)
        answer, seen = await place.ask("GET /vault/1", FETCH)
        assert (answer.status, seen) == (401, None)


# -- what the how-tos say beside the files ------------------------------------------------------------------------------

BY_SECRET: dict[str, list[tuple[str, str]]] = {
    "nginx": [
        (
            "            proxy_pass http://decision;\n",
            "            proxy_pass http://gateway/.stepup/forward-auth;\n            proxy_set_header X-Stepup-Forward-Auth '{secret}';\n",
        ),
        ("    upstream decision { server 127.0.0.1:8091; keepalive 32; }\n", ""),
    ],
    "caddy": [
        ("reverse_proxy 127.0.0.1:8091 {", "reverse_proxy 127.0.0.1:8080 {"),
        ("rewrite /decision\n", 'rewrite /.stepup/forward-auth\n\t\t\t\theader_up X-Stepup-Forward-Auth "{secret}"\n'),
    ],
    "envoy": [
        ("port_value: 8091", "port_value: 8080"),
        ("http://127.0.0.1:8091", "http://127.0.0.1:8080"),
        (
            "                        authorization_response:\n",
            """\
                        path_prefix: /.stepup/forward-auth
                        authorization_request: {headers_to_add: [{key: x-stepup-forward-auth, value: "{secret}"}]}
                        authorization_response:
""",
        ),
    ],
}
FILES = {"nginx": "nginx.conf", "caddy": "Caddyfile", "envoy": "envoy.yaml", "traefik": "traefik.yaml"}


@pytest.mark.parametrize("dialect", REAL)
async def test_with_a_secret_instead_of_a_listener(tmp_path: Path, dialect: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = CONFIG.joinpath(FILES[dialect]).read_text()
    for before, after in BY_SECRET[dialect]:
        assert before in text
        text = text.replace(before, after.replace("{secret}", SECRET))
    config = tmp_path / "config"
    config.mkdir()
    config.joinpath(FILES[dialect]).write_text(text + "\n# 127.0.0.1:8091\n")
    monkeypatch.setattr("tests.support.proxies.CONFIG", config)
    async for place in _place(dialect, tmp_path / "place", identity=IDENTITY):
        await place.front.app.forward_auth_listeners["edge"].close(0)  # nobody asks there
        answer, seen = await place.ask("GET /open?x=1", FETCH)
        assert answer.status == 200
        assert seen is not None
        assert (seen.head.target, seen.head.all(b"x-stepup-forward-auth")) == (b"/open?x=1", [])
        answer, seen = await place.ask("GET /vault/1", FETCH)
        assert (answer.status, seen) == (401, None)
        assert json.loads(answer.body)["steps"] == ["human"]
        passed = await place.front.passed("GET /vault/1")
        _, seen = await place.ask("GET /vault/1", FETCH + passed)
        assert seen is not None
        assert seen.head.get(b"x-stepup-token")
        answer, seen = await place.ask("GET /.stepup/forward-auth", FETCH + b"X-Stepup-Forward-Auth: " + SECRET.encode() + b"\r\n")
        assert (answer.status, seen) == (404, None)


@pytest.mark.parametrize("dialect", REAL)
async def test_a_websocket_is_asked_about_and_passes(tmp_path: Path, dialect: str) -> None:
    async def script(upstream: RawUpstream, peer: RawPeer) -> None:
        upstream.requests.append(await peer.message())
        await peer.send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
        await peer.send(await peer.exactly(4))

    key = b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    upgrade = b"Connection: Upgrade\r\nUpgrade: websocket\r\n" + key
    async with raw_upstream(script) as upstream, fronted(dialect, tmp_path, upstream, rules=RULES) as front:
        async with front.client() as client:
            await client.send(front.head("GET /open", upgrade))
            assert (await client.response()).status == 101
            await client.send(b"ping")
            assert await client.exactly(4) == b"ping"
        assert upstream.requests[0].head.all(b"x-stepup-token") in ([], [b""])
        answer = await front.ask("GET /vault/1", upgrade)
        assert answer.status == 401
        assert len(upstream.requests) == 1


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_session_that_nobody_vouches_for_stays_here(tmp_path: Path, dialect: str) -> None:
    form = {"from": "login_form", "upstream": "app", "path": "/login", "cookie": "SID"}
    async for place in _place(dialect, tmp_path, identity=[form]):
        _, seen = await place.ask("GET /open", FETCH + b"Cookie: SID=forged; theme=dark; stepup-browser=x\r\n")
        assert seen is not None
        assert seen.head.all(b"cookie") == [b"theme=dark"]
        _, seen = await place.ask("GET /open", FETCH + b"Cookie: SID=forged\r\n")
        assert seen is not None
        assert seen.head.get(b"cookie") in (None, b"")
