"""One call of a token endpoint, as the rules and the upstream read it alike, or a reason why it goes no further.

RFC 6749 §3.2: POST, parameters in the body, none of them twice. What two servers could read in two ways (a name in another case or with
brackets, `;` between parameters, an encoded body) is refused, for whoever is asked for the step-up must be whoever gets the token.
JSON bodies are read too: Auth0 takes them.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from json.decoder import scanstring  # type: ignore[attr-defined] # what `json` itself reads strings with
from typing import Any, Final
from urllib.parse import unquote_plus, unquote_to_bytes

from gateway.flow.oauth.response import read_unverified
from gateway.flow.protocol import CODE, PASSWORD, REFRESH, RESOURCE_OWNER, Endpoints, endpoint_of, odd_grant, protocol_of
from gateway.policy.facts import Body, BodyUnavailable
from gateway.wire.head import RequestHead
from gateway.wire.media import media_type
from gateway.wire.target import query_pairs

STEPUP_TOKEN: Final = "stepup_token"  # noqa: S105 - the name of the parameter, not a secret
LONGEST_NAME: Final = 256
MOST_PARAMETERS: Final = 100

_DECISIVE: Final = frozenset({
    "grant_type", "username", "password", "client_id", "client_secret", "client_assertion", "refresh_token", "code", "realm", "connection",
    "scope", STEPUP_TOKEN,
})  # fmt: skip
"""Parameters that stand once, spelled so. `audience` and `resource` may stand more than once (RFC 8693 §2.1, RFC 8707 §2)."""
_SECRETS: Final = frozenset({"password", "client_secret", "client_assertion", STEPUP_TOKEN})
"""What may differ, or must not be kept, where a call is repeated."""
_OF_A_CALL: Final = _DECISIVE | {"audience", "resource", "assertion", "subject_token"}


@dataclass(frozen=True, slots=True)
class Bad:
    """Not forwarded. status, error: of RFC 6749 §5.2. public: for the client's developer. private: for the log."""

    status: int
    public: str
    private: str
    error: str = "invalid_request"


@dataclass(frozen=True, slots=True)
class Call:
    """protocol: see flow.protocol. client: its id, "" where it names none that can be read. user: who is said to log in, "" where the call
    names nobody. secret: the refresh token or the code, "" for none. token: the continue token that came along, None for none.

    same: the call in one spelling, without its secrets: what a repeated one must be equal to. body: as it goes to the upstream.
    authorization: the client's `Authorization` value, "" for none.
    """

    protocol: str
    client: str
    user: str
    secret: str
    token: str | None
    same: bytes
    body: bytes
    authorization: str = ""

    @property
    def by_credentials(self) -> bool:
        """Who it is for is proved by the upstream alone, so it is its answer that is held."""
        return self.protocol in (PASSWORD, RESOURCE_OWNER)


def read_call(head: RequestHead, oauth: Endpoints, raw: bytes, body: Body | BodyUnavailable) -> Call | Bad:
    """raw: the whole body. body: the same, parsed (policy.body)."""
    if head.method != "POST":
        return Bad(405, "Use POST.", f"method {head.method}")
    if misplaced := {name.casefold() for name, _ in query_pairs(head.target)} & _OF_A_CALL:
        # RFC 6749 §2.3.1: never in the request URI; some servers read them there.
        return Bad(400, "Parameters belong into the body.", f"{min(misplaced)} in the query")
    if any(value.strip().lower() != "identity" for value in head.all("content-encoding")):
        return Bad(400, "Send the body without Content-Encoding.", "an encoded body")
    kind = media_type(head.get("content-type") or "")
    if isinstance(body, BodyUnavailable):
        return Bad(400, "The body cannot be read.", body.reason)
    scripted = kind == "application/json"
    if not scripted and kind != "application/x-www-form-urlencoded":
        return Bad(400, "Send application/x-www-form-urlencoded or application/json.", f"Content-Type {kind[:60]!r}")
    fields: Any = body.json if scripted else body.form or {}
    if not isinstance(fields, Mapping) or len(fields) > MOST_PARAMETERS:
        return Bad(400, "Send an object of at most 100 parameters.", "no object, or too large a one")
    odd = _odd(fields) or ("" if scripted else _odd_separator(raw))
    if odd:
        return Bad(400, f"{odd} is not given once, as a text, and spelled so.", f"parameter {odd}")
    client = _client(head, fields)
    if isinstance(client, Bad):
        return client
    return _call(head, oauth, raw, fields, client, scripted=scripted)


