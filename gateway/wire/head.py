"""A request head as it arrived. Nothing in here is normalised: judged bytes are forwarded bytes.

`origin`, `host`, `scheme` and `client_ip` are what the gateway worked out about the connection (its own
listener, `public_url`, `trusted_proxies`); everything else is as sent.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.wire.target import Target

Headers = tuple[tuple[bytes, bytes], ...]


def header_key(name: bytes) -> bytes:
    """The name under which two header names are the same to some upstream: case-folded, `_` read as `-`."""
    return name.lower().replace(b"_", b"-")


@dataclass(frozen=True, slots=True)
class RequestHead:
    """One request without its body.

    method: as sent (llhttp knows it). target: raw bytes and readings. headers: in order, names as sent.
    scheme: "http" or "https". host: lower-case host name without port. origin: the entry of `public_url` that
    this request came in by, e.g. "https://bank.example.com". client_ip: the client's address in text form
    (after `trusted_proxies`); peer: the address of the TCP peer.
    """

    method: str
    target: Target
    headers: Headers
    scheme: str
    host: str
    origin: str
    client_ip: str
    peer: str

    def all(self, name: str) -> tuple[str, ...]:
        """Every value of a header, in order, decoded as Latin-1. `name` is compared case-insensitively."""
        wanted = name.lower().encode("ascii")
        return tuple(v.decode("latin-1") for n, v in self.headers if n.lower() == wanted)

    def get(self, name: str) -> str | None:
        """The value of a header that stands there exactly once, else None."""
        values = self.all(name)
        return values[0] if len(values) == 1 else None

    def has(self, name: str) -> bool:
        return bool(self.all(name))
