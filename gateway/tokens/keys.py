"""The gateway's keys: what the key file holds. The newest signs and seals, older ones still verify and open.

Master secrets are never used themselves: every purpose has a key of its own, derived (see tokens.vault). A secret that is too old to
verify still opens what was sealed with it, for records stay longer than any overlap.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from gateway.errors import KeyFileFault
from gateway.tokens.compact import b64decode, b64encode

Algorithm = Literal["ES256", "RS256"]
PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

_KID = re.compile(r"[A-Za-z0-9_\-]{1,64}")
_VERSION = 1


@dataclass(frozen=True, slots=True, repr=False)
class Secret:
    """A master secret: 32 random bytes. created: seconds since the epoch. verifies: MACs by it still count."""

    value: bytes
    created: float
    verifies: bool = True

    @property
    def id(self) -> str:
        """Eight hex digits that name the secret and tell nothing about it."""
        return hmac.digest(self.value, b"stepup key id", "sha256")[:4].hex()

    @property
    def fingerprint(self) -> str:
        """Sixteen hex digits; safe to store and to print."""
        return hmac.digest(self.value, b"stepup key fingerprint", "sha256")[:8].hex()

    def __repr__(self) -> str:
        return f"Secret({self.id})"


@dataclass(frozen=True, slots=True, repr=False)
class SigningKey:
    """A private key of one algorithm, as PEM (PKCS #8). kid: its RFC 7638 thumbprint where we made it."""

    kid: str
    algorithm: Algorithm
    created: float
    pem: str

    @property
    def private(self) -> PrivateKey:
        return _load(self.pem)

    def jwk(self) -> dict[str, Any]:
        """The public half (RFC 7517)."""
        return {**_public_members(self.private), "use": "sig", "alg": self.algorithm, "kid": self.kid}

    def __repr__(self) -> str:
        return f"SigningKey({self.kid}, {self.algorithm})"


@dataclass(frozen=True, slots=True)
class Keyring:
    """Both lists hold at least one key, the newest first."""

    secrets: tuple[Secret, ...]
    signing: tuple[SigningKey, ...]

    def signing_key(self, kid: str) -> SigningKey | None:
        """The key of that name, if it still verifies."""
        return next((key for key in self.signing if key.kid == kid), None)

    def fingerprints(self) -> tuple[str, ...]:
        """Of the master secrets, the current one first; what gateways that share a store compare."""
        return tuple(secret.fingerprint for secret in self.secrets)

    def to_text(self) -> str:
        """The key file's content (JSON). Secret: mode 0600, never logged."""
        document = {
            "version": _VERSION,
            "secrets": [{"id": s.id, "created": s.created, "verifies": s.verifies, "secret": b64encode(s.value)} for s in self.secrets],
            "signing": [{"kid": k.kid, "alg": k.algorithm, "created": k.created, "private_key": k.pem} for k in self.signing],
        }
        return json.dumps(document, indent=2) + "\n"

    @classmethod
    def from_text(cls, text: str) -> Keyring:
        """Read the key file's content. Raises KeyFileFault, whose text names the entry but no secret."""
        try:
            document = json.loads(text)
        except (ValueError, RecursionError):
            raise KeyFileFault("the key file is no JSON; restore it from a backup, or remove it to have new keys made") from None
        if not isinstance(document, dict) or document.get("version") != _VERSION:
            raise KeyFileFault(
                f"the key file is not of version {_VERSION}; it was written by another version of the gateway, or is no key file"
            )
        secrets = [_read_secret(entry, f"secrets[{i}]") for i, entry in enumerate(_list(document, "secrets"))]
        signing = [_read_signing(entry, f"signing[{i}]") for i, entry in enumerate(_list(document, "signing"))]
        for what, names in (("secrets", [s.id for s in secrets]), ("signing", [k.kid for k in signing])):
            if len(set(names)) != len(names):
                raise KeyFileFault(f"the key file holds one key twice under {what}")
        return cls(tuple(sorted(secrets, key=lambda s: -s.created)), tuple(sorted(signing, key=lambda k: -k.created)))


def new_keyring(*, now: float, secret: bytes, private_pem: str, algorithm: Algorithm) -> Keyring:
    """A keyring with one key of each sort. secret: 32 random bytes. Raises ValueError for unsuitable keys."""
    return Keyring((_new_secret(secret, now),), (_new_signing(private_pem, algorithm, now),))


def rotate(keyring: Keyring, *, now: float, secret: bytes, private_pem: str, algorithm: Algorithm, keep: float) -> Keyring:
    """A keyring whose new keys sign and seal from now on. Raises ValueError for unsuitable or known keys.

    keep: seconds for which a superseded key goes on verifying, counted from when it was superseded: at least the life of a pass. Signing
    keys are dropped after it; master secrets stop verifying but still open what is sealed.
    """
    created = max(
        now, *(s.created for s in keyring.secrets), *(k.created for k in keyring.signing)
    )  # the new ones sort first, whatever the clock
    fresh, signer = _new_secret(secret, created), _new_signing(private_pem, algorithm, created)
    if fresh.id in {s.id for s in keyring.secrets} or keyring.signing_key(signer.kid):
        raise ValueError("the new key is already in the keyring")
    successors = (fresh, *keyring.secrets)
    secrets = tuple(
        replace(old, verifies=old.verifies and now - by.created <= keep) for old, by in zip(keyring.secrets, successors, strict=False)
    )
    signers = (signer, *keyring.signing)
    signing = tuple(old for old, by in zip(keyring.signing, signers, strict=False) if now - by.created <= keep)
    return Keyring((fresh, *secrets), (signer, *signing))


def overlap(old: Keyring, new: Keyring) -> Keyring:
    """What `new` knows, while the current keys of `old` still sign and seal: between two processes that read a rotated file one after the
    other, nothing may be signed that the other cannot verify. Just `new` where it does not hold these keys any more."""
    secret = next((s for s in new.secrets if s.id == old.secrets[0].id), None)
    signing = new.signing_key(old.signing[0].kid)
    if secret is None or signing is None:
        return new
    return Keyring((secret, *(s for s in new.secrets if s is not secret)), (signing, *(k for k in new.signing if k is not signing)))


def generate_private_pem(algorithm: Algorithm) -> str:
    """A new private key (P-256, or RSA with 3072 bits) as unencrypted PKCS #8 PEM. `cryptography` brings the randomness."""
    key: PrivateKey = (
        ec.generate_private_key(ec.SECP256R1()) if algorithm == "ES256" else rsa.generate_private_key(public_exponent=65537, key_size=3072)
    )
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return pem.decode("ascii")


def jwks(keyring: Keyring) -> dict[str, Any]:
    """Every key that still verifies, as a JWK Set (RFC 7517 §5): public members, `use`, `alg` and `kid`."""
    return {"keys": [key.jwk() for key in keyring.signing]}


def _new_secret(value: bytes, now: float) -> Secret:
    if len(value) != 32:
        raise ValueError("a master secret has 32 bytes")
    return Secret(value, now)


def _new_signing(pem: str, algorithm: Algorithm, now: float) -> SigningKey:
    _suits(_load(pem), algorithm)
    members = _public_members(_load(pem))
    # RFC 7638 §3: the required members in lexical order, without white space.
    required = {name: members[name] for name in (("crv", "kty", "x", "y") if algorithm == "ES256" else ("e", "kty", "n"))}
    thumbprint = hashlib.sha256(json.dumps(required, separators=(",", ":"), sort_keys=True).encode()).digest()
    return SigningKey(b64encode(thumbprint), algorithm, now, pem)


def _suits(key: PrivateKey, algorithm: Algorithm) -> None:
    if algorithm == "ES256" and not (isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1)):
        raise ValueError("ES256 needs a private key on the curve P-256")
    if algorithm == "RS256" and not (isinstance(key, rsa.RSAPrivateKey) and key.key_size >= 2048):
        raise ValueError("RS256 needs an RSA private key of 2048 bits or more")


