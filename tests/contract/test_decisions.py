"""The same decision whoever asks: one table of rule, request, identity and pass, run through the gateway as a proxy and each dialect.

nginx, Caddy and Envoy are the real ones, with the files of `config/`; Traefik's part is played by its documentation. What is compared is
what happened: the application was asked (with an upstream token or without), a step-up began, or the request was refused.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Literal

import pytest
import pytest_asyncio

from tests.support.front import CHROME, FETCH, Front
from tests.support.proxies import fronted
from tests.support.raw import OK, RawMessage, RawUpstream, answering, raw_upstream
from tests.unit.test_identity_jwt import AUDIENCE, ISSUER, serving, signed

pytestmark = pytest.mark.asyncio(loop_scope="module")

DIALECTS = ("", "nginx", "traefik", "caddy", "envoy")
BODILESS = {"nginx", "traefik", "caddy"}  # dialects that never show a body

Outcome = Literal["allow", "allow with token", "step-up", "deny"]
FORM = b"Content-Type: application/x-www-form-urlencoded\r\n"
JSON = b"Content-Type: application/json\r\n"
UPGRADE = b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"

RULES: list[dict[str, Any]] = [
    {"name": "vault", "match": {"path": "/vault/**"}, "require": "human"},
    {"name": "once", "match": {"path": "/once"}, "require": "human", "max_age": "once"},
    {"name": "send", "match": {"path": "/send/**", "method": "POST"}, "except": {"path": "/send/draft"}, "require": "human"},
    {"name": "front-garden", "match": {"path": "/closed/garden/**", "method": "GET"}, "allow": True},
    {"name": "closed", "match": {"path": "/closed/**"}, "deny": {"message": "Closed."}},
    {"name": "pay", "match": {"path": "/pay", "method": "POST"}, "when": "double(request.form.amount) > 100.0", "require": "human"},
    {"name": "order", "match": {"path": "/order", "method": "POST"}, "when": "request.json.count > 5", "deny": {}},
    {"name": "staff", "match": {"path": "/staff/**"}, "who": "anonymous", "deny": {}},
    {"name": "lawyers", "match": {"path": "/law/**"}, "when": "subject.claims.dept != 'law'", "deny": {}},
    {"name": "mine", "match": {"path": "/mine/**"}, "require": "code"},
    {"name": "beta", "match": {"path": "/beta/**", "header": {"X-Beta": None}}, "deny": {}},
    {"name": "debug", "match": {"query": {"debug": "*"}}, "deny": {}},
    {"name": "dark", "match": {"cookie": {"theme": "dark"}, "path": "/theme"}, "require": "human"},
    {"name": "shadow", "match": {"path": "/open/**"}, "deny": {}, "mode": "shadow"},
    {"name": "broken", "match": {"path": "/broken"}, "when": "int(request.query.n) > 1", "require": "human"},
]
STEPS = {"human": {"kind": "captcha", "cost": 1, "max_number": 5}, "code": {"kind": "otp", "methods": ["totp"]}}


@dataclass(frozen=True, slots=True)
class Row:
    """who: of the bearer token, "" for none. passed: the browser has passed `human`, as that same subject. unseen: the outcome where the
    body is not seen, and so counts as met."""

    line: str
    wanted: Outcome
    kind: bytes = FETCH
    fields: bytes = b""
    body: bytes | None = None
    who: str = ""
    passed: bool = False
    unseen: Outcome | None = None

    def __str__(self) -> str:
        extras = [b"navigation" if self.kind == CHROME else b"", self.fields.strip(), (self.body or b"")[:40]]
        return " ".join([self.line, self.who, "passed" if self.passed else "", *(e.decode() for e in extras)]).strip()


TABLE = [
    Row("GET /open/door", "allow"),
    Row("GET /open/door", "allow", CHROME),
    Row("GET /open/door", "allow", who="alice", passed=True),
    Row("GET /open/a%20b?x=1&y=%2f", "allow"),
    # a required step
    Row("GET /vault/1", "step-up"),
    Row("GET /vault/1", "step-up", CHROME),
    Row("GET /VAULT/1", "step-up"),
    Row("GET /vault", "step-up"),
    Row("GET /vault/1", "allow with token", passed=True),
    Row("GET /vault/1", "step-up", who="alice"),
    Row("GET /vault/1", "allow with token", who="alice", passed=True),
    Row("HEAD /vault/1", "step-up"),
    Row("PUT /vault/1", "step-up", body=b"x"),
    Row("PUT /vault/1", "allow with token", body=b"x", passed=True),
    Row("GET /vault/1", "step-up", b"Sec-Fetch-Mode: no-cors\r\nSec-Fetch-Dest: image\r\n"),
    Row("OPTIONS /vault/1", "allow", b"Origin: http://elsewhere.example\r\nAccess-Control-Request-Method: PUT\r\n"),
    Row("OPTIONS /vault/1", "step-up"),
    Row("GET /once", "step-up"),
    Row("GET /once", "step-up", CHROME, passed=True),
    # hostile spellings of it
    Row("GET /open/../vault/1", "step-up"),
    Row("GET /open/%2e%2e/vault/1", "step-up"),
    Row("GET /open/..%2fvault/1", "step-up"),
    Row("GET //vault/1", "step-up"),
    Row("GET /v%61ult/1", "step-up"),
    Row("GET /vault%2f1", "step-up"),
    Row("GET /x;y/../vault/1", "step-up"),
    # methods
    Row("GET /send/1", "allow"),
    Row("POST /send/1", "step-up", fields=FORM, body=b"a=1"),
    Row("POST /send/1", "step-up", CHROME, FORM, b"a=1"),
    Row("POST /send/1", "allow with token", CHROME, FORM, b"a=1", passed=True),
    Row("POST /send/draft", "allow", fields=FORM, body=b"a=1"),
    Row("DELETE /send/1", "allow"),
    Row("GET /send/1", "step-up", fields=b"X-HTTP-Method-Override: POST\r\n"),
    Row("GET /send/1?_method=POST", "step-up"),
    # allow and deny, in order
    Row("GET /closed/garden/rose", "allow"),
    Row("GET /closed/garden/../shed", "deny"),
    Row("GET /closed/garden%2f..%2fshed", "deny"),
    Row("POST /closed/garden/rose", "deny", fields=FORM, body=b"a=1"),
    Row("GET /closed/shed", "deny"),
    Row("GET /closed/shed", "deny", CHROME),
    Row("GET /closed/shed", "deny", who="alice", passed=True),
    Row("OPTIONS /closed/shed", "deny", b"Origin: http://elsewhere.example\r\nAccess-Control-Request-Method: PUT\r\n"),
    # conditions on the body
    Row("POST /pay", "allow", fields=FORM, body=b"amount=5", unseen="step-up"),
    Row("POST /pay", "step-up", fields=FORM, body=b"amount=500"),
    Row("POST /pay", "step-up", CHROME, FORM, b"amount=500"),
    Row("POST /pay", "allow with token", fields=FORM, body=b"amount=500", passed=True),
    Row("POST /pay", "deny", fields=FORM, body=b"amount=lots", unseen="step-up"),
    Row("POST /pay", "step-up", fields=FORM, body=b"amount=5&pad=" + b"a" * 70_000),
    Row("POST /order", "allow", fields=JSON, body=b'{"count": 3}', unseen="deny"),
    Row("POST /order", "deny", fields=JSON, body=b'{"count": 7}'),
    # who it is
    Row("GET /staff/1", "deny"),
    Row("GET /staff/1", "allow", who="alice"),
    Row("GET /staff/1", "deny", who="nobody with a forged token"),
    Row("GET /law/1", "deny"),
    Row("GET /law/1", "allow", who="alice"),
    Row("GET /law/1", "deny", who="bob"),
    Row("GET /mine/1", "deny"),
    Row("GET /mine/1", "step-up", who="alice"),
    Row("GET /staff/1", "deny", fields=b"X-Forwarded-User: alice\r\n"),
    Row("GET /law/1", "deny", fields=b"X-Stepup-Subject: alice\r\n"),
    # headers, queries, cookies
    Row("GET /beta/1", "deny"),
    Row("GET /beta/1", "allow", fields=b"X-Beta: yes\r\n"),
    Row("GET /open/door?debug=1", "deny"),
    Row("GET /open/door?%64ebug=1", "deny"),
    Row("GET /theme", "allow"),
    Row("GET /theme", "step-up", fields=b"Cookie: theme=dark\r\n"),
    # a condition that cannot be evaluated
    Row("GET /broken?n=x", "deny"),
    Row("GET /broken?n=1", "allow"),
    Row("GET /broken?n=2", "step-up"),
    # paths that two servers could take for two things
    Row("GET /open/%00", "deny"),
    Row("GET /open/%c0%ae%c0%ae/vault", "deny"),
    Row("GET /open/%u002e", "deny"),
]


@dataclass
class Place:
    dialect: str
    front: Front
    upstream: RawUpstream
    passes: dict[str, bytes]

    def bearer(self, who: str) -> bytes:
        if not who:
            return b""
        now = int(time.time())
        token = signed(sub=who, dept="law" if who == "alice" else "sales", iat=now, exp=now + 600)
        if " " in who:
            token = token[:-10] + "AAAAAAAAAA"
        return f"Authorization: Bearer {token}\r\n".encode()

    async def outcome(self, row: Row) -> tuple[Outcome, RawMessage]:
        fields = row.kind + row.fields + self.bearer(row.who)
        if row.passed:
            if row.who not in self.passes:
                self.passes[row.who] = await self.front.passed("GET /vault/first", self.bearer(row.who))
            fields += self.passes[row.who]
        self.upstream.requests.clear()
        answer = await self.front.ask(row.line, fields, row.body)
        if self.upstream.requests:
            (request,) = self.upstream.requests
            assert answer.status == 200
            assert request.body == (row.body or b"")
            assert request.head.target.decode() == row.line.split()[1], "what was judged is what is forwarded, byte for byte"
            return ("allow with token" if request.head.get(b"x-stepup-token") else "allow"), answer
        location = answer.head.get(b"location") or b""
        if answer.status == 303 and b"/.stepup/t/su_" in location:
            return "step-up", answer
        if answer.status == 401:
            if not row.line.startswith("HEAD"):
                assert json.loads(answer.body)["error"] == "interaction_required"
            return "step-up", answer
        return "deny", answer


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=DIALECTS, ids=lambda d: d or "proxy")
async def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    async with serving() as provider, raw_upstream(answering(OK)) as upstream:
        identity = [
            {"from": "jwt", "jwks_url": provider.url, "audience": AUDIENCE, "issuer": ISSUER, "claims": {"dept": "dept"}},
            # Counts from trusted proxies only, and the files in config/ let no client set it. As a proxy, nobody is trusted here.
            {"from": "header", "name": "X-Forwarded-User", "claims": {"dept": "X-Forwarded-Groups"}},
        ]
        config: dict[str, Any] = {
            "identity": identity,
            "steps": STEPS,
            "rules": RULES,
            "transactions": {"max_per_address": 100_000, "loop_limit": 100},
        }
        folder = tmp_path_factory.mktemp(request.param or "proxy")
        async with fronted(request.param, folder, upstream, **config) as front:
            yield Place(request.param, front, upstream, {})


@pytest.mark.parametrize("row", TABLE, ids=str)
async def test_the_decision_is_the_same_whoever_asks(place: Place, row: Row) -> None:
    wanted = row.unseen if row.unseen and place.dialect in BODILESS else row.wanted
    found, answer = await place.outcome(row)
    assert found == wanted, (answer.head, answer.body[:500])
    if wanted == "deny":
        assert answer.status in (400, 403)
