"""Somebody else: an issuer who sends its users to the gateway and takes them back, and an application with a page of its own for a second
factor. Both on loopback, both verify what they get with PyJWT alone."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from html import escape
from typing import Any
from urllib.parse import urlencode

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

SECRET = "a secret of the two, 32 bytes and more"
STEPS: dict[str, Any] = {
    "code": {"kind": "otp", "methods": ["email"], "email": "{subject.id}@bank.example", "acr": "urn:example:mfa"},
    "human": {"kind": "captcha", "provider": "altcha", "cost": 100, "max_number": 50},
}


@dataclass
class Issuer:
    """secret: of HS256; None signs by `key`, whose public half is at /jwks. arrived: (method, fields) of every request to /continue.
    done: subjects whose answers verified. taken: jti of those. onward: where they are sent then."""

    secret: str | None = SECRET
    name: str = "https://idp.example/"
    audience: str = "stepup"
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    origin: str = ""
    gateway_keys: str = ""
    arrived: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    done: list[dict[str, Any]] = field(default_factory=list)
    taken: set[str] = field(default_factory=set)
    states: dict[str, str] = field(default_factory=dict)
    onward: str = ""

    def token(self, sub: str = "alice", *, now: float | None = None, **changes: Any) -> str:
        """changes: claims; None leaves one out."""
        at = int(time.time() if now is None else now)
        claims = {
            "iss": self.name, "aud": self.audience, "sub": sub, "jti": secrets.token_hex(8), "iat": at, "exp": at + 300, **changes,
        }  # fmt: skip
        claims = {n: v for n, v in claims.items() if v is not None}
        if self.secret is not None:
            return jwt.encode(claims, self.secret, algorithm="HS256")
        return jwt.encode(claims, self.key, algorithm="ES256", headers={"kid": "idp-1"})

    def state(self, sub: str = "alice") -> str:
        made = "theirs-" + secrets.token_hex(8)
        self.states[made] = sub
        return made

    def start(self, entry: str = "idp", sub: str = "alice", **changes: Any) -> str:
        """Where a redirect rule sends a user."""
        return f"/.stepup/begin/{entry}?" + urlencode({"state": self.state(sub), "session_token": self.token(sub, **changes)})

    def verified(self, fields: dict[str, str], issuer: str = "stepup") -> dict[str, Any]:
        """The answer's claims. Raises PyJWTError, KeyError."""
        options: Any = {"require": ["exp", "iat", "iss", "aud", "sub", "jti"]}
        if self.secret is not None:
            claims = jwt.decode(fields["token"], self.secret, algorithms=["HS256"], issuer=issuer, audience=self.name, options=options)
        else:
            signing = jwt.PyJWKClient(self.gateway_keys).get_signing_key_from_jwt(fields["token"])
            claims = jwt.decode(fields["token"], signing.key, algorithms=["ES256"], issuer=issuer, audience=self.name, options=options)
        if claims["state"] != fields["state"] or claims["sub"] != self.states[fields["state"]]:
            raise jwt.InvalidTokenError("another user's or another state's")
        return dict(claims)

    async def _continue(self, request: web.Request) -> web.Response:
        fields = {n: str(v) for n, v in (await request.post() if request.method == "POST" else request.query).items()}
        self.arrived.append((request.method, fields))
        if "error" in fields:
            return web.Response(text=f"Welcome back, not: {fields['error']}")
        try:
            claims = self.verified(fields)
        except (jwt.PyJWTError, KeyError) as error:
            return web.Response(status=403, text=f"no: {error}")
        if claims["jti"] in self.taken:
            return web.Response(status=403, text="no: used before")
        self.taken.add(claims["jti"])
        self.done.append(claims)
        if self.onward:
            return web.Response(status=303, headers={"Location": self.onward})
        return web.Response(text=f"Welcome back, {claims['sub']}", content_type="text/html")

    async def _leave(self, request: web.Request) -> web.Response:
        """A page that sends its user to the gateway named in the query, by a form."""
        sub = request.query.get("sub", "alice")
        fields = {"state": self.state(sub), "session_token": self.token(sub)}
        inputs = "".join(f'<input type="hidden" name="{n}" value="{v}">' for n, v in fields.items())
        action = escape(request.query["to"])
        page = f'<!doctype html><title>IdP</title><form method="post" action="{action}">{inputs}<button>Go</button></form>'
        return web.Response(text=page, content_type="text/html")

    async def _jwks(self, _request: web.Request) -> web.Response:
        public = dict(ECAlgorithm.to_jwk(self.key.public_key(), as_dict=True))
        return web.json_response({"keys": [{**public, "kid": "idp-1", "use": "sig", "alg": "ES256"}]})

    def entry(self, **changes: Any) -> dict[str, Any]:
        """What stands under `begin:` for it."""
        key = {"secret": self.secret} if self.secret is not None else {"jwks_url": f"{self.origin}/jwks"}
        return {
            "issuer": self.name, "audience": self.audience, **key, "continue_url": f"{self.origin}/continue", "steps": ["code"], **changes,
        }  # fmt: skip