@lru_cache(maxsize=16)
def _load(pem: str) -> PrivateKey:
    """Parsed once: signing must not pay for it. Raises ValueError."""
    try:
        key = serialization.load_pem_private_key(pem.encode("ascii", "replace"), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ValueError("no private key in PEM without a password") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise ValueError("a private key of another sort than EC or RSA")  # noqa: TRY004 - it is the text that is wrong
    return key


def _public_members(key: PrivateKey) -> dict[str, Any]:
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return dict(ECAlgorithm.to_jwk(key.public_key(), as_dict=True))
    members = dict(RSAAlgorithm.to_jwk(key.public_key(), as_dict=True))
    members.pop("key_ops", None)  # RFC 7517 §4.3: not together with `use`
    return members


def _list(document: dict[str, Any], name: str) -> list[Any]:
    entries = document.get(name)
    if not isinstance(entries, list) or not entries:
        raise KeyFileFault(f"the key file holds nothing under {name}")
    return entries


def _read_secret(entry: Any, where: str) -> Secret:
    try:
        secret = Secret(b64decode(entry["secret"]) or b"", _moment(entry["created"]), _flag(entry["verifies"]))
        whole = len(secret.value) == 32 and secret.id == entry["id"]
    except (KeyError, TypeError, ValueError):
        whole = False
    if not whole:
        raise KeyFileFault(f"the key file is damaged at {where}; restore it from a backup")
    return secret


def _read_signing(entry: Any, where: str) -> SigningKey:
    try:
        key = SigningKey(_kid(entry["kid"]), _algorithm(entry["alg"]), _moment(entry["created"]), entry["private_key"])
        _suits(key.private, key.algorithm)
    except KeyError as error:
        raise KeyFileFault(f"the key file is damaged at {where}: {error} is missing") from None
    except (TypeError, AttributeError):
        raise KeyFileFault(f"the key file is damaged at {where}") from None
    except ValueError as error:
        raise KeyFileFault(f"the key file is damaged at {where}: {error}") from None
    return key


def _kid(value: Any) -> str:
    if not isinstance(value, str) or not _KID.fullmatch(value):
        raise ValueError("kid is not 1 to 64 letters, digits, - and _")
    return value


def _algorithm(value: Any) -> Algorithm:
    if value == "ES256":
        return "ES256"
    if value == "RS256":
        return "RS256"
    raise ValueError("alg is neither ES256 nor RS256")


def _moment(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e12:
        raise ValueError("created is no time")
    return float(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("verifies is neither true nor false")  # noqa: TRY004 - it is the text that is wrong
    return value
