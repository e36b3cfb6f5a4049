"""`/.stepup/jwks.json`: the public keys, for anybody and from any origin (RFC 7517)."""

from __future__ import annotations

import hashlib
import json

from gateway.tokens.keys import Keyring, jwks
from gateway.web.page import Page
from gateway.web.static import names_etag

MAX_AGE = 300
"""Seconds for which the keys may be kept. A key stays published for far longer after its last token (`gateway keys rotate`); whoever meets
an unknown `kid` asks again."""

_CORS = (("Access-Control-Allow-Origin", "*"), ("Access-Control-Expose-Headers", "ETag"))


def published_keys(ring: Keyring, if_none_match: str | None) -> Page:
    """The JWK Set, or 304 to whoever has it already (RFC 9110 §13.1.2)."""
    body = json.dumps(jwks(ring)).encode("ascii")
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = (
        ("Cache-Control", f"public, max-age={MAX_AGE}"),
        ("ETag", etag),
        ("X-Content-Type-Options", "nosniff"),
        *_CORS,
    )
    if if_none_match is not None and names_etag(if_none_match, etag):
        return Page(304, headers, b"")
    return Page(200, (("Content-Type", "application/jwk-set+json"), *headers), body)


def keys_preflight() -> Page:
    """Fetch Standard §3.2.2: no credentials, so `*` is enough."""
    allowed = (
        ("Allow", "GET, HEAD, OPTIONS"),
        ("Access-Control-Allow-Methods", "GET, HEAD"),
        ("Access-Control-Allow-Headers", "Accept, Cache-Control, If-None-Match"),
        ("Access-Control-Max-Age", "600"),
    )
    return Page(204, (*allowed, *_CORS), b"")
