"""What the suites about smuggling share: a message, what RFC 9112 leaves a careful recipient to do with it, and whether that was done.

Behind a message stands a request for /smuggled, which only a recipient that reads the message differently would see.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.support.wire import Outcome

DENIED = 451
RULES = [
    {"name": "admin", "match": {"path": "/admin/**"}, "deny": {"status": DENIED}},
    {"name": "gated", "match": {"path": "/gated/**"}, "require": "human"},
]
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: GATEWAY.TEST:80\r\n\r\n"
LAST = b"GET /last HTTP/1.1\r\nHost: GATEWAY.TEST:80\r\nConnection: close\r\n\r\n"
CLOSE = b"Connection: close\r\n"
ABC = b"3\r\nabc\r\n0\r\n\r\n"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Carried:
    """It is one request with this body; or_refused: statuses, where a recipient may be stricter."""

    body: bytes = b""
    or_refused: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Refused:
    """One of these statuses or none, the connection ends, and nothing of it is ever a whole request upstream."""

    statuses: tuple[int, ...] = (400,)


REFUSED = Refused()
EITHER = (400,)


def as_expected(outcome: Outcome, expected: Carried | Refused) -> None:
    if isinstance(expected, Carried) and outcome.arrived:
        first, *others = outcome.arrived
        assert (first.target, first.body) == (b"/x", expected.body), outcome
        # What stands behind a message may be served, as a request of its own, or left unserved when the connection ends.
        assert [m.target for m in others] in ([], [b"/last"]), outcome
        assert outcome.statuses == [200] * len(outcome.arrived), outcome
        assert outcome.broken == ()
        return
    statuses = expected.statuses if isinstance(expected, Refused) else expected.or_refused
    assert statuses, f"not carried: {outcome}"
    assert outcome.arrived == (), outcome
    assert outcome.statuses in ([], *[[status] for status in statuses]), outcome
    assert [m.target for m in outcome.broken] in ([], [b"/x"]), outcome


def post(fields: bytes, body: bytes = b"") -> bytes:
    return b"POST /x HTTP/1.1\r\nHost: GATEWAY.TEST:80\r\n" + fields + b"\r\n" + body


def get(fields: bytes) -> bytes:
    return b"GET /x HTTP/1.1\r\nHost: GATEWAY.TEST:80\r\n" + fields + b"\r\n"


def chunked(body: bytes, fields: bytes = b"") -> bytes:
    return post(fields + b"Transfer-Encoding: chunked\r\n", body)


def cuts(sent: bytes) -> list[list[bytes]]:
    """In two at every place, and byte by byte."""
    return [[sent[:at], sent[at:]] for at in range(1, len(sent))] + [[sent[at : at + 1] for at in range(len(sent))]]
