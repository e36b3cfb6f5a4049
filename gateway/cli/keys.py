"""`gateway keys`: what signs and seals, and how it is replaced while tokens are out."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path

import click

from gateway.app import open_keyring
from gateway.cli.common import config_option, fail, loaded_or_exit
from gateway.errors import Conflict, KeyFileFault
from gateway.stores.entropy import SystemEntropy
from gateway.stores.keyfile import replace
from gateway.tokens.keys import Keyring, generate_private_pem, rotate


@click.group()
def keys() -> None:
    """List and rotate the gateway's keys (`secrets.key_file`).

    Gateways that share a store share the key file: copy it to each of them. A running gateway adopts a changed file within a second or two.
    """


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _print(ring: Keyring) -> None:
    for index, key in enumerate(ring.signing):
        click.echo(f"signing  {key.kid:<24} {key.algorithm}  {_when(key.created)}  {'signs' if index == 0 else 'verifies'}")
    for index, secret in enumerate(ring.secrets):
        use = "seals" if index == 0 else "opens, verifies" if secret.verifies else "opens"
        click.echo(f"secret   {secret.id:<24} -      {_when(secret.created)}  {use}")


@keys.command("list")
@config_option
def list_keys(config: Path) -> None:
    """List every key by its public name, newest first. Makes the key file if there is none. Shows no secret."""
    loaded = loaded_or_exit(config)
    try:
        ring, _ = open_keyring(loaded.base / loaded.spec.secrets.key_file, loaded.spec.tokens.algorithm, time.time(), SystemEntropy())
    except KeyFileFault as error:
        fail(str(error))
    else:
        _print(ring)


@keys.command("rotate")
@config_option
def rotate_keys(config: Path) -> None:
    """Make new keys that sign and seal from now on. Older ones keep verifying and opening for as long as anything made with them can be out."""
    loaded = loaded_or_exit(config)
    spec = loaded.spec
    path, entropy = loaded.base / spec.secrets.key_file, SystemEntropy()
    try:
        ring, text = open_keyring(path, spec.tokens.algorithm, time.time(), entropy)
        keep = max(spec.passes.max_age, spec.transactions.ttl + spec.transactions.tombstone)
        made = rotate(
            ring,
            now=time.time(),
            secret=entropy.bytes(32),
            private_pem=generate_private_pem(spec.tokens.algorithm),
            algorithm=spec.tokens.algorithm,
            keep=keep,
        )
        replace(path, made.to_text(), was=text)
    except Conflict:
        fail("the key file was changed at the same time; look at `gateway keys list` and rotate again if it is still needed")
    except KeyFileFault as error:
        fail(str(error))
    else:
        _print(made)
