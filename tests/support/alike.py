"""Whether lanes read the same bytes alike: what one carries the others carry to the byte, or they have refused and ended the connection.

RFC 9112 leaves some choice: sections 2.2 and 3 (a lenient recipient, or a refusal), section 9.6 (whether what stands behind a message is
served or the connection ends). So of two lanes one may stop earlier; it may never go on differently. `Wire` holds the law for each of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from tests.support.rfc9112 import Malformed, Message, responses
from tests.support.wire import Client, Outcome, Wire, echo

_QUIET = 40  # rounds of the event loop, which is everybody's here, without a byte anywhere: nothing more will come by itself
HOST = b"Host: GATEWAY.TEST:80\r\n"


def in_segments(sent: bytes, places: Sequence[float]) -> list[bytes]:
    ends = sorted({int(place * len(sent)) for place in places} | {0, len(sent)})
    return [sent[start:end] for start, end in pairwise(ends)] or [b""]


async def requests_alike(wires: Sequence[Wire], sent: bytes, places: Sequence[float]) -> None:
    """The same client's bytes through each. places: where they are cut, as parts of the whole."""
    seen = [await sent_to(wire, sent, places) for wire in wires]
    for first in seen:
        for second in seen:
            _agree(first, second, sent)


@dataclass(frozen=True, slots=True)
class Seen:
    """served: what arrived, without the gateway's port. ended: by the gateway."""

    served: list[tuple[bytes, tuple[tuple[bytes, bytes], ...], bytes]]
    ended: bool


async def sent_to(wire: Wire, sent: bytes, places: Sequence[float]) -> Seen:
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
    # Nobody knows here which of the requests that never arrived were for HEAD, and so which answers have no body.
    methods = None if b"HEAD" in sent else ()
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


async def answers_alike(wires: Sequence[Wire], answer: bytes, places: Sequence[float], method: bytes) -> None:
    """The same upstream's bytes through each, in answer to a request with this method; the upstream then closes."""
    if not answer or answer.startswith(b"HTTP/1.1 101"):
        return  # a kept connection that closes without a byte is tried again; a switch has its own tests
    heard = [await _answered(wire, answer, places, method) for wire in wires]
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
