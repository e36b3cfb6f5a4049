"""The shapes of what ends at somebody else's continue URL: `begin:` (we are the page), and a rule's `intercept` and `resume`."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from gateway.spec.base import Bool, Duration, HttpUrl, Many, Origin, Spec, parse_origin

LEAST_SECRET = 32

_NAME = r"^[A-Za-z0-9_.\-]{1,64}$"


def _secret(value: str) -> str:
    if len(value.encode()) < LEAST_SECRET:
        raise ValueError(f"is shorter than {LEAST_SECRET} bytes, which HS256 needs; make one with `openssl rand -base64 32`")
    return value


def _continue_url(value: str) -> str:
    parts = urlsplit(value)
    try:
        parse_origin(f"{parts.scheme}://{parts.netloc}")
    except ValueError:
        raise ValueError("is not a URL; write https://host[:port]/path") from None
    if parts.username is not None or parts.query or parts.fragment or re.search(r"[\s\\]|/\.{1,2}(/|$)", value):
        raise ValueError("is an origin and a path, without user, query, fragment, blanks or dot segments")
    return value


def _location(value: str) -> str:
    if value.startswith("/") and not value.startswith("//"):
        return value
    scheme, _, rest = value.partition("://")
    host, slash, path = rest.partition("/")
    try:
        parse_origin(f"{scheme}://{host}")
    except ValueError:
        raise ValueError("is an exact origin and a path glob: https://host[:port]/path*; or a path glob on the public origin") from None
    if not slash:
        raise ValueError("has no path; write https://host/** for every path there")
    if "@" in host or "*" in host or "?" in path or "#" in path:
        raise ValueError("is an exact origin and a path glob, without user, query or fragment")
    return value


def _path(value: str) -> str:
    if not re.fullmatch(r"/[A-Za-z0-9_~.\-/]*", value) or "//" in value or "/." in value:
        raise ValueError("is not a plain path of the upstream; write /letters-digits/…")
    return value


Secret = Annotated[str, AfterValidator(_secret)]
ContinueUrl = Annotated[str, AfterValidator(_continue_url)]
LocationGlob = Annotated[str, AfterValidator(_location)]
UpstreamPath = Annotated[str, AfterValidator(_path)]


class BeginSpec(Spec):
    """Somebody who sends their users here for steps, and gets a signed answer: the page of an outside redirect rule, at
    `<prefix>/begin/NAME`. Exactly one of `secret` and `jwks_url`."""

    issuer: str = Field(min_length=1, description="What `iss` of their token must be; `aud` of our answer.")
    audience: str = Field(min_length=1, description="What `aud` of their token must name: us, as they know us.")
    answer_issuer: str | None = Field(None, min_length=1, description="`iss` of our answer; `audience` unless set.")
    secret: Secret | None = Field(
        None, description="Shared with them, at least 32 bytes: their token and our answer are signed by it (HS256)."
    )
    jwks_url: HttpUrl | None = Field(
        None, description="Where they publish their keys (RFC 7517). Our answer is then signed by our own key, see `<prefix>/jwks.json`."
    )
    continue_url: Many[ContinueUrl] = Field(
        min_length=1,
        description="Where their users go back to, each an exact origin and path. Of several, `continue_url` or `continue_uri` in the "
        "token or the query chooses; the first unless it does.",
    )
    next_origins: Many[Origin] = Field(
        (), description="Other origins that their continue URL redirects to. Browsers hold our form to the whole chain behind it."
    )
    steps: Many[str] = Field(min_length=1, description="Names under `steps:`, asked in this order.")
    method: Literal["post", "query"] = Field("post", description="How our answer travels: a form that sends itself, or a query parameter.")
    state_parameter: str = Field("state", pattern=_NAME, description="The name of their state, both ways.")
    token_parameter: str = Field("session_token", pattern=_NAME, description="The name of their token.")
    answer_parameter: str = Field("token", pattern=_NAME, description="The name of our answer.")
    subject: str = Field("sub", min_length=1, description="The claim that holds the user's id.")
    claims: dict[str, str] = Field(
        default_factory=dict, description="Claims of the subject by name, each from the token's claim named here."
    )
    lifetime: Duration = Field(300.0, ge=10.0, le=300.0, description="How long our answer is good for.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.secret is None) == (self.jwks_url is None):
            raise ValueError("needs exactly one of secret and jwks_url")
        if len(set(self.steps)) != len(self.steps):
            raise ValueError("names a step twice under `steps`")
        if len(set(self.continue_url)) != len(self.continue_url):
            raise ValueError("names a URL twice under `continue_url`")
        if self.state_parameter in (self.token_parameter, self.answer_parameter):
            raise ValueError("the state needs a parameter of its own")
        return self


class IncomingSpec(Spec):
    """The token that the upstream's redirect carries, where it is to be verified. Exactly one of `secret` and `jwks_url`."""

    parameter: str = Field("session_token", pattern=_NAME, description="Its name in the redirect's query.")
    issuer: str = Field(min_length=1, description="What its `iss` must be.")
    audience: str = Field(min_length=1, description="What its `aud` must name.")
    secret: Secret | None = Field(None, description="Shared with the upstream, at least 32 bytes (HS256).")
    jwks_url: HttpUrl | None = Field(None, description="Where the upstream publishes its keys.")
    subject: str = Field("sub", min_length=1, description="The claim that holds the user's id, where no identity source knows the user.")

    @model_validator(mode="after")
    def _one_key(self) -> Self:
        if (self.secret is None) == (self.jwks_url is None):
            raise ValueError("needs exactly one of secret and jwks_url")
        return self


