"""`gateway run` as a process: signals and reloads. Why a start is refused is in test_cli_start.py."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from aiohttp import web

from tests.support.gateway import demo_config
from tests.support.ports import free_port
from tests.support.process import GatewayProcess, eventually, outside

REFUSED = "reload refused; the running configuration stays"


class SlowApp:
    """An upstream that answers when it is told to."""

    def __init__(self) -> None:
        self.arrived = asyncio.Event()
        self.release = asyncio.Event()

    async def handle(self, _request: web.Request) -> web.Response:
        self.arrived.set()
        await self.release.wait()
        return web.Response(text="at last")


@asynccontextmanager
async def slow_app() -> AsyncIterator[tuple[SlowApp, str]]:
    app, slow = web.Application(), SlowApp()
    app.router.add_get("/{tail:.*}", slow.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield slow, f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def change(config: Path, **changes: Any) -> None:
    """Write a configuration with other top-level keys."""
    raw = yaml.safe_load(config.read_text())
    config.write_text(yaml.safe_dump({**raw, **changes}, sort_keys=False))


def denying(path: str) -> list[dict[str, Any]]:
    return [{"name": "closed", "match": {"path": path}, "deny": {"message": "Closed today."}}]


def accepts(url: str) -> bool:
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


# -- signals -------------------------------------------------------------------------------------------------------------


async def test_sigterm_lets_a_running_request_end_and_exits_with_0(tmp_path: Path) -> None:
    async with slow_app() as (slow, url), outside(tmp_path, upstreams={"bank": {"url": url}}) as there:
        answer = asyncio.create_task(there.browser().get("/slow"))
        await slow.arrived.wait()
        there.process.signal(signal.SIGTERM)
        await eventually(lambda: not accepts(there.base))
        slow.release.set()
        reply = await answer
        assert (reply.status, reply.text) == (200, "at last")
        assert await there.process.ended() == 0
        assert not accepts(there.admin)
        assert "Traceback" not in there.process.text


async def test_a_request_that_outlasts_limits_drain_is_cut_off(tmp_path: Path) -> None:
    async with slow_app() as (slow, url), outside(tmp_path, upstreams={"bank": {"url": url}}, limits={"drain": "100ms"}) as there:
        answer = asyncio.create_task(there.browser().get("/slow"))
        await slow.arrived.wait()
        assert await there.process.stop() == 0
        with pytest.raises(aiohttp.ClientError):
            await answer
        assert "Traceback" not in there.process.text


# -- reloads -------------------------------------------------------------------------------------------------------------


async def test_sighup_reloads_and_sigint_ends_it_with_0(tmp_path: Path) -> None:
    async with outside(tmp_path) as there:
        assert not there.process.logged("reloaded")
        there.process.signal(signal.SIGHUP)
        await eventually(lambda: there.process.logged("reloaded"))
        assert (await there.browser().get("/")).status == 200
        there.process.signal(signal.SIGINT)
        assert await there.process.ended() == 0
        assert "Traceback" not in there.process.text


async def test_a_changed_file_reloads_and_no_request_fails_meanwhile(tmp_path: Path) -> None:
    async with outside(tmp_path, rules=[]) as there:
        browser, statuses, over = there.browser(), set[int](), asyncio.Event()

        async def visit() -> None:
            while not over.is_set():
                statuses.add((await browser.get("/")).status)

        visits = [asyncio.create_task(visit()) for _ in range(3)]
        change(there.config, rules=denying("/"))
        await eventually(lambda: 403 in statuses)
        change(there.config, rules=[])
        await eventually(lambda: len(there.process.logged("reloaded")) == 2)
        over.set()
        await asyncio.gather(*visits)
        assert statuses == {200, 403}


async def test_a_mistake_keeps_the_running_configuration_and_the_log_says_why(tmp_path: Path) -> None:
    async with outside(tmp_path, rules=denying("/closed")) as there:
        browser = there.browser()
        change(there.config, rules=[{"name": "broken", "require": ["cod"]}])
        (line,) = await eventually(lambda: there.process.logged(REFUSED))
        assert line["mistake"].startswith(f"{there.config}:")
        assert 'rules[0].require[0]: no step named "cod"; did you mean "code"?' in line["mistake"]
        assert (await browser.get("/closed")).status == 403
        change(there.config, rules=denying("/other"))
        await eventually(lambda: there.process.logged("reloaded"))
        assert (await browser.get("/closed")).status == 404
        assert (await browser.get("/other")).status == 403
        metrics = (await browser.get(f"{there.admin}/metrics")).text
        assert 'stepup_reloads_total{outcome="refused"} 1.0' in metrics
        assert 'stepup_reloads_total{outcome="done"} 1.0' in metrics


# -- odds ----------------------------------------------------------------------------------------------------------------


async def test_listen_on_the_command_line_goes_before_the_files(tmp_path: Path) -> None:
    listen, admin, port = free_port(), free_port(), free_port()
    config = demo_config(tmp_path, app_port=free_port(), port=listen, admin_port=admin, mail={"smtp": "smtp://127.0.0.1:25"})
    process = GatewayProcess(config, f"http://127.0.0.1:{admin}", "run", "--listen", f"127.0.0.1:{port}")
    try:
        await process.start()
        async with aiohttp.ClientSession() as session:
            host = {"Host": f"127.0.0.1:{listen}"}  # `public_url` stays what it was
            async with session.get(f"http://127.0.0.1:{port}/.stepup/jwks.json", headers=host) as answer:
                assert answer.status == 200
        assert not accepts(f"http://127.0.0.1:{listen}")
    finally:
        process.kill()


async def test_ten_thousand_rules_are_run(tmp_path: Path) -> None:
    async with outside(tmp_path, start=False, rules=[]) as there:
        lines = (
            f'  - {{name: r{n}, match: {{path: /app{n}/**, method: POST}}, deny: {{message: "Number {n} is closed."}}}}\n'
            for n in range(10_000)
        )
        text = there.config.read_text()
        there.config.write_text(text.replace("rules: []\n", "rules:\n" + "".join(lines)))
        await there.process.start()
        (line,) = there.process.logged("listening")
        assert line["rules"] == 10_000
        browser = there.browser()
        reply = await browser.post("/app9876/x", {"a": "b"})
        assert (reply.status, "Number 9876 is closed." in reply.text) == (403, True)
        assert (await browser.post("/app10000/x", {"a": "b"})).status == 404
