"""The event loop of everything that serves: uvloop's, or asyncio's own where there is none, and where the gateway speaks TLS: there uvloop
reads from a connection before TLS can be begun on it, so that handshakes could not be counted within the bounds."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

try:
    import uvloop
except ImportError:  # a platform that has no wheel of it
    new_event_loop = asyncio.new_event_loop
else:
    new_event_loop = uvloop.new_event_loop

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T], *, tls: bool = False) -> T:
    """As asyncio.run does. tls: on the public listener."""
    with asyncio.Runner(loop_factory=asyncio.new_event_loop if tls else new_event_loop) as runner:
        return runner.run(work)
