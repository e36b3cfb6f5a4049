"""What a proxy's auth request says about the request that it holds back, and what the answer carries. Pure; both lanes call it.

A proxy asks on a listener of its own, or with its secret: what it sets itself counts, each part from one place, and nothing else that the
request carries is looked at for it. A part that is missing, stands twice or contradicts the rest refuses the request.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Literal
from urllib.parse import quote

from gateway.errors import BadTarget
from gateway.wire.cookies import OWN_COOKIES, without
from gateway.wire.forwarding import Networks, client_ip, client_scheme, is_forwarding, is_trusted, origin_host, origin_of
from gateway.wire.head import Headers, RequestHead, header_key, header_keys, lowered
from gateway.wire.headers import METHODS
from gateway.wire.target import parse_target, query_pairs

Dialect = Literal["nginx", "traefik", "caddy", "envoy"]

SECRET_HEADER = b"X-Stepup-Forward-Auth"
TOKEN, SUBJECT, COOKIE = b"X-Stepup-Token", b"X-Stepup-Subject", b"Cookie"
LOCATION, PROBLEM = b"X-Stepup-Location", b"X-Stepup-Problem"
COPIED = (TOKEN, SUBJECT, COOKIE)
"""What every `Allow` carries and every proxy copies onto the request that it forwards."""

_SECRET_KEY = header_key(SECRET_HEADER)
_REMOVE = b"X-Envoy-Auth-Headers-To-Remove"
_PARTIAL = b"x-envoy-auth-partial-body"
# RFC 9110 §7.6.1, and framing: they are of the auth request, not of the one that it is about.
_OF_THE_HOP = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"content-length"})


@dataclass(frozen=True, slots=True)
class _Sources:
    """The headers that tell about the original request, lower-case; None: the auth request's own. chain: `address` is a list, and the
    proxy wrote the last member."""

    method: bytes | None
    target: bytes | None
    host: bytes | None
    scheme: bytes
    address: bytes
    chain: bool

    @property
    def names(self) -> frozenset[bytes]:
        return frozenset(filter(None, (self.method, self.target, self.host, self.scheme, self.address)))


_FORWARDED = _Sources(b"x-forwarded-method", b"x-forwarded-uri", b"x-forwarded-host", b"x-forwarded-proto", b"x-forwarded-for", chain=True)
_SOURCES: Mapping[Dialect, _Sources] = {
    # All set by the location that asks; proxy_set_header replaces what a client sent under these names.
    "nginx": _Sources(b"x-original-method", b"x-original-uri", b"x-original-host", b"x-original-proto", b"x-original-address", chain=False),
    # Set by the middleware itself, from the request, unless trustForwardHeader is on.
    "traefik": _FORWARDED,
    # Method and Uri by the directive, the others by reverse_proxy.
    "caddy": _FORWARDED,
    # The auth request is a copy. x-forwarded-* as the connection manager writes them with use_remote_address.
    "envoy": _Sources(None, None, None, b"x-forwarded-proto", b"x-forwarded-for", chain=True),
}


@dataclass(frozen=True, slots=True)
class Integration:
    """One proxy that asks. secret: what it sends, None where it has a listener of its own. mount: the endpoint's path on the public
    listener, b"" on a listener of its own."""

    name: str
    dialect: Dialect
    secret: bytes | None = None
    mount: bytes = b""


@dataclass(frozen=True, slots=True)
class Premises:
    """What the gateway knows beside the auth request. prefix, continue_path: its own paths. ticket: the parameter of tickets.

    longest: bytes of a target.
    """

    origins: tuple[str, ...]
    trusted: Networks
    prefix: bytes
    continue_path: bytes
    ticket: str
    longest: int


@dataclass(frozen=True, slots=True)
class Refused:
    """Why an auth request is answered with 403 before any rule is asked. `private` is for the log."""

    private: str


def integration_of(integrations: Sequence[Integration], target: bytes, headers: Headers) -> Integration | None:
    """Which proxy asks on the public listener; None where nobody does who proves it: then the path is like any unknown one of ours."""
    if not integrations:
        return None
    path = target.partition(b"?")[0]
    if not path.startswith(integrations[0].mount):
        return None
    given = [value for name, value in headers if header_key(name) == _SECRET_KEY]
    if len(given) != 1:
        return None
    # Each secret is compared, and each to the end.
    matching = [each for each in integrations if each.secret is not None and hmac.compare_digest(each.secret, given[0])]
    found = matching[0] if len(matching) == 1 else None
    if found is None or not (path == found.mount or (found.dialect == "envoy" and path.startswith(found.mount + b"/"))):
        return None
    return found


def original_head(
    integration: Integration, method: str, target: bytes, headers: Headers, peer: str, premises: Premises
) -> RequestHead | Refused:
    """The request that an auth request is about, or why that cannot be told. Its headers are the client's as the proxy passed them on."""
    sources = _SOURCES[integration.dialect]
    keys = header_keys(lowered(headers))
    said: dict[bytes, bytes] = {}
    for name in (*sources.names, b"host"):
        values = [value for key, (_, value) in zip(keys, headers, strict=True) if key == name]
        if len(values) != 1:
            return Refused(f"{len(values)} {name.decode()} headers from {integration.name}")
        said[name] = values[0].strip()
    stated = method if sources.method is None else said[sources.method].decode("latin-1")
    if stated not in METHODS:
        return Refused("a method that is not served")
    if sources.method is not None and method not in ("GET", stated):
        return Refused("the auth request's own method contradicts the stated one")
    raw = target.removeprefix(integration.mount) if sources.target is None else said[sources.target]
    if len(raw) > premises.longest:
        return Refused(f"a target of more than {premises.longest} bytes")
    try:
        parsed = parse_target(raw)
    except BadTarget as error:
        return Refused(f"target: {error}")
    if parsed.path in (premises.prefix, premises.continue_path) or parsed.path.startswith(premises.prefix + b"/"):
        return Refused("a path of the gateway's own: the proxy must send it to the gateway, and not ask")
    if parsed.query and any(name == premises.ticket for name, _ in query_pairs(parsed)):
        return Refused("a ticket: the proxy must send it to the gateway, and not ask")
    address, earlier = _nearest(said[sources.address], chain=sources.chain)
    if address is None:
        return Refused("no address of the client")
    kept = _kept(integration.dialect, headers, keys, sources, earlier)
    scheme = said[sources.scheme].decode("latin-1").lower()
    if scheme not in ("http", "https"):
        return Refused("a scheme that is neither http nor https")
    seen = client_scheme(kept, scheme, trusted=is_trusted(address, premises.trusted))
    host = said[sources.host or b"host"]
    origin = origin_of(host.decode("latin-1"), seen, premises.origins)
    if origin is None:
        return Refused(f"host {host[:200].decode('latin-1')!r} over {seen} is not in public_url")
    return RequestHead(
        method=stated,
        target=parsed,
        headers=((b"Host", host), *kept),
        scheme=seen,
        host=origin_host(origin),
        origin=origin,
        client_ip=client_ip(address, kept, premises.trusted),
        peer=peer,
    )


