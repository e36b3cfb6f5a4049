"""`gateway schema`: the JSON Schema that editors complete and check gateway.yaml with."""

from __future__ import annotations

import json

import click

from gateway.app import REGISTRY
from gateway.settings.reference import reference
from gateway.settings.schema import json_schema


@click.command()
@click.option("--reference", "as_reference", is_flag=True, help="Print the settings reference (Markdown, docs/settings.md) instead.")
def schema(as_reference: bool) -> None:
    """Print the JSON Schema of gateway.yaml.

    \b
    For editors with the YAML language server:
      gateway schema > gateway.schema.json
      and as the first line of gateway.yaml:
      # yaml-language-server: $schema=gateway.schema.json

    \b
    Exit code: 0
    """
    click.echo(reference(REGISTRY) if as_reference else json.dumps(json_schema(REGISTRY), indent=2), nl=not as_reference)
