"""Sealing and keyed hashes. One key for one purpose, derived; nothing sealed for one place opens in another.

A sealed value is: version (1 byte), id of the master secret (4), nonce (12), AES-256-GCM ciphertext and tag.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from gateway.errors import SealBroken
from gateway.tokens.keys import Keyring, Secret

_VERSION = b"\x01"
_HEADER = 1 + 4 + 12


def derive(secret: Secret, use: Literal["seal", "mac"], purpose: str) -> bytes:
    """32 bytes by HKDF-SHA-256 (RFC 5869). The master secret is uniform, so it needs no salt."""
    return HKDF(SHA256(), 32, salt=None, info=f"stepup/1/{use}/{purpose}".encode()).derive(secret.value)


@dataclass(frozen=True, slots=True)
class _Keys:
    """What was derived from one keyring so far. Purposes are words of the programme, so this stays small. ids: of the secrets."""

    secrets: tuple[Secret, ...]
    ids: tuple[bytes, ...]
    ciphers: dict[tuple[bytes, str], AESGCM] = field(default_factory=dict)
    macs: dict[str, tuple[bytes, ...]] = field(default_factory=dict)


class KeyVault:
    """flow.ports.Vault by the keys of a keyring. `nonce` gives 12 fresh random bytes at each call."""

    def __init__(self, keyring: Keyring, nonce: Callable[[], bytes]) -> None:
        self._nonce = nonce
        self.adopt(keyring)

    def adopt(self, keyring: Keyring) -> None:
        """Work with another keyring from now on (after a rotation). In one assignment: calls under way keep theirs."""
        self._keys = _Keys(keyring.secrets, tuple(bytes.fromhex(secret.id) for secret in keyring.secrets))

    def seal(self, purpose: str, plain: bytes, *, place: str) -> bytes:
        keys = self._keys
        current = keys.ids[0]
        nonce = self._nonce()
        header = _VERSION + current + nonce
        return header + self._cipher(keys, current, purpose).encrypt(nonce, plain, header + place.encode("utf-8", "surrogatepass"))

    def open(self, purpose: str, sealed: bytes, *, place: str) -> bytes:
        keys = self._keys
        header = sealed[:_HEADER]
        if len(header) < _HEADER or header[:1] != _VERSION:
            raise SealBroken("not a sealed value")
        try:
            return self._cipher(keys, header[1:5], purpose).decrypt(
                header[5:], sealed[_HEADER:], header + place.encode("utf-8", "surrogatepass")
            )
        except InvalidTag:
            raise SealBroken("tampered bytes, or another place or purpose") from None

    def mac(self, purpose: str, data: bytes) -> bytes:
        return hmac.digest(self._mac_keys(purpose)[0], data, "sha256")

    def macs(self, purpose: str, data: bytes) -> tuple[bytes, ...]:
        return tuple(hmac.digest(key, data, "sha256") for key in self._mac_keys(purpose))

    def _cipher(self, keys: _Keys, key_id: bytes, purpose: str) -> AESGCM:
        cipher = keys.ciphers.get((key_id, purpose))
        if cipher is None:
            secret = next((s for s, known in zip(keys.secrets, keys.ids, strict=True) if known == key_id), None)
            if secret is None:
                raise SealBroken(f"sealed with the key {key_id.hex()}, which is not in the key file")
            cipher = keys.ciphers[key_id, purpose] = AESGCM(derive(secret, "seal", purpose))
        return cipher

    def _mac_keys(self, purpose: str) -> tuple[bytes, ...]:
        keys = self._keys
        found = keys.macs.get(purpose)
        if found is None:
            # The current secret always counts, whatever its entry in the key file says.
            verifying = (keys.secrets[0], *(s for s in keys.secrets[1:] if s.verifies))
            found = keys.macs[purpose] = tuple(derive(s, "mac", purpose) for s in verifying)
        return found
