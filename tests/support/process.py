"""A gateway as operators run it: `gateway run` in a process of its own, on free ports, in a folder of the test's, mailing by real SMTP.

It can be killed at any moment and started again on the same folder. Nothing here waits for a fixed time.
"""

from __future__ import annotations

import asyncio
import email
import email.policy
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email.message import EmailMessage
from pathlib import Path
from typing import Any, cast

import aiohttp
from aiosmtpd.smtp import SMTP, Envelope

from gateway.app import GatewayApp
from gateway.demo.app import start as start_app
from tests.support.gateway import Running, demo_config
from tests.support.ports import free_port

PATIENCE = 20.0  # seconds after which whatever is waited for has failed


async def eventually(holds: Callable[[], Any], within: float = PATIENCE) -> Any:
    """What `holds` (also a coroutine function) gives as soon as it is true of something; TimeoutError when it is not within that time."""
    async with asyncio.timeout(within):
        while True:
            found = holds()
            found = await found if asyncio.iscoroutine(found) else found
            if found:
                return found
            await asyncio.sleep(0.01)


def is_alive(pid: int) -> bool:
    """It runs: it has not ended, nor waits for its parent to take note of that."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class GatewayProcess:
    """`python -m gateway COMMAND… -c config`. What it writes is kept in a file of the configuration's folder."""

    def __init__(self, config: Path, admin: str, *command: str, before: Sequence[str] = ()) -> None:
        """before: a program and its arguments, which starts the rest of the command line in its own place."""
        self.config = config
        self.admin = admin
        self.output = config.parent / "output.log"
        self._command = [*before, sys.executable, "-m", "gateway", *(command or ("run",)), "-c", str(config)]
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self, probe: str = "/health/ready") -> None:
        """Start it, and return when the probe says yes. Raises AssertionError with its output when it ends instead."""
        with self.output.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - so that it can be killed without the loop
                self._command, cwd=self.config.parent, stdout=output, stderr=output
            )
        async with aiohttp.ClientSession() as session:
            await eventually(lambda: self._says(session, probe))

    async def _says(self, session: aiohttp.ClientSession, probe: str) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.text
        try:
            async with session.get(self.admin + probe) as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def workers(self) -> dict[str, int]:
        """Process ids of those that serve now, by the worker's number, the newest of each."""
        alive = {int(line["pid"]): line["worker"] for line in self.logged("worker started") if is_alive(line["pid"])}
        return {name: pid for pid, name in alive.items()}

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """kill -9: no handler runs, nothing is flushed."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    async def stop(self) -> int:
        """SIGTERM; its exit code."""
        self.signal(signal.SIGTERM)
        return await self.ended()

    async def ended(self) -> int:
        """Wait for its end; its exit code."""
        process = self._process
        assert process is not None
        await eventually(lambda: process.poll() is not None)
        self._process = None
        return int(process.returncode)

    @property
    def text(self) -> str:
        """All that it wrote, in every life."""
        return self.output.read_text(errors="replace") if self.output.exists() else ""

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Its log, where that is JSON. A line that is just being written is not whole yet."""
        return [json.loads(line) for line in self.text.splitlines(keepends=True) if line.startswith("{") and line.endswith("\n")]

    def logged(self, event: str, **fields: Any) -> list[dict[str, Any]]:
        """Lines of one event with these fields."""
        return [line for line in self.lines if line["event"] == event and fields.items() <= line.items()]


def run_gateway(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A command of the gateway that ends by itself."""
    return subprocess.run([sys.executable, "-m", "gateway", *arguments], cwd=cwd, capture_output=True, text=True, timeout=PATIENCE)


class Inbox:
    """A handler of aiosmtpd that keeps what it gets, newest first."""

    def __init__(self) -> None:
        self.mails: list[dict[str, str]] = []

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Envelope) -> str:  # noqa: N802 - aiosmtpd's name
        assert isinstance(envelope.content, bytes)
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        assert isinstance(message, EmailMessage)
        self.mails.insert(0, {"to": envelope.rcpt_tos[0], "subject": str(message["subject"]), "text": message.get_content()})
        return "250 OK"


@dataclass
class Outside(Running):
    """The way through a gateway in a process of its own; `app` is none of ours to look into."""

    process: GatewayProcess = field(default_factory=lambda: cast("GatewayProcess", None))
    inbox: Inbox = field(default_factory=Inbox)

    @property
    def mails(self) -> list[dict[str, str]]:
        return self.inbox.mails


@asynccontextmanager
async def outside(
    folder: Path, *, start: bool = True, command: Sequence[str] = (), before: Sequence[str] = (), **changes: Any
) -> AsyncIterator[Outside]:
    """Demo app and mail server in this process, the gateway in another. changes: top-level keys of gateway.yaml."""
    runner = await start_app("127.0.0.1", 0)
    app_port, port, admin_port = runner.addresses[0][1], free_port(), free_port()
    inbox, loop = Inbox(), asyncio.get_running_loop()
    smtp = await loop.create_server(lambda: SMTP(inbox, hostname="localhost", loop=loop), "127.0.0.1", 0)
    mail = {"smtp": f"smtp://127.0.0.1:{smtp.sockets[0].getsockname()[1]}", "from": "security@bank.example.com"}
    changes = {"mail": mail, "log": {"format": "json"}, **changes}
    path = demo_config(folder, app_port=app_port, port=port, admin_port=admin_port, **changes)
    base, admin = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{admin_port}"
    process = GatewayProcess(path, admin, *command, before=before)
    found = Outside(cast("GatewayApp", None), base, admin, f"http://127.0.0.1:{app_port}", path, None, process=process, inbox=inbox)
    try:
        if start:
            await process.start()
        yield found
    finally:
        for jar in found.jars:
            await jar.close()
        process.kill()
        smtp.close()
        await smtp.wait_closed()
        await runner.cleanup()
