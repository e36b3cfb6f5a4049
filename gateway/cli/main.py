"""The command line. Each command is a file; this one puts them together.

Exit codes: 0 done; 1 it could not be done (a port in use, another key's store); 2 mistakes in the configuration or on the command line.
"""

from __future__ import annotations

import click

from gateway.cli.check import check
from gateway.cli.demo import demo
from gateway.cli.explain import explain
from gateway.cli.keys import keys
from gateway.cli.run import run
from gateway.cli.schema import schema

HELP = """Step-up Gateway: a reverse proxy that asks for a step-up where YAML rules say so, and resumes the very request it suspended.

\b
Start here:
  gateway demo                    an app and the gateway in front of it, to try
  gateway check                   every mistake in gateway.yaml, with its line
  gateway explain POST /transfer  which rule does what to a request, and why
  gateway run                     the gateway

Each takes another configuration by -c FILE, and has a --help of its own.

\b
Exit codes of every command:
  0  done
  1  it could not be done (a port in use, another key's store)
  2  mistakes in the configuration or on the command line
"""


@click.group(help=HELP, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="step-up-gateway")
def main() -> None:
    """See HELP."""


for command in (run, check, explain, demo, keys, schema):
    main.add_command(command)
