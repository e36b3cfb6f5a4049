"""`gateway demo`: the bundled legacy app and the gateway in front of it, on loopback."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from gateway.app import GatewayApp
from gateway.cli.common import Signals, config_option, fail, loaded_or_exit
from gateway.cli.serving import serve_until_signal
from gateway.demo.app import start as start_app
from gateway.errors import GatewayError
from gateway.settings.load import Loaded
from gateway.telemetry.logs import configure

APP_PORT = 8081


@click.command()
@config_option
@click.option("--app-only", is_flag=True, help="Start the legacy app alone, without the gateway.")
@click.option("--port", type=click.IntRange(0, 65535), default=APP_PORT, show_default=True, help="Port of the legacy app (0: a free one).")
def demo(config: Path, app_only: bool, port: int) -> None:
    """Start a small legacy banking app, and the gateway in front of it.

    Listens on loopback only. Mail goes to a mailbox in memory that the admin listener shows. Ctrl-C stops both.

    \b
    Exit codes: 0 stopped by a signal; 1 it could not start (a port in use); 2 mistakes in the configuration.
    """
    if app_only:
        asyncio.run(_app_only(port))
        return
    loaded = loaded_or_exit(config)
    configure(loaded.spec.log)
    asyncio.run(_demo(config, loaded, port))


async def _app_only(port: int) -> None:
    signals = Signals()
    try:
        runner = await start_app("127.0.0.1", port)
    except OSError as error:
        fail(f"the legacy app cannot listen on port {port}: {error.strerror}")
        return
    click.echo(f"The legacy app: http://127.0.0.1:{runner.addresses[0][1]}/   (alice/wonderland, bob/builder)   Ctrl-C stops it.")
    await signals.stop.wait()
    await runner.cleanup()


async def _demo(config: Path, loaded: Loaded, port: int) -> None:
    signals = Signals()
    try:
        runner = await start_app("127.0.0.1", port)
    except OSError as error:
        fail(f"the legacy app cannot listen on port {port}: {error.strerror}")
        return
    try:
        app = await GatewayApp.start(loaded, demo=True)
    except (GatewayError, OSError, ValueError) as error:
        await runner.cleanup()
        fail(str(error))
        return
    public = loaded.spec.public_url[0]
    click.echo(f"""
Step-up Gateway demo

  Open      {public}/            (the app, through the gateway)
  Log in    alice / wonderland                 then transfer money: a code is asked for
            bob / builder                      his password has expired
  Mail      http://127.0.0.1:{app.admin_port}/dev/mailbox   the codes arrive here
  The app   http://127.0.0.1:{port}/            without the gateway, to compare
  Rules     {config}                       change one and save: it is reloaded

  Ctrl-C stops both.
""")
    try:
        await serve_until_signal(app, config, loaded, signals)
    finally:
        await runner.cleanup()
