"""How a request can be answered: with a page, with JSON, or not at all. Said by Fetch Metadata, else guessed from what older clients send.

Sec-Fetch-* cannot be set by scripts in a browser; a client that is no browser may lie, and only changes how its refusal looks.
"""

from __future__ import annotations

from typing import Literal

from gateway.wire.head import RequestHead

Kind = Literal["navigation", "frame", "script", "subresource", "preflight", "websocket"]

_FRAMES = frozenset({"iframe", "frame", "fencedframe", "embed", "object"})
_HTML = frozenset({"text/html", "application/xhtml+xml"})
_ASSETS = ("image/", "audio/", "video/", "font/", "text/css")


def media_type(value: str) -> str:
    """The type of a `Content-Type` value without its parameters, lower-case: `Text/HTML; charset=x` -> `text/html`."""
    return value.partition(";")[0].strip().lower()


def navigation(head: RequestHead) -> Kind:
    """What kind of request this is.

    navigation: the top-level page. frame: a page within a page. script: fetch, XHR, an API client. preflight: a true one of
    CORS (no body), which passes unasked. subresource: all that gets a 401 without a transaction, also HEAD, other OPTIONS and prefetches.
    """
    if "navigation" not in head.memo:
        head.memo["navigation"] = _navigation(head)
    kind: Kind = head.memo["navigation"]
    return kind


def _navigation(head: RequestHead) -> Kind:
    if head.method == "OPTIONS":
        return "preflight" if _preflight(head) else "subresource"
    if "websocket" in (token.strip().lower() for value in head.all("upgrade") for token in value.split(",")):
        return "websocket"
    if head.method == "HEAD" or _speculative(head):
        return "subresource"
    mode = (head.get("sec-fetch-mode") or "").lower()
    destination = (head.get("sec-fetch-dest") or "").lower()
    if mode == "websocket":
        return "websocket"
    if destination in _FRAMES:
        return "frame"
    if destination == "document" or (mode == "navigate" and not destination):
        return "navigation"
    if destination == "empty" or (mode and not destination):
        return "script"
    if destination:
        return "subresource"
    return _guessed(head)


def _guessed(head: RequestHead) -> Kind:
    """Without Fetch Metadata: plain http off localhost, old browsers, API clients."""
    accepted = _accepted(head)
    if head.has("x-requested-with"):
        return "script"
    if any(t in _HTML and q > 0 for t, q in accepted):
        return "navigation"
    if accepted and accepted[0][0].startswith(_ASSETS):
        return "subresource"
    return "script"


def _preflight(head: RequestHead) -> bool:
    """Fetch §4.9: OPTIONS with both headers, and nothing else that could be meant for the application."""
    return (
        head.has("origin")
        and head.has("access-control-request-method")
        and not head.has("transfer-encoding")
        and all(value.strip() == "0" for value in head.all("content-length"))
    )


def _speculative(head: RequestHead) -> bool:
    """Fetched before anybody asked for it (`Sec-Purpose: prefetch;prerender`, and its older names)."""
    return any("prefetch" in value.lower() for name in ("sec-purpose", "purpose", "x-moz", "x-purpose") for value in head.all(name))


def cross_site(head: RequestHead) -> bool:
    """Another site may have caused this request: by `Sec-Fetch-Site`, else by a foreign or `null` `Origin`.

    A sibling ("same-site") counts as another. What carries neither header counts as ours: only clients that are no browsers, and GETs, do.
    """
    site = (head.get("sec-fetch-site") or "").lower()
    if site in {"cross-site", "same-site"}:
        return True
    if site in {"same-origin", "none"}:
        return False
    return any(value.strip().lower() != head.origin for value in head.all("origin"))


def prefers_json(head: RequestHead) -> bool:
    """JSON is named in `Accept`, and HTML is not named as better (or as equally good, and before it)."""
    if "prefers_json" not in head.memo:
        head.memo["prefers_json"] = _prefers_json(head)
    return bool(head.memo["prefers_json"])


def _prefers_json(head: RequestHead) -> bool:
    accepted = _accepted(head)
    best_json = max(((q, -i) for i, (t, q) in enumerate(accepted) if t == "application/json" or t.endswith("+json")), default=(0.0, 0))
    best_html = max(((q, -i) for i, (t, q) in enumerate(accepted) if t in _HTML), default=(0.0, 0))
    return best_json[0] > 0 and best_json > best_html


def _accepted(head: RequestHead) -> list[tuple[str, float]]:
    """`Accept` as (type, quality) in order (RFC 9110 §12.5.1); an unreadable quality is 0."""
    found = []
    for item in ",".join(head.all("accept")).split(","):
        kind, *parameters = item.split(";")
        quality = 1.0
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name.strip().lower() == "q":
                quality = _quality(value.strip())
        if kind.strip():
            found.append((kind.strip().lower(), quality))
    return found


def _quality(text: str) -> float:
    digits = text.replace(".", "", 1)
    return min(float(text), 1.0) if digits.isascii() and digits.isdigit() and len(text) <= 5 else 0.0
