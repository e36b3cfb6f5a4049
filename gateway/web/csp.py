"""Headers of our pages. Nothing is cached, framed, sniffed, leaked to a referrer, or loaded from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterable

from gateway.spec.base import parse_origin

_NONCE = re.compile(r"[A-Za-z0-9_\-+/]{16,}={0,2}")
_ENDS_A_DIRECTIVE = re.compile(r"[\s;,'*]")
_FEATURES = "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()"

# A worker is bound by the policy of its own script's response, not by its page's.
ASSET_POLICY = "default-src 'none'; script-src 'self'; frame-ancestors 'none'"


def policy(nonce: str, *, next_origins: Iterable[str] = (), framed: bool = False) -> str:
    """Content-Security-Policy of one page (CSP Level 3).

    nonce: at least 96 fresh random bits, base64 or base64url. next_origins: where a form's answer may lead by redirect beside
    ourselves; browsers hold `form-action` against the whole chain. framed: our own origin may show it in a frame.
    Raises ValueError for a nonce or an origin that could end the directive.
    """
    if not _NONCE.fullmatch(nonce):
        raise ValueError("a nonce is at least 16 characters of base64")
    origins = sorted({parse_origin(origin) for origin in next_origins})
    for origin in origins:
        if _ENDS_A_DIRECTIVE.search(origin):
            raise ValueError(f"{origin!r} is not an origin")
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src 'self' 'nonce-{nonce}'",
            "worker-src 'self'",
            f"style-src 'self' 'nonce-{nonce}'",
            "img-src 'self' data:",
            "connect-src 'self'",
            " ".join(("form-action 'self'", *origins)),
            "base-uri 'none'",
            "frame-ancestors 'self'" if framed else "frame-ancestors 'none'",
        )
    )


def page_headers(nonce: str, *, next_origins: Iterable[str] = (), framed: bool = False) -> tuple[tuple[str, str], ...]:
    """All headers of an HTML page of ours. Arguments and errors as for `policy`."""
    return (
        ("Content-Type", "text/html; charset=utf-8"),
        ("Content-Security-Policy", policy(nonce, next_origins=next_origins, framed=framed)),
        ("X-Frame-Options", "SAMEORIGIN" if framed else "DENY"),
        *common_headers(),
        ("Cross-Origin-Opener-Policy", "same-origin"),
        ("Cross-Origin-Resource-Policy", "same-origin"),
        ("Permissions-Policy", _FEATURES),
    )


def handback_headers(nonce: str, origin: str) -> tuple[tuple[str, str], ...]:
    """Headers of the page that hands an error back to an OAuth client: it may stand in that client's frame (a silent renewal), or be its
    popup, and tells nobody but this origin anything. Raises ValueError as `policy` does."""
    frames_none = policy(nonce, next_origins=(origin,)).rpartition("; ")[0]
    return (("Content-Type", "text/html; charset=utf-8"), ("Content-Security-Policy", frames_none), *common_headers())


def common_headers() -> tuple[tuple[str, str], ...]:
    """What every answer of ours carries, JSON too. `no-referrer` would make our own forms send `Origin: null`."""
    return (
        ("Cache-Control", "no-store"),
        ("Referrer-Policy", "same-origin"),
        ("X-Content-Type-Options", "nosniff"),
    )
