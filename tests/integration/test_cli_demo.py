"""`gateway demo` as a process: what it prints, what stands then, and how Ctrl-C ends it."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import yaml

from tests.support.gateway import NAVIGATION, demo_config
from tests.support.ports import free_port
from tests.support.process import PATIENCE


@dataclass
class Demo:
    """What the command has written so far, and its process."""

    process: Process
    lines: list[str] = field(default_factory=list)

    async def says(self, words: str) -> str:
        """The line with these words, when it comes."""
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            while line := (await self.process.stdout.readline()).decode():
                self.lines.append(line)
                if words in line:
                    return line
        raise AssertionError("".join(self.lines))

    async def ends(self) -> int:
        """Its exit code; what it wrote until then is in `lines`."""
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            rest = await self.process.stdout.read()
            self.lines.extend(rest.decode().splitlines(keepends=True))
            return await self.process.wait()

    @property
    def text(self) -> str:
        return "".join(self.lines)


@asynccontextmanager
async def demo(cwd: Path, *arguments: str) -> AsyncIterator[Demo]:
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "gateway", "demo", *arguments, cwd=cwd, stdout=PIPE, stderr=STDOUT)
    try:
        yield Demo(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def config(folder: Path) -> tuple[str, str, str]:
    """gateway.yaml as it is in the repository, on free ports: where gateway, admin pages and app will be."""
    app, port, admin = free_port(), free_port(), free_port()
    demo_config(folder, app_port=app, port=port, admin_port=admin, terms=True)
    return f"http://127.0.0.1:{port}", f"http://127.0.0.1:{admin}", f"http://127.0.0.1:{app}"


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


async def test_it_prints_what_to_open_and_ctrl_c_stops_both(tmp_path: Path) -> None:
    base, admin, app = config(tmp_path)
    async with demo(tmp_path) as running, aiohttp.ClientSession(headers=NAVIGATION) as session:
        await running.says("Ctrl-C stops both.")
        for words in (f"{base}/", f"{admin}/dev/mailbox", f"{app}/", "alice / wonderland", "bob / builder", "gateway.yaml"):
            assert words in running.text
        for url in (f"{base}/", f"{app}/", f"{admin}/health/ready", f"{admin}/dev/mailbox"):
            async with session.get(url) as answer:
                assert answer.status == 200, url
        async with session.post(f"{base}/login", data={"username": "alice"}, allow_redirects=False) as answer:
            assert answer.status == 303
            assert answer.headers["Location"].startswith("/.stepup/t/su_")
        running.process.send_signal(signal.SIGINT)
        assert await running.ends() == 0
        assert "Traceback" not in running.text
        for url in (base, app, admin):
            assert not await _answers(url), url


async def test_ctrl_c_does_not_wait_for_streams_that_never_end(tmp_path: Path) -> None:
    base, _, _ = config(tmp_path)
    async with demo(tmp_path) as running, aiohttp.ClientSession() as session:
        await running.says("Ctrl-C stops both.")
        async with session.ws_connect(f"{base}/ws") as socket, session.get(f"{base}/events") as events:
            await socket.send_str("hello")
            assert (await socket.receive()).data == "hello"
            assert await events.content.readline()
            running.process.send_signal(signal.SIGINT)
            assert await running.ends() == 0
        assert "Traceback" not in running.text


async def test_what_it_makes_stays_in_the_folder_of_the_configuration(tmp_path: Path) -> None:
    config(tmp_path / "etc")
    async with demo(tmp_path, "-c", "etc/gateway.yaml") as running:
        await running.says("Ctrl-C stops both.")
        running.process.send_signal(signal.SIGTERM)
        assert await running.ends() == 0
    assert names(tmp_path) == {"etc"}
    assert {"secret.key", "state.db", "records.db"} <= names(tmp_path / "etc" / "var")


def test_the_repositorys_configuration_is_on_the_documented_ports() -> None:
    raw = yaml.safe_load((Path(__file__).parents[2] / "gateway.yaml").read_text())
    assert raw.get("listen", "127.0.0.1:8080") == "127.0.0.1:8080"
    assert raw["public_url"] == ["http://127.0.0.1:8080", "http://localhost:8080"]
    assert raw["upstreams"]["bank"]["url"] == "http://127.0.0.1:8081"
    assert raw.get("admin", {}).get("listen", "127.0.0.1:8090") == "127.0.0.1:8090"


async def test_the_app_alone_needs_no_configuration(tmp_path: Path) -> None:
    async with demo(tmp_path, "--app-only", "--port", "0") as running, aiohttp.ClientSession() as session:
        line = await running.says("The legacy app: ")
        found = re.search(r"http://127\.0\.0\.1:\d+/", line)
        assert found, line
        async with session.get(found[0]) as answer:
            assert answer.status == 200
        running.process.send_signal(signal.SIGINT)
        assert await running.ends() == 0
        assert "Traceback" not in running.text
    assert names(tmp_path) == set()


async def _answers(url: str) -> bool:
    try:
        async with aiohttp.ClientSession() as session, session.get(url):
            return True
    except aiohttp.ClientError:
        return False
