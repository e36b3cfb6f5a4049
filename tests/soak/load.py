"""What the parts share: a gateway in a process of its own in front of this process, and the raw exchanges that load it."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.process import Outside, outside
from tests.support.raw import OK, RawPeer, Script, Truncated, raw_client, raw_upstream
from tests.support.resident import resident_leaf

MIB = 1 << 20
LANE = os.environ.get("SOAK_LANE", "auto")
PIECE = bytes(range(256)) * 4096


@dataclass
class Loaded:
    """The gateway, and ways to it."""

    found: Outside
    port: int

    @property
    def pid(self) -> int:
        assert self.found.process._process is not None
        return self.found.process._process.pid

    @property
    def resident(self) -> int:
        """Of the one worker, bytes."""
        return resident_leaf(self.pid)

    def request(self, line: str, fields: str = "") -> bytes:
        return f"{line} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n{fields}\r\n".encode()

    async def ask(self, peer: RawPeer, line: str = "GET /x", fields: str = "") -> int:
        await peer.send(self.request(line, fields))
        return (await peer.response()).status


@asynccontextmanager
async def loaded(script: Script, **config: Any) -> AsyncIterator[Loaded]:
    """A gateway in front of an upstream that does this with each connection."""
    with tempfile.TemporaryDirectory(prefix="stepup-soak-") as folder:
        changes: dict[str, Any] = {"command": ("run", "--workers", "1"), **config}
        async with raw_upstream(script) as upstream, outside(Path(folder), **{**_config(upstream.url), **changes}) as found:
            made = Loaded(found, int(found.base.rpartition(":")[2]))
            async with raw_client(made.port) as peer:
                assert await made.ask(peer) == 200
            yield made


def _config(url: str) -> dict[str, Any]:
    return {"upstreams": {"bank": {"url": url}}, "lane": LANE}


async def answering_ok(_upstream: object, peer: RawPeer) -> None:
    while True:
        await peer.message()
        await peer.send(OK)


@dataclass
class Tally:
    """Statuses and breaks of a load, and how long the longest answer took, in seconds."""

    statuses: dict[int, int] = field(default_factory=dict)
    broken: int = 0
    longest: float = 0.0

    @property
    def requests(self) -> int:
        return sum(self.statuses.values())

    def count(self, status: int, took: float) -> None:
        self.statuses[status] = self.statuses.get(status, 0) + 1
        self.longest = max(self.longest, took)


async def pound(gateway: Loaded, over: asyncio.Event, tally: Tally) -> None:
    """One client that asks again and again, on a connection that it keeps as long as it lasts."""
    while not over.is_set():
        try:
            async with raw_client(gateway.port) as peer:
                while not over.is_set():
                    begun = time.perf_counter()
                    await peer.send(gateway.request("GET /x"))
                    head = await peer.head()
                    await peer.body(head)
                    tally.count(head.status, time.perf_counter() - begun)
                    if head.get(b"connection") == b"close":
                        break
        except (Truncated, OSError):
            tally.broken += 1
