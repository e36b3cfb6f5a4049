"""`gateway check`: every mistake at once, before anything is started."""

from __future__ import annotations

from pathlib import Path

import click

from gateway.cli.common import config_option, loaded_or_exit


@click.command()
@config_option
def check(config: Path) -> None:
    """Check a configuration, and start nothing.

    Prints every mistake at once, the nearest valid name included:

    \b
      gateway.yaml:31:14: rules[2].require[0]: no step named "cod"; did you mean "code"?

    Looks at names, types, CEL conditions, globs, files, environment variables, and at rules that can never match. A key file or store that
    does not exist yet is no mistake: it is made at start.

    \b
    Exit codes:
      0  no mistakes
      2  mistakes
    """
    loaded = loaded_or_exit(config)
    rules = loaded.ruleset.rules
    counts = (
        f"{_count(len(rules), 'rule')} ({sum(r.shadow for r in rules)} in shadow mode, {sum(not r.enabled for r in rules)} off)",
        _count(len(loaded.steps), "step"),
        _count(len(loaded.spec.upstreams), "upstream"),
    )
    click.echo(f"{config}: no mistakes; {', '.join(counts)}")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
