"""Ports on loopback that nobody listens on right now."""

from __future__ import annotations

import os
import random
import socket

# Below the range that Linux gives to outgoing connections (ip_local_port_range): otherwise somebody's connection may take the port before
# its listener does, and polling a port that nobody listens on may in the end connect to itself.
_FIRST, _LAST = 15_000, 32_000
_RANDOM = random.SystemRandom()  # not the seed that Hypothesis gives to every worker alike
_given: set[int] = set()
# Workers of one run never take each other's: each has every n-th port.
_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))


def free_port() -> int:
    """A port that could be listened on a moment ago, and that this process has not been given before."""
    while True:
        port = _RANDOM.randrange(_FIRST + _WORKER, _LAST, _WORKERS)
        if port in _given:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.add(port)
        return port
