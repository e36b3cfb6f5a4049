"""What a client sends is what an upstream gets, and what an upstream answers is what the client gets."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp.web_request import BaseRequest
from aiohttp.web_response import Response, StreamResponse

from gateway.errors import ClientGone, UpstreamBroke
from gateway.lanes.forward import forward
from gateway.lanes.upstream import ResponseHead
from gateway.wire.head import Headers
from tests.support.lane import Lane, lane, limits
from tests.support.raw import OK, RawPeer, RawUpstream, Truncated, answering, raw_client, raw_upstream, until

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"

TARGETS = [
    b"/public/%2e%2e/admin",
    b"/a/../b",
    b"/a/./b",
    b"/%2f%2F",
    b"/?",
    b"/a?b=c?d&&=",
    b"//",
    b"//evil.example/a",
    b"///",
    b"/x;y=1;z",
    b"/%zz",
    b"/%",
    b"/%00",
    b"/a%20b+c",
    b'/a|b{c}^`"<>',
    b"/\\..\\admin",
    b"/a#b",
    b"/a?x#y",
    b"/[x]",
    b"//[x",
    b"/:80",
    b"/@b",
    "/ä".encode(),
    b"/\xff\xfe",
    b"http://other.example:81/a?b",
    b"*",
]


@pytest.mark.parametrize("target", TARGETS)
async def test_target_arrives_byte_for_byte_or_the_request_is_refused(target: bytes) -> None:
    async with raw_upstream(answering(OK)) as upstream, lane(upstream.url) as made, raw_client(made.port) as client:
        await client.send(b"OPTIONS " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n")
        answer = await client.response()
        if answer.status == 400:
            assert not upstream.requests
            assert target in (b"/\xff\xfe", "/ä".encode(), b"//[x")
        else:
            assert upstream.requests[0].head.line == b"OPTIONS " + target + b" HTTP/1.1"


async def test_headers_keep_order_spelling_and_bytes() -> None:
    sent = b"x-a: 1\r\nHOST: a\r\nX-A: 2\r\nx-a: 3\r\nCookie: a=\xe9\xff\r\nX-Empty:\r\n"
    async with raw_upstream(answering(OK)) as upstream, lane(upstream.url) as made, raw_client(made.port) as client:
        await client.send(b"GET / HTTP/1.1\r\n" + sent + b"\r\n")
        await client.response()
        assert upstream.requests[0].head.fields == (
            (b"x-a", b"1"),
            (b"HOST", b"a"),
            (b"X-A", b"2"),
            (b"x-a", b"3"),
            (b"Cookie", b"a=\xe9\xff"),
            (b"X-Empty", b""),
        )


async def test_answer_keeps_reason_order_spelling_and_every_set_cookie_and_gains_nothing() -> None:
    answer = (
        b"HTTP/1.1 200 Fine \xe9\r\nset-cookie: a=1\r\nX-Odd: \xff\r\nSet-Cookie: b=2\r\nSet-Cookie: a=3\r\nContent-Length: 2\r\n\r\nok"
    )
    async with raw_upstream(answering(answer)) as upstream, lane(upstream.url) as made, raw_client(made.port) as client:
        await client.send(GET)
        got = await client.response()
        assert got.head.line == b"HTTP/1.1 200 Fine \xe9"
        assert got.head.fields == (
            (b"set-cookie", b"a=1"),
            (b"X-Odd", b"\xff"),
            (b"Set-Cookie", b"b=2"),
            (b"Set-Cookie", b"a=3"),
            (b"Content-Length", b"2"),
        )


async def test_on_head_edits_what_the_client_gets() -> None:
    async def edited(head: ResponseHead) -> Headers:
        return (*(f for f in head.headers if f[0] != b"X-Secret"), (b"Cache-Control", b"private, no-cache"))

    async def serving(made: Lane, request: BaseRequest) -> StreamResponse:
        return await forward(request, made.exchange(request, on_head=edited), made.pool, made.limits)

    answer = b"HTTP/1.1 200 OK\r\nX-Secret: 1\r\nContent-Length: 0\r\n\r\n"
    async with raw_upstream(answering(answer)) as upstream, lane(upstream.url, serving=serving) as made, raw_client(made.port) as client:
        await client.send(GET)
        assert (await client.response()).head.fields == ((b"Content-Length", b"0"), (b"Cache-Control", b"private, no-cache"))


@pytest.mark.parametrize(("setting", "seen"), [("keep", b"a"), ("rewrite", None), ("inner.example", b"inner.example")])
async def test_host_is_kept_rewritten_or_set(setting: str, seen: bytes | None) -> None:
    async with raw_upstream(answering(OK)) as upstream, lane(upstream.url, host_header=setting) as made, raw_client(made.port) as client:
        await client.send(GET)
        await client.response()
        assert upstream.requests[0].head.all(b"host") == [seen or f"127.0.0.1:{upstream.port}".encode()]


# bodies of requests


async def test_content_length_body_arrives_with_its_length() -> None:
    async with raw_upstream(answering(OK)) as upstream, lane(upstream.url) as made, raw_client(made.port) as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\ncontent-length: 5\r\n\r\nhello")
        await client.response()
        assert upstream.requests[0].head.fields == ((b"Host", b"a"), (b"content-length", b"5"))
        assert upstream.requests[0].body == b"hello"


CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n3;ext=1\r\nabc\r\n2\r\nde\r\n0\r\n"


async def test_chunked_body_arrives_chunked_and_the_connection_goes_on() -> None:
    async with raw_upstream(answering(OK)) as upstream, lane(upstream.url) as made, raw_client(made.port) as client:
        for _ in range(3):
            await client.send(CHUNKED)
            await client.send(b"\r\n")
            assert (await client.response()).head.get(b"connection") is None
        for got in upstream.requests:
            assert got.head.fields == ((b"Host", b"a"), (b"Transfer-Encoding", b"chunked"))
            assert got.body == b"abcde"
        assert upstream.connections == 1


@pytest.mark.parametrize(
    "behind", [GET, CHUNKED + b"\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"]
)
@pytest.mark.parametrize("pause", [True, False], ids=["later", "in one piece"])
async def test_trailer_never_becomes_a_header_of_the_next_request(pause: bool, behind: bytes) -> None:
    async with raw_upstream(answering(OK)) as upstream, lane(upstream.url) as made, raw_client(made.port) as client:
        await client.send(CHUNKED + b"X-User: admin\r\n\r\n" + (b"" if pause else behind))
        got = await client.response()
        assert (got.body, got.head.get(b"connection")) == (b"ok", b"close")
        try:
            if pause:
                await client.send(behind)
            await client.rest()
        except (Truncated, ConnectionError):
            pass
        assert all(got.head.get(b"x-user") is None for got in upstream.requests)
        assert len(upstream.requests) == 1
        assert upstream.requests[0].body == b"abcde"


async def test_request_pipelined_behind_a_chunked_one_is_left_unserved_and_the_client_told_so() -> None:
    async with raw_upstream(answering(OK)) as upstream, lane(upstream.url) as made, raw_client(made.port) as client:
        await client.send(GET + CHUNKED + b"\r\n" + GET)
        assert (await client.response()).head.get(b"connection") is None
        assert (await client.response()).head.get(b"connection") == b"close"
        assert await client.rest() == b""
        assert len(upstream.requests) == 2


async def test_streamed_bodies_do_not_stop_the_requests_behind_them() -> None:
    async with raw_upstream(answering(OK)) as upstream, lane(upstream.url) as made:
        served = 0
        while served < 80:
            async with raw_client(made.port) as client:
                while True:
                    await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n")
                    await client.send(b"abcd")
                    got = await client.response()
                    assert got.status == 200
                    served += 1
                    if got.head.get(b"connection") == b"close" or served == 80:
                        break
        assert all(got.body == b"abcd" for got in upstream.requests)


@pytest.mark.parametrize("length", [b"", b"Content-Length: 0\r\n"])
async def test_post_without_a_body_stays_as_it_is(length: bytes) -> None:
    async with raw_upstream(answering(OK)) as upstream, lane(upstream.url) as made, raw_client(made.port) as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\n" + length + b"\r\n")
        await client.response()
        assert upstream.requests[0].head.all(b"content-length") == ([b"0"] if length else [])
        assert upstream.requests[0].head.all(b"transfer-encoding") == []


async def test_trailers_of_a_request_are_bounded() -> None:
    async with raw_upstream(answering(OK)) as upstream, lane(upstream.url) as made, raw_client(made.port) as client:
        trailers = b"X-T: 1\r\n" * 200
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n" + trailers + b"\r\n")
        assert b"HTTP/1.1 200" not in await client.rest()
        assert upstream.requests == []


# bodies of answers


async def test_chunked_answer_is_chunked_and_its_trailers_are_dropped() -> None:
    answer = b"HTTP/1.1 200 OK\r\nTrailer: X-T\r\nTransfer-Encoding: chunked\r\n\r\n3;e\r\nabc\r\n2\r\nde\r\n0\r\nX-T: 1\r\n\r\n"
    async with raw_upstream(answering(answer)) as upstream, lane(upstream.url) as made, raw_client(made.port) as client:
        for _ in range(2):
            await client.send(GET)
            got = await client.response()
            assert got.body == b"abcde"
            assert got.head.fields == ((b"Transfer-Encoding", b"chunked"),)
        assert upstream.connections == 1


async def test_answer_that_ends_with_its_connection_becomes_chunked() -> None:
    async def script(upstream: RawUpstream, peer: RawPeer) -> None:
        await peer.message()
        await peer.send(b"HTTP/1.0 200 OK\r\n\r\nabc")

    async with raw_upstream(script) as upstream, lane(upstream.url) as made, raw_client(made.port) as client:
        for _ in range(2):
            await client.send(GET)
            got = await client.response()
            assert got.head.line == b"HTTP/1.1 200 OK"
            assert got.head.all(b"transfer-encoding") == [b"chunked"]
            assert got.body == b"abc"


async def test_length_beside_chunked_in_an_answer_is_dropped() -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n"
    async with raw_upstream(answering(answer)) as upstream, lane(upstream.url) as made, raw_client(made.port) as client:
        await client.send(GET)
        got = await client.response()
        assert got.head.all(b"content-length") == []
        assert got.body == b"abcde"


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n"),
        ("GET", b'HTTP/1.1 304 Not Modified\r\nContent-Length: 1234\r\nETag: "x"\r\n\r\n'),
        ("GET", b"HTTP/1.1 204 No Content\r\nX: 1\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nX: 1\r\n\r\n"),
    ],
)
async def test_answers_without_a_body_keep_their_headers_and_the_connection(method: str, answer: bytes) -> None:
    async with raw_upstream(answering(answer)) as upstream, lane(upstream.url) as made, raw_client(made.port) as client:
        for _ in range(2):
            await client.send(method.encode() + b" / HTTP/1.1\r\nHost: a\r\n\r\n")
            got = await client.response(method=method)
            assert got.head.line + b"\r\n" + b"".join(b"%b: %b\r\n" % f for f in got.head.fields) + b"\r\n" == answer
        assert upstream.connections == 1


async def test_range_passes_both_ways() -> None:
    answer = b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 2-3/10\r\nContent-Length: 2\r\n\r\ncd"
    async with raw_upstream(answering(answer)) as upstream, lane(upstream.url) as made, raw_client(made.port) as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\nRange: bytes=2-3\r\n\r\n")
        got = await client.response()
        assert (got.status, got.head.get(b"content-range"), got.body) == (206, b"bytes 2-3/10", b"cd")
        assert upstream.requests[0].head.get(b"range") == b"bytes=2-3"


# 1xx


async def test_informational_answers_pass_before_the_final_one() -> None:
    async def script(upstream: RawUpstream, peer: RawPeer) -> None:
        await peer.message()
        await peer.send(
            b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nLink: </b.js>\r\nSet-Cookie: a=1\r\n\r\n"
        )
        early.set()
        await released.wait()
        await peer.send(OK)

    early, released = asyncio.Event(), asyncio.Event()
    async with raw_upstream(script) as upstream, lane(upstream.url) as made, raw_client(made.port) as client:
        await client.send(GET)
        assert (await client.head()).line == b"HTTP/1.1 102 Processing"
        hints = await client.head()
        assert hints.line == b"HTTP/1.1 103 Early Hints"
        assert hints.fields == ((b"Link", b"</a.css>"), (b"Link", b"</b.js>"))
        released.set()
        assert (await client.response()).body == b"ok"


async def test_informational_answers_are_kept_from_http_1_0() -> None:
    async with (
        raw_upstream(answering(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK)) as upstream,
        lane(upstream.url) as made,
        raw_client(made.port) as client,
    ):
        await client.send(b"GET / HTTP/1.0\r\n\r\n")
        assert (await client.head()).line == b"HTTP/1.1 200 OK"


async def test_endless_informational_answers_are_a_fault() -> None:
    async with (
        raw_upstream(answering(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 100)) as upstream,
        lane(upstream.url) as made,
        raw_client(made.port) as client,
    ):
        await client.send(GET)
        assert (await client.response()).status == 502


async def test_expect_is_answered_by_the_upstream_and_no_byte_of_the_body_is_asked_for_before() -> None:
    async def script(upstream: RawUpstream, peer: RawPeer) -> None:
        head = await peer.head()
        assert head.get(b"expect") == b"100-continue"
        arrived.set()
        await released.wait()
        await peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert await peer.body(head) == b"hello"
        await peer.send(OK)

    arrived, released = asyncio.Event(), asyncio.Event()
    async with raw_upstream(script) as upstream, lane(upstream.url) as made, raw_client(made.port) as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        await arrived.wait()
        released.set()
        assert (await client.head()).line == b"HTTP/1.1 100 Continue"
        await client.send(b"hello")
        assert (await client.response()).body == b"ok"


async def test_final_answer_to_expect_ends_the_connection_as_nobody_knows_whether_a_body_follows() -> None:
    async def script(upstream: RawUpstream, peer: RawPeer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno")

    async with raw_upstream(script) as upstream, lane(upstream.url) as made, raw_client(made.port) as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        got = await client.response()
        assert (got.status, got.body, got.head.get(b"connection")) == (401, b"no", b"close")


async def test_page_of_the_gateway_in_answer_to_expect_ends_the_connection_too() -> None:
    async def serving(made: Lane, request: BaseRequest) -> StreamResponse:
        return Response(status=401, text="no")

    async with raw_upstream(answering(OK)) as upstream, lane(upstream.url, serving=serving) as made, raw_client(made.port) as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        got = await client.response()
        assert (got.status, got.head.get(b"connection")) == (401, b"close")


# connections of clients


async def test_pipelined_requests_are_answered_in_order() -> None:
    async def script(upstream: RawUpstream, peer: RawPeer) -> None:
        while True:
            target = (await peer.message()).head.target
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(target), target))

    async with raw_upstream(script) as upstream, lane(upstream.url) as made, raw_client(made.port) as client:
        targets = [b"/%d" % i for i in range(100)]
        await client.send(b"".join(b"GET " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n" for target in targets))
        assert [(await client.response()).body for _ in targets] == targets


async def test_connection_close_is_honoured() -> None:
    async with raw_upstream(answering(OK)) as upstream, lane(upstream.url) as made, raw_client(made.port) as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        got = await client.response()
        assert got.head.get(b"connection") == b"close"
        assert await client.rest() == b""


async def test_http_1_0_client_gets_a_length_and_the_end() -> None:
    async with raw_upstream(answering(OK)) as upstream, lane(upstream.url) as made, raw_client(made.port) as client:
        await client.send(b"GET / HTTP/1.0\r\n\r\n")
        got = await client.response()
        assert (got.body, got.head.get(b"connection"), got.head.get(b"content-length")) == (b"ok", b"close", b"2")
        assert await client.rest() == b""


async def test_http_1_0_client_that_asks_for_it_keeps_its_connection() -> None:
    async with raw_upstream(answering(OK)) as upstream, lane(upstream.url) as made, raw_client(made.port) as client:
        for _ in range(2):
            await client.send(b"GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n")
            assert (await client.response()).head.get(b"connection") == b"keep-alive"


async def test_http_1_0_client_gets_a_chunked_answer_as_bytes() -> None:
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    async with raw_upstream(answering(answer)) as upstream, lane(upstream.url) as made, raw_client(made.port) as client:
        await client.send(b"GET / HTTP/1.0\r\n\r\n")
        got = await client.response()
        assert got.body == b"abc"
        assert got.head.all(b"transfer-encoding") == []


async def test_upgrade_that_no_tunnel_can_carry_is_not_passed_on() -> None:
    async with raw_upstream(answering(OK)) as upstream, lane(upstream.url) as made, raw_client(made.port) as client:
        await client.send(
            b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n\r\n"
        )
        assert (await client.response()).status == 200
        assert upstream.requests[0].head.all(b"upgrade") == []
        assert upstream.requests[0].head.all(b"connection") == []


# answers that break off


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd",
    ],
    ids=["length", "chunked", "bad chunk"],
)
async def test_answer_that_breaks_off_never_looks_whole(answer: bytes) -> None:
    async def script(upstream: RawUpstream, peer: RawPeer) -> None:
        await peer.message()
        await peer.send(answer)

    async with raw_upstream(script) as upstream, lane(upstream.url) as made, raw_client(made.port) as client:
        await client.send(GET)
        with pytest.raises(Truncated):
            await client.response()
        await until(lambda: bool(made.relayed))
        assert isinstance(made.relayed[0].fault, UpstreamBroke)


async def test_answer_that_breaks_off_resets_an_http_1_0_client() -> None:
    async def script(upstream: RawUpstream, peer: RawPeer) -> None:
        await peer.message()
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")

    async with raw_upstream(script) as upstream, lane(upstream.url) as made, raw_client(made.port) as client:
        await client.send(b"GET / HTTP/1.0\r\n\r\n")
        with pytest.raises(Truncated):
            await client.response()


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nX Y: 1\r\n\r\n"])
async def test_answer_without_a_head_is_a_502(answer: bytes) -> None:
    async def script(upstream: RawUpstream, peer: RawPeer) -> None:
        await peer.message()
        await peer.send(answer)

    async with raw_upstream(script) as upstream, lane(upstream.url) as made, raw_client(made.port) as client:
        await client.send(GET)
        assert (await client.response()).status == 502
        assert isinstance(made.faults[0], UpstreamBroke)


async def test_head_of_an_answer_is_bounded() -> None:
    async with (
        raw_upstream(answering(b"HTTP/1.1 200 OK\r\n" + b"X: " + b"a" * 200_000 + b"\r\n")) as upstream,
        lane(upstream.url) as made,
        raw_client(made.port) as client,
    ):
        await client.send(GET)
        assert (await client.response()).status == 502


# early answers, clients that go


async def test_early_answer_is_relayed_and_the_upload_stopped() -> None:
    async def script(upstream: RawUpstream, peer: RawPeer) -> None:
        await peer.head()
        await peer.exactly(3)
        await peer.send(b"HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno")

    async with raw_upstream(script) as upstream, lane(upstream.url) as made, raw_client(made.port) as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc")
        got = await client.response()
        assert (got.status, got.body) == (413, b"no")
        await client.send(b"defghij" + GET)
        await until(lambda: upstream.connections == 2)  # the rest was read and dropped, the next request served


async def test_answer_and_request_can_stream_at_the_same_time() -> None:
    async def script(upstream: RawUpstream, peer: RawPeer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while part := await peer.chunk():
            await peer.send(b"%x\r\n%b\r\n" % (len(part), part))
        await peer.send(b"0\r\n\r\n")

    async with raw_upstream(script) as upstream, lane(upstream.url) as made, raw_client(made.port) as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert (await client.head()).status == 200
        for word in (b"one", b"two", b"three"):
            await client.send(b"%x\r\n%b\r\n" % (len(word), word))
            assert await client.chunk() == word
        await client.send(b"0\r\n\r\n")
        assert await client.chunk() == b""


async def test_client_that_goes_ends_the_exchange_upstream() -> None:
    async def script(upstream: RawUpstream, peer: RawPeer) -> None:
        await peer.message()
        arrived.set()
        await peer.rest()
        ended.set()

    arrived, ended = asyncio.Event(), asyncio.Event()
    async with raw_upstream(script) as upstream, lane(upstream.url) as made:
        async with raw_client(made.port) as client:
            await client.send(GET)
            await arrived.wait()
            await client.reset()
        async with asyncio.timeout(5):
            await ended.wait()
        await until(lambda: bool(made.faults))
        assert isinstance(made.faults[0], ClientGone)


async def test_client_that_goes_within_its_body_never_makes_a_whole_request() -> None:
    async def script(upstream: RawUpstream, peer: RawPeer) -> None:
        head = await peer.head()
        arrived.set()
        with pytest.raises(Truncated):
            await peer.body(head)
        ended.set()

    arrived, ended = asyncio.Event(), asyncio.Event()
    for framing in (b"Content-Length: 10\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"):
        arrived.clear()
        ended.clear()
        async with raw_upstream(script) as upstream, lane(upstream.url) as made:
            async with raw_client(made.port) as client:
                await client.send(b"POST / HTTP/1.1\r\nHost: a\r\n" + framing)
                await arrived.wait()
            async with asyncio.timeout(5):
                await ended.wait()


async def test_client_that_does_not_read_is_cut_off() -> None:
    async def script(upstream: RawUpstream, peer: RawPeer) -> None:
        await peer.message()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
        while True:
            await peer.send(b"a" * 65536)

    bounds = limits(write_idle_timeout="200ms")
    async with raw_upstream(script) as upstream, lane(upstream.url, bounds=bounds) as made, raw_client(made.port, limit=1024) as client:
        await client.send(GET)
        await until(lambda: bool(made.relayed))
        assert isinstance(made.relayed[0].fault, ClientGone)