class InterceptSpec(Spec):
    """Which answers of an upstream are taken over: redirects to `location`, or challenges (RFC 9470)."""

    upstream: str = Field(description="A name under `upstreams:`.")
    location: Many[LocationGlob] | None = Field(
        None, min_length=1, description="Redirects to one of these: an exact origin and a path glob, or a path glob on the public origin."
    )
    challenge: Bool = Field(
        False,
        description="`true`: answers 401 that ask for other authentication (`insufficient_user_authentication`, RFC 9470). Their "
        "`acr_values` name steps by `acr`, or by name.",
    )
    session_token: IncomingSpec | None = Field(None, description="Verify the token in the redirect; not looked at unless set.")

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if self.challenge == (self.location is not None):
            raise ValueError("needs exactly one of location and challenge: true")
        if self.challenge and self.session_token is not None:
            raise ValueError("a challenge carries no session_token")
        return self


class ResumeSpec(Spec):
    """Where an intercepted redirect goes on: at the same upstream, with its own state and our answer."""

    url: UpstreamPath = Field("/continue", description="A path of the upstream, at the public origin.")
    state_parameter: str = Field(
        "state", pattern=_NAME, description="The name of the upstream's state, in its redirect and on the way back."
    )
    method: Literal["post", "get"] = Field("post", description="How our answer travels: a form that sends itself, or a query parameter.")
    token_parameter: str = Field("token", pattern=_NAME, description="The name of our answer.")
    secret: Secret | None = Field(
        None, description="Shared with the upstream, at least 32 bytes: signs the answer (HS256). Our own key unless set."
    )
    audience: str = Field(min_length=1, description="`aud` of our answer: the rule, as the upstream knows it.")
    issuer: str | None = Field(None, min_length=1, description="`iss` of our answer; the public origin unless set.")
    lifetime: Duration = Field(300.0, ge=10.0, le=300.0, description="How long our answer is good for.")

    @model_validator(mode="after")
    def _two_names(self) -> Self:
        if self.state_parameter == self.token_parameter:
            raise ValueError("the state needs a parameter of its own")
        return self


__all__ = ["BeginSpec", "IncomingSpec", "InterceptSpec", "ResumeSpec"]
