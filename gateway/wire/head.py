"""A request head as it arrived. Nothing in here is normalised: judged bytes are forwarded bytes.

`origin`, `host`, `scheme` and `client_ip` are what the gateway worked out about the connection (its own
listener, `public_url`, `trusted_proxies`); everything else is as sent.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gateway.wire.target import Target

Headers = tuple[tuple[bytes, bytes], ...]


def header_key(name: bytes) -> bytes:
    """The name under which two header names are the same to some upstream: case-folded, `_` read as `-`."""
    return name.lower().replace(b"_", b"-")


def lowered(headers: Headers) -> tuple[bytes, ...]:
    """The lower-case name of each field."""
    return tuple([name.lower() for name, _ in headers])


def header_keys(names: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """`header_key` of each of these lower-case names."""
    return tuple([name.replace(b"_", b"-") for name in names]) if b"_" in b"".join(names) else names


@dataclass(frozen=True, slots=True)
class RequestHead:
    """One request without its body.

    method: as sent (llhttp knows it). target: raw bytes and readings. headers: in order, names as sent.
    scheme: "http" or "https". host: lower-case host name without port. origin: the entry of `public_url` that
    this request came in by, e.g. "https://bank.example.com". client_ip: the client's address in text form
    (after `trusted_proxies`); peer: the address of the TCP peer.

    Worked out here, because many ask: `names`, lower-case, and `keys`, as `header_key` spells them, of each field. `memo`: what readers of
    this head have worked out of it, by their own keys, each of them once.
    """

    method: str
    target: Target
    headers: Headers
    scheme: str
    host: str
    origin: str
    client_ip: str
    peer: str
    names: tuple[bytes, ...] = field(init=False, repr=False, compare=False)
    keys: tuple[bytes, ...] = field(init=False, repr=False, compare=False)
    memo: dict[str, Any] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        names = lowered(self.headers)
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "keys", header_keys(names))
        object.__setattr__(self, "memo", {})

    def all(self, name: str) -> tuple[str, ...]:
        """Every value of a header, in order, decoded as Latin-1. `name` is compared case-insensitively."""
        wanted = name.lower().encode("ascii")
        if wanted not in self.names:
            return ()
        return tuple([field[1].decode("latin-1") for n, field in zip(self.names, self.headers, strict=True) if n == wanted])

    def get(self, name: str) -> str | None:
        """The value of a header that stands there exactly once, else None."""
        values = self.all(name)
        return values[0] if len(values) == 1 else None

    def has(self, name: str) -> bool:
        return bool(self.all(name))
