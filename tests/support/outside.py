"""Somebody else: an issuer who sends its users to the gateway and takes them back, and an application with a page of its own for a second
factor. Both on loopback, both verify what they get with PyJWT alone."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
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
    done: subjects whose answers verified. taken: jti of those."""

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
        return web.Response(text=f"Welcome back, {claims['sub']}", content_type="text/html")

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
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    issuer.origin = f"http://{host}:{runner.addresses[0][1]}"
    try:
        yield issuer
    finally:
        await runner.cleanup()
