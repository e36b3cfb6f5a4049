"""An exchange whose answer is held whole, bounded, before a byte of it leaves: what it says decides whether it leaves at all.

Never retried, on a connection of its own. The caller sends nothing of which the upstream could make an encoded or partial answer.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from time import perf_counter

from aiohttp.web_request import BaseRequest

from gateway.errors import ClientGone, UpstreamBroke, UpstreamTimeout
from gateway.flow.traffic import UpstreamTraffic
from gateway.lanes.answer import Answer
from gateway.lanes.forward import Relayed, framed
from gateway.lanes.pool import UpstreamPool
from gateway.lanes.upstream import ResponseHead, UpstreamConnection
from gateway.wire.head import Headers

# What could bring an answer in a form that nobody can look into, or none at all (RFC 9110 §10.1.1, §12.5.3, §13, §14).
_UNWANTED = frozenset({
    b"accept-encoding", b"expect", b"range", b"if-range", b"if-match", b"if-none-match", b"if-modified-since", b"if-unmodified-since",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Held:
    """An answer: its head as it came, and all of its body."""

    head: ResponseHead
    body: bytes


async def hold(
    pool: UpstreamPool, traffic: UpstreamTraffic, method: str, target: bytes, headers: Headers, body: bytes, *, limit: int, timeout: float
) -> Held:
    """Send a request and read its answer. limit: bytes of the answer's body; timeout: seconds for them to arrive.

    Raises UpstreamUnreachable, UpstreamBroke (also for a longer body), UpstreamTimeout, BadTarget.
    """
    began = perf_counter()
    spec = pool.spec
    connection = await pool.acquire(fresh=True)
    failed = True
    try:
        host = {"keep": None, "rewrite": connection.endpoint.authority}.get(spec.host_header, spec.host_header)
        sent = tuple(field for field in headers if field[0].lower() not in _UNWANTED)
        fields = framed(sent, host=host, present=bool(body), length=len(body), upgrade=False)
        try:
            async with asyncio.timeout(spec.first_byte_timeout):
                connection.send_head(method, target, fields, has_body=bool(body), chunked=False)
                if body:
                    await connection.send_piece(body, spec.idle_timeout)
                    connection.send_end()
                head = await connection.response(lambda _: None)
        except TimeoutError as error:
            raise UpstreamTimeout(f"{connection.endpoint.url}: no answer within {spec.first_byte_timeout:g} s") from error
        failed = False
        answered = perf_counter()
        whole = await _body(connection, limit, timeout)
        traffic.exchange(head.status, answered - began, 0.0, len(body), len(whole))
        return Held(head, whole)
    finally:
        pool.release(connection, failed=failed)


async def _body(connection: UpstreamConnection, limit: int, timeout: float) -> bytes:
    pieces: list[bytes] = []
    held = 0
    try:
        async with asyncio.timeout(timeout):
            while piece := await connection.read(None):
                held += len(piece)
                if held > limit:
                    raise UpstreamBroke(f"{connection.endpoint.url}: an answer of more than {limit} bytes where it must be held")
                pieces.append(bytes(piece))
    except TimeoutError as error:
        raise UpstreamTimeout(f"{connection.endpoint.url}: the answer did not arrive within {timeout:g} s") from error
    return b"".join(pieces)


async def release(request: BaseRequest, held: Held, headers: Headers, *, write_idle: float) -> Relayed:
    """Give a held answer to the client. headers: what it gets of the upstream's."""
    answer: Answer | None = None
    fault: ClientGone | None = None
    try:
        answer = Answer(request, write_idle=write_idle)
        answer.start(held.head, headers, last=False)
        if held.body:
            await answer.write(held.body)
        await answer.finish()
    except ClientGone as gone:
        fault = gone
        if answer is not None and answer.started:
            answer.cut()
    keep_alive = answer is not None and answer.keep_alive
    return Relayed(held.head, keep_alive=keep_alive, sent=answer.sent if answer is not None else 0, fault=fault)
