"""Bodies of requests: streamed from the client, looked into first, or given.

Nothing is read before somebody asks: until then `Expect: 100-continue` is the upstream's to answer. Whoever reads a body
inside the gateway (`peek`, `read_body`) sends the 100 itself.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

from aiohttp import hdrs
from aiohttp.http import HttpVersion11
from aiohttp.web import RequestKey
from aiohttp.web_request import BaseRequest

from gateway.errors import BodyTooLarge, ClientGone


class BodyTimeout(ClientGone):
    """The client sent nothing of its body for too long. Answered with 408 where an answer is still possible."""


class Body(Protocol):
    """What `forward` sends. `length` in bytes, None for chunked; `present` says that bytes may follow; `untouched` that
    none was taken from the client yet; `continued` that the client was already told 100."""

    @property
    def length(self) -> int | None: ...
    @property
    def present(self) -> bool: ...
    @property
    def untouched(self) -> bool: ...
    @property
    def continued(self) -> bool: ...

    def check(self) -> None:
        """Raises BodyTooLarge when the declared length is above the bound."""

    async def read(self) -> bytes:
        """The next bytes, b"" at the end. Raises BodyTooLarge, ClientGone, BodyTimeout."""


class GivenBody:
    """Bytes that the gateway has already, for a replay."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.length: int | None = len(data)
        self.present = bool(data)
        self.untouched = True
        self.continued = True

    def check(self) -> None:
        """Nothing can be too large here: it was bounded when it was stored."""

    async def read(self) -> bytes:
        data, self._data = self._data, b""
        self.untouched = False
        return data


@dataclass(frozen=True, slots=True)
class Peeked:
    """The beginning of a body. `whole`: there is nothing behind `data`."""

    data: bytes
    whole: bool


class ClientBody:
    """The body of a client's request, as it comes. `limit` in bytes bounds what is read in all, `idle_timeout` in seconds
    the silence within it."""

    def __init__(
        self, request: BaseRequest, *, limit: int, idle_timeout: float, timeout: float | None = None, total: float | None = None
    ) -> None:
        """timeout: seconds in which what is peeked at must have arrived; None for as long as it goes on arriving. total: seconds from now
        in which all of it must have arrived."""
        self._request = request
        self._limit = limit
        self._idle = idle_timeout
        self._timeout = timeout
        self._total = total
        self._end = asyncio.get_running_loop().time() + total if total is not None else float("inf")
        self._peeked: list[bytes] = []
        self._taken = 0
        self._ended = False
        declared = request.headers.get(hdrs.CONTENT_LENGTH)
        self.length = None if declared is None else int(declared)
        self.present = hdrs.TRANSFER_ENCODING in request.headers or bool(self.length)
        self.untouched = True
        self.continued = False
        if not self.present and self.length is None:
            self.length = 0

    def lend(self) -> None:
        """Let `read_body` have what was peeked at."""
        self._request[_LENT] = self

    def check(self) -> None:
        """Raises BodyTooLarge when the declared length is above the limit."""
        if self.length is not None and self.length > self._limit:
            raise BodyTooLarge(f"the declared length {self.length} is above {self._limit} bytes")

    async def read(self) -> bytes:
        if self._peeked:
            return self._peeked.pop(0)
        return await self._next()

    async def peek(self, size: int) -> Peeked:
        """Up to `size` bytes and a little more, which `read` will return again. A body declared longer than `size` is not
        read at all. Raises as `read` does."""
        if not self.present:
            return Peeked(b"", whole=True)
        if self.length is not None and self.length > size:
            return Peeked(b"", whole=False)
        held = sum(map(len, self._peeked))
        try:
            async with asyncio.timeout(self._timeout):
                while held <= size and not self._ended:
                    self._welcome()
                    piece = await self._next()
                    if piece:
                        self._peeked.append(piece)
                        held += len(piece)
        except TimeoutError as error:
            raise BodyTimeout(f"the body did not arrive within {self._timeout} s") from error
        data = b"".join(self._peeked)
        return Peeked(data[:size], whole=self._ended and len(data) <= size)

    def _welcome(self) -> None:
        """Tell a client that waits for it to go on (RFC 9110 §10.1.1)."""
        request = self._request
        if self.continued or not self.untouched or request.version < HttpVersion11:
            return
        if request.headers.get(hdrs.EXPECT, "").lower() == "100-continue" and request.transport is not None:
            self.continued = True
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    async def _next(self) -> bytes:
        if self._ended or not self.present:
            return b""
        self.check()
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(min(loop.time() + self._idle, self._end)):
                piece = await self._request.content.readany()
        except TimeoutError as error:
            if loop.time() >= self._end:
                raise BodyTimeout(f"the body did not arrive within {self._total:g} s") from error
            raise BodyTimeout(f"nothing of the body for {self._idle:g} s") from error
        except asyncio.CancelledError:
            raise
        except Exception as error:  # aiohttp: the connection's OSError, RequestPayloadError, RuntimeError("Connection closed.")
            raise ClientGone(f"the body broke off: {error}") from error
        if not piece:
            self._ended = True
            return b""
        self.untouched = False
        self._taken += len(piece)
        if self._taken > self._limit:
            raise BodyTooLarge(f"more than {self._limit} bytes")
        return piece


_LENT = RequestKey("lent", ClientBody)


async def read_body(request: BaseRequest, limit: int, *, idle_timeout: float, timeout: float | None = None) -> bytes:
    """The whole body, at most `limit` bytes; a waiting client is told to go on first.

    Raises BodyTooLarge (before the client is told to go on, where it declared the length), ClientGone, BodyTimeout.
    """
    body = request.get(_LENT) or ClientBody(request, limit=limit, idle_timeout=idle_timeout, timeout=timeout)
    body.check()
    peeked = await body.peek(limit)
    if not peeked.whole:
        raise BodyTooLarge(f"more than {limit} bytes")
    return peeked.data
