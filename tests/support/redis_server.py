"""A redis-server of our own: on a free port of the loopback, in a folder of the test's, stopped and thawed by whoever started it."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self


def free_port() -> int:
    """A port that nobody listens on. A cluster's own bus takes the port 10,000 above, so both must exist."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port <= 55_000:
            return port


class RedisServer:
    """Start with `with RedisServer(folder) as redis:`; further configuration as `--name value` arguments."""

    def __init__(self, folder: Path, *arguments: str, port: int | None = None) -> None:
        binary = shutil.which("redis-server")
        if binary is None:
            raise RuntimeError("these tests need redis-server on the PATH (Debian: apt-get install redis-server)")
        self.folder = folder
        self.port = port or free_port()
        self._command = [binary, *arguments, "--bind", "127.0.0.1", "--dir", str(folder), "--port", str(self.port)]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and return when it answers."""
        with (self.folder / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=subprocess.STDOUT)
        end = time.monotonic() + 10
        while not self.answers():
            if self._process.poll() is not None or time.monotonic() > end:
                raise RuntimeError("redis-server did not start: " + (self.folder / "redis.log").read_text(errors="replace")[-2000:])
            time.sleep(0.01)

    def answers(self) -> bool:
        """Whether it answers a PING."""
        try:
            return self.command("PING") == b"+PONG\r\n"
        except OSError:
            return False

    def command(self, *words: str | int, size: int = 65536) -> bytes:
        """Send one inline command on a connection of its own; the first bytes of the raw answer."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall(" ".join(str(word) for word in words).encode() + b"\r\n")
            return connection.recv(size)

    def freeze(self) -> None:
        """Stop it in its tracks: connections stay open, nothing answers."""
        self._running().send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._running().send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill it at once; its memory is lost."""
        process = self._running()
        process.kill()
        process.wait()
        self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._process is not None:
            self.kill()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("redis-server is not running")
        return self._process