def _nearest(value: bytes, *, chain: bool) -> tuple[str | None, bytes]:
    """The address that the proxy saw, and the members before it."""
    earlier, _, last = value.rpartition(b",") if chain else (b"", b"", value)
    text = last.strip().decode("latin-1")
    try:
        ip_address(text)
    except ValueError:
        return None, b""
    return text, earlier.strip()


def _kept(dialect: Dialect, headers: Headers, keys: tuple[bytes, ...], sources: _Sources, earlier: bytes) -> Headers:
    """The client's headers: without what the proxy said, its secret, and what belongs to the auth request alone."""
    gone = _OF_THE_HOP - {b"content-length"} if body_sent(dialect, headers) else _OF_THE_HOP
    out = []
    for key, field in zip(keys, headers, strict=True):
        if key == sources.address and earlier:
            out.append((field[0], earlier))
        elif key in gone or key in sources.names or key in (b"host", _SECRET_KEY) or (dialect == "envoy" and key.startswith(b"x-envoy-")):
            continue
        else:
            out.append(field)
    return tuple(out)


def body_sent(dialect: Dialect, headers: Headers) -> bool:
    """The auth request's body is the original's, and all of it. Only Envoy sends one (`with_request_body`), and says whether it is whole.

    It says so of bodies that are there. Where none is, it said nothing, and the header is a client's.
    """
    if dialect != "envoy":
        return False
    fields = [(header_key(name), value.strip().lower()) for name, value in headers]
    framed = any(key == b"transfer-encoding" or (key == b"content-length" and value.strip(b"0")) for key, value in fields)
    return framed and [value for key, value in fields if key == _PARTIAL] == [b"false"]


