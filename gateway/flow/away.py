"""Pages of others: where a browser was sent, by which state it comes back, and what it brings.

Such a state opens nothing but the step that it was made for: an index leads from its hash to the transaction, and the binding of the
browser is asked for as everywhere. It is single use: a step that is done, or was begun anew, knows it no more.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar
from urllib.parse import quote, urlencode, urlsplit

from gateway.flow.step import Away, Context, Field, Outcome, Passed, Refused, View
from gateway.spec.base import Spec, parse_origin

MOST_KEPT = 16_384
"""Bytes of an arrival's parameters that are remembered for the rules."""

OWN = "@"
"""What the name of a step begins with that is a rule function's own redirect."""


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """What a state of a page of others leads to. transaction: its id. step: the one it was made for. state: the transaction's own."""

    transaction: str
    step: str
    state: str


@dataclass(frozen=True, slots=True)
class Arrival:
    """A browser that comes back. state: the one it was sent away with. query, body: the other parameters, each name once."""

    state: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, str] = field(default_factory=dict)

    @property
    def kept(self) -> dict[str, Any]:
        """What rules may look at (`context.request.query` and `.body`)."""
        return {"query": dict(self.query), "body": dict(self.body)}

    @property
    def form(self) -> dict[str, str]:
        """All of it as an answer to a step; what was posted goes before what stood in the address."""
        return {**self.query, **self.body, "state": self.state}

    @property
    def too_large(self) -> bool:
        return len(json.dumps(self.kept)) > MOST_KEPT


def anew_key(binding: str, step: str) -> str:
    """Where a browser is remembered that was sent to a page which makes it begin anew."""
    return hashlib.sha256(f"{step}\x00{binding}".encode()).hexdigest()


def appended(url: str, pairs: Iterable[tuple[str, str]]) -> str:
    """A URL with parameters at the end of its query, before a fragment; every other byte stays."""
    before, mark, fragment = url.partition("#")
    joint = "" if before.endswith(("?", "&")) else "&" if "?" in before else "?"
    return before + joint + urlencode(list(pairs)) + mark + fragment


def sendable(url: str) -> str | None:
    """A URL that a browser may be sent to, with what may not stand in a header escaped; None where it is none.

    It is http or https with a host, or a path of our own origin. It came from a rule function, so it is looked at once more here.
    """
    if any(c.isspace() or ord(c) < 32 for c in url) or "\\" in url:
        return None
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    elsewhere = parts.scheme in ("http", "https") and _is_origin(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}")
    here = not parts.scheme and not parts.netloc and url.startswith("/") and not url.startswith("//")
    return quote(url, safe="%/:?#[]@!$&'()*+,;=~-._") if elsewhere or here else None


def _is_origin(text: str) -> bool:
    try:
        parse_origin(text)
    except ValueError:
        return False
    return True


class OwnRedirect:
    """A rule function's own redirect: its URL with `state` appended and nothing else. Who comes back has passed, and has proved nothing."""

    kind: ClassVar[str] = "redirect"
    Config: ClassVar[type[Spec]] = Spec
    proves_identity: ClassVar[bool] = False
    free_actions: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, url: str, new_state: Callable[[], str]) -> None:
        self._url = url
        self._new_state = new_state

    @property
    def needs_subject(self) -> bool:
        return False

    async def begin(self, context: Context) -> View:
        url = sendable(self._url)
        memory = context.memory if "state" in context.memory else {"state": self._new_state()}
        state = str(memory["state"])
        away = Away(appended(url, [("state", state)]), state=state) if url is not None else None
        lead = "You go on at another page and come back here afterwards." if away else "The address of the next page is not usable."
        fields = (Field("state", "hidden", "The state that the page was given"),)
        return View("One more page", lead, fields, memory, page={"host": urlsplit(self._url).netloc}, away=away)

    async def answer(self, context: Context, form: Mapping[str, str]) -> Outcome:
        if not form.get("state") or form["state"] != context.memory.get("state"):
            return Refused("missing", "This is done at another page.", "no state of a page of others", context.memory, counts=False)
        return Passed((), counts=False)
