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
from gateway.telemetry.logs import configure

log = structlog.get_logger(__name__)


@click.command()
@config_option
@click.option("--listen", metavar="HOST:PORT", help="Listen here instead of `listen:` in the file.")
def run(config: Path, listen: str | None) -> None:
    """Run the gateway.

    SIGHUP, or a change of the file, reloads it: the new rules are swapped in between two requests, and with a mistake in them the old ones stay.
    SIGTERM and Ctrl-C let running requests end (`limits.drain`) and stop.

    \b
    Exit codes: 0 stopped by a signal; 1 it could not start; 2 mistakes in the configuration.
    """
    loaded = loaded_or_exit(config)
    configure(loaded.spec.log)
    asyncio.run(_run(config, loaded, listen))


async def _run(config: Path, loaded: Loaded, listen: str | None) -> None:
    signals = Signals()
    try:
        app = await GatewayApp.start(loaded, listen=listen)
    except (GatewayError, OSError, ValueError) as error:
        fail(str(error))
        return
    log.info(
        "listening",
        port=app.public.port,
        admin_port=app.admin_port,
        lane="slow",
        rules=len(loaded.ruleset.rules),
        public_url=", ".join(loaded.spec.public_url),
    )
    await serve_until_signal(app, config, loaded, signals)
