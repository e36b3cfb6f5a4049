"""Decisions that come again and again: the line of each is rendered once, by what renders all lines, and filled in. Lines wait for one
another for a moment, so that many go out in one write; whatever else is logged lets them go first.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TextIO

WAIT = 0.05  # seconds that a line may wait
MOST = 4096  # bytes in one write: a pipe takes as many at once without tearing them (POSIX PIPE_BUF on Linux)

FILLED = ("@request_id@", "@method@", "@path@", "@timestamp@")
"""Stand in a rendered line for what is filled in."""


class Lines:
    """Where lines go. Implements what structlog writes to: `write` and `flush`."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._waiting: list[str] = []
        self._size = 0
        self._due = False

    def write(self, text: str) -> None:
        self.settle()
        self._out.write(text)

    def flush(self) -> None:
        self._out.flush()

    def isatty(self) -> bool:
        return self._out.isatty()

    def later(self, line: str) -> None:
        """A whole line, its end included, that may wait. Only inside a running loop."""
        self._size += len(line)
        if self._size > MOST:  # now and then a little, rather than much at once
            self.settle()
            self._size = len(line)
        self._waiting.append(line)
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_later(WAIT, self._settle_now)

    def settle(self) -> None:
        """Write what waits."""
        lines, self._waiting, self._size = self._waiting, [], 0
        piece: list[str] = []
        size = 0
        for line in lines:
            if size + len(line) > MOST and piece:
                self._out.write("".join(piece))
                self._out.flush()
                piece, size = [], 0
            piece.append(line)
            size += len(line)
        if piece:
            self._out.write("".join(piece))
            self._out.flush()

    def _settle_now(self) -> None:
        self._due = False
        self.settle()


class Template:
    """A line with holes, in whatever order they stand in it."""

    def __init__(self, rendered: str) -> None:
        """Raises ValueError where a hole is not in it exactly once."""
        if any(rendered.count(hole) != 1 for hole in FILLED):
            raise ValueError("a hole is not there exactly once")
        escaped = rendered.replace("%", "%%")
        order = sorted(range(len(FILLED)), key=lambda index: rendered.index(FILLED[index]))
        for hole in FILLED:
            escaped = escaped.replace(hole, "%s")
        self._text = escaped + "\n"
        self._order = order
        self.fill: Callable[[str, str, str, str], str] = self._filler()

    def _filler(self) -> Callable[[str, str, str, str], str]:
        text, order = self._text, self._order
        if order == [0, 1, 2, 3]:
            return lambda request_id, method, path, stamp: text % (request_id, method, path, stamp)
        if order == [3, 1, 2, 0]:
            return lambda request_id, method, path, stamp: text % (stamp, method, path, request_id)
        return lambda *values: text % tuple([values[index] for index in order])


class Stamps:
    """Times as structlog's TimeStamper writes them; the second is worked out once."""

    def __init__(self) -> None:
        self._second = -1
        self._prefix = ""

    def stamp(self, now: float) -> str:
        second = int(now)
        if second != self._second:
            self._second = second
            self._prefix = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S.")
        return f"{self._prefix}{int((now - second) * 1e6):06d}Z"

    def now(self) -> str:
        return self.stamp(time.time())
