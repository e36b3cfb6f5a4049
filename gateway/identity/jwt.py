"""A subject from a bearer token that an identity provider signed. The algorithm comes from the key, never from the token (RFC 8725 §3.1).

A request without a token is nobody's; so is one whose token does not verify: it goes on as anonymous, and the rules decide.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import jwt
from pydantic import Field

from gateway.flow.identity import Said
from gateway.identity.published import PublishedKeys
from gateway.spec.base import Duration, HttpUrl, Spec
from gateway.wire.head import RequestHead
from gateway.wire.subject import Scalar, Subject

_LEEWAY = 30.0  # seconds that the provider's clock may differ
_MOST_HELD = 1024  # verified tokens


class JwtSpec(Spec):
    """`from: jwt`: `Authorization: Bearer`, verified with the provider's published keys."""

    jwks_url: HttpUrl = Field(description="Where the provider publishes its keys (RFC 7517).")
    audience: str = Field(description="What `aud` must name.")
    issuer: str = Field(description="What `iss` must be.")
    subject: str = Field("sub", description="The claim that holds the subject's id.")
    upstream: str | None = Field(None, description="Only for this upstream; for all unless set.")
    claims: dict[str, str] = Field(default_factory=dict, description="Claims by name, each from the token's claim named here.")
    refresh: Duration = Field(300.0, gt=0, description="How long fetched keys are kept.")
    timeout: Duration = Field(3.0, gt=0, description="Bound on fetching the keys.")

    def login_paths(self) -> frozenset[str]:
        return frozenset()

    def claim_names(self) -> frozenset[str]:
        return frozenset(self.claims)


class JwtSource:
    def __init__(self, spec: JwtSpec, name: str) -> None:
        self._spec = spec
        self.name = name
        self._keys = PublishedKeys(spec.jwks_url, refresh=spec.refresh, timeout=spec.timeout)
        self._held: OrderedDict[str, Said] = OrderedDict()  # by token, of the keys at hand
        self._held_since = self._keys.fetched

    async def subject(self, head: RequestHead, upstream: str, now: float) -> Subject | None:
        """The token's subject, or None. Raises StoreUnavailable where there is a token and no key can be had to judge it."""
        said = self.at_once(head, upstream, now)
        if said is not None:
            return said.subject
        token = self._token(head, upstream)
        key = await self._keys.key(_name_of_key(token), now)
        return self._said(token, key, now).subject if key is not None else None

    def at_once(self, head: RequestHead, upstream: str, now: float) -> Said | None:
        """None where the key must be fetched first."""
        token = self._token(head, upstream)
        if not token:
            return Said(None)
        try:
            kid = _name_of_key(token)
        except jwt.PyJWTError:
            return Said(None)
        key = self._keys.held(kid, now)
        if key is None:
            return None
        if self._held_since != self._keys.fetched:
            self._held.clear()
            self._held_since = self._keys.fetched
        held = self._held.get(token)
        if held is None or now >= held.until:
            held = self._held[token] = self._said(token, key, now)
            if len(self._held) > _MOST_HELD:
                self._held.popitem(last=False)
        return held

    def _token(self, head: RequestHead, upstream: str) -> str:
        """The bearer token of a request that this source is for, else ""."""
        scheme, _, token = (head.get("authorization") or "").partition(" ")
        wanted = self._spec.upstream in (None, upstream) and scheme.lower() == "bearer" and len(token) <= 16_384
        return token.strip() if wanted else ""

    def _said(self, token: str, key: jwt.PyJWK, now: float) -> Said:
        """What a token says, and until when: it expires, or the keys are fetched anew."""
        anew = self._keys.fetched + self._spec.refresh
        options: Any = {"verify_exp": False, "verify_nbf": False, "verify_iat": False, "require": ["exp", "iss", "aud"]}
        try:
            claims: dict[str, Any] = jwt.decode(
                token, key.key, algorithms=[key.algorithm_name], audience=self._spec.audience, issuer=self._spec.issuer, options=options
            )  # fmt: skip
        except (jwt.PyJWTError, ValueError, TypeError):
            return Said(None, anew)
        expires, begins = _moment(claims["exp"]), _moment(claims.get("nbf", 0))
        if expires is None or begins is None or not expires > now - _LEEWAY:  # NaN is no time
            return Said(None, anew)
        if not begins <= now + _LEEWAY:
            return Said(None, begins - _LEEWAY if begins < anew else anew)  # an integer may be too large to become a float
        found = claims.get(self._spec.subject)
        if not isinstance(found, str) or not 0 < len(found) <= 256:
            return Said(None, anew)
        named = Subject(found, {name: _scalar(claims.get(source)) for name, source in self._spec.claims.items()}, self.name)
        return Said(named, anew if expires > anew else expires + _LEEWAY)


def _name_of_key(token: str) -> str:
    """`kid`, "" where there is none. Raises PyJWTError."""
    kid = jwt.get_unverified_header(token).get("kid")
    return kid if isinstance(kid, str) else ""


def _moment(value: object) -> int | float | None:
    """Not made a float: an integer of any size is a time that can be compared."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _scalar(value: object) -> Scalar:
    return value if isinstance(value, str | int | float | bool) else None
