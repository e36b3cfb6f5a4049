"""Who a request came through. A proxy's word counts only where its address is in `trusted_proxies`; a client's never does.

The nearest proxy writes last, so lists are read from the right, and only as far as trusted proxies wrote them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import urlsplit

from gateway.wire.head import Headers, RequestHead

Networks = tuple[IPv4Network | IPv6Network, ...]

# Compared by header_key. What applications and frameworks read as the client's address, host, scheme or original URL.
_FORWARDING = frozenset({
    b"forwarded", b"forwarded-for", b"x-forwarded", b"x-real-ip", b"x-client-ip", b"client-ip", b"true-client-ip", b"cf-connecting-ip",
    b"cf-connecting-ipv6", b"fastly-client-ip", b"x-cluster-client-ip", b"x-remote-ip", b"x-remote-addr", b"x-envoy-external-address",
    b"x-azure-clientip", b"x-proxyuser-ip", b"proxy-client-ip", b"wl-proxy-client-ip", b"x-rewrite-url", b"x-host", b"x-http-host-override",
})  # fmt: skip
_FORWARDING_PREFIXES = (b"x-forwarded-", b"x-original-")
_FOR = re.compile(r"(?:^|;)\s*for\s*=\s*(?:\"([^\"]*)\"|([^;\"\s]+))", re.IGNORECASE)
_PROTO = re.compile(r"(?:^|;)\s*proto\s*=\s*\"?([A-Za-z]+)", re.IGNORECASE)
# RFC 9110 §7.2: a host and at most one port. `a:8080:80` is no way to write `a:8080`.
_AUTHORITY = re.compile(r"(\[[0-9a-f:.]+\]|[^:\[\]]+)(?::([0-9]+))?")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def is_forwarding(key: bytes) -> bool:
    """A `header_key` by which proxies tell about the request that reached them."""
    return key in _FORWARDING or key.startswith(_FORWARDING_PREFIXES)


def parse_networks(values: Iterable[str]) -> Networks:
    """CIDR ranges or addresses of `trusted_proxies`. Raises ValueError."""
    return tuple(ip_network(value, strict=False) for value in values)


@lru_cache(maxsize=4096)
def is_trusted(address: str, networks: Networks) -> bool:
    """An address in text form is in one of the networks; an IPv4-mapped IPv6 address counts as IPv4."""
    parsed = _parse(address)
    return parsed is not None and any(parsed in network for network in networks)


def _parse(text: str) -> IPv4Address | IPv6Address | None:
    """An address, with or without a port: `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]:80`."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        parsed = ip_address(text)
    except ValueError:
        return None
    mapped = parsed.ipv4_mapped if isinstance(parsed, IPv6Address) else None
    return mapped or parsed


def client_ip(peer: str, headers: Headers, trusted: Networks) -> str:
    """The client's address in text form: the nearest one that no trusted proxy has.

    Read from `X-Forwarded-For`, or from `Forwarded` where the former is missing: a trusted proxy must set or remove the former.
    An entry that is no address ends the walk at the proxy that reported it.
    """
    if not trusted or not is_trusted(peer, trusted):
        return _text(peer)
    nearest = peer
    for hop in reversed(_hops(headers)):
        if _parse(hop) is None:
            break
        nearest = hop
        if not is_trusted(hop, trusted):
            break
    return _text(nearest)


@lru_cache(maxsize=4096)
def _text(address: str) -> str:
    parsed = _parse(address)
    return address if parsed is None else str(parsed)


def _values(headers: Headers, key: bytes) -> list[str]:
    """The members of a list header, over all its occurrences, in order."""
    joined = ",".join(value.decode("latin-1") for name, value in headers if name.lower() == key)
    return [member.strip() for member in joined.split(",") if member.strip()]


def _hops(headers: Headers) -> list[str]:
    hops = _values(headers, b"x-forwarded-for")
    if hops:
        return hops
    return [(m[1] or m[2] or "") if (m := _FOR.search(element)) else "" for element in _values(headers, b"forwarded")]


def client_scheme(headers: Headers, own: str, *, trusted: bool) -> str:
    """ "http" or "https", as the client sees it. own: the listener's. trusted: the TCP peer is a trusted proxy.

    The last member counts: the nearest proxy wrote it.
    """
    if not trusted:
        return own
    said = _values(headers, b"x-forwarded-proto")
    if not said and (elements := _values(headers, b"forwarded")):
        said = [m[1]] if (m := _PROTO.search(elements[-1])) else []
    last = said[-1].lower() if said else own
    return last if last in {"http", "https"} else own


def origin_of(authority: str, scheme: str, origins: tuple[str, ...]) -> str | None:
    """The entry of public_url that a Host value means, default ports left out; None where there is none."""
    found = _AUTHORITY.fullmatch(authority.strip(" \t").lower())
    if found is None:
        return None
    host, port = found.groups()
    shown = "" if port is None or port == ("443" if scheme == "https" else "80") else f":{port}"
    wanted = f"{scheme}://{host}{shown}"
    return wanted if wanted in origins else None


@lru_cache(maxsize=64)
def origin_host(origin: str) -> str:
    """The host name of an origin, without port."""
    return urlsplit(origin).hostname or ""


def forwarding_headers(head: RequestHead, *, trusted: bool) -> Headers:
    """`X-Forwarded-For`, `-Proto`, `-Host` and `Forwarded` (RFC 7239) for the upstream; the first and last continue a trusted proxy's."""
    if not trusted:
        return _told_by_us(_text(head.peer), head.scheme, head.origin)
    address = _text(head.peer)
    hops = _values(head.headers, b"x-forwarded-for")
    elements = _values(head.headers, b"forwarded")
    if head.client_ip != address:  # a chain told in one header only is not lost in the other
        hops = hops or [head.client_ip]
        elements = elements or [f"for={_node(head.client_ip)}"]
    return _told(address, head.scheme, head.origin, hops, elements)


@lru_cache(maxsize=4096)
def _told_by_us(address: str, scheme: str, origin: str) -> Headers:
    return _told(address, scheme, origin, [], [])


def _told(address: str, scheme: str, origin: str, hops: list[str], elements: list[str]) -> Headers:
    host = origin.partition("://")[2]
    element = f"for={_node(address)};host={_quoted(host)};proto={scheme}"
    return (
        (b"X-Forwarded-For", ", ".join([*hops, address]).encode("latin-1")),
        (b"X-Forwarded-Proto", scheme.encode("ascii")),
        (b"X-Forwarded-Host", host.encode("ascii")),
        (b"Forwarded", ", ".join([*elements, element]).encode("latin-1")),
    )


def _node(address: str) -> str:
    """RFC 7239 §6: an IPv6 address stands in brackets and quotes."""
    return f'"[{address}]"' if ":" in address else address


def _quoted(text: str) -> str:
    return text if _TOKEN.fullmatch(text) else f'"{text}"'
