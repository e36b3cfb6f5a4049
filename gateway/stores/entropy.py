"""Randomness from the operating system. Nothing else in the gateway calls `secrets`."""

from __future__ import annotations

import secrets


class SystemEntropy:
    """flow.ports.Entropy by the `secrets` module."""

    def token(self) -> str:
        """256 random bits, base64url without padding (43 characters)."""
        return secrets.token_urlsafe(32)

    def digits(self, count: int) -> str:
        """Uniform decimal digits, leading zeros included."""
        return "".join(secrets.choice("0123456789") for _ in range(count))

    def bytes(self, count: int) -> bytes:
        """`count` random bytes."""
        return secrets.token_bytes(count)
