"""Tokens that pass between us and one named page or issuer of others: by a secret that both know, or by published keys (RFC 7519, 8725).

The algorithm comes from the key, never from the token. Nothing that a token says tells where its key is to be had: `jku`, `x5u` and their
like are refused, not followed. None of our own kinds of token is taken for one of these, nor the other way round.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jwt
from jwt.api_jws import PyJWS
from jwt.exceptions import PyJWTError

from gateway.errors import TokenInvalid
from gateway.tokens.signer import MAX_SIZE, TokenKind, check_times, taken_apart

LEAST_SECRET = 32
"""Bytes of a shared secret (RFC 7518 §3.2: as long as the hash that it keys)."""

_ALGORITHMS = {"RSA": ("RS256", "PS256", "RS384", "RS512"), "EC": ("ES256", "ES384", "ES512"), "OKP": ("EdDSA",)}
_JWS = PyJWS(algorithms=["HS256", *(name for names in _ALGORITHMS.values() for name in names)])
_HEADER = frozenset({"alg", "kid", "typ", "cty"})
_OURS = frozenset(kind.value for kind in TokenKind)


@dataclass(frozen=True, slots=True, repr=False)
class SharedSecret:
    """HS256 with one named page. value: at least LEAST_SECRET bytes."""

    value: bytes


Key = SharedSecret | jwt.PyJWK
"""What one token is verified by: the page's secret, or the published key that its `kid` names."""


def sign_shared(claims: Mapping[str, Any], secret: SharedSecret, *, now: float, ttl: float) -> str:
    """A compact HS256 JWS. `iat` and `exp` (ttl seconds later) are set here; now: seconds since the epoch."""
    payload = {**claims, "iat": int(now), "exp": int(now + ttl)}
    return _JWS.encode(json.dumps(payload, separators=(",", ":"), allow_nan=False).encode(), secret.value, algorithm="HS256")


def key_named(token: str) -> str:
    """The `kid` of a token that nobody has verified yet, "" where it has none. Raises TokenInvalid."""
    header, _ = _opened(token)
    kid = header.get("kid", "")
    return kid if isinstance(kid, str) else ""


def read_foreign(token: str, key: Key, *, now: float, issuer: str, audience: str) -> dict[str, Any]:
    """The claims of a token that `issuer` made for `audience`. Raises TokenInvalid; its text is for the log.

    `exp` and `iat` must stand in it, `aud` may be a list that names us. The caller checks what else it relies on (`sub`, `jti`, `state`,
    single use).
    """
    header, claims = _opened(token)
    algorithm = "HS256" if isinstance(key, SharedSecret) else key.algorithm_name
    if header["alg"] != algorithm:
        raise TokenInvalid("alg is not the key's")
    try:
        _JWS.decode(token, key.value if isinstance(key, SharedSecret) else key.key, algorithms=[algorithm])
    except (PyJWTError, ValueError, TypeError) as error:
        raise TokenInvalid(f"signature: {type(error).__name__}") from None
    check_times(claims, now)
    if claims.get("iss") != issuer:
        raise TokenInvalid("iss is not the expected one")
    named = claims.get("aud")
    if audience not in (named if isinstance(named, list) else [named]):
        raise TokenInvalid("aud is not the expected one")
    return claims


def usable_key(entry: Mapping[str, Any]) -> jwt.PyJWK | None:
    """A member of a JWK Set as a public signature key with a name, else None. PyJWT itself does not look at `use` and `key_ops`."""
    kind = str(entry.get("kty"))
    algorithm = entry.get("alg", {"RSA": "RS256", "OKP": "EdDSA"}.get(kind))
    if kind == "EC" and "alg" not in entry:
        algorithm = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}.get(str(entry.get("crv")))
    operations = entry.get("key_ops", ["verify"])
    verifies = isinstance(operations, list) and "verify" in operations and entry.get("use", "sig") == "sig"
    if not isinstance(entry.get("kid"), str) or algorithm not in _ALGORITHMS.get(kind, ()) or not verifies or "d" in entry:
        return None
    try:
        return jwt.PyJWK(dict(entry), algorithm=algorithm)
    except (jwt.PyJWTError, ValueError, TypeError):
        return None


def _opened(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims, nothing of them verified."""
    if len(token) > MAX_SIZE:
        raise TokenInvalid(f"longer than {MAX_SIZE} bytes")
    header, claims = taken_apart(token)
    if not set(header) <= _HEADER or "alg" not in header:
        raise TokenInvalid("header parameters that are not understood, or no alg")
    typ = header.get("typ", "JWT")
    if not isinstance(typ, str) or typ in _OURS:
        raise TokenInvalid("typ is one of our own kinds")
    return header, claims
