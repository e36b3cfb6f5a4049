"""Requests that the upstream saw = requests that were decided, whatever stands behind a message and however its bytes are cut."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.raw import until
from tests.support.smuggling import (
    ABC,
    CLOSE,
    DENIED,
    KNOWN,
    LAST,
    REFUSED,
    SMUGGLED,
    SWITCH,
    Carried,
    as_expected,
    chunked,
    cuts,
    get,
    known_of_the_slow_lane,
    post,
)
from tests.support.wire import Outcome, Wire, echo

pytestmark = pytest.mark.asyncio(loop_scope="module")

# -- what stands behind a request that ends the connection, or that asks to leave HTTP ------------------------------------


CLOSING = [
    b"Connection: close", b"connection: Close", b"Connection: x, close", b"Connection: close, x", b"Connection: keep-alive, close",
    b"Connection: close, keep-alive", b"Connection: x\r\nConnection: close", b"Connection: close\r\nConnection: keep-alive",
    b"Connection:close\t", b"Connection: ,close,",
]  # fmt: skip


@pytest.mark.parametrize("closing", CLOSING)
async def test_nothing_behind_a_request_that_closes_is_served(wire: Wire, closing: bytes) -> None:
    for sent, body in (
        (get(closing + b"\r\n"), b""),
        (post(closing + b"\r\nContent-Length: 3\r\n", b"abc"), b"abc"),
        (chunked(ABC, closing + b"\r\n"), b"abc"),
    ):
        outcome = await wire.exchange(sent, SMUGGLED)
        assert [(m.target, m.body) for m in outcome.arrived] == [(b"/x", body)], closing
        # Who says that nothing follows and lets something follow may be refused as a whole.
        outcome = await wire.exchange(sent + SMUGGLED)
        assert ([(m.target, m.body) for m in outcome.arrived], outcome.statuses) in (([(b"/x", body)], [200]), ([], [400])), closing


async def test_nothing_behind_a_request_of_http_1_0_is_served_unless_it_asked(wire: Wire) -> None:
    sent = get(b"").replace(b"HTTP/1.1", b"HTTP/1.0")
    assert (await wire.exchange(sent, SMUGGLED)).targets == [b"/x"]
    assert (await wire.exchange(sent + SMUGGLED)).targets in ([b"/x"], [])
    asked = get(b"Connection: keep-alive\r\n").replace(b"HTTP/1.1", b"HTTP/1.0")
    assert (await wire.exchange(asked + LAST)).targets == [b"/x", b"/last"]


@pytest.mark.parametrize("line", [b"CONNECT GATEWAY.TEST:80", b"CONNECT evil:443", b"CONNECT /x", b"CONNECT *"])
@pytest.mark.parametrize(
    "fields", [b"", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: Upgrade\r\nUpgrade: websocket\r\n"]
)
async def test_connect_is_refused_and_nothing_behind_it_is_served(wire: Wire, line: bytes, fields: bytes) -> None:
    for segments in ([b"", SMUGGLED], [SMUGGLED]):
        head = line + b" HTTP/1.1\r\nHost: GATEWAY.TEST:80\r\n" + fields + b"\r\n"
        outcome = await wire.exchange(head + segments[0], *segments[1:])
        assert (outcome.arrived, outcome.broken) == ((), ())
        assert outcome.statuses in ([400], [405])


UPGRADES = {
    "a WebSocket": b"Connection: Upgrade\r\nUpgrade: websocket\r\n",
    "a WebSocket in HTTP/1.1's longest words": b"Connection: keep-alive, Upgrade\r\n"
    b"Upgrade: WebSocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eA==\r\n",
    "something else": b"Connection: Upgrade\r\nUpgrade: x/1\r\n",
    "h2c": b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
    "an upgrade that Connection does not name": b"Upgrade: websocket\r\n",
    "an upgrade to nothing": b"Connection: Upgrade\r\n",
    "an upgrade with a body": b"Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 3\r\n",
    "an upgrade with chunks": b"Connection: Upgrade\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked\r\n",
}
UPGRADE_BODIES = {"an upgrade with a body": b"abc", "an upgrade with chunks": ABC}


@pytest.mark.parametrize("kind", UPGRADES)
@pytest.mark.parametrize("path", [b"/x", b"/admin", b"/gated"])
async def test_what_stands_behind_an_upgrade_that_nobody_took_is_decided_or_not_served(wire: Wire, kind: str, path: bytes) -> None:
    sent = get(UPGRADES[kind]).replace(b"/x ", path + b" ") + UPGRADE_BODIES.get(kind, b"")
    for segments in ([sent + LAST], [sent, LAST]):
        outcome = await wire.exchange(*segments)
        first = [path] if path == b"/x" else []
        # Bytes behind a body that belongs to an upgrade are nobody's: a refusal of the whole is as good.
        assert outcome.targets in (first, [*first, b"/last"], []), outcome
        assert outcome.statuses[0] in ({b"/x": (200, 400), b"/admin": (DENIED, 400), b"/gated": (401, 400)}[path]), outcome
        assert not wire.upstream.tunnelled


@pytest.mark.parametrize("together", [True, False], ids=["one segment", "two segments"])
async def test_what_stands_behind_an_upgrade_that_was_taken_is_no_request(wire: Wire, together: bool) -> None:
    """Bytes in the tunnel: not decided, not read, not changed."""
    sent = wire.hosted(get(UPGRADES["a WebSocket"]))
    behind = wire.hosted(SMUGGLED + b"GET /admin HTTP/1.1\r\n\r\n\x00\xff")
    before = wire.decided()
    wire.upstream.clear()
    wire.upstream.reply = lambda message, number: SWITCH
    client = await wire.client()
    try:
        await client.send([sent + behind] if together else [sent, behind])
        await client.until(len(SWITCH))
        await until(lambda: len(wire.upstream.tunnelled) >= len(behind))
    finally:
        wire.upstream.reply = echo
        client.transport.close()
        await client.end()
    assert client.came.startswith(b"HTTP/1.1 101 ")
    assert bytes(wire.upstream.tunnelled) == behind
    assert [m.target for m in wire.upstream.arrived] == [b"/x"]
    assert wire.decided() - before == {"allow": 1}
    wire.sound()


async def test_a_switch_that_nobody_asked_for_is_a_502(wire: Wire) -> None:
    for fields in (b"", b"Upgrade: websocket\r\n", b"Connection: Upgrade\r\n", b"Connection: Upgrade\r\nUpgrade: h2c\r\n"):
        wire.upstream.reply = lambda message, number: SWITCH + SMUGGLED if message.target == b"/x" else echo(message, number)
        try:
            outcome = await wire.exchange(get(fields + b"Connection: close\r\n"))
        finally:
            wire.upstream.reply = echo
        assert outcome.statuses == [502], outcome
        assert outcome.targets == [b"/x"]


STOPPED = {
    "length": b"Content-Length: %d\r\n\r\n%b" % (len(SMUGGLED), SMUGGLED),
    "chunks": b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED),
    "an empty length": b"Content-Length: 0\r\n\r\n",
    "no chunk": b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "nothing": b"\r\n",
    "a length that is waited for": b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n%b" % (len(SMUGGLED), SMUGGLED),
}
KINDS = {
    "script": b"Accept: application/json\r\n",
    "page": b"Accept: text/html\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\nSec-Fetch-Site: same-origin\r\n",
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "line", [b"POST /admin", b"POST /gated", b"GET /admin", b"POST /.stepup/x", b"POST /continue", b"POST /x%00", b"DELETE /gated"]
)
async def test_the_body_of_a_request_that_the_gateway_answers_itself_is_no_request(wire: Wire, line: bytes, kind: str) -> None:
    for rest in STOPPED.values():
        sent = line + b" HTTP/1.1\r\nHost: GATEWAY.TEST:80\r\n" + KINDS[kind] + rest
        for segments in ([sent + LAST], [sent, LAST]):
            outcome = await wire.exchange(*segments)
            assert outcome.targets in ([], [b"/last"])
            assert outcome.statuses[-1] == 200 or len(outcome.statuses) == 1


BODIES_OF = {
    "nothing": (b"GET /x HTTP/1.1\r\nHost: GATEWAY.TEST:80\r\n\r\n", b""),
    "an empty length": (post(b"Content-Length: 0\r\n"), b""),
    "a length": (post(b"Content-Length: 3\r\n", b"abc"), b"abc"),
    "chunks": (chunked(ABC), b"abc"),
    "no chunk": (chunked(b"0\r\n\r\n"), b""),
    "chunks and a trailer": (chunked(b"3\r\nabc\r\n0\r\nX: 1\r\n\r\n"), b"abc"),
    "no length": (post(b""), b""),
}


@pytest.mark.parametrize("first", BODIES_OF)
async def test_requests_sent_at_once_are_as_many_as_are_decided(wire: Wire, first: str) -> None:
    """Whatever its body is: each is served as it stands, in order, or the connection ends and says so."""
    for second, body in BODIES_OF.values():
        sent, its_body = BODIES_OF[first]
        outcome = await wire.exchange(sent + second.replace(b"/x", b"/y", 1) + LAST)
        wanted = [(b"/x", its_body), (b"/y", body), (b"/last", b"")]
        served = [(m.target, m.body) for m in outcome.arrived]
        assert served == wanted[: len(served)] != []
        assert [a.body for a in outcome.answers] == [target for target, _ in served]
        if len(served) < 3:
            assert outcome.answers[-1].all(b"connection") == [b"close"]


@pytest.mark.parametrize("kind", ["something else", "h2c"])
async def test_no_byte_behind_an_upgrade_that_no_tunnel_carries_is_lost(wire: Wire, request: pytest.FixtureRequest, kind: str) -> None:
    """A recipient that drops the head of the next request takes its body for one."""
    known_of_the_slow_lane(request, "aiohttp's parser drops what stands behind such a request in the same segment", of_both=True)
    head = b"POST /last HTTP/1.1\r\nHost: GATEWAY.TEST:80\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(SMUGGLED)
    outcome = await wire.exchange(get(UPGRADES[kind]) + head, SMUGGLED)
    assert outcome.targets in ([b"/x", b"/last"], [b"/x"])
    assert outcome.targets == [b"/x", b"/last"] or outcome.answers[-1].all(b"connection") == [b"close"]


async def test_a_malformed_body_is_no_fault_of_ours(wire: Wire) -> None:
    wire.known = ()
    try:
        as_expected(await wire.exchange(chunked(b""), b"0x1\r\na\r\n0\r\n\r\n"), REFUSED)
    finally:
        wire.known = KNOWN


# -- how the bytes are cut into segments ----------------------------------------------------------------------------------

WHOLE = {
    "a request": get(b"X: 1\r\nX_Y:\r\n" + CLOSE),
    "a length and a request": post(b"Content-Length: 5\r\n", b"0\r\n\r\n") + LAST,
    "chunks": chunked(b"4;a=b\r\n0\r\n\r\r\n1\r\n\n\r\n0\r\nX: 1\r\n\r\n", CLOSE),
    "a denied request and another": b"GET /admin HTTP/1.1\r\nHost: GATEWAY.TEST:80\r\n\r\n" + LAST,
    "a gated body and another request": b"POST /gated HTTP/1.1\r\nHost: GATEWAY.TEST:80\r\nContent-Length: 4\r\n\r\nGET " + LAST,
    "a refused target and a request": b"GET /x%00 HTTP/1.1\r\nHost: GATEWAY.TEST:80\r\n\r\n" + LAST,
}
NEVER = {
    "a length and chunked": post(b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\nG") + SMUGGLED,
    "a coding in disguise": post(b"Content-Length: 6\r\nTransfer-Encoding:\x0bchunked\r\n", b"0\r\n\r\nG") + SMUGGLED,
    "two lengths": post(b"Content-Length: 0\r\nContent-Length: 44\r\n") + SMUGGLED,
    "a folded line": get(b"X: 1\r\n Transfer-Encoding: chunked\r\n") + SMUGGLED,
    "a bare line feed": get(b"X: 1\n\nGET /smuggled HTTP/1.1\r\nHost: GATEWAY.TEST:80\r\n"),
    "a bare carriage return": get(b"X: 1\r\rX: 2\r\n") + SMUGGLED,
    "a blank before the colon": get(b"Content-Length : 44\r\n") + SMUGGLED,
    "NUL": get(b"X: \x00\r\n") + SMUGGLED,
}
BROKEN_CHUNKS = {
    "a size that is none": chunked(b"1\r\na\r\n0x1\r\nb\r\n0\r\n\r\n") + SMUGGLED,
    "a chunk that is too long": chunked(b"1\r\nab\r\n0\r\n\r\n") + SMUGGLED,
    "a chunk without its end": chunked(b"1\r\na0\r\n\r\n") + SMUGGLED,
    "a bare line feed behind a size": chunked(b"1\na\r\n0\r\n\r\n") + SMUGGLED,
    "a bare line feed at the end": chunked(b"1\r\na\r\n0\r\n\n") + SMUGGLED,
    "a folded trailer": chunked(b"1\r\na\r\n0\r\nX: 1\r\n Y: 2\r\n\r\n") + SMUGGLED,
}


@pytest.mark.parametrize("sent", WHOLE.values(), ids=WHOLE)
async def test_a_message_means_the_same_however_it_is_cut(wire: Wire, sent: bytes) -> None:
    sent = wire.hosted(sent)
    whole = await wire.exchange(sent)
    assert 200 in whole.statuses
    for segments in cuts(sent):
        outcome = await wire.exchange(*segments)
        assert (outcome.statuses, _bare(outcome), outcome.decided) == (whole.statuses, _bare(whole), whole.decided), segments


def _bare(outcome: Outcome) -> list[tuple[bytes, tuple[tuple[bytes, bytes], ...], bytes]]:
    return [(m.start, m.fields, m.body) for m in outcome.arrived]


@pytest.mark.parametrize("sent", NEVER.values(), ids=NEVER)
async def test_a_head_that_is_refused_is_refused_however_it_is_cut(wire: Wire, sent: bytes) -> None:
    for segments in cuts(wire.hosted(sent)):
        outcome = await wire.exchange(*segments)
        assert (outcome.statuses, outcome.arrived, outcome.broken, +outcome.decided) == ([400], (), (), {}), segments


@pytest.mark.parametrize("sent", BROKEN_CHUNKS.values(), ids=BROKEN_CHUNKS)
async def test_a_body_that_is_malformed_is_no_request_however_it_is_cut(wire: Wire, sent: bytes) -> None:
    for segments in cuts(wire.hosted(sent)):
        as_expected(await wire.exchange(*segments), REFUSED)


async def test_chunks_and_a_request_behind_them_are_never_more_than_two_requests(wire: Wire) -> None:
    sent = wire.hosted(chunked(ABC, b"X: 1\r\n") + LAST)
    for segments in cuts(sent):
        as_expected(await wire.exchange(*segments), Carried(b"abc"))


@pytest.mark.parametrize("line", [b"GET /x", b"GET /admin", b"GET /gated", b"GET /x%00", b"GET /.stepup/jwks.json"])
async def test_a_head_whose_rest_comes_behind_the_answer_before_it_is_one_head(wire: Wire, line: bytes) -> None:
    """Whoever has the connection between two requests must not forget what it holds of the second one."""
    behind = wire.hosted(get(CLOSE + b"X: 1\r\n"))
    for at in range(1, len(behind)):
        wire.upstream.clear()
        before = wire.decided()
        client = await wire.client()
        client.transport.write(wire.hosted(line + b" HTTP/1.1\r\nHost: GATEWAY.TEST:80\r\n\r\n") + behind[:at])
        await client.until(1)
        for _ in range(3):
            await asyncio.sleep(0)
        client.transport.write(behind[at:])
        await client.end()
        outcome = wire.judged(client, before, (), left=False)
        assert (outcome.statuses[-1], outcome.targets[-1:]) == (200, [b"/x"]), at
