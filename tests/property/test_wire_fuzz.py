"""Both lanes read damaged bytes alike. What one carries the other carries to the byte, or it has refused and ended the connection there.

Damage is drawn by Hypothesis, the same in every run; `STEPUP_FUZZ_EXAMPLES=20000` draws as many, and others each time.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.alike import HOST, answers_alike, requests_alike, sent_to
from tests.support.lanes import LANES
from tests.support.rfc9112 import request
from tests.support.smuggling import RULES
from tests.support.wire import Wire, wired

pytestmark = pytest.mark.asyncio(loop_scope="module")

ASKED = os.environ.get("STEPUP_FUZZ_EXAMPLES")
PROFILE = settings(max_examples=int(ASKED or 300), derandomize=ASKED is None, deadline=None)


class Lanes:
    """Not a mapping: Hypothesis would print all that is in it."""

    def __init__(self) -> None:
        self.wires: list[Wire] = []


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lanes(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Lanes]:
    async with AsyncExitStack() as stack:
        made = Lanes()
        for name, start in LANES.items():
            # None of these is ever waited for: a client leaves when all is quiet.
            limits = {"head_timeout": "1m", "body_idle_timeout": "1m", "keepalive": "1m"}
            wire = await stack.enter_async_context(wired(start, tmp_path_factory.mktemp(name), rules=RULES, limits=limits))
            made.wires.append(wire)
        yield made


# -- damage -------------------------------------------------------------------------------------------------------------

EVIL = b"GET /evil HTTP/1.1\r\nHost: x"
CHUNKS = b"5;x=y\r\n0\r\n\r\n\r\n%x\r\n%b\r\n0\r\nX: 1\r\n\r\n" % (len(EVIL), EVIL)
REQUESTS = [
    b"GET /a HTTP/1.1\r\n" + HOST + b"Accept: */*\r\nCookie: a=1; b=2\r\n\r\n",
    b"POST /b HTTP/1.1\r\n" + HOST + b"Content-Type: a/b\r\nContent-Length: %d\r\n\r\n%b" % (len(EVIL), EVIL),
    b"PUT /c HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKS,
    b"DELETE /d?x=%2e%2e/y HTTP/1.1\r\n" + HOST + b"Connection: keep-alive\r\nX_Y: \xe4\r\n\r\n",
    b"GET /admin HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET /e HTTP/1.0\r\n" + HOST + b"Connection: keep-alive\r\n\r\n",
    b"OPTIONS /f HTTP/1.1\r\n" + HOST + b"Content-Length: 0\r\nConnection: close\r\n\r\n",
    b"GET /g/%2e%2e//h;i HTTP/1.1\r\n" + HOST + b"X-Stepup-Token: x\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n",
]
ANSWERS = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nX-B: 1\r\n\r\ngood",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x\r\ngo\r\n2\r\nod\r\n0\r\nX: 1\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 404 Not Found\r\nContent-Length: 4\r\nSet-Cookie: a=1\r\n\r\ngood",
    b"HTTP/1.1 204 No Content\r\nX: 1\r\n\r\n",
    b'HTTP/1.1 304 Not Modified\r\nETag: "x"\r\nContent-Length: 9\r\n\r\n',
    b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\ngood until the end",
    b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\ngood",
    b"HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\nCache-Control: no-store\r\n\r\n",
]
TOKENS = [
    b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b",", b";", b"0", b"1", b"f", b"+", b"-", b"_", b"\x0b", b"\x7f", b"\x80", b"\xff",
    b"%00", b"#", b"\r\n\r\n", b"0\r\n\r\n", b"\r\n ", b"1\r\n", b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: identity\r\n",
    b"Content-Length: 0\r\n", b"Content-Length: 4\r\n", b"Content_Length: 3\r\n", b"Host: evil\r\n", b"Connection: close\r\n",
    b"Connection: upgrade\r\nUpgrade: websocket\r\n", b"Expect: 100-continue\r\n", b"HTTP/1.0", b"HTTP/1.1 200 OK\r\n",
    b"GET /evil HTTP/1.1\r\n", b"HEAD ", b"CONNECT ", b"http://x/", b"chunked, chunked",
]  # fmt: skip

places = st.floats(0, 1, exclude_max=True)
damages = st.lists(
    st.one_of(
        st.tuples(st.just("delete"), places, st.integers(1, 12)),
        st.tuples(st.just("duplicate"), places, st.integers(1, 40)),
        st.tuples(st.just("insert"), places, st.sampled_from(TOKENS) | st.binary(min_size=1, max_size=3)),
        st.tuples(st.just("flip"), places, st.integers(0, 7)),
        st.tuples(st.just("splice"), places, st.tuples(st.integers(0, 7), places)),
    ),
    max_size=4,
)
cuts = st.lists(places, max_size=4)


def damaged(sent: bytes, damage: Sequence[tuple[str, float, object]], others: Sequence[bytes]) -> bytes:
    for kind, where, what in damage:
        at = int(where * len(sent))
        match kind, what:
            case "delete", int(count):
                sent = sent[:at] + sent[at + count :]
            case "duplicate", int(count):
                sent = sent[: at + count] + sent[at : at + count] + sent[at + count :]
            case "insert", bytes(token):
                sent = sent[:at] + token + sent[at:]
            case "flip", int(bit) if sent:
                sent = sent[:at] + bytes([sent[at] ^ (1 << bit)]) + sent[at + 1 :]
            case "splice", (int(index), float(start)):
                other = others[index % len(others)]
                sent = sent[:at] + other[int(start * len(other)) :]
    return sent


# -- requests -----------------------------------------------------------------------------------------------------------


@given(bases=st.lists(st.sampled_from(REQUESTS), min_size=1, max_size=3), damage=damages, places=cuts)
@PROFILE
async def test_damaged_requests_are_read_alike(
    lanes: Lanes, bases: list[bytes], damage: list[tuple[str, float, object]], places: list[float]
) -> None:
    sent = damaged(b"".join(bases), damage, REQUESTS)
    await requests_alike(lanes.wires, sent, places)


@given(bases=st.lists(st.sampled_from([b for b in REQUESTS if b"close" not in b]), min_size=1, max_size=3), places=cuts)
@settings(PROFILE, max_examples=PROFILE.max_examples // 4)
async def test_sound_requests_are_carried_by_both_in_any_segments(lanes: Lanes, bases: list[bytes], places: list[float]) -> None:
    """No damage: everything is served, or the connection ends behind a body in chunks (RFC 9112 section 9.6), but for what is denied."""
    sent = b"".join(bases)
    wanted = [_read(each) for each in bases if b"/admin" not in each]
    for wire in lanes.wires:
        seen = await sent_to(wire, sent, places)
        served = [(start.split(b" ")[1], body) for start, _, body in seen.served]
        assert served == wanted[: len(served)]
        assert len(served) == len(wanted) or (seen.ended and any(b"chunked" in each for each in bases[: len(served) + 1])), (served, sent)


def _read(sent: bytes) -> tuple[bytes, bytes]:
    if b"chunked" in sent:
        return b"/c", b"0\r\n\r\n" + EVIL
    found = request(sent.replace(b"HTTP/1.0", b"HTTP/1.1"))
    assert found is not None
    return found[0].target, found[0].body


# -- answers ------------------------------------------------------------------------------------------------------------


@given(base=st.sampled_from(ANSWERS), damage=damages, places=cuts, method=st.sampled_from([b"POST", b"POST", b"GET", b"HEAD"]))
@PROFILE
async def test_damaged_answers_are_read_alike(
    lanes: Lanes, base: bytes, damage: list[tuple[str, float, object]], places: list[float], method: bytes
) -> None:
    answer = damaged(base, damage, ANSWERS)
    await answers_alike(lanes.wires, answer, places, method)
