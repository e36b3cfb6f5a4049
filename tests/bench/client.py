"""One connection at a time, from this process: to look at an answer, to fetch a large one, to hold many open. Blocking sockets."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable, Iterable
from pathlib import Path

_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
_PIECE = bytearray(1 << 20)


def ask(connection: socket.socket, request: bytes) -> tuple[int, bytes, int]:
    """Status, head and body length of the answer, read to its last byte. Raises RuntimeError where it breaks off or has no length."""
    connection.sendall(request)
    head = b""
    while (end := head.find(b"\r\n\r\n")) < 0:
        got = connection.recv(65536)
        if not got:
            raise RuntimeError(f"no answer: {head!r}")
        head += got
    found, status = _LENGTH.search(head, 0, end), int(head[9:12])
    length = int(found[1]) if found else 0
    if found is None and status != 204:
        raise RuntimeError(f"no Content-Length: {head[:end]!r}")
    left = length - (len(head) - end - 4)
    while left > 0:
        received = connection.recv_into(_PIECE)
        if not received:
            raise RuntimeError(f"the answer broke off, {left} bytes missing")
        left -= received
    return status, head[:end], length


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=30)


def look(port: int, requests: Path, *, size: int | None, every: int = 211) -> None:
    """Ask some of the requests of a file. Raises RuntimeError where an answer is no 200, or has another size (None: any).

    wrk takes a redirect for a success, so you must look first."""
    texts = [text + b"\r\n\r\n" for text in requests.read_bytes().split(b"\r\n\r\n")[:-1]]
    with connect(port) as connection:
        for text in texts[::every]:
            status, head, length = ask(connection, text)
            if status not in {200, 204} or (size is not None and length != size):
                raise RuntimeError(f"port {port} answers {text[:80]!r}… with {length} bytes and {head!r}")


def fetch(port: int, request: bytes, cpu: Callable[[], float], *, times: int) -> tuple[int, float, float]:
    """Bytes of all bodies, seconds, and CPU seconds of the process that `cpu` reads."""
    with connect(port) as connection:
        began, used = time.perf_counter(), cpu()
        size = 0
        for _ in range(times):
            status, head, length = ask(connection, request)
            if status != 200:
                raise RuntimeError(f"port {port} answers {head!r}")
            size += length
        return size, time.perf_counter() - began, cpu() - used


def hold(port: int, requests: Iterable[bytes]) -> list[socket.socket]:
    """A connection for each request, answered once and kept. You must close them."""
    held = []
    for request in requests:
        connection = connect(port)
        held.append(connection)
        ask(connection, request)
    return held
