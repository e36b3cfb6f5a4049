"""What crosses the gateway, and what does not. Order and spelling of everything that passes stay as they were sent.

A client speaks only for itself: nothing that an upstream could take for the gateway's or a proxy's word comes from it, whatever
the spelling (`header_key`). `Connection` removes fields of its sender only; ours are added afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from gateway.spec.base import parse_origin
from gateway.wire.cookies import OWN_COOKIES, names_ours, without
from gateway.wire.forwarding import client_ip, client_scheme, forwarding_headers, is_forwarding, is_trusted, parse_networks
from gateway.wire.head import Headers, RequestHead, header_key, header_keys, lowered
from gateway.wire.target import query_pairs

__all__ = [
    "METHODS",
    "Rewrite",
    "client_ip",
    "client_scheme",
    "effective_methods",
    "is_trusted",
    "parse_networks",
    "request_for_upstream",
    "response_for_client",
]

METHODS = frozenset({
    "ACL", "BIND", "CHECKOUT", "COPY", "DELETE", "GET", "HEAD", "LINK", "LOCK", "M-SEARCH", "MERGE", "MKACTIVITY", "MKCALENDAR",
    "MKCOL", "MOVE", "NOTIFY", "OPTIONS", "PATCH", "POST", "PROPFIND", "PROPPATCH", "PURGE", "PUT", "QUERY", "REBIND", "REPORT",
    "SEARCH", "SOURCE", "SUBSCRIBE", "TRACE", "UNBIND", "UNLINK", "UNLOCK", "UNSUBSCRIBE",
})  # fmt: skip
"""The HTTP methods of llhttp 9 that name a resource (CONNECT does not); any other is refused in both lanes."""

# RFC 9110 §7.6.1, and what RFC 2616 §13.5.1 named before it. Bodies are framed anew on each hop, so Trailer says nothing true.
_HOP_BY_HOP = frozenset({
    b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te", b"trailer",
    b"transfer-encoding", b"upgrade",
})  # fmt: skip
# `Connection: Host` must not take away what framing, identity or our own judgement of the message rests on.
_END_TO_END = frozenset({
    b"authorization", b"cache-control", b"content-encoding", b"content-length", b"content-range", b"content-type", b"cookie", b"date",
    b"expires", b"host", b"location", b"origin", b"set-cookie", b"vary", b"www-authenticate",
})  # fmt: skip
_NAMED_ANYWAY = _HOP_BY_HOP | {b""}
_ORDINARY = frozenset({
    b"accept", b"accept-encoding", b"accept-language", b"cache-control", b"content-type", b"dnt", b"if-match", b"if-modified-since",
    b"if-none-match", b"origin", b"pragma", b"priority", b"range", b"referer", b"sec-ch-ua", b"sec-ch-ua-mobile", b"sec-ch-ua-platform",
    b"sec-fetch-dest", b"sec-fetch-mode", b"sec-fetch-site", b"sec-fetch-user", b"upgrade-insecure-requests", b"user-agent",
})  # fmt: skip
_HTTPOXY = b"proxy"  # CVE-2016-5385: CGI turns it into HTTP_PROXY
_OVERRIDES = frozenset({b"x-http-method-override", b"x-http-method", b"x-method-override"})
_OVERRIDE_PARAMETERS = frozenset({"_method", "x-http-method-override"})
_VIA = (b"Via", b"1.1 stepup")


def request_for_upstream(
    head: RequestHead,
    *,
    host: bytes,
    trusted: bool,
    identity: frozenset[bytes] = frozenset(),
    drop_cookies: frozenset[str] = frozenset(),
    session_cookies: frozenset[str] = frozenset(),
    added: Headers = (),
) -> Headers:
    """The header fields of a request as its upstream gets them.

    host: the Host value to send. trusted: the TCP peer is in `trusted_proxies`, so its forwarding and identity headers stay.
    identity: `header_key`s of the configured identity headers. drop_cookies: cookie names to strip beside our own (sessions that nothing
    vouches for). session_cookies: the upstream's session cookies, whose look-alike spellings are stripped. added: ours, at the end.

    Framing is the caller's: Transfer-Encoding is gone, Content-Length stands as sent; a tunnel adds Connection and Upgrade by `added`.
    """
    removed = _removed_by_connection(head.headers, head.keys)
    ordinary = _ordinary(identity) if removed is _HOP_BY_HOP else frozenset[bytes]()
    strip = OWN_COOKIES | drop_cookies
    out: list[tuple[bytes, bytes]] = []
    hosted = False
    for field, key in zip(head.headers, head.keys, strict=True):
        if key in ordinary:
            out.append(field)
            continue
        name, value = field
        if key in removed or key == _HTTPOXY or key.startswith(b"x-stepup-"):
            continue
        if not trusted and (key in identity or is_forwarding(key)):
            continue
        if key == b"host":
            if not hosted:
                out.append((name, host))
            hosted = True
        elif key == b"cookie":
            left = without(value, strip, spellings_of=session_cookies)
            if left is not None:
                out.append((name, left))
        elif key == b"content-length" and b"_" in name:
            continue  # a CGI-like server would take Content_Length for the length
        elif key not in _REPLACED:
            out.append((name, value))
    if not hosted:
        out.insert(0, (b"Host", host))
    return (*out, _VIA, *forwarding_headers(head, trusted=trusted), *added)


_REPLACED = frozenset({b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"forwarded"})


@lru_cache(maxsize=64)
def _ordinary(identity: frozenset[bytes]) -> frozenset[bytes]:
    """What most requests are made of and none of the questions of `request_for_upstream` is about: it passes unasked."""
    return _ORDINARY - identity


def _removed_by_connection(headers: Headers, keys: tuple[bytes, ...]) -> frozenset[bytes]:
    """`header_key`s of the hop-by-hop fields: the fixed ones (that very set where no other goes) and those that `Connection` names."""
    if b"connection" not in keys:
        return _HOP_BY_HOP
    named = [field[1] for field, key in zip(headers, keys, strict=True) if key == b"connection"]
    if named == [b"keep-alive"]:  # what browsers send
        return _HOP_BY_HOP
    options = {header_key(option.strip()) for value in named for option in value.split(b",")} - _END_TO_END
    return _HOP_BY_HOP if options <= _NAMED_ANYWAY else _HOP_BY_HOP | options


@dataclass(frozen=True, slots=True)
class Rewrite:
    """What is changed in an upstream's answers where its settings say so.

    origins: its own origins as `parse_origin` spells them; a `Location` there becomes one at `public`. cookie_domain: takes the place of
    `Domain` in its cookies, "" removes it, None leaves it.
    """

    origins: frozenset[str] = frozenset()
    public: str = ""
    cookie_domain: str | None = None


PRIVATE = b"private, no-cache"
"""`Cache-Control` of what a rule protects, unless the upstream says stricter."""


def response_for_client(
    headers: Headers, *, gated: bool, names: tuple[bytes, ...] = (), rewrite: Rewrite | None = None, added: Headers = ()
) -> Headers:
    """The header fields of an upstream's answer as the client gets them.

    names: of the headers, lower-case, where the caller has them. gated: a rule protects the resource, so no shared cache may keep it and no
    private one use it unasked (design.md 7.8).
    added: ours, at the end (Set-Cookie of the pass). Also for 1xx answers.
    """
    keys = header_keys(names or lowered(headers))
    removed = _removed_by_connection(headers, keys)
    private = gated and not strict_enough(headers)
    out: list[tuple[bytes, bytes]] = []
    cached = False
    for (name, value), key in zip(headers, keys, strict=True):
        if key in removed:
            continue
        if key == b"set-cookie":
            if names_ours(value):
                continue
            changed = _with_domain(value, rewrite.cookie_domain) if rewrite and rewrite.cookie_domain is not None else value
            out.append((name, changed))
        elif key == b"location" and rewrite and rewrite.origins:
            out.append((name, _relocated(value, rewrite)))
        elif gated and _for_shared_caches(key):
            continue
        elif private and key == b"cache-control":
            if not cached:
                out.append((name, PRIVATE))
            cached = True
        else:
            out.append((name, value))
    if private and not cached:
        out.append((b"Cache-Control", PRIVATE))
    return (*out, *added)


def strict_enough(headers: Headers) -> bool:
    """`no-store`, or `private` with `no-cache`; the forms that name fields are weaker (RFC 9111 §5.2.2.4)."""
    values = b",".join(value for name, value in headers if name.lower() == b"cache-control")
    directives = {d.strip().lower() for d in values.split(b",")}
    return b"no-store" in directives or ({b"private", b"no-cache"} <= directives and b"public" not in directives)


def _for_shared_caches(key: bytes) -> bool:
    """Fields by which a CDN or nginx caches whatever Cache-Control says (RFC 9213)."""
    return key.endswith(b"cdn-cache-control") or key in {b"surrogate-control", b"x-accel-expires"}


_ABSOLUTE = re.compile(rb"(?:([A-Za-z][A-Za-z0-9+.\-]*):)?//([^/?#\\@\x00-\x20]+)(?=[/?#]|$)")


def _relocated(value: bytes, rewrite: Rewrite) -> bytes:
    """A `Location` at one of the upstream's own origins, moved to the public one; compared as parsed origins, the rest byte for byte."""
    found = _ABSOLUTE.match(value)
    if not found:
        return value
    schemes = [found[1].decode("ascii").lower()] if found[1] else ["http", "https"]
    authority = found[2].decode("latin-1")
    for scheme in schemes:
        try:
            origin = parse_origin(f"{scheme}://{authority}")
        except ValueError:
            return value
        if origin in rewrite.origins:
            return rewrite.public.encode("ascii") + value[found.end() :]
    return value


