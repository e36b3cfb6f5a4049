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
from gateway.wire.head import RequestHead
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
    hosts = [v for n, v in headers if len(n) == 4 and n.lower() == b"host"]
    if len(hosts) != 1:
        return Unreadable(400, "bad_request", f"{len(hosts)} Host headers")
    peer = request.remote or ""
    trusted = is_trusted(peer, entrance.trusted)
    seen = client_scheme(headers, entrance.scheme, trusted=trusted)
    authority = hosts[0].decode("latin-1")
    origin = origin_of(authority, seen, entrance.origins)
    if origin is None:
        return Unreadable(421, "wrong_host", f"host {authority[:200]!r} over {seen} is not in public_url")
    return RequestHead(
        method=method,
        target=target,
        headers=headers,
        scheme=seen,
        host=origin_host(origin),
        origin=origin,
        client_ip=client_ip(peer, headers, entrance.trusted),
        peer=peer,
    )
