"""What an upstream says, whole, broken or split: a client gets its own answer, notices when it is not whole, and never sees another's."""

from __future__ import annotations

import pytest

from tests.support.rfc9112 import Message
from tests.support.smuggling import CLOSE, SWITCH, cuts, get
from tests.support.wire import Outcome, Wire, echo

pytestmark = pytest.mark.asyncio(loop_scope="module")

# -- answers ------------------------------------------------------------------------------------------------------------

IN_CHUNKS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood"
EVIL = b"HTTP/1.1 200 OK\r\nX-Evil: 1\r\nContent-Length: 4\r\n\r\nevil"


async def relayed(wire: Wire, answer: bytes, *, closing: bool = False, method: bytes = b"POST") -> tuple[bytes, Outcome]:
    """What the client got in answer to its first request, the upstream having said `answer`; and the outcome of the whole connection.

    A request for /next stands behind it and another one on a connection of its own: neither is answered by anything but its own answer, and
    never over the connection that carried the first one if that was not perfect.
    """

    def reply(message: Message, number: int) -> bytes:
        wire.upstream.closing = closing and message.target == b"/x"
        return answer if message.target == b"/x" else echo(message, number)

    wire.upstream.reply = reply
    try:
        outcome = await wire.exchange(
            b"%b /x HTTP/1.1\r\nHost: GATEWAY.TEST:80\r\nContent-Length: 0\r\n\r\n" % method,
            b"GET /next HTTP/1.1\r\nHost: GATEWAY.TEST:80\r\nConnection: close\r\n\r\n",
            methods=[method],
        )
        carrier = wire.upstream.carriers[0]
        assert outcome.targets in ([b"/x", b"/next"], [b"/x"])
        assert carrier not in wire.upstream.carriers[1:]
        if len(outcome.arrived) == 2:
            assert (outcome.answers[-1].body, outcome.answers[-1].all(b"x-seq")) == (b"/next", [b"2"])
        after = await wire.exchange(b"GET /after HTTP/1.1\r\nHost: GATEWAY.TEST:80\r\nConnection: close\r\n\r\n")
        assert (after.statuses, after.answers[0].body) == ([200], b"/after")
        assert carrier not in wire.upstream.carriers
    finally:
        wire.upstream.reply, wire.upstream.closing = echo, False
    assert b"evil" not in outcome.came.lower()
    assert b"evil" not in after.came.lower()
    return outcome.came, outcome


