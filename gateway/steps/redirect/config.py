"""Settings of `kind: redirect`."""

from __future__ import annotations

import re
from typing import Literal
from urllib.parse import parse_qsl, urlsplit

from pydantic import Field as Setting
from pydantic import field_validator, model_validator

from gateway.spec.base import Duration, HttpUrl, Many, Origin, StepSpec, parse_origin
from gateway.steps.redirect.sources import AUTHORIZE_AGAIN, RESERVED, check_source
from gateway.tokens.foreign import LEAST_SECRET

_PARAMETER = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]{0,63}")
_CLAIM = re.compile(r"[^\s\x00-\x1f]{1,128}")


class RedirectConfig(StepSpec):
    """Settings of `kind: redirect`: a page of others, as Auth0 rules and actions sent users to. Exactly one of `secret` and `jwks_url`."""

    url: HttpUrl = Setting(description="Where the browser is sent. Its own query is kept; `state` and the token are added.")
    audience: str = Setting(
        min_length=1, max_length=256, description="Name of the page: `aud` of our token, `iss` of its answer. No `public_url` of ours."
    )
    secret: str | None = Setting(
        None, description="Shared with this page: signs our token and its answer by HS256. 32 bytes or more; write `${NAME}`."
    )
    jwks_url: HttpUrl | None = Setting(
        None,
        description="Where the page publishes the keys of its answers (RFC 7517). Our token is signed by our own key then.",
    )
    send: Literal["query", "form_post"] = Setting(
        "query",
        description="How our token travels: in the query, or by a form that sends itself, which keeps it out of addresses and logs.",
    )
    token_parameter: str = Setting("session_token", description="Parameter that our token is sent in.")
    answer: Literal["required", "none"] = Setting(
        "required",
        description="`required`: the page's signed answer is the proof. `none`: to come back proves nothing, and the request goes on only "
        "if the rules, run again, no longer ask.",
    )
    answer_parameter: str = Setting("token", description="Parameter that the page's answer comes in. `session_token` is taken as well.")
    lifetime: Duration = Setting(
        900.0, ge=10, le=3600, description="Life of our token, and how long the request waits at least. Use `5m` for password changes."
    )
    claims: dict[str, str] = Setting(
        {},
        description="Further claims of our token: name to `subject.id`, `subject.claims.NAME`, `record.NAME`, `request.method`, `.host`, "
        "`.path`, `.query`, `.ip`, `authorize_again` (where to begin anew: the original URL, for a POST the page it came from), or a text "
        "with these in braces.",
    )
    results: dict[str, str] = Setting(
        {}, description="What is taken from the answer: name of a claim of the subject from now on, to the name of the answer's claim."
    )
    amr: Many[str] = Setting(
        (), description="What the page proves about who the user is (RFC 8176: `otp`, `pwd`, `face`, …). With it the answer is required."
    )
    subject: Literal["required", "any"] = Setting(
        "required", description="`any`: asked of nobody too; `sub` is empty then. `required`: who is not signed in is sent to log in first."
    )
    then: Literal["continue", "authorize_again"] = Setting(
        "continue",
        description="`authorize_again`: the page changes what a login needs, and sends the browser to the claim `authorize_again`; the "
        "session ends, and the user logs in anew.",
    )
    next_origins: Many[Origin] = Setting((), description="Other origins that the page itself redirects to at once; browsers must be told.")

    @property
    def needs_mail(self) -> bool:
        return False

    @property
    def sets(self) -> frozenset[str]:
        """Claims that a passed step sets."""
        return frozenset(self.results)

    @property
    def counts(self) -> bool:
        """To come back from there proves something."""
        return self.answer == "required"

    @property
    def origins(self) -> tuple[str, ...]:
        """Where a browser comes through, once it is sent away."""
        parts = urlsplit(self.url)
        return (parse_origin(f"{parts.scheme}://{parts.netloc}"), *self.next_origins)

    @field_validator("url")
    @classmethod
    def _usable(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.username is not None or parts.fragment or "\\" in value or any(c.isspace() for c in value):
            raise ValueError("is the address of a page: without user, password, fragment or blanks")
        try:
            parse_origin(f"{parts.scheme}://{parts.netloc}")
        except ValueError:
            raise ValueError("is not a URL; write https://host[:port]/path") from None
        return value

    @field_validator("secret")
    @classmethod
    def _long_enough(cls, value: str | None) -> str | None:
        if value is not None and len(value.encode("utf-8", "surrogatepass")) < LEAST_SECRET:
            raise ValueError(f"is too short: HS256 needs {LEAST_SECRET} bytes or more (RFC 7518); make one by `openssl rand -hex 32`")
        return value

    @field_validator("token_parameter", "answer_parameter")
    @classmethod
    def _parameters(cls, value: str) -> str:
        if not _PARAMETER.fullmatch(value) or value == "state":
            raise ValueError("is not the name of a parameter; `state` is taken")
        return value

    @field_validator("claims")
    @classmethod
    def _claims(cls, value: dict[str, str]) -> dict[str, str]:
        for name, source in value.items():
            if name in RESERVED or not _CLAIM.fullmatch(name):
                raise ValueError(f"cannot set the claim {name[:40]!r}")
            try:
                check_source(source)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        return value

    @field_validator("results")
    @classmethod
    def _results(cls, value: dict[str, str]) -> dict[str, str]:
        if any(not _CLAIM.fullmatch(name) for pair in value.items() for name in pair):
            raise ValueError("maps names of claims to names of claims")
        return value

    @model_validator(mode="after")
    def _together(self) -> RedirectConfig:
        if (self.secret is None) == (self.jwks_url is None):
            raise ValueError("needs exactly one of `secret` (shared with the page) and `jwks_url` (the page's published keys)")
        names = {name for name, _ in parse_qsl(urlsplit(self.url).query, keep_blank_values=True)}
        if taken := names & {"state", *([self.token_parameter] if self.send == "query" else [])}:
            raise ValueError(f"`url` has the parameter `{min(taken)}` already, which is ours to add; leave it out, or rename ours")
        if self.answer == "none" and (self.amr or self.acr or self.results):
            raise ValueError("`answer: none` proves nothing, so it cannot stand with `amr`, `acr` or `results`; leave it out")
        if self.subject == "any" and self.amr:
            raise ValueError("`amr` says who the user is, so `subject: any` cannot stand with it")
        if self.then == "authorize_again" and AUTHORIZE_AGAIN not in self.claims.values():
            raise ValueError("`then: authorize_again` needs a claim from it: `claims: {authorize_again: authorize_again}`")
        return self