def _with_domain(value: bytes, domain: str) -> bytes:
    """A `Set-Cookie` value with another `Domain`, or without one; a cookie that has none keeps none."""
    first, *attributes = value.split(b";")
    out = [first]
    for attribute in attributes:
        name = attribute.partition(b"=")[0]
        if name.strip().lower() != b"domain":
            out.append(attribute)
        elif domain:
            out.append(name + b"=" + domain.encode("ascii"))
    return b";".join(out)


def effective_methods(head: RequestHead, form_override: str | None = None) -> frozenset[str]:
    """Every method that the upstream may take the request for: its own, and what override headers, parameters and `form_override` name.

    Upper-case. HEAD counts as GET too (design.md 7.3). Whoever lets a request pass must be content with all of them.
    """
    found = {head.method.upper()}
    if not _OVERRIDES.isdisjoint(head.keys):
        for (_, value), key in zip(head.headers, head.keys, strict=True):
            if key in _OVERRIDES:
                found.update(_methods(value.decode("latin-1").split(",")))
    query = head.target.query
    if query and (b"ethod" in query.lower() or b"%" in query):
        found.update(_methods(v for n, v in query_pairs(head.target) if n.casefold() in _OVERRIDE_PARAMETERS))
    if form_override:
        found.update(_methods([form_override]))
    if "HEAD" in found:
        found.add("GET")
    return frozenset(found)


def _methods(values: Iterable[str]) -> set[str]:
    return {value.strip().upper() for value in values} - {""}
