"""The gateway's keys and the file that holds them: made on first start, adopted anew whenever the file changes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import structlog

from gateway.errors import GatewayError, KeyFileFault
from gateway.flow.ports import Entropy, StateStore
from gateway.stores.fingerprint import claim_key
from gateway.stores.keyfile import read, write_new
from gateway.tokens.keys import Algorithm, Keyring, generate_private_pem, new_keyring, overlap

POLL = 1.0  # seconds
LEARN = 2.0  # seconds for every process that reads the file to have seen a new key before anybody signs with it

log = structlog.get_logger(__name__)


class KeyFile:
    """`ring` is what `text` means; both are what was last read from `path`."""

    def __init__(self, path: Path, text: str) -> None:
        """Raises KeyFileFault, which names the file."""
        self.path = path
        self.text = text
        self.ring = self._parsed(text)

    def _parsed(self, text: str) -> Keyring:
        try:
            return Keyring.from_text(text)
        except KeyFileFault as error:
            raise KeyFileFault(f"{self.path}: {error}") from None

    async def watch(self, state: StateStore, clock: Callable[[], float], adopted: Callable[[Keyring], None]) -> None:
        """Adopt a rotated file, for ever; one that cannot be used changes nothing. Its new keys verify within two seconds, and sign and
        seal `LEARN` later: by then the other processes know them too."""
        refused = ""
        while True:
            await asyncio.sleep(POLL)
            try:
                text = await asyncio.to_thread(read, self.path)
                if text is None or text == self.text:
                    continue
                ring = self._parsed(text)
                await claim_key(state, ring.fingerprints(), clock())
            except GatewayError as error:
                if str(error) != refused:  # said once, not every second
                    log.warning("key file not adopted; the keys stay as they are", reason=str(error))
                refused = str(error)
                continue
            self.text, refused = text, ""
            both = overlap(self.ring, ring)
            self.ring = both
            adopted(both)
            if both != ring:
                await asyncio.sleep(LEARN)
                self.ring = ring
                adopted(ring)
            log.info("key file adopted", signing_kid=ring.signing[0].kid)


def existing(path: Path) -> KeyFile | None:
    """The keys of a file, or None where there is none. Raises KeyFileFault."""
    text = read(path)
    return None if text is None else KeyFile(path, text)


def opened(path: Path, *, algorithm: Algorithm, now: float, entropy: Entropy) -> KeyFile:
    """The keys of a file, made with mode 0600 where there is none. Raises KeyFileFault."""
    found = existing(path)
    if found is not None:
        return found
    made = new_keyring(now=now, secret=entropy.bytes(32), private_pem=generate_private_pem(algorithm), algorithm=algorithm)
    return KeyFile(path, write_new(path, made.to_text()))
