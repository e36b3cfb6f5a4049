"""What a rule function is given, and what of it counts afterwards. What makes no sense is a Nonsense: an error of that function."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from gateway.flow.functions import Calling, Context, Fields, User
from gateway.functions.metadata import Kept
from gateway.policy.facts import Body, Nowhere, Redirect, ToSteps, ToUrl
from gateway.wire.cookies import OWN_COOKIES
from gateway.wire.head import RequestHead
from gateway.wire.target import query_pairs

MAX_URL: Final = 8000  # bytes; what browsers and servers take
MAX_CLAIMS: Final = 4096  # bytes as JSON: an upstream token is a header
MAX_JTI: Final = 200
RESERVED: Final = frozenset({
    "iss", "aud", "sub", "jti", "iat", "exp", "nbf", "state", "rules", "acr", "amr", "auth_time", "sid", "results", "typ", "use", "cnf",
})  # fmt: skip
_OWN = frozenset({
    "user_id", "source", "jti", "app_metadata", "user_metadata", "protocol", "request", "session", "stats", "redirect", "claims",
})  # fmt: skip


class Nonsense(Exception):
    """`str(error)` says what is wrong and what to write instead; it goes to the log."""


class Watched(Context):
    """A context that knows whether its redirect was set, to whatever."""

    def __init__(self, *args: Any, **fields: Any) -> None:
        super().__init__(*args, **fields)
        self.__dict__["given"] = copy.deepcopy(self.get("redirect"))
        self.__dict__["was_set"] = False

    def __setitem__(self, name: str, value: Any) -> None:
        if name == "redirect":
            self.__dict__["was_set"] = True
        super().__setitem__(name, value)

    @property
    def redirected(self) -> bool:
        return bool(self.__dict__["was_set"]) or self.get("redirect") != self.__dict__["given"]


# -- given ---------------------------------------------------------------------------------------------------------------------------------


def user_of(calling: Calling, kept: Kept, jti: str) -> User:
    subject = calling.identified.subject
    own = {"user_id": subject.id, "source": subject.source, "jti": jti, "app_metadata": kept.app, "user_metadata": kept.user}
    return User({**subject.claims, **copy.deepcopy(own)})


def context_of(calling: Calling, kept: Kept) -> Watched:
    holder = calling.identified.holder
    proofs = {**(holder.proofs if holder is not None else {}), **calling.granted}
    steps = {name: {"at": proof.at, "amr": list(proof.amr)} for name, proof in proofs.items() if not name.startswith("@")}
    return Watched(
        protocol=calling.occasion.protocol,
        request=_request(calling),
        upstream=calling.upstream,
        session=Fields(id=holder.sid if holder is not None else "", steps=steps),
        stats=Fields(loginsCount=kept.logins),
        redirect=None,
        claims=copy.deepcopy(dict(calling.occasion.claims)),
    )


def _request(calling: Calling) -> Fields:
    head, occasion = calling.head, calling.occasion
    return Fields(
        method=head.method,
        host=head.host,
        hostname=head.host,
        path=head.target.readings[0],
        query=dict(occasion.query) if occasion.query is not None else _grouped(query_pairs(head.target)),
        headers=_headers(head),
        ip=head.client_ip,
        userAgent=", ".join(head.all("user-agent")),
        body=copy.deepcopy(occasion.body) if occasion.query is not None else _body(calling),
    )


def _body(calling: Calling) -> Any:
    """Fields of a form, or a JSON document; {} for no body, None for one that cannot be had or read."""
    match calling.body:
        case None:
            return {}
        case Body(form=form, json=document):
            return copy.deepcopy(dict(form) if form is not None else document if document is not None else {})
        case _:
            return None


def _grouped(pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
    found: dict[str, list[str]] = {}
    for name, value in pairs:
        found.setdefault(name, []).append(value)
    return {name: values[0] if len(values) == 1 else values for name, values in found.items()}


def _headers(head: RequestHead) -> dict[str, str]:
    """By lower-case name. Our own cookies are left out: who holds them is the user."""
    found: dict[str, str] = {}
    for raw, value in head.headers:
        name, text = raw.decode("latin-1").lower(), value.decode("latin-1")
        if name == "cookie":
            text = "; ".join(each for each in map(str.strip, text.split(";")) if each.partition("=")[0].strip() not in OWN_COOKIES)
        separator = "; " if name == "cookie" else ", "
        found[name] = f"{found[name]}{separator}{text}" if name in found else text
    return found


def another(user: User, context: Context) -> tuple[User, Watched]:
    """Both, for the next function to work on: what it does to its own counts when it has ended well."""

    def own(fields: Mapping[str, Any]) -> dict[str, Any]:
        return {name: copy.deepcopy(value) if name in _OWN else value for name, value in fields.items()}

    return User(own(user)), Watched(own(context))


# -- taken ---------------------------------------------------------------------------------------------------------------------------------


def redirect_of(context: Watched, steps: Iterable[str]) -> Redirect | None:
    """What a function has set, None where it has not touched it. Raises Nonsense."""
    if not context.redirected:
        return None
    known = frozenset(steps)
    match context.get("redirect"):
        case None:
            return Nowhere()
        case {"url": str(url), **rest} if not rest:
            return ToUrl(_url(url))
        case str(name):
            return ToSteps((_step(name, known),))
        case [_, *_] as names:
            return ToSteps(tuple(dict.fromkeys(_step(name, known) for name in names)))
        case other:
            raise Nonsense(f'context.redirect is {_shown(other)}; set {{"url": "https://…"}}, the name of a step, or a list of names')


def _step(name: object, known: frozenset[str]) -> str:
    if isinstance(name, str) and "://" in name:
        raise Nonsense('context.redirect is a URL; write {"url": "https://…"}')
    if not isinstance(name, str) or name not in known:
        raise Nonsense(f"context.redirect names {_shown(name)}, which is no step; there are {', '.join(sorted(known)) or 'none'}")
    return name


def _url(url: str) -> str:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        parts = urlsplit("")
    here = url.startswith("/") and not url.startswith("//") and "\\" not in url
    if not here and (parts.scheme not in {"http", "https"} or not parts.hostname):
        raise Nonsense("context.redirect.url is no http:// or https:// URL, and no path of this origin")
    if not url.isascii() or not url.isprintable() or " " in url or len(url) > MAX_URL:
        raise Nonsense(f"context.redirect.url holds what must be percent-encoded, or is longer than {MAX_URL} bytes")
    return url


def claims_of(context: Context) -> dict[str, Any]:
    """Raises Nonsense."""
    claims = context.get("claims")
    if not isinstance(claims, dict) or not all(isinstance(name, str) and name for name in claims):
        raise Nonsense("context.claims is no mapping with names")
    if taken := sorted(RESERVED.intersection(claims)):
        raise Nonsense(f"context.claims: {', '.join(taken)} {'are' if len(taken) > 1 else 'is'} the gateway's own to say")
    if (size := len(_json(claims, "context.claims"))) > MAX_CLAIMS:
        raise Nonsense(f"context.claims would be {size:,} bytes; the limit is {MAX_CLAIMS:,}")
    return claims


def jti_of(user: User) -> str:
    """Raises Nonsense."""
    jti = user.get("jti")
    if not isinstance(jti, str) or not 0 < len(jti) <= MAX_JTI or not jti.isascii() or not jti.isprintable():
        raise Nonsense(f"user.jti is {_shown(jti)}; it is text of 1 to {MAX_JTI} printable ASCII characters")
    return jti


def metadata_of(user: User, before: Kept, limit: int, *, known: bool) -> Kept:
    """What is to be kept of the user from now on. Raises Nonsense."""
    app, own = user.get("app_metadata"), user.get("user_metadata")
    if app == before.app and own == before.user:
        return before
    if not known:
        raise Nonsense("nobody is logged in, so there is nobody whose metadata could be kept; test user.user_id first")
    if not isinstance(app, dict) or not isinstance(own, dict):
        raise Nonsense("user.app_metadata and user.user_metadata are mappings")
    # As JSON has it: what comes back later is what is kept now.
    encoded = _json(app, "user.app_metadata"), _json(own, "user.user_metadata")
    if (size := sum(map(len, encoded))) > limit:
        raise Nonsense(
            f"the metadata of this user would be {size:,} bytes; the limit is {limit:,} (functions.metadata_limit). "
            "Keep a pointer here, and the data elsewhere"
        )
    return Kept(json.loads(encoded[0]), json.loads(encoded[1]), before.logins, before.seen, before.version)


def _json(value: Any, what: str) -> bytes:
    try:
        return json.dumps(value, allow_nan=False, ensure_ascii=False).encode("utf-8")
    except (TypeError, ValueError, RecursionError) as error:
        raise Nonsense(f"{what} cannot be written as JSON ({type(error).__name__})") from None


def _shown(value: object) -> str:
    """A value in a message: never more of it than its kind, but for a short name."""
    return (
        f'"{value}"' if isinstance(value, str) and len(value) <= 64 and value.isprintable() else f"a value of type {type(value).__name__}"
    )
