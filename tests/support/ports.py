"""Ports on loopback that nobody listens on right now."""

from __future__ import annotations

import socket


def free_port() -> int:
    """A port that the system just gave and took back; the next listener on it is expected to be ours."""
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])