SURPLUS = {
    "another answer": EVIL, "another answer that begins late": b"\r\n" + EVIL, "half another answer": EVIL[:30], "rubbish": b"evil",
    "an early hint": b"HTTP/1.1 103 Evil\r\n\r\n" + EVIL, "a chunk": b"4\r\nevil\r\n0\r\n\r\n", "an end of chunks": b"0\r\n\r\n" + EVIL,
    "NUL": b"\x00evil", "very much": b"evil" * 100_000,
}  # fmt: skip
WHOLE_ANSWERS = {
    "length": (b"POST", GOOD), "no body": (b"POST", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    "chunks": (b"POST", IN_CHUNKS + b"4\r\ngood\r\n0\r\n\r\n"),
    "204": (b"POST", b"HTTP/1.1 204 No Content\r\n\r\n"), "304": (b"GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n"),
    "304 with a coding": (b"GET", b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n"),
    "HEAD": (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"),
    "HEAD with a coding": (b"HEAD", IN_CHUNKS + b""),
    "HEAD without a length": (b"HEAD", b"HTTP/1.1 200 OK\r\n\r\n"),
    "204 with a length": (b"POST", b"HTTP/1.1 204 No Content\r\nContent-Length: 9\r\n\r\n"),
    "an early hint before it": (b"POST", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + GOOD),
    "an answer that closes": (b"POST", GOOD.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n")),
}  # fmt: skip


@pytest.mark.parametrize("surplus", SURPLUS)
@pytest.mark.parametrize("kind", WHOLE_ANSWERS)
async def test_bytes_behind_an_answer_reach_nobody(wire: Wire, kind: str, surplus: str) -> None:
    method, answer = WHOLE_ANSWERS[kind]
    _, outcome = await relayed(wire, answer + SURPLUS[surplus], method=method)
    first = outcome.answers[0]
    # It was whole before it was more: whether it counts is the gateway's choice, but it is that answer or a 502.
    assert (first.start, first.body) == (
        answer.rsplit(b"HTTP", 1)[1].split(b"\r\n")[0].join([b"HTTP", b""]),
        b"good" if b"good" in answer else b"",
    ) or (first.status == 502 or not first.complete)


BROKEN = {
    "shorter than its length": b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ngood",
    "nothing of its length": b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n",
    "much shorter than its length": b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n" + b"x" * 100_000,
    "no last chunk": IN_CHUNKS + b"4\r\ngood\r\n",
    "no chunk": IN_CHUNKS + b"",
    "half a chunk": IN_CHUNKS + b"9\r\ngood",
    "half a size": IN_CHUNKS + b"4\r\ngood\r\n0",
    "no end behind the last chunk": IN_CHUNKS + b"4\r\ngood\r\n0\r\n",
    "half an end": IN_CHUNKS + b"4\r\ngood\r\n0\r\n\r",
    "half a trailer": IN_CHUNKS + b"4\r\ngood\r\n0\r\nX: 1",
    "no end behind a trailer": IN_CHUNKS + b"4\r\ngood\r\n0\r\nX: 1\r\n",
    "a size that overflows": IN_CHUNKS + b"4\r\ngood\r\n10000000000000001\r\nx\r\n0\r\n\r\n",
    "no end behind a chunk": IN_CHUNKS + b"4\r\ngood",
}
BROKEN |= {
    f"a bad chunk: {name}": IN_CHUNKS + b"4\r\ngood\r\n" + chunk + EVIL
    for name, chunk in {
        "no size": b"\r\nx\r\n0\r\n\r\n",
        "no number": b"xyz\r\nx\r\n0\r\n\r\n",
        "0x": b"0x4\r\nevil\r\n0\r\n\r\n",
        "a sign": b"+4\r\nevil\r\n0\r\n\r\n",
        "minus": b"-4\r\nevil\r\n0\r\n\r\n",
        "longer": b"4\r\nxxxxx\r\n0\r\n\r\n",
        "no end": b"4\r\nxxxx0\r\n\r\n",
        "another end": b"4\r\nxxxx\r0\r\n\r\n",
        "NUL": b"\x00\r\n",
    }.items()
}


@pytest.mark.parametrize("closing", [True, False], ids=["closed", "left open"])
@pytest.mark.parametrize("answer", BROKEN.values(), ids=BROKEN)
async def test_an_answer_that_breaks_off_never_looks_whole(wire: Wire, answer: bytes, closing: bool) -> None:
    if not closing and EVIL not in answer:
        return  # a correct gateway goes on waiting for the rest
    came, outcome = await relayed(wire, answer, closing=closing)
    first = outcome.answers[0] if outcome.answers else None
    assert first is None or first.status == 502 or not first.complete, came[-300:]
    assert outcome.targets == [b"/x"] or (first is not None and first.status == 502)


@pytest.mark.parametrize("kind", ["length", "chunks"])
async def test_an_answer_that_is_cut_off_anywhere_never_looks_whole(wire: Wire, kind: str) -> None:
    _, answer = WHOLE_ANSWERS[kind]
    for end in range(1, len(answer)):
        _, outcome = await relayed(wire, answer[:end], closing=True)
        first = outcome.answers[0] if outcome.answers else None
        assert first is None or first.status == 502 or not first.complete, end


BAD_HEADS = {
    "a length and chunked, different": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nevil",
    "list of lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 3, 4\r\n\r\nevil",
    "signed length": b"HTTP/1.1 200 OK\r\nContent-Length: +4\r\n\r\nevil",
    "negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -4\r\n\r\nevil",
    "hexadecimal length": b"HTTP/1.1 200 OK\r\nContent-Length: 0x4\r\n\r\nevil",
    "empty length": b"HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nevil",
    "length of letters": b"HTTP/1.1 200 OK\r\nContent-Length: four\r\n\r\nevil",
    "huge length": b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999999\r\n\r\nevil",
    "chunked twice": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nevil\r\n0\r\n\r\n",
    "chunked, chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n4\r\nevil\r\n0\r\n\r\n",
    "gzip, chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n4\r\nevil\r\n0\r\n\r\n",
    "xchunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n4\r\nevil\r\n0\r\n\r\n",
    "vertical tab and chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: \x0bchunked\r\n\r\n4\r\nevil\r\n0\r\n\r\n",
    "space before the colon": b"HTTP/1.1 200 OK\r\nContent-Length : 4\r\n\r\nevil",
    "space in a name": b"HTTP/1.1 200 OK\r\nX Y: evil\r\nContent-Length: 4\r\n\r\nevil",
    "no colon": b"HTTP/1.1 200 OK\r\nevil\r\nContent-Length: 4\r\n\r\nevil",
    "no name": b"HTTP/1.1 200 OK\r\n: evil\r\nContent-Length: 4\r\n\r\nevil",
    "CR in a value": b"HTTP/1.1 200 OK\r\nX: 1\rX-Evil: 1\r\nContent-Length: 4\r\n\r\nevil",
    "NUL in a value": b"HTTP/1.1 200 OK\r\nX: 1\x00evil\r\nContent-Length: 4\r\n\r\nevil",
    "NUL in a name": b"HTTP/1.1 200 OK\r\nX\x00: evil\r\nContent-Length: 4\r\n\r\nevil",
    "an 8-bit name": b"HTTP/1.1 200 OK\r\nX\xe4: evil\r\nContent-Length: 4\r\n\r\nevil",
    "CR in the reason": b"HTTP/1.1 200 OK\rX-Evil: 1\r\nContent-Length: 4\r\n\r\nevil",
    "NUL in the reason": b"HTTP/1.1 200 OK\x00evil\r\nContent-Length: 4\r\n\r\nevil",
    "no answer": b"evil\r\n\r\n",
    "a request": b"GET /evil HTTP/1.1\r\nHost: x\r\n\r\n",
    "HTTP/2": b"HTTP/2.0 200 OK\r\nContent-Length: 4\r\n\r\nevil",
    "HTTP/0.9": b"<html>evil",
    "lower case": b"http/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
    "HTP": b"HTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
    "ICY": b"ICY 200 OK\r\nContent-Length: 4\r\n\r\nevil",
    "RTSP": b"RTSP/1.0 200 OK\r\nContent-Length: 4\r\n\r\nevil",
    "HTTP/1.10": b"HTTP/1.10 200 OK\r\nContent-Length: 4\r\n\r\nevil",
    "HTTP/11.1": b"HTTP/11.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
    "status of one digit": b"HTTP/1.1 2 OK\r\nContent-Length: 4\r\n\r\nevil",
    "status of four digits": b"HTTP/1.1 2000 OK\r\nContent-Length: 4\r\n\r\nevil",
    "status of letters": b"HTTP/1.1 OK OK\r\nContent-Length: 4\r\n\r\nevil",
    "status 000": b"HTTP/1.1 000 OK\r\nContent-Length: 4\r\n\r\nevil",
    "status 099": b"HTTP/1.1 099 OK\r\nContent-Length: 4\r\n\r\nevil",
    "no status": b"HTTP/1.1\r\nContent-Length: 4\r\n\r\nevil",
    "tab for a space": b"HTTP/1.1\t200\tOK\r\nContent-Length: 4\r\n\r\nevil",
    "a CR first": b"\rHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
    "a head that does not end": b"HTTP/1.1 200 OK\r\n" + b"X-Evil: 1\r\n" * 30_000,
    "a header that does not end": b"HTTP/1.1 200 OK\r\nX-Evil: " + b"x" * 300_000,
    "a head beyond the bound": b"HTTP/1.1 200 OK\r\n" + b"X-Evil: 1\r\n" * 7_000 + b"Content-Length: 4\r\n\r\nevil",
    "no end of 1xx": b"HTTP/1.1 100 Continue\r\n\r\n" * 1000,
    "seventeen early hints": b"HTTP/1.1 103 Early Hints\r\n\r\n" * 17 + EVIL,
    "a switch that nobody asked for": SWITCH + EVIL,
}


@pytest.mark.parametrize("closing", [True, False], ids=["closed", "left open"])
@pytest.mark.parametrize("answer", BAD_HEADS.values(), ids=BAD_HEADS)
async def test_an_answer_that_is_none_is_a_502(wire: Wire, answer: bytes, closing: bool) -> None:
    if not closing and answer == BAD_HEADS["HTTP/0.9"]:
        return  # it may go on to become something
    _, outcome = await relayed(wire, answer, closing=closing)
    assert outcome.statuses[0] == 502, outcome


ODD_HEADS = {
    "LF only": b"HTTP/1.1 200 OK\nContent-Length: 4\n\ngood",
    "LF within": b"HTTP/1.1 200 OK\r\nX: 1\nContent-Length: 4\r\n\r\ngood",
    "folded": b"HTTP/1.1 200 OK\r\nX: 1\r\n 2\r\nContent-Length: 4\r\n\r\ngood",
    "a folded length": b"HTTP/1.1 200 OK\r\nContent-Length:\r\n 4\r\n\r\ngood",
    "no reason": b"HTTP/1.1 200\r\nContent-Length: 4\r\n\r\ngood",
    "an empty reason": b"HTTP/1.1 200 \r\nContent-Length: 4\r\n\r\ngood",
    "an 8-bit reason": b"HTTP/1.1 200 \xe4\xff\r\nContent-Length: 4\r\n\r\ngood",
    "two spaces": b"HTTP/1.1  200  OK\r\nContent-Length: 4\r\n\r\ngood",
    "a CRLF first": b"\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood",
    "the same length twice": b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 4\r\n\r\ngood",
    "the same length in a list": b"HTTP/1.1 200 OK\r\nContent-Length: 4, 4\r\n\r\ngood",
    "zeros in front": b"HTTP/1.1 200 OK\r\nContent-Length: 0004\r\n\r\ngood",
    "a length beside chunked": b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ngood\r\n0\r\n\r\n",
    "chunked beside a length": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n4\r\ngood\r\n0\r\n\r\n",
    "chunked in upper case": b"HTTP/1.1 200 OK\r\nTRANSFER-ENCODING: CHUNKED\r\n\r\n4\r\ngood\r\n0\r\n\r\n",
    "extensions and trailers": IN_CHUNKS + b"4;a=b\r\ngood\r\n0;c\r\nContent-Length: 9\r\nSet-Cookie: stepup=x\r\n\r\n",
    "LF in the chunks": IN_CHUNKS + b"4\ngood\n0\n\n",
    "a space behind a size": IN_CHUNKS + b"4 \r\ngood\r\n0\r\n\r\n",
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\ngood",
    "HTTP/1.0 that keeps its connection": b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 4\r\n\r\ngood",
    "chunked in HTTP/1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ngood\r\n0\r\n\r\n",
    "until the end": b"HTTP/1.1 200 OK\r\n\r\ngood",
    "an odd length name": b"HTTP/1.1 200 OK\r\nContent_Length: 1\r\nContent-Length: 4\r\n\r\ngood",
    "an odd coding name": b"HTTP/1.1 200 OK\r\nTransfer_Encoding: chunked\r\nContent-Length: 4\r\n\r\ngood",
    "status 999": b"HTTP/1.1 999 Odd\r\nContent-Length: 4\r\n\r\ngood",
    "upgrade announced": b"HTTP/1.1 200 OK\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 4\r\n\r\ngood",
    "426": b"HTTP/1.1 426 Upgrade Required\r\nConnection: Upgrade\r\nUpgrade: x\r\nContent-Length: 4\r\n\r\ngood",
    "a switch named 200": b"HTTP/1.1 200 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 4\r\n\r\ngood",
    "hop-by-hop names": b"HTTP/1.1 200 OK\r\nConnection: Content-Length, X-Y\r\nX-Y: 1\r\nContent-Length: 4\r\n\r\ngood",
    "sixteen early hints": b"HTTP/1.1 103 Early Hints\r\n\r\n" * 15 + GOOD,
    "a control character in a value": b"HTTP/1.1 200 OK\r\nX: \x0b\x1b[0m\x7f\r\nContent-Length: 4\r\n\r\ngood",
}


@pytest.mark.parametrize("answer", ODD_HEADS.values(), ids=ODD_HEADS)
async def test_an_odd_answer_is_passed_on_as_a_plain_one_or_not_at_all(wire: Wire, answer: bytes) -> None:
    """Whatever the gateway makes of it: what the client gets is a message by the strict reader, with the body that it had."""
    wire.upstream.reply = lambda message, number: answer
    wire.upstream.closing = True
    try:
        outcome = await wire.exchange(b"POST /x HTTP/1.1\r\nHost: GATEWAY.TEST:80\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    finally:
        wire.upstream.reply, wire.upstream.closing = echo, False
    assert len(outcome.answers) <= 1
    for answered in outcome.answers:
        assert answered.status == 502 or not answered.complete or answered.body == b"good", outcome
        assert not any(value.startswith(b"stepup=") for value in answered.all(b"set-cookie"))


@pytest.mark.parametrize("kind", ["length", "chunks", "an early hint before it"])
async def test_an_answer_means_the_same_however_it_is_cut(wire: Wire, kind: str) -> None:
    """Cut by a connection of its own that sends one segment after the other."""
    _, answer = WHOLE_ANSWERS[kind]
    for segments in cuts(answer):
        wire.upstream.reply, wire.upstream.segments = (lambda message, number: b""), segments
        try:
            outcome = await wire.exchange(get(CLOSE))
        finally:
            wire.upstream.reply, wire.upstream.segments = echo, []
        assert [(a.start, a.body, a.complete) for a in outcome.answers] == [(b"HTTP/1.1 200 OK", b"good", True)], segments
