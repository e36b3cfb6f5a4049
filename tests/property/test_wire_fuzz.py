"""Both lanes read damaged bytes alike. What one carries the other carries to the byte, or it has refused and ended the connection there.

RFC 9112 leaves some choice: section 2.2 and 3 (a lenient recipient, or a refusal), section 9.6 (whether what stands behind a message is
served or the connection ends). So of two lanes one may stop earlier; it may never go on differently. `Wire` holds the law for each of them.

Damage is drawn by Hypothesis, the same in every run; `STEPUP_FUZZ_EXAMPLES=20000` draws as many, and others each time.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import pairwise

import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.lanes import LANES
from tests.support.rfc9112 import Malformed, Message, request, responses
from tests.support.smuggling import RULES
from tests.support.wire import Client, Outcome, Wire, echo, wired

pytestmark = pytest.mark.asyncio(loop_scope="module")

ASKED = os.environ.get("STEPUP_FUZZ_EXAMPLES")
PROFILE = settings(max_examples=int(ASKED or 300), derandomize=ASKED is None, deadline=None)
_QUIET = 40  # rounds of the event loop, which is everybody's here, without a byte anywhere: nothing more will come by itself
_KNOWN = ("RequestPayloadError",)  # tests/contract/test_wire_smuggling.py says so


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
            wire.known = _KNOWN
            made.wires.append(wire)
        yield made


# -- damage -------------------------------------------------------------------------------------------------------------

HOST = b"Host: GATEWAY.TEST:80\r\n"
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


def in_segments(sent: bytes, places: Sequence[float]) -> list[bytes]:
    ends = sorted({int(place * len(sent)) for place in places} | {0, len(sent)})
    return [sent[start:end] for start, end in pairwise(ends)] or [b""]


# -- requests -----------------------------------------------------------------------------------------------------------


@given(bases=st.lists(st.sampled_from(REQUESTS), min_size=1, max_size=3), damage=damages, places=cuts)
@PROFILE
async def test_damaged_requests_are_read_alike(
    lanes: Lanes, bases: list[bytes], damage: list[tuple[str, float, object]], places: list[float]
) -> None:
    sent = damaged(b"".join(bases), damage, REQUESTS)
    first, second = [await _sent(wire, sent, places) for wire in lanes.wires]
    _agree(first, second, sent)
    _agree(second, first, sent)


@dataclass(frozen=True, slots=True)
class Seen:
    """served: what arrived, without the gateway's port. ended: by the gateway."""

    served: list[tuple[bytes, tuple[tuple[bytes, bytes], ...], bytes]]
    ended: bool


async def _sent(wire: Wire, sent: bytes, places: Sequence[float]) -> Seen:
    wire.upstream.clear()
    before = wire.decided()
    client = await wire.client()
    try:
        await client.send(in_segments(wire.hosted(sent), places))
        await _quiet(wire, client)
        ended = client.over.done()
    finally:
        client.transport.close()
    await client.end()
    await wire.settle()
    methods = [message.method for message in wire.upstream.arrived]  # only these can have been answered without a body
    outcome = wire.judged(client, before, methods, left=True)
    port = b"%d" % wire.front.port
    served = [
        (m.start.replace(port, b"PORT"), tuple((n.replace(port, b"PORT"), v.replace(port, b"PORT")) for n, v in m.fields), m.body)
        for m in outcome.arrived
    ]
    return Seen(served, ended)


async def _quiet(wire: Wire, client: Client) -> None:
    seen: tuple[object, ...] = ()
    rounds = 0
    while rounds < _QUIET and not client.over.done():
        await asyncio.sleep(0)
        upstream = wire.upstream
        now = (len(client.came), len(upstream.arrived), len(upstream.open), sum(len(each.buffer) for each in upstream.open))
        rounds = rounds + 1 if now == seen else 0
        seen = now


def _agree(longer: Seen, shorter: Seen, sent: bytes) -> None:
    """Where the second is no longer than the first, it is where the first began, and it ends there."""
    if len(shorter.served) <= len(longer.served):
        assert shorter.served == longer.served[: len(shorter.served)], sent
        assert shorter.ended or len(shorter.served) == len(longer.served), f"one lane carries what the other one waits for: {sent!r}"


@given(bases=st.lists(st.sampled_from([b for b in REQUESTS if b"close" not in b]), min_size=1, max_size=3), places=cuts)
@settings(PROFILE, max_examples=PROFILE.max_examples // 4)
async def test_sound_requests_are_carried_by_both_in_any_segments(lanes: Lanes, bases: list[bytes], places: list[float]) -> None:
    """No damage: everything is served, or the connection ends behind a body in chunks (RFC 9112 section 9.6), but for what is denied."""
    sent = b"".join(bases)
    wanted = [_read(each) for each in bases if b"/admin" not in each]
    for wire in lanes.wires:
        seen = await _sent(wire, sent, places)
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
    if not answer or answer.startswith(b"HTTP/1.1 101"):
        return  # a kept connection that closes without a byte is tried again; a switch has its own tests
    heard = [await _answered(wire, answer, places, method) for wire in lanes.wires]
    whole = _strictly(answer, method)
    for outcome in heard:
        assert len(outcome.answers) <= 1, answer
    told = [outcome.answers[0] if outcome.answers and outcome.answers[0].complete else None for outcome in heard]
    passed = [each for each in told if each is not None and each.status != 502]
    if whole is not None:
        assert len(passed) == len(heard), f"an answer that is right is not passed on: {answer!r}"
    assert all((each.start, _content(each), each.body) == (passed[0].start, _content(passed[0]), passed[0].body) for each in passed), answer
    if passed and whole is not None:
        assert passed[0].body == whole.body, answer


async def _answered(wire: Wire, answer: bytes, places: Sequence[float], method: bytes) -> Outcome:
    wire.upstream.clear()
    before = wire.decided()
    segments = in_segments(answer, places)
    wire.upstream.reply, wire.upstream.segments, wire.upstream.closing = (lambda _message, _number: segments[0]), segments[1:], True
    client = await wire.client()
    try:
        client.transport.write(wire.hosted(method + b" /x HTTP/1.1\r\n" + HOST + b"Content-Length: 0\r\nConnection: close\r\n\r\n"))
        await client.end()
    finally:
        wire.upstream.reply, wire.upstream.segments, wire.upstream.closing = echo, (), False
        client.transport.close()
    return wire.judged(client, before, [method], left=True)


def _strictly(answer: bytes, method: bytes) -> Message | None:
    """The final answer, if the strict reader takes all of it for one, and there is no doubt that it ends there."""
    try:
        found = list(responses(answer, [method]))
    except Malformed:
        return None
    final = [each for each in found if each.status >= 200]
    if len(final) != 1 or found[-1] is not final[0] or not final[0].complete or any(each.status == 101 for each in found):
        return None
    return final[0] if final[0].framing or answer.endswith(b"\r\n\r\n") else None


def _content(message: Message) -> list[tuple[bytes, bytes]]:
    """Fields but for those that frame: whoever reads an answer in chunks may pass it on with its length."""
    framing = {b"transfer-encoding", b"content-length", b"connection", b"date", b"server"}
    return [(name, value) for name, value in message.fields if name.lower() not in framing]
