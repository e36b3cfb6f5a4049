"""`gateway check`: every mistake at once, before anything is started."""

from __future__ import annotations

from pathlib import Path

import click

from gateway.cli.common import config_option, loaded_or_exit


@click.command()
@config_option
def check(config: Path) -> None:
    """Check a configuration, and start nothing.

    Prints every mistake as `file:line:column: where: what is wrong`, nearest valid name included. Names, types, CEL conditions, globs, files,
    environment variables, and rules that can never match are all looked at. A key file or store that does not exist yet is no mistake.

    \b
    Exit codes: 0 no mistakes; 2 mistakes.
    """
    loaded = loaded_or_exit(config)
    rules = len(loaded.ruleset.rules)
    shadow = sum(rule.shadow for rule in loaded.ruleset.rules)
    off = sum(not rule.enabled for rule in loaded.ruleset.rules)
    click.echo(
        f"{config}: no mistakes; {rules} rules ({shadow} in shadow mode, {off} off), {len(loaded.steps)} steps, {len(loaded.spec.upstreams)} upstreams"
    )
