"""From aiohttp's request to a RequestHead: bytes as they came, and what the gateway knows about the connection.

Origin comes from `public_url` only. A request for a host that is not in it never gets further than a 421.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from aiohttp import web

from gateway.errors import BadTarget
from gateway.lanes.server import raw_target
from gateway.wire.forwarding import Networks, client_ip, client_scheme, is_trusted, origin_host, origin_of
from gateway.wire.head import Headers, RequestHead
from gateway.wire.headers import METHODS
from gateway.wire.target import parse_target


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A request that goes nowhere. kind: the page's; private: for the log."""

    status: int
    kind: Literal["bad_request", "wrong_host", "bad_method"]
    private: str


@dataclass(frozen=True, slots=True)
class Entrance:
    """One listener: its scheme, the origins that lead to it, and which peers may speak for others."""

    scheme: str
    origins: tuple[str, ...]
    trusted: Networks


@dataclass(frozen=True, slots=True)
class Located:
    """What a RequestHead says beyond the request's own bytes; trusted: the peer may speak for others."""

    scheme: str
    host: str
    origin: str
    client_ip: str
    peer: str
    trusted: bool

    @property
    def around(self) -> tuple[str, str, str, str, str]:
        """The last fields of a RequestHead."""
        return self.scheme, self.host, self.origin, self.client_ip, self.peer


def read_head(request: web.BaseRequest, entrance: Entrance) -> RequestHead | Unreadable:
    """The head of a request, or why it is refused (400, 405, 421)."""
    method = request.method
    if method not in METHODS or method == "CONNECT":
        return Unreadable(405, "bad_method", f"method {method!r}")
    raw = raw_target(request)
    try:
        target = parse_target(raw)
    except BadTarget as error:
        return Unreadable(400, "bad_request", f"target: {error}")
    headers = tuple(request.raw_headers)
    located = locate(headers, request.remote or "", entrance)
    return located if isinstance(located, Unreadable) else RequestHead(method, target, headers, *located.around)


def locate(headers: Headers, peer: str, entrance: Entrance) -> Located | Unreadable:
    """Where a request with these header fields arrived, and from whom."""
    hosts = [v for n, v in headers if len(n) == 4 and n.lower() == b"host"]
    if len(hosts) != 1:
        return Unreadable(400, "bad_request", f"{len(hosts)} Host headers")
    trusted = is_trusted(peer, entrance.trusted)
    seen = client_scheme(headers, entrance.scheme, trusted=trusted)
    authority = hosts[0].decode("latin-1")
    origin = origin_of(authority, seen, entrance.origins)
    if origin is None:
        return Unreadable(421, "wrong_host", f"host {authority[:200]!r} over {seen} is not in public_url")
    return Located(seen, origin_host(origin), origin, client_ip(peer, headers, entrance.trusted), peer, trusted)
