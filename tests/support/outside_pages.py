"""Pages of others as processes of their own: exactly the code that docs/how-to/external-page.md shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from tests.support.node import MODULES, node
from tests.support.ports import free_port
from tests.support.process import eventually

DOCUMENT = Path(__file__).parents[2] / "docs/how-to/external-page.md"


def shown(language: str, holds: str) -> str:
    """The block of that language that holds a text."""
    found = [b for b in re.findall(rf"^```{language}\n(.*?)^```$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL) if holds in b]
    assert len(found) == 1, (language, holds)
    return str(found[0])


@asynccontextmanager
async def page_process(folder: Path, kind: str, code: str, *, port: int | None = None, **environment: str) -> AsyncIterator[int]:
    """Runs the page until the block ends; yields its port. kind: "flask" or "express". It learns nothing of us but what stands in
    `environment`."""
    port = port or free_port()
    env = {"PATH": os.environ["PATH"], "PORT": str(port), "NODE_PATH": str(MODULES), **environment}
    if kind == "flask":
        (folder / "page.py").write_text(code)
        command = [sys.executable, "-m", "flask", "--app", "page", "run", "--port", str(port)]
    else:
        (folder / "page.js").write_text(code)
        command = [node(), "page.js"]
    log = (folder / f"{kind}.log").open("wb")
    process = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=log)  # noqa: ASYNC220 - it must end with the test

    async def answers() -> bool:
        assert process.poll() is None, (folder / f"{kind}.log").read_text()
        try:
            async with session.get(f"http://127.0.0.1:{port}/verify") as answer:
                return answer.status in (400, 404)
        except aiohttp.ClientError:
            return False

    try:
        async with aiohttp.ClientSession() as session:
            await eventually(answers)
        yield port
    finally:
        process.kill()
        process.wait()
        log.close()
