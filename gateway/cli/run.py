"""`gateway run`: the gateway, for real."""

from __future__ import annotations

import asyncio
import gc
import os
from pathlib import Path

import click

from gateway.app import ADMIN, GatewayApp, Part, listeners
from gateway.cli.common import config_option, fail, loaded_or_exit
from gateway.errors import GatewayError
from gateway.settings.load import Loaded
from gateway.spec.base import parse_address
from gateway.telemetry.logs import configure
from gateway.workers.notify import Notifier
from gateway.workers.sockets import Sockets, handed_over, on_loopback
from gateway.workers.supervisor import Supervisor


def _address(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    try:
        if value is not None:
            parse_address(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    return value


def _cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@click.command()
@config_option
@click.option("--listen", metavar="HOST:PORT", callback=_address, help="Listen here instead of at `listen:` of the file.")
@click.option("--workers", type=click.IntRange(1, 512), help="Processes that serve. [default: the cores that this process may use]")
def run(config: Path, listen: str | None, workers: int | None) -> None:
    """Run the gateway.

    The process that you start supervises: it starts a process for each worker and one for the admin listener, starts again what ends
    unasked, and ends them all with itself.

    SIGHUP, or a change of a file that the configuration was read from, reloads it: the new rules are swapped in between two requests. With
    a mistake in them the old ones stay in every worker, and the log says why.

    SIGTERM and Ctrl-C accept nothing new, let running requests end (at most `limits.drain`), and stop. A second one stops at once.

    Listening sockets may come from systemd (LISTEN_FDS), which is told when the gateway is ready, reloads and stops (NOTIFY_SOCKET).

    Clients reach the gateway at `public_url`: with --listen on another port, that must lead there (a proxy, a port mapping).

    \b
    Exit codes:
      0  stopped by a signal
      1  it could not start (a port in use, another key's store, demo mail)
      2  mistakes in the configuration or on the command line
    """
    notifier = Notifier(os.environ)
    loaded = loaded_or_exit(config)
    configure(loaded.spec.log)
    try:
        _run(config, loaded, listen, workers or _cores(), notifier)
    except (GatewayError, OSError, ValueError) as error:
        fail(error)


def _run(config: Path, loaded: Loaded, listen: str | None, workers: int, notifier: Notifier) -> None:
    addresses = listeners(loaded.spec, listen)
    handed = handed_over(os.environ, tuple(addresses), os.getpid())
    if loaded.spec.admin.token is None:
        on_loopback(ADMIN, handed.get(ADMIN, ()))
    sockets = Sockets(addresses, workers, handed)
    try:
        asyncio.run(_rehearsed(loaded, listen))
        # The collector must neither look through ten thousand rules nor, by its marks, copy them into every worker.
        gc.collect()
        gc.freeze()
        Supervisor(config=config, loaded=loaded, listen=listen, workers=workers, sockets=sockets, notifier=notifier).run()
    finally:
        sockets.close()


async def _rehearsed(loaded: Loaded, listen: str | None) -> None:
    """A start without listeners, and its end. It makes the key file, the stores and their tables, once and for all workers, and finds what
    would stop the start, before there is any worker; and it leaves no thread, connection or loop that a fork would take along."""
    app = await GatewayApp.start(loaded, listen=listen, part=Part(public=False, admin=False))
    await app.close()
