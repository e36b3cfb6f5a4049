"""Which browser, or API client, a transaction belongs to.

A cookie of 256 random bits, one for all tabs, set at the first suspension; or, for a client without cookies, its `Authorization` value.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from gateway.wire.cookies import browser_cookie, format_set_cookie, parse_cookies
from gateway.wire.head import RequestHead

_SECRET = re.compile(r"[A-Za-z0-9_-]{43}")


@dataclass(frozen=True, slots=True)
class Browser:
    """secret: what the binding is made from. set_cookie: the cookie to send along, None where it is there already."""

    secret: str
    set_cookie: bytes | None = None


def known_browser(head: RequestHead) -> tuple[str, ...]:
    """The secrets that a request proves to hold, strongest first: the cookie (if it stands there once), then Authorization."""
    found: list[str] = []
    name = browser_cookie(head.scheme == "https")
    values = [v for n, v in parse_cookies(head) if n == name]
    if len(values) == 1 and _SECRET.fullmatch(values[0]):
        found.append("cookie:" + values[0])
    authorization = head.get("authorization")
    if authorization:
        found.append("authorization:" + authorization)
    return tuple(found)


def browser_for(head: RequestHead, fresh: str, *, script: bool) -> Browser:
    """Whom a new transaction belongs to. fresh: 256 random bits, base64url, used where there is no cookie yet.

    A script's Authorization value binds where no cookie came along; a navigation always gets a cookie.
    """
    known = known_browser(head)
    if known and (known[0].startswith("cookie:") or script):
        return Browser(known[0])
    secure = head.scheme == "https"
    return Browser("cookie:" + fresh, format_set_cookie(browser_cookie(secure), fresh, max_age=None, secure=secure))


def holds(bindings: Iterable[str], binding: str) -> bool:
    """One of the request's bindings is the transaction's."""
    return binding in set(bindings)
