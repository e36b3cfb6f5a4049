"""A whole gateway in front of raw upstreams: what it was sent and what it sent on, byte for byte.

Two steps stand ready: `human` (a captcha, nobody need be known) is what most rules here ask for.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from gateway.app import GatewayApp
from tests.support.altcha_client import payload
from tests.support.gateway import read
from tests.support.ports import free_port
from tests.support.raw import RawMessage, RawPeer, raw_client

CHROME = b"Accept: text/html\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\nSec-Fetch-Site: same-origin\r\n"
FETCH = b"Accept: application/json\r\nSec-Fetch-Mode: cors\r\nSec-Fetch-Dest: empty\r\nSec-Fetch-Site: same-origin\r\n"
STEPS = {"human": {"kind": "captcha", "cost": 1, "max_number": 5}}


@dataclass
class Front:
    """A running gateway. host: the Host value that leads to it. context: for clients, where it speaks TLS. source: where clients are."""

    app: GatewayApp
    port: int
    context: ssl.SSLContext | None = None
    source: str | None = None

    @property
    def host(self) -> bytes:
        return b"%b:%d" % (b"localhost" if self.context else b"127.0.0.1", self.port)

    @property
    def origin(self) -> str:
        return f"{'https' if self.context else 'http'}://{self.host.decode()}"

    def client(self) -> AbstractAsyncContextManager[RawPeer]:
        return raw_client(self.port, context=self.context, source=self.source)

    def head(self, line: str | bytes, fields: bytes = b"", *, host: bytes | None = None) -> bytes:
        """A request head: `GET /x`, our Host, and further lines of fields, each with its CRLF."""
        start = line.encode("latin-1") if isinstance(line, str) else line
        return b"%b HTTP/1.1\r\nHost: %b\r\n%b\r\n" % (start, self.host if host is None else host, fields)

    async def ask(self, line: str | bytes, fields: bytes = b"", body: bytes | None = None, *, host: bytes | None = None) -> RawMessage:
        """One request on a connection of its own; a body goes with its length."""
        if body is not None:
            fields += b"Content-Length: %d\r\n" % len(body)
        async with self.client() as client:
            await client.send(self.head(line, fields, host=host) + (body or b""))
            method = line.split()[0] if isinstance(line, bytes) else line.split()[0].encode()
            return await client.response(method=method.decode("latin-1"))

    async def solve(self, answer: RawMessage, fields: bytes = b"") -> tuple[Mapping[str, Any], bytes]:
        """Pass the captcha that a 401 or a 303 led to, by JSON. The READY transaction's document, and a `Cookie` line with all of ours.

        fields: what the first request carried beside its cookies, where that tells who it is.
        """
        if answer.status == 401:
            state = json.loads(answer.body)["state"]
        else:
            state = (answer.head.get(b"location") or b"").decode().rpartition("/")[2]
        fields = cookie_line(cookies(answer)) + FETCH + fields
        page = f"/.stepup/t/{state}"
        shown = json.loads((await self.ask(f"GET {page}", fields)).body)
        given = json.dumps({"altcha": payload(shown["step"]["data"])}).encode()
        done = await self.ask(f"POST {page}", fields + b"Content-Type: application/json\r\n", given)
        assert done.status == 200, done.body
        return json.loads(done.body), cookie_line(cookies(answer))

    async def passed(self, line: str, fields: bytes = b"") -> bytes:
        """Pass the captcha in front of a request as a script does; a `Cookie` line with the pass."""
        asked = await self.ask(line, FETCH + fields)
        assert asked.status == 401, asked
        ready, binding = await self.solve(asked, fields)
        done = await self.ask(f"GET {ready['continue']}", binding + FETCH + fields)
        assert done.status == 204, done
        return cookie_line([*cookies(asked), *cookies(done)])


def cookies(answer: RawMessage) -> list[bytes]:
    """`name=value` of every cookie that an answer sets."""
    return [value.partition(b";")[0] for value in answer.head.all(b"set-cookie")]


def cookie_line(pairs: Sequence[bytes]) -> bytes:
    return b"Cookie: " + b"; ".join(pairs) + b"\r\n" if pairs else b""


def settings(urls: Mapping[str, Any], *, port: int, **config: Any) -> dict[str, Any]:
    """gateway.yaml as a document: these upstreams, `human` as a step, everything else as given."""
    return {
        "listen": f"127.0.0.1:{port}",
        "public_url": [f"http://127.0.0.1:{port}"],
        "admin": {"listen": f"127.0.0.1:{free_port()}"},
        "upstreams": {name: value if isinstance(value, dict) else {"url": value} for name, value in urls.items()},
        "steps": STEPS,
        **config,
    }


def _written(folder: Path, document: Mapping[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "gateway.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


@asynccontextmanager
async def fronting(
    folder: Path,
    urls: str | Mapping[str, Any],
    *,
    hosts: Sequence[str] = (),
    context: ssl.SSLContext | None = None,
    clock: Callable[[], float] | None = None,
    **config: Any,
) -> AsyncIterator[Front]:
    """A gateway in front of one upstream named `app`, or of several by name (a url, or all of an upstream's settings).

    hosts: further names in `public_url`. context: what a client trusts; `tls` must then be among `config`, keys of gateway.yaml.
    """
    port = free_port()
    named = {"app": urls} if isinstance(urls, str) else urls
    scheme = "https" if context else "http"
    origins = [f"{scheme}://{name}:{port}" for name in (("localhost",) if context else ("127.0.0.1",)) + tuple(hosts)]
    document = settings(named, port=port, **{"public_url": origins, **config})
    app = await GatewayApp.start(read(_written(folder, document)), clock=clock)
    try:
        yield Front(app, port, context)
    finally:
        await app.close()
