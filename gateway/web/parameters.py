"""What comes to `/continue`: parameters of the query and of a form, in order, nothing merged yet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl

from gateway.wire.head import RequestHead
from gateway.wire.media import media_type
from gateway.wire.target import query_pairs

FORM = "application/x-www-form-urlencoded"
MOST_FIELDS = 200

Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Unusable:
    """status: 400 or 415. detail: what to do about it, in the words of RFC 6749."""

    status: int
    detail: str


@dataclass(frozen=True, slots=True)
class Given:
    query: Pairs
    form: Pairs = ()

    def all(self, name: str) -> list[str]:
        """Every value of a parameter that is not empty."""
        return [v for n, v in (*self.query, *self.form) if n == name and v]

    def state(self) -> str | None:
        """The state, where it is one: it may stand in the query and in the form, if both say the same."""
        found = [[v for n, v in pairs if n == "state" and v] for pairs in (self.query, self.form)]
        both = [values for values in found if values]
        return both[0][0] if both and all(len(values) == 1 for values in both) and len({v[0] for v in both}) == 1 else None

    def twice(self) -> str | None:
        """A parameter that stands more than once in one of the two, or None."""
        return _twice(self.query) or _twice(self.form)


def _twice(pairs: Iterable[tuple[str, str]]) -> str | None:
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            return name
        seen.add(name)
    return None


def without_state(pairs: Pairs) -> Mapping[str, str]:
    return {n: v for n, v in pairs if n != "state"}


def read_parameters(head: RequestHead, body: bytes) -> Given | Unusable:
    """The parameters, or why they cannot be read. A JSON body is a script's, and says nothing here."""
    query = query_pairs(head.target)
    if not body:
        return Given(query)
    kind = media_type(head.get("content-type") or "")
    if not kind:
        return Unusable(400, f"invalid_request: the body has no Content-Type; send {FORM}.")
    if kind == "application/json":
        return Given(query)
    if kind != FORM:
        return Unusable(415, f"invalid_request: send {FORM}, not {kind[:60]}.")
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=MOST_FIELDS)
    except ValueError:
        return Unusable(400, "invalid_request: the form cannot be read.")
    return Given(query, tuple(pairs))
