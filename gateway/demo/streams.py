"""What moves many bytes, or stays open: upload, download, events, WebSocket, echo. None of it is ever held in memory whole."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime

from aiohttp import BodyPartReader, WSCloseCode, WSMsgType, hdrs, web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

MAX_DOWNLOAD = 2 << 30  # bytes
MAX_PAUSE = 60.0  # seconds
MAX_MESSAGE = 32 << 20  # bytes of one WebSocket message
CHUNK = 1 << 16
PERIOD = 251  # a prime, so that a lost or doubled chunk of any usual size shows
PATTERN = memoryview(bytes(range(PERIOD)) * 512)
DOWNLOAD_TAG = '"modulo-251"'

CLOSING = web.AppKey("closing", asyncio.Event)
SOCKETS = web.AppKey("sockets", set[web.WebSocketResponse])


def _number(request: web.Request, name: str, default: float, most: float) -> float:
    text = request.query.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,10}(\.[0-9]{1,6})?", text, re.ASCII) or float(text) > most:
        raise web.HTTPBadRequest(text=f"{name} must be a number from 0 to {most:g}.")
    return float(text)


async def _pause(request: web.Request, seconds: float) -> bool:
    """Wait. False if the application is closing, so that whatever waits here ends."""
    try:
        async with asyncio.timeout(seconds):
            await request.app[CLOSING].wait()
    except TimeoutError:
        return True
    return False


async def upload(request: web.Request) -> web.Response:
    """Multipart: the name, length and SHA-256 of its first file. Any other body: its length and SHA-256."""
    if not request.content_type.startswith("multipart/"):
        digest, length = await _digest_body(request)
        return web.json_response({"filename": None, "bytes": length, "sha256": digest})
    answer = None
    try:
        async for part in await request.multipart():
            if answer is None and isinstance(part, BodyPartReader) and part.filename is not None:
                filename, sha, length = part.filename, hashlib.sha256(), 0
                while chunk := await part.read_chunk(CHUNK):
                    sha.update(chunk)
                    length += len(chunk)
                answer = {"filename": filename, "bytes": length, "sha256": sha.hexdigest()}
    except ValueError as error:
        raise web.HTTPBadRequest(text="The multipart body cannot be read.") from error
    if answer is None:
        raise web.HTTPBadRequest(text="The form carries no file.")
    return web.json_response(answer)


async def _digest_body(request: web.Request) -> tuple[str, int]:
    sha, length = hashlib.sha256(), 0
    async for chunk in request.content.iter_any():
        sha.update(chunk)
        length += len(chunk)
    return sha.hexdigest(), length


def _on_the_wire(text: str) -> str:
    """One character for each byte that was received; aiohttp keeps what is not UTF-8 as surrogates."""
    return text.encode("utf-8", "surrogateescape").decode("latin-1")


async def echo(request: web.Request) -> web.Response:
    """The request as it arrived: nothing decoded, nothing sorted, nothing left out."""
    digest, length = await _digest_body(request)
    arrived = {
        "method": request.method,
        "target": _on_the_wire(request.raw_path),
        "version": f"{request.version.major}.{request.version.minor}",
        "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in request.raw_headers],
        "bytes": length,
        "sha256": digest,
    }
    return web.json_response(text=json.dumps(arrived, indent=1))


def _range(request: web.Request, size: int) -> slice | None:
    """The one range that was asked for; None if all is to be sent. 416 if it lies outside (RFC 9110 §14.2).

    A `Range` that is malformed, or names several, is ignored, which the RFC permits.
    """
    found = re.fullmatch(r"bytes=([0-9]{0,15})-([0-9]{0,15})", request.headers.get(hdrs.RANGE, "").strip())
    if not found or found[0] == "bytes=-" or request.headers.get(hdrs.IF_RANGE, DOWNLOAD_TAG) != DOWNLOAD_TAG:
        return None
    first, last = found[1], found[2]
    begin = int(first) if first else max(0, size - int(last))
    end = min(size, int(last) + 1) if first and last else size
    if first and last and int(first) > int(last):
        return None
    if begin >= end:
        raise web.HTTPRequestRangeNotSatisfiable(headers={hdrs.CONTENT_RANGE: f"bytes */{size}"}, text=f"There are {size} bytes.")
    return slice(begin, end)


async def download(request: web.Request) -> web.StreamResponse:
    """`bytes` bytes, of which number i is i modulo 251."""
    text = request.query.get("bytes", "1048576")
    if not re.fullmatch(r"[0-9]{1,10}", text) or int(text) > MAX_DOWNLOAD:
        raise web.HTTPBadRequest(text=f"bytes must be a whole number from 0 to {MAX_DOWNLOAD}.")
    size = int(text)
    wanted = _range(request, size)
    position, end = (wanted.start, wanted.stop) if wanted else (0, size)
    response = web.StreamResponse(status=206 if wanted else 200, headers={hdrs.ACCEPT_RANGES: "bytes", hdrs.ETAG: DOWNLOAD_TAG})
    response.content_type = "application/octet-stream"
    response.content_length = end - position
    if wanted:
        response.headers[hdrs.CONTENT_RANGE] = f"bytes {position}-{end - 1}/{size}"
    await response.prepare(request)
    if request.method == hdrs.METH_HEAD:
        return response
    with suppress(ConnectionError):  # the client has left
        while position < end and not request.app[CLOSING].is_set():
            offset = position % PERIOD
            chunk = PATTERN[offset : offset + min(CHUNK, end - position)]
            await response.write(chunk)
            position += len(chunk)
    if position < end and request.transport is not None:
        request.transport.abort()  # cut short: the client must not take it for the whole
    return response


async def events(request: web.Request) -> web.StreamResponse:
    """Server-sent events, the first at once, then one each `interval` seconds, `count` in all (endless without)."""
    interval = _number(request, "interval", 1.0, MAX_PAUSE)
    count = _number(request, "count", 0, 1_000_000) if "count" in request.query else None
    response = web.StreamResponse(headers={hdrs.CACHE_CONTROL: "no-cache"})
    response.content_type = "text/event-stream"
    await response.prepare(request)
    if request.method == hdrs.METH_HEAD:
        return response
    number = 0
    with suppress(ConnectionError):  # the client has left
        while count is None or number < count:
            number += 1
            data = json.dumps({"number": number, "time": datetime.now(UTC).isoformat()})
            await response.write(f"id: {number}\nevent: tick\ndata: {data}\n\n".encode())
            if number != count and not await _pause(request, interval):
                break
    return response


async def websocket(request: web.Request) -> web.WebSocketResponse:
    """Sends every text and binary message back."""
    socket = web.WebSocketResponse(protocols=("echo",), max_msg_size=MAX_MESSAGE)
    await socket.prepare(request)
    request.app[SOCKETS].add(socket)
    try:
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                await socket.send_str(message.data)
            elif message.type is WSMsgType.BINARY:
                await socket.send_bytes(message.data)
    except ConnectionError:
        pass  # the client has left
    finally:
        request.app[SOCKETS].discard(socket)
    return socket


async def slow(request: web.Request) -> web.Response:
    """An answer whose head comes only after `seconds`."""
    seconds = _number(request, "seconds", 1.0, MAX_PAUSE)
    await _pause(request, seconds)
    return web.Response(text=f"This took {seconds:g} s.\n")


async def _close(app: web.Application) -> None:
    app[CLOSING].set()
    sockets = app[SOCKETS]
    for socket in tuple(sockets):  # each takes itself out of the set
        await socket.close(code=WSCloseCode.GOING_AWAY, message=b"The application stops.")


def add(app: web.Application) -> None:
    """Give `app` these addresses, and end what is open when it shuts down."""
    app[CLOSING] = asyncio.Event()
    app[SOCKETS] = set()
    app.on_shutdown.append(_close)
    app.add_routes(
        [
            web.post("/upload", upload),
            web.put("/upload", upload),
            web.get("/download", download),
            web.get("/events", events),
            web.get("/ws", websocket),
            web.get("/slow", slow),
            web.route("*", "/echo", echo),
            web.route("*", "/echo/{rest:.*}", echo),
        ]
    )
