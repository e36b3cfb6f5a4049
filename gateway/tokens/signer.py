"""Signed tokens (RFC 7519, RFC 8725). The algorithm comes from the key, the key from the kid, the clock from the caller.

One kind is never accepted as another: each has its `typ`. A token that could be read in two ways is no token: padding, blanks,
sloppy base64url and repeated members are refused. ES256 signatures can be re-shaped by anyone, so replay is keyed on `jti`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from enum import Enum
from typing import Any

from jwt.api_jws import PyJWS
from jwt.exceptions import PyJWTError

from gateway.errors import TokenInvalid
from gateway.tokens.compact import b64decode
from gateway.tokens.keys import Keyring

MAX_SIZE = 8192
CLOCK_SKEW = 5.0  # seconds that another gateway's clock may be ahead; nothing lives longer for it

_JWS = PyJWS(algorithms=["ES256", "RS256"])
_HEADER = frozenset({"alg", "kid", "typ"})  # so jku, jwk, x5u, x5c, crit and b64 are refused with everything else


class TokenKind(Enum):
    """What a token is for; the value is its `typ` (RFC 8725 §3.11)."""

    CONTINUE = "stepup-continue+jwt"
    UPSTREAM = "stepup-upstream+jwt"
    PAGE = "stepup-page+jwt"


def sign(kind: TokenKind, claims: Mapping[str, Any], *, keyring: Keyring, now: float, ttl: float) -> str:
    """A compact JWS by the newest key. `iat` and `exp` (ttl seconds later) are set here; now: seconds since the epoch."""
    key = keyring.signing[0]
    payload = {**claims, "iat": int(now), "exp": int(now + ttl)}
    body = json.dumps(payload, separators=(",", ":"), allow_nan=False).encode("utf-8")
    return _JWS.encode(body, key.private, algorithm=key.algorithm, headers={"typ": kind.value, "kid": key.kid})


def sign_plain(claims: Mapping[str, Any], *, keyring: Keyring, now: float, ttl: float) -> str:
    """A token for a party of others, who looks our key up by JWKS: its `typ` is `JWT`, so it is none of our own kinds, and never taken for
    one. Otherwise as `sign`."""
    key = keyring.signing[0]
    payload = {**claims, "iat": int(now), "exp": int(now + ttl)}
    body = json.dumps(payload, separators=(",", ":"), allow_nan=False).encode("utf-8")
    return _JWS.encode(body, key.private, algorithm=key.algorithm, headers={"typ": "JWT", "kid": key.kid})


def verify(kind: TokenKind, token: str, *, keyring: Keyring, now: float, issuer: str, audience: str) -> dict[str, Any]:
    """The claims of a token of this kind that we issued as `issuer` for `audience`. Raises TokenInvalid; its text is for the log.

    The caller checks what else it relies on (`state`, `sub`, single use of `jti`).
    """
    if len(token) > MAX_SIZE:
        raise TokenInvalid(f"longer than {MAX_SIZE} bytes")
    header, claims = taken_apart(token)
    if set(header) != _HEADER:
        raise TokenInvalid("other header parameters than alg, kid and typ")
    if header["typ"] != kind.value:
        raise TokenInvalid(f"typ is not {kind.value}")
    key = keyring.signing_key(header["kid"]) if isinstance(header["kid"], str) else None
    if key is None:
        raise TokenInvalid("kid is not in the key file")
    if header["alg"] != key.algorithm:
        raise TokenInvalid("alg is not the key's")
    try:
        _JWS.decode(token, key.private.public_key(), algorithms=[key.algorithm])
    except PyJWTError as error:
        raise TokenInvalid(f"signature: {type(error).__name__}") from None
    check_times(claims, now)
    if claims.get("iss") != issuer:
        raise TokenInvalid("iss is not the expected one")
    if claims.get("aud") != audience:
        raise TokenInvalid("aud is not the expected one")
    return claims


def taken_apart(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and payload of a compact JWS, nothing of them verified. Raises TokenInvalid for what could be read in two ways."""
    parts = token.split(".")
    if len(parts) != 3:
        raise TokenInvalid("not three parts")
    raw = [b64decode(part) for part in parts]
    if raw[0] is None or raw[1] is None or raw[2] is None:
        raise TokenInvalid("not canonical base64url")
    return _object(raw[0], "header"), _object(raw[1], "payload")


def check_times(claims: Mapping[str, Any], now: float) -> None:
    """`exp` and `iat` must stand there, `nbf` may. Raises TokenInvalid."""
    if now >= _moment(claims, "exp"):
        raise TokenInvalid("expired")
    if _moment(claims, "iat") > now + CLOCK_SKEW:
        raise TokenInvalid("iat is in the future")
    if "nbf" in claims and _moment(claims, "nbf") > now + CLOCK_SKEW:
        raise TokenInvalid("nbf is in the future")


def _moment(claims: Mapping[str, Any], name: str) -> float:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TokenInvalid(f"{name} is no time")
    return value


def _object(data: bytes, what: str) -> dict[str, Any]:
    """A JSON object in which no name stands twice, at any depth."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a name stands twice")
        return found

    def no_constant(text: str) -> None:
        raise ValueError(f"{text} is no JSON")

    try:
        document = json.loads(data.decode("utf-8"), object_pairs_hook=unique, parse_constant=no_constant)
    except (ValueError, RecursionError):
        raise TokenInvalid(f"{what} is no JSON object with unique names") from None
    if not isinstance(document, dict):
        raise TokenInvalid(f"{what} is no JSON object with unique names")
    return document
