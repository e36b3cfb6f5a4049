"""Which browser, or API client, a transaction belongs to.

A cookie of 256 random bits, one for all tabs, set at the first suspension; or, for a client without cookies, its `Authorization` value.

With another site's form no cookie comes along (SameSite=Lax), though the browser may well have one. To set it anew would take from all
other tabs what waits in them, so what begins like that has a second cookie.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from gateway.wire.cookies import arrival_cookie, browser_cookie, format_set_cookie, parse_cookies
from gateway.wire.head import RequestHead
from gateway.wire.media import cross_site

_SAFE = frozenset({"GET", "HEAD"})
_SECRET = re.compile(r"[A-Za-z0-9_-]{43}")


@dataclass(frozen=True, slots=True)
class Browser:
    """secret: what the binding is made from. set_cookie: the cookie to send along, None where it is there already."""

    secret: str
    set_cookie: bytes | None = None


def known_browser(head: RequestHead) -> tuple[str, ...]:
    """The secrets that a request proves to hold, strongest first: the cookies (each if it stands there once), then Authorization."""
    secure = head.scheme == "https"
    found = [s for name in (browser_cookie(secure), arrival_cookie(secure)) if (s := _cookie(head, name)) is not None]
    authorization = head.get("authorization")
    if authorization:
        found.append("authorization:" + authorization)
    return tuple(found)


def browser_for(head: RequestHead, fresh: str, *, script: bool) -> Browser:
    """Whom a new transaction belongs to. fresh: 256 random bits, base64url, used where there is no cookie yet.

    A script's Authorization value binds where no cookie came along; a navigation always gets a cookie. So does a script of which a browser
    says that it is of this very origin: its pass is a cookie too, and a step may need a window, which sends no Authorization.
    """
    secure = head.scheme == "https"
    name = browser_cookie(secure)
    if (own := _cookie(head, name)) is not None:
        return Browser(own)
    own_page = (head.get("sec-fetch-site") or "").lower() == "same-origin"
    if script and not own_page and (known := known_browser(head)):
        return Browser(known[0])
    if cross_site(head) and head.method not in _SAFE:
        name = arrival_cookie(secure)
        if (arrived := _cookie(head, name)) is not None:
            return Browser(arrived)
    return Browser("cookie:" + fresh, format_set_cookie(name, fresh, max_age=None, secure=secure))


def _cookie(head: RequestHead, name: str) -> str | None:
    """The secret in a cookie of ours that stands there once."""
    values = [v for n, v in parse_cookies(head) if n == name]
    return "cookie:" + values[0] if len(values) == 1 and _SECRET.fullmatch(values[0]) else None


def holds(bindings: Iterable[str], binding: str) -> bool:
    """One of the request's bindings is the transaction's."""
    return binding in set(bindings)
