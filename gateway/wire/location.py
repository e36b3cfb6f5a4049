"""A `Location` as a browser would follow it (RFC 9110 §10.2.2, URL Standard §4.4): an origin and a target, or nothing.

What a browser forgives is forgiven here too, so that no spelling leads past a rule: blanks around, tabs and line breaks within, `\\` for
`/`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote, urljoin, urlsplit

from gateway.errors import BadTarget
from gateway.wire.target import Target, parse_target

_AROUND = "".join(map(chr, range(0x21)))
_WITHIN = re.compile(r"[\t\r\n]")
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Located:
    """origin: scheme, host and port in one spelling. target: path and query, the fragment gone."""

    origin: str
    target: Target


def parse_location(value: bytes, *, origin: str, target: Target) -> Located | None:
    """Where a redirect leads that answers a request for `target` at `origin`. None for what no browser follows, or what is not http(s)."""
    text = _WITHIN.sub("", value.decode("utf-8", "replace").strip(_AROUND))
    before, mark, query = text.partition("?")
    text = before.replace("\\", "/") + mark + query
    base = origin + target.path.decode("latin-1")
    try:
        parts = urlsplit(urljoin(base, text))
        scheme, host, port = parts.scheme.lower(), parts.hostname, parts.port
    except ValueError:
        return None
    if scheme not in _PORTS or not host:
        return None
    host = f"[{host}]" if ":" in host else host.rstrip(".").lower()
    where = f"{scheme}://{host}" if port in (None, _PORTS[scheme]) else f"{scheme}://{host}:{port}"
    raw = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        return Located(where, parse_target(quote(raw, safe="/?#[]@!$&'()*+,;=:%-._~\\|^{}\"<>`").encode("ascii")))
    except (BadTarget, UnicodeEncodeError):
        return None


def origin_of(url: str) -> str | None:
    """The origin of an absolute http(s) URL, None for anything else."""
    if not re.match(r"https?://[^/\\?#@\s]+", url, re.IGNORECASE):
        return None
    found = parse_location(url.encode("utf-8", "surrogatepass"), origin="http://none.invalid", target=parse_target(b"/"))
    return found.origin if found is not None else None
