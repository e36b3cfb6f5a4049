"""What several commands share: finding the configuration, saying what is wrong, and waiting for signals."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

import click

from gateway.app import REGISTRY
from gateway.settings.load import Loaded, Problems, load

FAILED = 1
MISTAKES = 2

config_option = click.option(
    "-c",
    "--config",
    "config",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("gateway.yaml"),
    show_default=True,
    help="The configuration file. Relative paths in it start at its folder.",
)


def loaded_or_exit(config: Path) -> Loaded:
    """The configuration, or every mistake in it on standard error and exit code 2. Warnings go to standard error too."""
    found = load(config, environ=os.environ, kinds=REGISTRY)
    if isinstance(found, Problems):
        for mistake in found.mistakes:
            click.echo(str(mistake), err=True)
        count = len(found.mistakes)
        click.echo(f"{count} mistake{'s' if count != 1 else ''}; nothing was started.", err=True)
        sys.exit(MISTAKES)
    for warning in found.warnings:
        click.echo(str(warning), err=True)
    return found


def fail(message: object, code: int = FAILED) -> NoReturn:
    """Say on standard error why it cannot be done, and end."""
    click.echo(f"gateway: {message}", err=True)
    sys.exit(code)


class Signals:
    """SIGINT and SIGTERM end, SIGHUP reloads. Use inside a running loop."""

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        self.reload = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.stop.set)
        loop.add_signal_handler(signal.SIGHUP, self.reload.set)