@asynccontextmanager
async def issuing(issuer: Issuer | None = None, *, host: str = "127.0.0.1") -> AsyncIterator[Issuer]:
    """host: what browsers call it."""
    issuer = issuer or Issuer()
    app = web.Application()
    app.router.add_route("*", "/continue", issuer._continue)
    app.router.add_get("/jwks", issuer._jwks)
    app.router.add_get("/leave", issuer._leave)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    issuer.origin = f"http://{host}:{runner.addresses[0][1]}"
    try:
        yield issuer
    finally:
        await runner.cleanup()


@dataclass
class Bank:
    """An application behind the gateway. Its login leads to a page of others for the second factor, and goes on at its own /continue.

    again: it asks once more, whatever it gets. bare: the redirect carries no token. visited: requests to the page of others, of which there
    must be none. landed: (method, fields) at /continue. challenge: `WWW-Authenticate` fields of /api until a token names `acr`.
    """

    keys: str = ""
    page: str = "https://mfa.example.com/start"
    again: bool = False
    bare: bool = True
    more: str = ""
    after: str = ""
    challenge: tuple[str, ...] = ('Bearer error="insufficient_user_authentication", acr_values="urn:example:mfa"',)
    acr: str = "urn:example:mfa"
    max_age: float | None = None
    clock: Any = time.time
    sessions: dict[str, str] = field(default_factory=dict)
    states: dict[str, str] = field(default_factory=dict)
    landed: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    posted: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    issuer: str = "bank"

    def state(self, user: str) -> str:
        made = "bank-" + secrets.token_hex(8)
        self.states[made] = user
        return made

    def redirect(self, user: str, status: int = 302, location: str | None = None) -> web.Response:
        made = self.state(user)
        query = {"state": made}
        if not self.bare:
            at = int(self.clock())
            claims = {"iss": self.issuer, "aud": "mfa", "sub": user, "jti": secrets.token_hex(8), "iat": at, "exp": at + 300}
            query["session_token"] = jwt.encode(claims, SECRET, algorithm="HS256")
        where = location if location is not None else f"{self.page}?{urlencode(query)}{self.more}"
        return web.Response(status=status, headers={"Location": where}, text="a page that nobody is to see" * 100)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(f"{request.method} {request.path}")
        user = self.sessions.get(request.cookies.get("SID", ""), "")
        match request.path:
            case "/login" if request.method == "POST":
                name = str((await request.post())["username"])
                answer = self.redirect(name)
                value = secrets.token_hex(8)
                self.sessions[value] = name
                answer.headers.add("Set-Cookie", f"SID={value}; Path=/; HttpOnly")
                answer.headers.add("Set-Cookie", "theme=dark; Path=/")
                return answer
            case "/form":
                page = '<!doctype html><title>Bank</title><form method="post" action="/login"><input name="username" value="alice">'
                return web.Response(text=page + "<button>Sign in</button></form>", content_type="text/html")
            case "/guarded":
                return self.redirect(user, location=self.after or None)
            case "/continue" | "/resume":
                return await self._continue(request)
            case "/api" | "/api/post":
                return await self._api(request, user)
            case _:
                return web.json_response({"user": user, "token": request.headers.get("X-Stepup-Token", "")})

    async def _continue(self, request: web.Request) -> web.Response:
        fields = {n: str(v) for n, v in (await request.post() if request.method == "POST" else request.query).items()}
        self.landed.append((request.method, fields))
        if self.again:
            return self.redirect(self.states.get(fields.get("state", ""), ""))
        if "error" in fields:
            return web.Response(text=f"not signed in: {fields['error']}")
        try:
            claims = jwt.decode(fields["token"], SECRET, algorithms=["HS256"], audience="mfa-rule", options={"verify_iat": False})
        except (jwt.PyJWTError, KeyError) as error:
            return web.Response(status=403, text=f"no: {error}")
        if claims["state"] != fields["state"] or self.states.pop(fields["state"], None) != claims["sub"]:
            return web.Response(status=403, text="no: another state")
        return web.Response(text=f"signed in: {claims['sub']} by {claims['acr']}")

    async def _api(self, request: web.Request, user: str) -> web.Response:
        """Judges by the upstream token, as RFC 9470 has it."""
        body = await request.text()
        if request.method == "POST":
            self.posted.append(body)
        token = request.headers.get("X-Stepup-Token", "")
        self.tokens.append(token)
        claims = jwt.decode(token, options={"verify_signature": False}) if token else {}
        young = self.max_age is None or claims.get("auth_time", 0) >= int(self.clock() - self.max_age)
        if self.acr not in str(claims.get("acr", "")).split() or not young:
            answer = web.Response(status=401, text="more proof, please")
            for field_ in self.challenge:
                answer.headers.add("WWW-Authenticate", field_)
            answer.headers.add("Set-Cookie", "seen=1; Path=/")
            return answer
        return web.json_response({"user": user, "acr": claims["acr"], "body": body})


@asynccontextmanager
async def banking(bank: Bank | None = None) -> AsyncIterator[tuple[Bank, str]]:
    """The application and its URL."""
    bank = bank or Bank()
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", bank.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield bank, f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
