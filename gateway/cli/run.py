"""`gateway run`: the gateway, for real."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click
import structlog

from gateway.app import GatewayApp
from gateway.cli.common import Signals, config_option, fail, loaded_or_exit
from gateway.cli.serving import serve_until_signal
from gateway.errors import GatewayError
from gateway.settings.load import Loaded
from gateway.spec.base import parse_address
from gateway.telemetry.logs import configure

log = structlog.get_logger(__name__)


def _address(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    try:
        if value is not None:
            parse_address(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    return value


@click.command()
@config_option
@click.option("--listen", metavar="HOST:PORT", callback=_address, help="Listen here instead of at `listen:` of the file.")
def run(config: Path, listen: str | None) -> None:
    """Run the gateway.

    SIGHUP, or a change of a file that the configuration was read from, reloads it: the new rules are swapped in between two requests. With
    a mistake in them the old ones stay, and the log says why.

    SIGTERM and Ctrl-C accept nothing new, let running requests end (at most `limits.drain`), and stop.

    Clients reach the gateway at `public_url`: with --listen on another port, that must lead there (a proxy, a port mapping).

    \b
    Exit codes:
      0  stopped by a signal
      1  it could not start (a port in use, another key's store, demo mail)
      2  mistakes in the configuration or on the command line
    """
    loaded = loaded_or_exit(config)
    configure(loaded.spec.log)
    asyncio.run(_run(config, loaded, listen))


async def _run(config: Path, loaded: Loaded, listen: str | None) -> None:
    signals = Signals()
    try:
        app = await GatewayApp.start(loaded, listen=listen)
    except (GatewayError, OSError, ValueError) as error:
        fail(error)
    log.info(
        "listening",
        port=app.public.port,
        admin_port=app.admin_port,
        rules=len(loaded.ruleset.rules),
        public_url=", ".join(loaded.spec.public_url),
    )
    await serve_until_signal(app, config, signals, drain=loaded.spec.limits.drain)
