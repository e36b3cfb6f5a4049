"""`POST /.stepup/introspect`: what a token of ours says, for the service that it is for (RFC 7662).

Every answer is JSON, to whoever asks. A client authenticates by its secret in one place of two, and learns of other tokens than its own
that they are inactive: no more than of none at all.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, assert_never
from urllib.parse import parse_qsl, unquote_plus

from aiohttp import web

from gateway.flow.asked import Asked
from gateway.flow.guessing import Throttled
from gateway.flow.introspection import Active, Client, Inactive, Introspection, WrongClient
from gateway.flow.trail import Trail
from gateway.spec.introspection import IntrospectionSpec
from gateway.web.answers import response
from gateway.web.problem import json_page
from gateway.web.transaction import ReadBody
from gateway.wire.head import RequestHead
from gateway.wire.media import media_type

FORM = "application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True)
class Wrong:
    """An error of RFC 6749 §5.2: 401 for `invalid_client`, else 400. public: what to do about it."""

    error: str
    public: str


@dataclass(frozen=True, slots=True)
class Credentials:
    client: str
    secret: str


class Introspect:
    def __init__(
        self, *, spec: Callable[[], IntrospectionSpec | None], introspection: Introspection, trail: Trail, read_body: ReadBody, limit: int
    ) -> None:
        self._spec = spec
        self._introspection = introspection
        self._trail = trail
        self._read_body = read_body
        self._limit = limit

    async def handle(self, request: web.BaseRequest, asked: Asked) -> web.Response | None:
        """None where it is not offered. May raise StoreUnavailable, ClientGone and BodyTooLarge."""
        spec = self._spec()
        if spec is None:
            return None
        if request.method != "POST":
            return self._refused(asked, Wrong("invalid_request", "Use POST."), status=405, headers=(("Allow", "POST"),))
        fields = self._fields(asked.head, await self._read_body(request, self._limit))
        if isinstance(fields, Wrong):
            return self._refused(asked, fields)
        given = credentials(asked.head, fields)
        if isinstance(given, Wrong):
            return self._refused(asked, given)
        client = await self._introspection.admit(spec, given.client, given.secret, asked.head.client_ip, asked.now)
        match client:
            case Throttled():
                return self._throttled(asked, client)
            case WrongClient():
                return self._refused(asked, Wrong("invalid_client", "There is no such client, or this is not its secret."))
            case Client():
                return await self._told(asked, client, fields)
            case _:
                assert_never(client)

    def _fields(self, head: RequestHead, body: bytes) -> dict[str, str] | Wrong:
        """The form's parameters, each of which stands there once (RFC 6749 §3.2)."""
        if head.target.query:
            # RFC 6749 §2.3.1: credentials must not stand in the URI, and a token there would be logged on its way.
            return Wrong("invalid_request", "Send all parameters in the body.")
        if media_type(head.get("content-type") or "") != FORM:
            return Wrong("invalid_request", f"Send {FORM}.")
        try:
            pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=20)
        except ValueError:
            return Wrong("invalid_request", "The form cannot be read.")
        fields = dict(pairs)
        if len(fields) != len(pairs):
            return Wrong("invalid_request", "A parameter is given more than once.")
        return fields

    async def _told(self, asked: Asked, client: Client, fields: dict[str, str]) -> web.Response:
        token = fields.get("token", "")
        if not token:
            return self._refused(asked, Wrong("invalid_request", "The parameter token is missing."))
        found = await self._introspection.look(token, client.audiences, asked.now)
        match found:
            case Active():
                body: dict[str, Any] = {**found.claims, "active": True, "typ": found.kind.value}
            case Inactive():
                body = {"active": False}
                self._trail.event("introspected", request_id=asked.request_id, client=client.id, active=False, reason=found.private)
            case _:
                assert_never(found)
        return response(json_page(200, body))

    def _throttled(self, asked: Asked, throttled: Throttled) -> web.Response:
        self._trail.event("refused", request_id=asked.request_id, kind="throttled", reason=f"introspection, by {throttled.by}")
        wait = str(throttled.retry_after)
        body = {"error": "temporarily_unavailable", "error_description": f"Asked too often. Try again in {wait} seconds."}
        body["request_id"] = asked.request_id
        return response(json_page(429, body, headers=(("Retry-After", wait),)))

    def _refused(self, asked: Asked, wrong: Wrong, *, status: int | None = None, headers: tuple[tuple[str, str], ...] = ()) -> web.Response:
        self._trail.event("refused", request_id=asked.request_id, kind=wrong.error, reason=f"introspection: {wrong.public}")
        if wrong.error == "invalid_client":
            status, headers = 401, (("WWW-Authenticate", 'Basic realm="introspection", charset="UTF-8"'),)
        body = {"error": wrong.error, "error_description": wrong.public, "request_id": asked.request_id}
        return response(json_page(status or 400, body, headers=headers))


def credentials(head: RequestHead, fields: dict[str, str]) -> Credentials | Wrong:
    """By `client_secret_basic` or `client_secret_post` (RFC 6749 §2.3.1), never by both."""
    headers = head.all("authorization")
    if len(headers) > 1:
        return Wrong("invalid_request", "There are several Authorization headers.")
    if not headers:
        if "client_id" not in fields or "client_secret" not in fields:
            return Wrong("invalid_client", "Authenticate by client_secret_basic or client_secret_post.")
        return Credentials(fields["client_id"], fields["client_secret"])
    if "client_secret" in fields:
        return Wrong("invalid_request", "The client authenticates in two ways.")
    given = _basic(headers[0])
    if given is None:
        return Wrong("invalid_client", "The Authorization header holds no Basic credentials.")
    if fields.get("client_id", given.client) != given.client:
        return Wrong("invalid_request", "client_id is another than that of the Authorization header.")
    return given


def _basic(value: str) -> Credentials | None:
    """RFC 7617, both parts form-urlencoded (RFC 6749 §2.3.1)."""
    scheme, _, encoded = value.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        client, colon, secret = base64.b64decode(encoded.strip(), validate=True).decode("utf-8").partition(":")
        return Credentials(unquote_plus(client, errors="strict"), unquote_plus(secret, errors="strict")) if colon else None
    except (binascii.Error, ValueError):
        return None
