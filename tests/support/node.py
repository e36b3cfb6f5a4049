"""Programs of others in Node.js: scripts of tests/node, each in a process of its own, with the packages that are installed there.

Their contract: listen on a free loopback port, write the URL as the first line of stdout, end at SIGTERM.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.process import PATIENCE, eventually

FOLDER = Path(__file__).parents[1] / "node"


@dataclass
class NodeProcess:
    """url: where it answers. output: all that it wrote, in both streams (`text`); removed when it ends."""

    process: subprocess.Popen[bytes]
    output: Path
    url: str = ""

    @property
    def text(self) -> str:
        return self.output.read_text(errors="replace")

    @property
    def pid(self) -> int:
        return self.process.pid

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL for one that does not heed it."""
        self.process.terminate()
        try:
            await eventually(lambda: self.process.poll() is not None, within=5)
        except TimeoutError:
            self.process.kill()
            await asyncio.to_thread(self.process.wait, PATIENCE)
        self.output.unlink(missing_ok=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.stop()

    def _first_line(self) -> str:
        """The URL, once it is whole. The program's warnings may stand before it."""
        assert self.process.poll() is None, f"node ended with {self.process.returncode}: {self.text}"
        found = [line.strip() for line in self.text.splitlines(keepends=True) if line.startswith("http") and line.endswith("\n")]
        return found[0] if found else ""


async def start(script: str | Path, *args: str, env: Mapping[str, str] | None = None) -> NodeProcess:
    """`node SCRIPT ARGS…`, running and listening. script: a name in tests/node, or a path. env: beside the test's own environment.

    A script that lies elsewhere finds the packages of tests/node by `require`, not by `import` (Node's NODE_PATH).
    You must `stop` it, or use it by `async with`. Raises AssertionError with its output when it ends, TimeoutError when it is silent.
    """
    assert (FOLDER / "node_modules").is_dir(), "the packages of tests/node are missing: run tools/setup.sh test"
    handle, name = tempfile.mkstemp(prefix="node-", suffix=".log")
    try:
        process = subprocess.Popen(  # noqa: ASYNC220 - it outlives this call, and is ended by its pid
            ["node", str(FOLDER / script), *args],
            cwd=FOLDER,
            stdin=subprocess.DEVNULL,
            stdout=handle,
            stderr=handle,
            env={**os.environ, "NODE_PATH": str(FOLDER / "node_modules"), **(env or {})},
        )
    finally:
        os.close(handle)
    running = NodeProcess(process, Path(name))
    try:
        running.url = await eventually(running._first_line)
    except BaseException:
        await running.stop()
        raise
    return running


@asynccontextmanager
async def node_module_server(script: str | Path, *args: str, env: Mapping[str, str] | None = None) -> AsyncIterator[NodeProcess]:
    """The same, for as long as the block runs."""
    async with await start(script, *args, env=env) as running:
        yield running


@asynccontextmanager
async def provider(**options: Any) -> AsyncIterator[NodeProcess]:
    """The OpenID provider of tests/node/provider.mjs; its options stand there."""
    async with await start("provider.mjs", json.dumps(options)) as running:
        yield running
