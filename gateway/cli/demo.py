"""`gateway demo`: the bundled legacy app and the gateway in front of it, on loopback."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

import click
from aiohttp.web import AppRunner

from gateway.app import GatewayApp
from gateway.cli.common import Signals, config_option, fail, loaded_or_exit
from gateway.cli.serving import serve_until_signal
from gateway.demo.app import start as start_app
from gateway.errors import GatewayError
from gateway.settings.load import Loaded
from gateway.telemetry.logs import configure
from gateway.workers.loop import run

APP_PORT = 8081
DRAIN = 1.0  # seconds: somebody at a terminal waits for the end, and an open WebSocket would keep it from coming


@click.command()
@config_option
@click.option("--app-only", is_flag=True, help="Start the legacy app alone, without the gateway.")
@click.option(
    "--port", type=click.IntRange(0, 65535), help=f"Port of the legacy app, with --app-only ({APP_PORT} unless given; 0: a free one)."
)
def demo(config: Path, app_only: bool, port: int | None) -> None:
    """Start a small legacy banking app, and the gateway in front of it.

    Listens on loopback only. The app stands where the configuration's first upstream on loopback is. Mail goes to a mailbox in memory
    that the admin listener shows. Keys and stores are made where the configuration says (`var/`). Rules that you change are taken over at
    once. Ctrl-C stops both.

    \b
    Exit codes:
      0  stopped by a signal
      1  it could not start (a port in use)
      2  mistakes in the configuration or on the command line
    """
    if app_only:
        run(_app_only(APP_PORT if port is None else port))
        return
    if port is not None:
        raise click.UsageError(f"--port goes with --app-only; with the gateway, the app stands where {config} has its upstream.")
    loaded = loaded_or_exit(config)
    configure(loaded.spec.log)
    run(_demo(config, loaded), tls=loaded.spec.tls is not None)


async def _started(port: int) -> AppRunner:
    try:
        return await start_app("127.0.0.1", port)
    except OSError as error:
        fail(f"the legacy app cannot listen on 127.0.0.1:{port}: {os.strerror(error.errno or 0)}")


async def _app_only(port: int) -> None:
    signals = Signals()
    runner = await _started(port)
    click.echo(f"The legacy app: http://127.0.0.1:{runner.addresses[0][1]}/   (alice/wonderland, bob/builder)   Ctrl-C stops it.")
    await signals.stop.wait()
    await runner.cleanup()


async def _demo(config: Path, loaded: Loaded) -> None:
    signals = Signals()
    port = _port(loaded)
    runner = await _started(port)
    try:
        try:
            app = await GatewayApp.start(loaded, demo=True)
        except (GatewayError, OSError, ValueError) as error:
            fail(error)
        click.echo(_welcome(config, loaded, app, port))
        await serve_until_signal(app, config, signals, drain=min(DRAIN, loaded.spec.limits.drain))
    finally:
        await runner.cleanup()


def _port(loaded: Loaded) -> int:
    """Where the gateway will look for the app."""
    for upstream in loaded.spec.upstreams.values():
        for url in upstream.url:
            parts = urlsplit(url)
            if parts.scheme == "http" and parts.hostname in ("127.0.0.1", "localhost"):
                return parts.port or 80
    return APP_PORT


def _welcome(config: Path, loaded: Loaded, app: GatewayApp, port: int) -> str:
    mailbox = f"http://127.0.0.1:{app.admin_port}/dev/mailbox"
    lines = [
        "",
        "Step-up Gateway demo",
        "",
        f"  Open      {loaded.spec.public_url[0]}/   the app, through the gateway",
        "  Log in    alice / wonderland       accept the terms, then transfer money: a code is asked for",
        "            bob / builder            his password has expired",
        *([f"  Mail      {mailbox}   the codes arrive here"] if app.mailbox is not None else []),
        f"  The app   http://127.0.0.1:{port}/   without the gateway, to compare",
        f"  Rules     {config}   change one and save: it is reloaded",
        "",
        "  Ctrl-C stops both.",
        "",
    ]
    return "\n".join(lines)
