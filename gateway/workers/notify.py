"""What a service manager is told (sd_notify(3)): a line of text in a datagram to the socket that NOTIFY_SOCKET names.

Nothing is awaited and nothing raised: a service manager that does not listen must not stop the gateway.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import MutableMapping
from contextlib import suppress


class Notifier:
    """Takes NOTIFY_SOCKET out of `environ`: what the gateway starts must not speak for it."""

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        where = environ.pop("NOTIFY_SOCKET", "")
        self._where = "\0" + where[1:] if where.startswith("@") else where

    def ready(self, status: str) -> None:
        self._say(f"READY=1\nSTATUS={status}\nMAINPID={os.getpid()}")

    def status(self, status: str) -> None:
        self._say(f"STATUS={status}")

    def reloading(self) -> None:
        """`ready` ends it. The time is what Type=notify-reload tells this reload from an earlier one by."""
        self._say(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        self._say("STOPPING=1\nSTATUS=letting requests end")

    def _say(self, text: str) -> None:
        if not self._where:
            return
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.sendto(text.encode(), self._where)
