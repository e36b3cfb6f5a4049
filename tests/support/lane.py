"""A bare lane on loopback: listener, `forward`, pool, and no decision in between."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp.web_request import BaseRequest
from aiohttp.web_response import StreamResponse

from gateway.errors import BodyTooLarge, UpstreamFault, UpstreamTimeout
from gateway.lanes.answer import head_bytes
from gateway.lanes.body import BodyTimeout, ClientBody
from gateway.lanes.connection import Sent, connection_of
from gateway.lanes.forward import Exchange, Relayed, forward
from gateway.lanes.pool import UpstreamPool
from gateway.lanes.server import RunningServer, raw_target, serve
from gateway.lanes.tunnel import Tunnel
from gateway.lanes.upstream import ResponseHead
from gateway.spec.sections import LimitsSpec, UpstreamSpec
from gateway.wire.head import Headers

Serve = Callable[["Lane", BaseRequest], Awaitable[StreamResponse]]


@dataclass(slots=True)
class Lane:
    """What a test sees of a lane: its port, how exchanges ended, what was refused or cut off, the tunnels it opened."""

    pool: UpstreamPool
    limits: LimitsSpec
    server: RunningServer | None = None
    relayed: list[Relayed] = field(default_factory=list)
    faults: list[BaseException] = field(default_factory=list)
    refused: list[tuple[int, str]] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)
    tunnels: list[Tunnel] = field(default_factory=list)

    def refuse(self, status: int, reason: str) -> str:
        self.refused.append((status, reason))
        return ""

    @property
    def port(self) -> int:
        assert self.server is not None
        return self.server.port

    def exchange(self, request: BaseRequest, **changes: Any) -> Exchange:
        body = changes.pop("body", None) or ClientBody(request, limit=self.limits.max_upload, idle_timeout=self.limits.body_idle_timeout)
        return Exchange(
            method=request.method,
            target=raw_target(request),
            headers=request.raw_headers,
            body=body,
            on_head=changes.pop("on_head", as_it_came),
            on_tunnel=self.tunnels.append,
            **changes,
        )


async def as_it_came(head: ResponseHead) -> Headers:
    return head.headers


async def pass_on(lane: Lane, request: BaseRequest) -> StreamResponse:
    """Forward everything; faults before an answer become the status that errors.py names."""
    try:
        relayed = await forward(request, lane.exchange(request), lane.pool, lane.limits)
    except (UpstreamFault, BodyTooLarge, BodyTimeout) as fault:
        lane.faults.append(fault)
        status = 504 if isinstance(fault, UpstreamTimeout) else 413 if isinstance(fault, BodyTooLarge) else 408
        return say(request, status if not isinstance(fault, UpstreamFault) or status == 504 else 502, type(fault).__name__)
    except BaseException as fault:
        lane.faults.append(fault)
        raise
    lane.relayed.append(relayed)
    return relayed


def say(request: BaseRequest, status: int, text: str) -> Sent:
    """A small answer of the test's own."""
    fields = ((b"Content-Length", str(len(text)).encode()), (b"Connection", b"close"))
    connection_of(request).send(head_bytes(status, b"Test", fields) + text.encode())
    return Sent(status, keep_alive=False)


def limits(**changes: Any) -> LimitsSpec:
    return LimitsSpec.model_validate(changes)


@asynccontextmanager
async def lane(
    *urls: str, serving: Serve = pass_on, bounds: LimitsSpec | None = None, context: ssl.SSLContext | None = None, **spec: Any
) -> AsyncIterator[Lane]:
    """A lane in front of `urls`; `spec` are further keys of the upstream, `context` makes the listener speak TLS."""
    pool = UpstreamPool("app", UpstreamSpec.model_validate({"url": list(urls), **spec}))
    pool.start()
    made = Lane(pool, bounds or LimitsSpec())
    made.server = await serve(
        lambda request: serving(made, request),
        host="127.0.0.1",
        port=0,
        ssl_context=context,
        limits=made.limits,
        on_bad_request=made.refuse,
        on_cut=made.cut.append,
    )
    try:
        yield made
    finally:
        await made.server.close(0.05)
        await pool.aclose()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
