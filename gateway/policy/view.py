"""One request as rules look at it. Every part is worked out when it is first asked for, and once.

A part that servers read differently is a tuple of readings. `require` and `deny` look for one reading that matches, `allow`, `except` and
routes want all of them to.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Literal

from gateway.policy.facts import Body, BodyUnavailable
from gateway.policy.network import Address, parse_address
from gateway.wire.cookies import parse_cookies
from gateway.wire.head import RequestHead, header_key
from gateway.wire.headers import effective_methods
from gateway.wire.media import media_type, navigation
from gateway.wire.target import query_pairs

Values = Mapping[str, tuple[str, ...]]

_FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")


class View:
    """head: as it came. upstream: where the route leads. folds: whether that upstream ignores case.

    body: None = not gathered yet. A body that is encoded (Content-Encoding) cannot be looked into.
    """

    def __init__(self, head: RequestHead, body: Body | BodyUnavailable | None, upstream: str = "", *, folds: bool = False) -> None:
        self.head = head
        self.upstream = upstream
        self.folds = folds
        self.paths = head.target.readings
        self._body = body

    @cached_property
    def folded_paths(self) -> tuple[str, ...]:
        """The case-folded readings, where the upstream ignores case; else none."""
        return tuple(path.casefold() for path in self.paths) if self.folds else ()

    @cached_property
    def body(self) -> Body | BodyUnavailable | None:
        if isinstance(self._body, Body) and any(value.strip().lower() != "identity" for value in self.head.all("content-encoding")):
            return BodyUnavailable("the body is encoded")
        return self._body

    @cached_property
    def methods(self) -> frozenset[str]:
        """The method and every override that is known."""
        return effective_methods(self.head, self.body.override if isinstance(self.body, Body) else None)

    @cached_property
    def override(self) -> Literal["known", "unread", "unreadable"]:
        """Whether a `_method` field of a form could still name another method. Frameworks honour it in a POST only."""
        if self.head.method != "POST" or isinstance(self.body, Body):
            return "known"
        if len(self.media_types) == 1 and self.media_types[0] not in _FORMS:
            return "known"
        if not self.media_types and not self.head.has("content-length") and not self.head.has("transfer-encoding"):
            return "known"
        return "unread" if self.body is None else "unreadable"

    @cached_property
    def preflight(self) -> bool:
        """A true one: no application acts on it, so no step is asked."""
        return self.head.method == "OPTIONS" and navigation(self.head) == "preflight"

    @cached_property
    def media_types(self) -> tuple[str, ...]:
        """Of every Content-Type field: lower-case, without parameters."""
        return tuple(media_type(value) for value in self.head.all("content-type"))

    @cached_property
    def header(self) -> tuple[Values, ...]:
        """By lower-case name; and with `_` read as `-`, as CGI-like upstreams do, where that makes a difference."""
        exact = _grouped((name.lower().decode("latin-1"), value.decode("latin-1")) for name, value in self.head.headers)
        if not any("_" in name for name in exact):
            return (exact,)
        return exact, _grouped((header_key(name).decode("latin-1"), value.decode("latin-1")) for name, value in self.head.headers)

    @cached_property
    def query(self) -> tuple[Values, ...]:
        """By name; and by case-folded name, where the upstream ignores case."""
        pairs = query_pairs(self.head.target)
        if not self.folds:
            return (_grouped(pairs),)
        return _grouped(pairs), _grouped((name.casefold(), value) for name, value in pairs)

    @cached_property
    def cookie(self) -> tuple[Values, ...]:
        return (_grouped(parse_cookies(self.head)),)

    @cached_property
    def address(self) -> Address | None:
        return parse_address(self.head.client_ip)


def _grouped(pairs: Iterable[tuple[str, str]]) -> Values:
    found: dict[str, tuple[str, ...]] = {}
    for name, value in pairs:
        found[name] = (*found.get(name, ()), value)
    return found
