"""A GET at an upstream in a user's name: small, bounded, and of no interest but for its headers (a logout)."""

from __future__ import annotations

import asyncio

from gateway.errors import UpstreamTimeout
from gateway.lanes.pool import UpstreamPool
from gateway.lanes.upstream import ResponseHead
from gateway.wire.head import Headers

BOUND = 5.0  # seconds: a user waits for it


def _ignore(_: ResponseHead) -> None:
    """1xx answers mean nothing to an errand."""


async def errand(pool: UpstreamPool, target: bytes, headers: Headers) -> Headers:
    """The headers of the answer; its body is not read. Raises UpstreamFault, within 5 s."""
    try:
        async with asyncio.timeout(BOUND):
            connection = await pool.acquire(fresh=True)
            try:
                connection.send_head("GET", target, headers, has_body=False, chunked=False)
                return (await connection.response(_ignore)).headers
            finally:
                pool.release(connection)
    except TimeoutError as error:
        raise UpstreamTimeout(f"no answer within {BOUND:g} s") from error