def _call(head: RequestHead, oauth: Endpoints, raw: bytes, fields: Mapping[str, Any], client: str, *, scripted: bool) -> Call | Bad:
    if endpoint_of(head, oauth) == "token" and odd_grant(fields.get("grant_type")):
        return Bad(400, "grant_type is missing, or not spelled as it is registered.", f"grant_type {str(fields.get('grant_type'))[:60]!r}")
    protocol = protocol_of(head, oauth, fields)
    user = ""
    if protocol in (PASSWORD, RESOURCE_OWNER):
        user = fields.get("username") or ""
        if not user or len(user) > LONGEST_NAME or "\ufffd" in user or not all(map(_visible, user)) or user != user.strip():
            return Bad(400, "username is missing, or no name.", "no usable username")
    secret = {REFRESH: fields.get("refresh_token"), CODE: fields.get("code")}.get(protocol) or ""
    token = fields.get(STEPUP_TOKEN)
    kept = sorted((name, value) for name, value in fields.items() if name not in _SECRETS)
    return Call(
        protocol=protocol,
        client=client,
        user=user,
        secret=secret,
        token=token,
        same=json.dumps([head.target.raw.decode("latin-1"), protocol, client, user, kept], sort_keys=True).encode(),
        body=raw if token is None else _without_member(raw, STEPUP_TOKEN) if scripted else _without_pair(raw, STEPUP_TOKEN),
        authorization=head.get("authorization") or "",
    )


def _odd(fields: Mapping[str, Any]) -> str:
    """The first decisive parameter that is not given once, as a text, in its own spelling; "" if there is none."""
    for name, value in fields.items():
        plain = re.sub(r"[.\s]", "_", name.strip("\x00 \t\r\n").casefold()).partition("[")[0]  # as PHP, Rails, ASP.NET and qs read names
        if plain in _DECISIVE and (name != plain or not isinstance(value, str)):
            return plain
    return ""


def _odd_separator(raw: bytes) -> str:
    """A decisive parameter that stands behind a `;`, which some servers take for a `&`."""
    for pair in raw.split(b"&"):
        for piece in pair.split(b";")[1:]:
            name = unquote_to_bytes(piece.partition(b"=")[0].replace(b"+", b" ")).decode("utf-8", "replace").strip().casefold()
            if name in _DECISIVE:
                return name
    return ""


def _client(head: RequestHead, fields: Mapping[str, Any]) -> str | Bad:
    """The client's id, by the body, by HTTP Basic (RFC 6749 §2.3.1), or by its assertion (RFC 7523 §3), which the upstream verifies."""
    if head.has("authorization") and head.get("authorization") is None:
        return Bad(400, "Send one Authorization header.", "several Authorization headers")
    named = str(fields.get("client_id") or (read_unverified(fields.get("client_assertion") or "") or {}).get("sub") or "")
    scheme, _, rest = (head.get("authorization") or "").partition(" ")
    if scheme.lower() != "basic":
        return named[:LONGEST_NAME]
    try:
        name = unquote_plus(base64.b64decode(rest.strip(), validate=True).decode("utf-8").partition(":")[0])
    except (binascii.Error, ValueError):
        return Bad(400, "The Authorization header cannot be read.", "malformed Basic credentials")
    if named and named != name:
        return Bad(400, "client_id is another one than that of the Authorization header.", "two client ids")
    return name[:LONGEST_NAME]


def _visible(character: str) -> bool:
    return unicodedata.category(character) not in {"Cc", "Cf", "Cs", "Zl", "Zp"}


def _without_pair(raw: bytes, name: str) -> bytes:
    """A form without this parameter, byte for byte."""
    wanted = name.encode()
    return b"&".join(p for p in raw.split(b"&") if unquote_to_bytes(p.partition(b"=")[0].replace(b"+", b" ")) != wanted)


def _without_member(raw: bytes, name: str) -> bytes:
    """A JSON object without this member, byte for byte. It has been parsed before, and holds the name once."""
    text = raw.decode("utf-8")
    decoder = json.JSONDecoder()
    position = _blank(text, _blank(text, 0) + 1)
    before = position  # where the member begins, the comma before it included
    while text[position] != "}":
        key, after = scanstring(text, position + 1)
        _, end = decoder.raw_decode(text, _blank(text, _blank(text, after) + 1))
        following = _blank(text, end)
        if key == name:
            if text[following] == "," and before == position:  # the first one takes the comma behind it along
                end = _blank(text, following + 1)
            return (text[:before] + text[end:]).encode("utf-8")
        before = following
        position = _blank(text, following + 1) if text[following] == "," else following
    return raw


def _blank(text: str, position: int) -> int:
    """The next position that holds no white space of JSON (RFC 8259 §2)."""
    while text[position] in " \t\r\n":
        position += 1
    return position
