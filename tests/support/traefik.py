"""Traefik's part, played by its documentation: routers, headers and ForwardAuth of `config/traefik.yaml`, as they are written.

It speaks for what the file says, not for Traefik's own code: https://doc.traefik.io/traefik/middlewares/http/forwardauth/ names the headers
of the auth request (GET; X-Forwarded-Method, -Proto, -Host, -Uri, -For), what a 2xx copies (authResponseHeaders, replacing), and that any
other answer goes to the client. Hop-by-hop headers, those that `Connection` names included, are removed when a request is forwarded.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, urljoin, urlsplit

import yaml

from tests.support.raw import RawHead, RawMessage, RawPeer, Truncated, raw_client

Fields = list[tuple[bytes, bytes]]

_CALL = re.compile(r"(\w+)\(([^)]*)\)")
_HOP = {b"connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade", b"proxy-connection"}


def canonical(name: bytes) -> bytes:
    """As Go's net/http spells a header's name."""
    return b"-".join(part.capitalize() for part in name.split(b"-"))


class Traefik:
    def __init__(self, text: str) -> None:
        document = yaml.safe_load(text)["http"]
        self._routers = sorted(document["routers"].values(), key=lambda router: -router["priority"])
        self._middlewares: Mapping[str, Any] = document["middlewares"]
        self._services: Mapping[str, Any] = document["services"]

    async def serve(self, client: RawPeer) -> None:
        """Requests of one connection, in turn."""
        while True:
            request = await client.message()
            await client.send(await self.answer(request))

    async def answer(self, request: RawMessage) -> bytes:
        line, fields = request.head.line, [(canonical(n), v) for n, v in request.head.fields]
        method, target, _ = line.split(b" ")
        if not target.startswith(b"/"):
            return _refusal(b"400 Bad Request")
        router = next(r for r in self._routers if self._matches(r["rule"], target.decode("latin-1"), fields))
        given: list[bytes] = []
        for name in router["middlewares"]:
            middleware = self._middlewares[name]
            if "headers" in middleware:
                fields = _customised(fields, middleware["headers"]["customRequestHeaders"])
            else:
                try:
                    asked = await self._ask(middleware["forwardAuth"], method, target, fields)
                except OSError:
                    return _refusal(b"500 Internal Server Error")
                if isinstance(asked, bytes):
                    return asked
                fields, given = asked
        url = self._services[router["service"]]["loadBalancer"]["servers"][0]["url"]
        forwarded = [(n, v) for n, v in _without_hop(fields) if n not in (b"X-Forwarded-For", b"X-Forwarded-Proto", b"X-Forwarded-Host")]
        host = next(v for n, v in fields if n == b"Host")
        forwarded += [(b"X-Forwarded-For", b"127.0.0.1"), (b"X-Forwarded-Proto", b"http"), (b"X-Forwarded-Host", host)]
        answer = await _exchange(url, method, target, forwarded, request.body)
        return _whole(answer, given)

    def _matches(self, rule: str, target: str, fields: Fields) -> bool:
        return any(all(self._holds(what, given, target, fields) for what, given in _CALL.findall(part)) for part in rule.split("||"))

    def _holds(self, what: str, arguments: str, target: str, fields: Fields) -> bool:
        given = re.findall(r"`([^`]*)`", arguments)
        parts = urlsplit("http://x" + target)
        match what:
            case "PathPrefix":
                return parts.path.startswith(str(given[0]))
            case "Path":
                return parts.path == str(given[0])
            case "Header":
                return (canonical(given[0].encode()), given[1].encode()) in fields
            case "QueryRegexp":
                return any(re.fullmatch(given[1], v) for v in parse_qs(parts.query, keep_blank_values=True).get(given[0], []))
        raise AssertionError(f"the file uses {what}, which this does not know")

    async def _ask(self, settings: Mapping[str, Any], method: bytes, target: bytes, fields: Fields) -> bytes | tuple[Fields, list[bytes]]:
        """An answer for the client; or the request's headers as they go on, and cookies for the client."""
        assert settings["trustForwardHeader"] is False
        host = next(v for n, v in fields if n == b"Host")
        told = {
            b"X-Forwarded-For": b"127.0.0.1",
            b"X-Forwarded-Method": method,
            b"X-Forwarded-Proto": b"http",
            b"X-Forwarded-Host": host,
            b"X-Forwarded-Uri": target,
        }
        address = urlsplit(settings["address"])
        kept = [(n, v) for n, v in _without_hop(fields) if n not in told and n not in (b"Host", b"Content-Length")]
        asked = [(b"Host", address.netloc.encode()), *kept, *told.items()]
        answer = await _exchange(settings["address"], b"GET", address.path.encode(), asked, b"")
        if not 200 <= answer.status < 300:
            # Location is made absolute, against the address that was asked.
            heads = tuple(
                (n, urljoin(settings["address"], v.decode()).encode()) if n.lower() == b"location" else (n, v)
                for n, v in answer.head.fields
            )
            return _whole(RawMessage(RawHead(answer.head.line, heads), answer.body), [])
        for name in settings["authResponseHeaders"]:
            key = canonical(name.encode())
            fields = [(n, v) for n, v in fields if n != key] + [(key, v) for n, v in answer.head.fields if canonical(n) == key]
        wanted = tuple(name.encode() + b"=" for name in settings["addAuthCookiesToResponse"])
        return fields, [v for v in answer.head.all(b"set-cookie") if v.startswith(wanted)]


def _customised(fields: Fields, custom: Mapping[str, str]) -> Fields:
    for name, value in custom.items():
        key = canonical(name.encode())
        fields = [(n, v) for n, v in fields if n != key] + ([(key, value.encode())] if value else [])
    return fields


def _without_hop(fields: Fields) -> Fields:
    named = {canonical(option.strip()) for n, v in fields if n == b"Connection" for option in v.split(b",")}
    return [(n, v) for n, v in fields if n.lower() not in _HOP and n not in named]


async def _exchange(url: str, method: bytes, target: bytes, fields: Fields, body: bytes) -> RawMessage:
    sized = [(n, v) for n, v in fields if n != b"Content-Length"] + ([(b"Content-Length", b"%d" % len(body))] if body else [])
    head = method + b" " + target + b" HTTP/1.1\r\n" + b"".join(n + b": " + v + b"\r\n" for n, v in sized) + b"Connection: close\r\n\r\n"
    async with raw_client(urlsplit(url).port or 80) as peer:
        await peer.send(head + body)
        return await peer.response(method=method.decode())


def _refusal(status: bytes) -> bytes:
    return b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n"


def _whole(answer: RawMessage, cookies: list[bytes]) -> bytes:
    """An answer framed anew, with further cookies."""
    dropped = {*_HOP, b"content-length"}
    lines = [n + b": " + v for n, v in answer.head.fields if n.lower() not in dropped] + [b"Set-Cookie: " + c for c in cookies]
    return b"\r\n".join([answer.head.line, *lines, b"Content-Length: %d" % len(answer.body), b"", b""]) + answer.body


@asynccontextmanager
async def traefik(text: str, port: int) -> AsyncIterator[None]:
    """Listen on `port` and do what the file says."""
    played = Traefik(text)
    tasks: set[asyncio.Task[None]] = set()

    async def connection(peer: RawPeer) -> None:
        try:
            await played.serve(peer)
        except (Truncated, ConnectionError, TimeoutError):
            pass
        finally:
            await peer.close()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(connection(RawPeer(reader, writer)))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(connected, "127.0.0.1", port)
    try:
        yield
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()
