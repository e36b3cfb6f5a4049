"""Store URLs, read without opening anything. No message repeats a password.

sqlite:///var/state.db                               a path, relative to the file that names it; sqlite:////srv/state.db is absolute
redis://[user:password@]host[:port][/db]             rediss:// is the same over TLS; ?ssl_ca_certs=/path names a CA of your own
redis+sentinel://[user:password@]host[:port],…/master[/db]    port 26379 unless given; the password is the master's
redis+cluster://[user:password@]host[:port],…
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, unquote

_REDIS_PORT, _SENTINEL_PORT = 6379, 26379
_STATE = ("sqlite", "redis", "rediss", "redis+sentinel", "redis+cluster")
_RECORDS = ("sqlite",)
_SQLITE = "sqlite:///"


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """A Redis URL taken apart. `nodes` are (host, port), at least one; `master` is a sentinel's name for what it watches."""

    scheme: str
    nodes: tuple[tuple[str, int], ...]
    username: str | None
    password: str | None
    db: int
    master: str
    ca_file: str | None

    def where(self) -> str:
        """For messages: the servers, never the password."""
        return f"{self.scheme}://" + ",".join(f"{host}:{port}" for host, port in self.nodes) + (f"/{self.master}" if self.master else "")


class _UrlError(ValueError):
    """The message is for the operator."""


def check_url(url: str) -> str | None:
    """What is wrong with the URL of a state store; None when nothing is. Opens nothing: a store that does not exist yet is no mistake."""
    return _check(url, _STATE)


def check_records_url(url: str) -> str | None:
    """The same for the records' URL."""
    return _check(url, _RECORDS)


def resolve_url(url: str, base: Path) -> str:
    """The URL with a relative SQLite path resolved against the folder `base`; any other URL as it is."""
    if not url.startswith(_SQLITE):
        return url
    return _SQLITE + str((base / url.removeprefix(_SQLITE)).absolute())


def sqlite_path(url: str) -> Path:
    """The path in a SQLite URL. Raises ValueError with a message for the operator."""
    if not url.startswith(_SQLITE):
        raise _UrlError("write sqlite:/// and the path (three slashes before a relative path, four before an absolute one)")
    path = url.removeprefix(_SQLITE)
    if not path or path.endswith("/"):
        raise _UrlError("the URL names no file: write sqlite:///var/state.db, for instance")
    if ":memory:" in path:
        raise _UrlError("a store in memory is lost with the process and not shared between processes; name a file")
    if "?" in path or "\0" in path:
        raise _UrlError("SQLite URLs take no options, and their path holds no ?")
    return Path(path)


def redis_url(url: str) -> RedisUrl:
    """Take a Redis URL apart. Raises ValueError with a message for the operator."""
    scheme, _, rest = url.partition("://")
    rest, _, query = rest.partition("?")
    authority, _, path = rest.partition("/")
    credentials, at, hosts = authority.rpartition("@")
    if "#" in url:
        raise _UrlError("a # in a password is written %23")
    username, _, password = credentials.partition(":") if at else ("", "", "")
    default_port = _SENTINEL_PORT if scheme == "redis+sentinel" else _REDIS_PORT
    nodes = tuple(_node(part, default_port) for part in hosts.split(","))
    if len(nodes) > 1 and scheme in {"redis", "rediss"}:
        raise _UrlError(f"{scheme}:// takes one server; for several write redis+sentinel:// or redis+cluster://")
    parts = [unquote(part) for part in path.split("/")] if path else []
    master = ""
    if scheme == "redis+sentinel":
        if not parts or not parts[0]:
            raise _UrlError("the name of the master is missing: redis+sentinel://host:26379/mymaster")
        master = parts.pop(0)
    if scheme == "redis+cluster" and any(parts):
        raise _UrlError("a cluster has no databases: leave out the part after the servers")
    if len(parts) > 1:
        raise _UrlError("too many parts in the path: at most one database number")
    return RedisUrl(
        scheme=scheme,
        nodes=nodes,
        username=unquote(username) or None,
        password=unquote(password) or None,
        db=_number(parts[0], "the database", 0, 2**31 - 1) if parts and parts[0] else 0,
        master=master,
        ca_file=_ca_file(scheme, query),
    )


def _check(url: str, schemes: tuple[str, ...]) -> str | None:
    scheme, colon, rest = url.partition(":")
    known = ", ".join(f"{name}://" for name in schemes)
    if not colon or "/" in scheme:
        return f"this is no URL; it starts with one of {known}"
    if scheme not in schemes:
        if scheme in {"postgresql", "postgres"} and schemes is _RECORDS:
            return "records in PostgreSQL are not supported by this version; write sqlite:///var/records.db"
        near = difflib.get_close_matches(scheme.lower(), schemes, n=1)
        return f'unknown scheme "{scheme}"; ' + (f'did you mean "{near[0]}"?' if near else f"known are {known}")
    if not rest.startswith("//"):
        return f"two slashes are missing after {scheme}:"
    try:
        if scheme == "sqlite":
            sqlite_path(url)
        else:
            redis_url(url)
    except _UrlError as error:
        return str(error)
    return None


def _node(text: str, default_port: int) -> tuple[str, int]:
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise _UrlError("an IPv6 address is written [::1]:6379")
        port = rest[1:]
    else:
        host, _, port = text.partition(":")
    if not host or any(character.isspace() for character in host):
        raise _UrlError("the name of a server is missing: redis://host:6379")
    return host, _number(port, "the port", 1, 65535) if port else default_port


def _number(text: str, what: str, least: int, most: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 12 and least <= int(text) <= most):
        raise _UrlError(f"{what} is not a number from {least} to {most}")
    return int(text)


def _ca_file(scheme: str, query: str) -> str | None:
    options = dict(parse_qsl(query, keep_blank_values=True))
    ca_file = options.pop("ssl_ca_certs", None)
    if options:
        raise _UrlError(f'unknown option "{next(iter(options))}"; the only one is ssl_ca_certs')
    if ca_file is not None and scheme != "rediss":
        raise _UrlError("ssl_ca_certs belongs to a rediss:// URL")
    return ca_file
