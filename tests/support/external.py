"""A page of others, as it was written for Auth0: it verifies the token that a browser brings, and answers with one of its own.

It knows the gateway by its token only. `Page` is the page's own half, without a server: what it reads, what it signs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from html import unescape
from re import findall
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jwt

from tests.support.gateway import Reply

SECRET = "an example of a shared secret, 32 bytes and more"
AUDIENCE = "kyc"
CROSS = {"Sec-Fetch-Site": "cross-site", "Origin": "http://kyc.example.com"}
KYC: dict[str, Any] = {"kind": "redirect", "url": "http://kyc.example.com/verify?tenant=bank", "secret": SECRET, "audience": AUDIENCE}
RULE: dict[str, Any] = {"name": "kyc-first", "match": {"path": "/vault/**"}, "require": "kyc"}


@dataclass
class Sent:
    """A browser that arrives at the page: what the gateway gave it."""

    url: str
    fields: Mapping[str, str]
    token_name: str = "session_token"

    @property
    def state(self) -> str:
        return self.fields["state"]

    @property
    def token(self) -> str:
        return self.fields[self.token_name]

    def header(self) -> dict[str, Any]:
        return jwt.get_unverified_header(self.token)

    def claims(self, key: Any = SECRET, algorithm: str = "HS256", audience: str = AUDIENCE) -> dict[str, Any]:
        """What the page reads; it verifies, as any page would."""
        return jwt.decode(self.token, key, algorithms=[algorithm], audience=audience, options={"verify_iat": False, "verify_exp": False})


def sent(reply: Reply, token_name: str = "session_token") -> Sent:
    """Where an answer of the gateway sends the browser: a redirect, or a form that sends itself."""
    if reply.status == 303:
        parts = urlsplit(reply.location)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        assert all(len(values) == 1 for values in parse_qs(parts.query).values())
        return Sent(f"{parts.scheme}://{parts.netloc}{parts.path}", query, token_name)
    assert reply.status == 200, reply.text
    (url,) = findall(r'<form method="post" action="([^"]+)" data-stepup-send>', reply.text)
    fields = dict(findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)">', reply.text))
    return Sent(unescape(url), {n: unescape(v) for n, v in fields.items()}, token_name)


@dataclass
class Page:
    """What signs the answers. now: the page's clock."""

    secret: str = SECRET
    audience: str = AUDIENCE
    now: Callable[[], float] = field(default=time.time)

    def claims(self, at: Sent, **changes: Any) -> dict[str, Any]:
        """The answer to what was asked. A change to None leaves a claim out."""
        asked = at.claims(self.secret, audience=self.audience)
        now = int(self.now())
        answer = {
            "iss": self.audience,
            "aud": asked["iss"],
            "sub": asked["sub"],
            "jti": asked["jti"],
            "state": at.state,
            "iat": now,
            "exp": now + 60,
            **changes,
        }
        return {name: value for name, value in answer.items() if value is not None}

    def answer(self, at: Sent, **changes: Any) -> str:
        return jwt.encode(self.claims(at, **changes), self.secret, algorithm="HS256")
