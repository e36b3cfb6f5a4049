"""What a token of ours is, for those whom we tell: its kind and its claims, whichever of our names issued it."""

from __future__ import annotations

from collections.abc import Collection
from enum import Enum
from typing import Any, Final, cast

from gateway.errors import TokenInvalid
from gateway.tokens.keys import Keyring
from gateway.tokens.signer import MAX_SIZE, TokenKind, taken_apart, verify


class PlainKind(Enum):
    """What we sign for others who know nothing of our kinds: by its `typ` it is any JWT, and nowhere here is it taken for anything."""

    ANSWER = "JWT"


Kind = TokenKind | PlainKind
_KINDS: Final = {kind.value: kind for kind in (*TokenKind, *PlainKind)}


def inspect(
    token: str, *, keyring: Keyring, now: float, issuers: Collection[str], audiences: Collection[str]
) -> tuple[Kind, dict[str, Any]]:
    """Kind and claims of a token that we signed as one of `issuers` for one of `audiences`. Raises TokenInvalid; its text is for the log.

    What it says of itself only chooses what it is verified against.
    """
    if len(token) > MAX_SIZE:
        raise TokenInvalid(f"longer than {MAX_SIZE} bytes")
    header, said = taken_apart(token)
    typ = header.get("typ")
    kind: Kind | None = _KINDS.get(typ) if isinstance(typ, str) else None
    if kind is None:
        raise TokenInvalid("typ is none of ours")
    issuer, audience = said.get("iss"), said.get("aud")
    if not isinstance(issuer, str) or issuer not in issuers:
        raise TokenInvalid("iss is none of ours")
    if not isinstance(audience, str) or audience not in audiences:
        raise TokenInvalid("aud is not the client's")
    # Of a kind it looks at the value only; a PlainKind is no TokenKind so that nothing else takes it for one.
    return kind, verify(cast("TokenKind", kind), token, keyring=keyring, now=now, issuer=issuer, audience=audience)