def allow_headers(
    integration: Integration, head: RequestHead, *, token: bytes = b"", subject: str = "", strip: frozenset[str] = frozenset(),
    session_cookies: frozenset[str] = frozenset(), identity: frozenset[bytes] = frozenset(), trusted: bool = False,
    cookies: Sequence[bytes] = (),
) -> Headers:  # fmt: skip
    """The headers of the 200 to an auth request. Those in COPIED are always there, empty where there is nothing to say: a proxy replaces
    what the client sent by what stands here, and one that finds nothing may leave the client's (or, in Caddy, a placeholder).

    head: of `original_head`. subject: its id. strip, session_cookies, identity, trusted: as for `request_for_upstream`; trusted is about
    head.peer. cookies: `Set-Cookie` values of ours, for the client. The caller adds the framing.
    """
    values = [value for key, (_, value) in zip(head.keys, head.headers, strict=True) if key == b"cookie"]
    left = [kept for value in values if (kept := without(value, OWN_COOKIES | strip, spellings_of=session_cookies)) is not None]
    copied = (
        (TOKEN, token),
        (SUBJECT, _printable(subject)),
        (COOKIE, b"; ".join(left)),
    )
    given = tuple((b"Set-Cookie", cookie) for cookie in cookies)
    removed: Headers = ()
    if integration.dialect == "envoy":
        names = _foreign(head, identity, trusted=trusted)
        removed = ((_REMOVE, b", ".join(names if left else (*names, b"cookie"))),) if names or not left else ()
    return (*copied, *removed, *given, (b"Cache-Control", b"no-store"))


def _foreign(head: RequestHead, identity: frozenset[bytes], *, trusted: bool) -> tuple[bytes, ...]:
    """Names that must not reach the upstream from a client (design.md 7.4). Envoy removes what it is told to; its own stay."""
    found: dict[bytes, None] = {}
    for name, key in zip(head.names, head.keys, strict=True):
        ours = key.startswith(b"x-stepup-") and name not in (TOKEN.lower(), SUBJECT.lower())
        told = not trusted and (key in identity or is_forwarding(key)) and name not in (b"x-forwarded-for", b"x-forwarded-proto")
        if ours or told or key == b"proxy":
            found[name] = None
    return tuple(found)


def _printable(text: str) -> bytes:
    """A subject's id as a header value: blanks (which would be trimmed), `%` and all but printable ASCII are percent-encoded (RFC 3986)."""
    return quote(text, safe="!\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~", errors="surrogateescape").encode("ascii")


def carried(integration: Integration, status: int, headers: Headers, body: bytes, origin: str) -> tuple[int, Headers, bytes]:
    """An answer that is no `Allow`, as the dialect can carry it. It never has a status that lets the request pass.

    nginx knows 401 and 403: where a browser is to go, or what a script is told, stands in a header, for the configuration to use. Traefik
    resolves a `Location` against its own auth address, so there it is absolute. origin: of the original request, "" where it is unknown.
    """
    if not 300 <= status <= 599:
        status, headers, body = 403, (), b""
    if integration.dialect == "traefik":
        headers = tuple((n, origin.encode() + v) if n.lower() == b"location" and v.startswith(b"/") else (n, v) for n, v in headers)
    if integration.dialect != "nginx":
        return status, headers, body
    kept = [(n, v) for n, v in headers if n.lower() in (b"set-cookie", b"www-authenticate", b"cache-control", b"retry-after")]
    location = next((v for n, v in headers if n.lower() == b"location"), b"")
    if 300 <= status <= 399 and location:
        return 401, (*kept, (LOCATION, location)), b""
    problem = next((v for n, v in headers if n.lower() == b"content-type"), b"").startswith(b"application/problem+json")
    if problem:
        kept.append((PROBLEM, json.dumps(json.loads(body)).encode("ascii")))  # one line of ASCII, as a header must be
    return status if status in (401, 503) else 403, tuple(kept), b""
