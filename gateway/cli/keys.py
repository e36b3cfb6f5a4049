"""`gateway keys`: what signs and seals, and how it is replaced while tokens are out."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path

import click

from gateway.cli.common import config_option, fail, loaded_or_exit
from gateway.errors import Conflict, KeyFileFault
from gateway.spec.sections import GatewaySpec
from gateway.stores.entropy import SystemEntropy
from gateway.stores.keyfile import replace
from gateway.stores.keyring import KeyFile, existing
from gateway.tokens.keys import Keyring, generate_private_pem, rotate

LONGEST = 3600.0
"""Seconds after which no signed token counts any more, and no copy of the published keys is in use."""


@click.group()
def keys() -> None:
    """List and rotate the gateway's keys (`secrets.key_file`).

    The file is made at the gateway's first start. Gateways that share a store share the key file: copy it to each of them. A running
    gateway reads a changed file within two seconds and signs with the new key two seconds later.

    \b
    Exit codes:
      0  done
      1  the key file is missing, or cannot be read or written
      2  mistakes in the configuration or on the command line
    """


@keys.command("list")
@config_option
def list_keys(config: Path) -> None:
    """List every key by its public name, newest first. Shows no secret.

    \b
    Exit codes:
      0  listed
      1  the key file is missing or cannot be read
      2  mistakes in the configuration
    """
    _print(_opened(loaded_or_exit(config).spec).ring)


@keys.command("rotate")
@config_option
def rotate_keys(config: Path) -> None:
    """Make new keys that sign and seal from now on.

    Older ones keep verifying and opening for as long as anything made with them can be out, and are dropped by a later rotation. Copy the
    file to every gateway that shares the store.

    \b
    Exit codes:
      0  rotated
      1  the key file is missing, cannot be written, or was changed meanwhile
      2  mistakes in the configuration
    """
    spec = loaded_or_exit(config).spec
    held = _opened(spec)
    made = rotate(
        held.ring,
        now=time.time(),
        secret=SystemEntropy().bytes(32),
        private_pem=generate_private_pem(spec.tokens.algorithm),
        algorithm=spec.tokens.algorithm,
        keep=max(spec.passes.max_age, spec.transactions.ttl + spec.transactions.tombstone, LONGEST),
    )
    try:
        replace(held.path, made.to_text(), was=held.text)
    except Conflict:
        fail("the key file was changed at the same time; look at `gateway keys list` and rotate again if it is still needed")
    except KeyFileFault as error:
        fail(error)
    _print(made)


def _opened(spec: GatewaySpec) -> KeyFile:
    """The key file, or exit code 1."""
    path = Path(spec.secrets.key_file)
    try:
        found = existing(path)
    except KeyFileFault as error:
        fail(error)
    if found is None:
        fail(f"{path}: there is no key file yet; the gateway makes it at its first start")
    return found


def _print(ring: Keyring) -> None:
    for index, key in enumerate(ring.signing):
        click.echo(f"signing  {key.kid:<24} {key.algorithm}  {_when(key.created)}  {'signs' if index == 0 else 'verifies'}")
    for index, secret in enumerate(ring.secrets):
        use = "seals" if index == 0 else "opens, verifies" if secret.verifies else "opens"
        click.echo(f"secret   {secret.id:<24} -      {_when(secret.created)}  {use}")


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
