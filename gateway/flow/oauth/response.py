"""Authorization responses as they stand in addresses, and the errors that take their place (RFC 6749 §4.1.2, OpenID Connect Core §3).

An address that carries a code or a token is one whatever else it is. What takes its place goes to the very address that the provider chose,
never to one that a request named.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Literal
from urllib.parse import quote, unquote_plus, urlsplit

from gateway.tokens.compact import b64decode

CARRIERS: Final = frozenset({"code", "access_token", "id_token", "token", "response"})
"""Parameters of which none leaves while a rule is unmet. `response` is JARM's."""
OF_THE_RESPONSE: Final = CARRIERS | {
    "state", "iss", "session_state", "scope", "token_type", "expires_in", "refresh_token", "error", "error_description", "error_uri",
}  # fmt: skip
"""What belongs to the response and not to the redirect URI (RFC 6749, RFC 9207, OpenID Connect Session Management)."""

Mode = Literal["query", "fragment", "form_post", "web_message", "unreadable"]
Pairs = tuple[tuple[str, str], ...]

_JWT = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*){2}(?:(?:\.[A-Za-z0-9_-]*){2})?")
_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:")
_SCRIPTS = frozenset({"javascript", "data", "vbscript", "blob", "about", "view-source", "file"})


@dataclass(frozen=True, slots=True)
class Response:
    """An authorization response. uri: the redirect URI that the provider chose, without the response; "" where it could not be made out.

    mode: how it was about to travel; "unreadable" where an answer could hold one and cannot be looked into. state, iss: as the provider
    gave them back, None for none (or none that can be read). code: the code that it carries, "" likewise. leads: the answer itself goes
    there, or sends a form; else it only stands on a page, where it may be anybody's word.
    """

    mode: Mode
    uri: str = ""
    state: str | None = None
    iss: str | None = None
    code: str = field(default="", repr=False, compare=False)
    leads: bool = True


def in_address(address: str, own: str = "") -> Response | None:
    """The authorization response in an address, or None. own: our origin, to tell a token of the provider's own pages from one for others.

    A fragment may be a route of its own (`#/callback?code=…`).
    """
    before, hash_, fragment = address.strip().partition("#")
    path, question, query = before.partition("?")
    for mode, text in (("fragment", fragment), ("fragment", fragment.partition("?")[2]), ("query", query)):
        pairs = parameters(text)
        if not carries(pairs, foreign=foreign(address, own)):
            continue
        state, iss = returned(pairs)
        if mode == "fragment":
            kept = fragment.partition("?")[0] if "?" in fragment else ""
            return Response("fragment", before + (f"#{kept}" if kept else ""), state, iss, code_in(pairs))
        left = _without(query)
        return Response(
            "query", path + (question + left if left else "") + (hash_ + fragment if fragment else ""), state, iss, code_in(pairs)
        )
    return None


def carries(pairs: Iterable[tuple[str, str]], *, foreign: bool) -> bool:
    """These parameters hold a code or a token. foreign: they go to another origin; within the provider's own a `token` is most often
    something else (against forged requests, for a new password), and a `response` is one where it is a JWT."""
    for name, value in pairs:
        if name not in CARRIERS or not value:
            continue
        if name == "response":
            if _JWT.fullmatch(value) and not _only_an_error(value):
                return True
        elif name != "token" or foreign:
            return True
    return False


def returned(pairs: Iterable[tuple[str, str]]) -> tuple[str | None, str | None]:
    """`state` and `iss`, those within a JARM response and the issuer of an ID Token too (RFC 9207 §2.4), where they are not encrypted.
    Nothing of it is verified: it is handed back only."""
    given = dict(pairs)
    wrapped = read_unverified(given.get("response", "")) or {}
    token = read_unverified(str(given.get("id_token") or wrapped.get("id_token") or "")) or {}
    state = given.get("state", wrapped.get("state"))
    iss = given.get("iss") or wrapped.get("iss") or token.get("iss")
    return state if isinstance(state, str) else None, iss if isinstance(iss, str) else None


def code_in(pairs: Iterable[tuple[str, str]]) -> str:
    """The authorization code, one within a JARM response too where it is not encrypted."""
    given = dict(pairs)
    inner = (read_unverified(given.get("response", "")) or {}).get("code")
    return given.get("code") or (inner if isinstance(inner, str) else "")


def parameters(text: str) -> Pairs:
    """Decoded parameters of a query or fragment, in order."""
    found = []
    for piece in text.split("&"):
        name, _, value = piece.partition("=")
        found.append((unquote_plus(name), unquote_plus(value)))
    return tuple(found)


def foreign(address: str, own: str) -> bool:
    """An address on another origin than ours: absolute, and not ours."""
    address = address.strip().replace("\\", "/")
    if not address.startswith("//") and not _ABSOLUTE.match(address):
        return False
    try:
        parts = urlsplit(address)
    except ValueError:
        return True
    return f"{parts.scheme or urlsplit(own).scheme}://{parts.netloc}".lower() != own


def read_unverified(token: str) -> dict[str, Any] | None:
    """The claims of a signed JWT, not verified: None for anything else, an encrypted one among it."""
    parts = token.split(".")
    payload = b64decode(parts[1].rstrip("=")) if len(parts) == 3 else None
    if payload is None:
        return None
    try:
        claims = json.loads(payload)
    except ValueError:
        return None
    return claims if isinstance(claims, dict) else None


def usable(uri: str) -> bool:
    """A redirect URI that an answer of ours may name: absolute, or a path here, one line, and nothing that a browser would run."""
    if not uri or any(c <= " " or c == "\x7f" for c in uri):
        return False
    scheme, colon, _ = uri.partition(":")
    if colon and _ABSOLUTE.match(uri):
        return scheme.lower() not in _SCRIPTS
    return uri.startswith("/")


def error_fields(response: Response, error: str, description: str) -> Pairs:
    """The error response (RFC 6749 §4.1.2.1, RFC 9207), with the state and issuer of the one it takes the place of."""
    fields = [("error", error), ("error_description", description)]
    fields += [(name, value) for name, value in (("state", response.state), ("iss", response.iss)) if value is not None]
    return tuple(fields)


def error_address(response: Response, fields: Pairs) -> str:
    """Where the browser goes with an error by query or fragment."""
    text = "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in fields)
    uri = response.uri
    if response.mode == "fragment":
        return f"{uri}{'?' if '#' in uri else '#'}{text}"
    before, hash_, fragment = uri.partition("#")
    return f"{before}{'&' if '?' in before else '?'}{text}{hash_}{fragment}"


def _only_an_error(token: str) -> bool:
    claims = read_unverified(token)
    return claims is not None and "error" in claims and CARRIERS.isdisjoint(claims)


def _without(query: str) -> str:
    return "&".join(piece for piece in query.split("&") if unquote_plus(piece.partition("=")[0]) not in OF_THE_RESPONSE)
