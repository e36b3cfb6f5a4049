"""Requests that two servers could read in two ways, and clients that hold too much, are refused at the listener."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.lane import lane, limits
from tests.support.raw import OK, answering, raw_client, raw_upstream, until

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"

DOUBTFUL = {
    "length and chunked": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked and length": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcde",
    "the same length twice": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nContent-Length: 4\r\n\r\nabcd",
    "list of lengths": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4, 4\r\n\r\nabcd",
    "signed length": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +4\r\n\r\nabcd",
    "negative length": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
    "hexadecimal length": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x4\r\n\r\nabcd",
    "empty length": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \r\n\r\n",
    "huge length": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n",
    "length with a space": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4 4\r\n\r\nabcd",
    "length spelled with an underscore": b"POST / HTTP/1.1\r\nHost: a\r\nContent_Length: 4\r\n\r\n",
    "coding spelled with an underscore": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer_Encoding: chunked\r\n\r\n",
    "xchunked": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "identity": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n",
    "chunked, identity": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "gzip, chunked": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked twice": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked and another line": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n",
    "vertical tab before chunked": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "quoted chunked": b'POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n',
    "chunked in HTTP/1.0": b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "space before the colon": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "tab before the colon": b"GET / HTTP/1.1\r\nHost: a\r\nX\t: 1\r\n\r\n",
    "space in a name": b"GET / HTTP/1.1\r\nHost: a\r\nX Y: 1\r\n\r\n",
    "no name": b"GET / HTTP/1.1\r\nHost: a\r\n: 1\r\n\r\n",
    "no colon": b"GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n",
    "folded line": b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n 2\r\n\r\n",
    "folded coding": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "first header line begins with a space": b"GET / HTTP/1.1\r\n Host: a\r\n\r\n",
    "bare LF between headers": b"GET / HTTP/1.1\r\nHost: a\nX: 1\r\n\r\n",
    "bare LF behind the request line": b"GET / HTTP/1.1\nHost: a\r\n\r\n",
    "bare LF at the end of the head": b"GET / HTTP/1.1\r\nHost: a\r\n\n",
    "bare CR in a value": b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r2\r\n\r\n",
    "bare CR in a name": b"GET / HTTP/1.1\r\nHost: a\r\nX\rY: 1\r\n\r\n",
    "CR CR LF": b"GET / HTTP/1.1\r\nHost: a\r\r\n\r\n",
    "NUL in a value": b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\x002\r\n\r\n",
    "NUL in a name": b"GET / HTTP/1.1\r\nHost: a\r\nX\x00: 1\r\n\r\n",
    "NUL in the target": b"GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n",
    "escape character in a value": b"GET / HTTP/1.1\r\nHost: a\r\nX: \x1b[0m\r\n\r\n",
    "delete character in a value": b"GET / HTTP/1.1\r\nHost: a\r\nX: \x7f\r\n\r\n",
    "tab in the target": b"GET /a\tb HTTP/1.1\r\nHost: a\r\n\r\n",
    "space in the target": b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
    "no Host": b"GET / HTTP/1.1\r\n\r\n",
    "two Hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "the same Host twice": b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
    "two Hosts in HTTP/1.0": b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n",
    "unknown method": b"FROB / HTTP/1.1\r\nHost: a\r\n\r\n",
    "method in lower case": b"get / HTTP/1.1\r\nHost: a\r\n\r\n",
    "no version": b"GET /\r\nHost: a\r\n\r\n",
    "not HTTP": b"SSH-2.0-OpenSSH_9.6\r\n",
    "TLS on a plain port": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 32,
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "target that is no URL": b"GET http://[::1 HTTP/1.1\r\nHost: a\r\n\r\n",
    "relative target": b"GET admin HTTP/1.1\r\nHost: a\r\n\r\n",
}

BAD_CHUNKS = {
    "no size": b"\r\nabc\r\n0\r\n\r\n",
    "size that is no number": b"xyz\r\nabc\r\n0\r\n\r\n",
    "negative size": b"-3\r\nabc\r\n0\r\n\r\n",
    "size with 0x": b"0x3\r\nabc\r\n0\r\n\r\n",
    "size that overflows": b"10000000000000003\r\nabc\r\n0\r\n\r\n",
    "space before the size": b" 3\r\nabc\r\n0\r\n\r\n",
    "chunk longer than its size": b"3\r\nabcd\r\n0\r\n\r\n",
    "LF behind the size": b"3\nabc\r\n0\r\n\r\n",
    "LF behind the data": b"3\r\nabc\n0\r\n\r\n",
    "CR without LF behind the size": b"3\rabc\r\n0\r\n\r\n",
    "LF in an extension": b"3;a\nb\r\nabc\r\n0\r\n\r\n",
    "NUL in an extension": b"3;\x00\r\nabc\r\n0\r\n\r\n",
    "folded trailer": b"3\r\nabc\r\n0\r\nX: 1\r\n 2\r\n\r\n",
    "bare LF in the trailers": b"3\r\nabc\r\n0\r\nX: 1\n\r\n",
}


@pytest.mark.parametrize("request_bytes", DOUBTFUL.values(), ids=DOUBTFUL)
async def test_doubtful_head_is_refused_and_nothing_behind_it_is_served(request_bytes: bytes) -> None:
    async with raw_upstream(answering(OK)) as upstream, lane(upstream.url) as made, raw_client(made.port) as client:
        await client.send(request_bytes + SMUGGLED)
        answer = await client.head()
        assert answer.status == 400
        assert answer.get(b"connection") == b"close"
        assert b"HTTP/1.1" not in await client.rest()
        assert upstream.requests == []
        assert [status for status, _ in made.refused][:1] == [400]


@pytest.mark.parametrize("chunks", BAD_CHUNKS.values(), ids=BAD_CHUNKS)
async def test_bad_chunk_never_becomes_a_whole_request_upstream(chunks: bytes) -> None:
    async with raw_upstream(answering(OK)) as upstream, lane(upstream.url) as made, raw_client(made.port) as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + SMUGGLED)
        answers = await client.rest()
        assert answers.count(b"HTTP/1.1 ") <= 1
        assert b"HTTP/1.1 200" not in answers
        assert upstream.requests == []


async def test_bad_chunk_behind_good_ones_ends_the_request_at_once() -> None:
    async with raw_upstream(answering(OK)) as upstream, lane(upstream.url) as made, raw_client(made.port) as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        await asyncio.sleep(0)
        await client.send(b"zz\r\n")
        assert b"HTTP/1.1 200" not in await client.rest()
        assert upstream.requests == []


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n", 405),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        (b"GET /" + b"a" * 8190 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"GET /" + b"a" * 8180 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 16_400 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: 1\r\n" * 128 + b"\r\n", 431),
    ],
    ids=["CONNECT", "HTTP/2.0", "target too long", "request line too long", "header too long", "too many headers"],
)
async def test_refusals_with_a_status_of_their_own(request_bytes: bytes, status: int) -> None:
    async with raw_upstream(answering(OK)) as upstream, lane(upstream.url) as made, raw_client(made.port) as client:
        await client.send(request_bytes)
        assert (await client.head()).status == status
        await client.rest()
        assert [s for s, _ in made.refused] == [status]
        assert upstream.requests == []


async def test_header_and_line_bounds_are_told_apart_when_they_are_equal() -> None:
    async with raw_upstream(answering(OK)) as upstream, lane(upstream.url, bounds=limits(request_line=1000, header_size=1000)) as made:
        async with raw_client(made.port) as client:
            await client.send(b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 1100 + b"\r\n\r\n")
            assert (await client.head()).status == 431
        async with raw_client(made.port) as client:
            await client.send(b"GET /" + b"a" * 1100 + b" HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await client.head()).status == 414


async def test_what_is_just_within_the_bounds_passes() -> None:
    headers = b"".join(b"X-%d: 1\r\n" % i for i in range(126)) + b"Y: " + b"b" * 16_380 + b"\r\n"
    async with raw_upstream(answering(OK)) as upstream, lane(upstream.url) as made, raw_client(made.port) as client:
        await client.send(b"GET /" + b"a" * 8000 + b" HTTP/1.1\r\nHost: a\r\n" + headers + b"\r\n")
        assert (await client.response()).status == 200
        assert len(upstream.requests[0].head.fields) == 128


async def test_refusal_says_nothing_of_the_server_behind() -> None:
    async with raw_upstream(answering(OK)) as upstream, lane(upstream.url) as made, raw_client(made.port) as client:
        await client.send(b"BAD\r\n\r\n")
        answer = await client.response()
        assert [name for name, _ in answer.head.fields] == [b"Content-Type", b"Content-Length", b"Connection"]
        assert answer.body == b"Bad Request\n"


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /secret-\x01 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nCookie: secret-\x01\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nCookie: secret-" + b"a" * 20_000 + b"\r\n\r\n",
        b"GET /secret-" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http://[secret HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/secret\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nSec-WebSocket-Key1: secret\r\n\r\n",
    ],
)
async def test_reason_for_the_log_quotes_nothing_of_the_client(request_bytes: bytes) -> None:
    async with raw_upstream(answering(OK)) as upstream, lane(upstream.url) as made, raw_client(made.port) as client:
        await client.send(request_bytes)
        await client.rest()
        assert len(made.refused) == 1
        assert made.refused[0][1]
        assert "secret" not in made.refused[0][1]


async def test_slow_head_gets_408() -> None:
    async with raw_upstream(answering(OK)) as upstream, lane(upstream.url, bounds=limits(head_timeout="100ms")) as made:
        async with raw_client(made.port) as client:
            await client.send(b"GET / HTTP/1.1\r\nHo")
            assert (await client.head()).status == 408
            await client.rest()
        assert [status for status, _ in made.refused] == [408]


async def test_slow_second_head_gets_408_and_the_first_its_answer() -> None:
    async with (
        raw_upstream(answering(OK)) as upstream,
        lane(upstream.url, bounds=limits(head_timeout="100ms")) as made,
        raw_client(made.port) as client,
    ):
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await client.response()).status == 200
        await client.send(b"GET / HTTP/1.1\r\n")
        assert (await client.head()).status == 408


async def test_connection_without_a_byte_is_closed_without_an_answer() -> None:
    async with (
        raw_upstream(answering(OK)) as upstream,
        lane(upstream.url, bounds=limits(head_timeout="50ms")) as made,
        raw_client(made.port) as client,
    ):
        assert await client.rest() == b""
        assert made.cut == ["unused"]


async def test_unused_connection_is_closed_after_keepalive() -> None:
    async with (
        raw_upstream(answering(OK)) as upstream,
        lane(upstream.url, bounds=limits(keepalive="50ms")) as made,
        raw_client(made.port) as client,
    ):
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await client.response()).status == 200
        assert await client.rest() == b""


async def test_connections_above_the_bound_are_told_so_and_others_served() -> None:
    async with (
        raw_upstream(answering(OK)) as upstream,
        lane(upstream.url, bounds=limits(max_connections_per_address=2)) as made,
        raw_client(made.port) as one,
        raw_client(made.port) as two,
    ):
        for client in (one, two):
            await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await client.response()).status == 200
        async with raw_client(made.port) as three:
            answer = await three.response()
            assert (answer.status, answer.head.get(b"retry-after")) == (503, b"5")
            assert await three.rest() == b""
        assert made.cut == ["too_many_connections_of_address"]
        await one.close()
        await until(lambda: made.server is not None and made.server.connections == 1)
        async with raw_client(made.port) as four:
            await four.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await four.response()).status == 200


async def test_silent_body_gets_408() -> None:
    async with raw_upstream(answering(OK)) as upstream, lane(upstream.url, bounds=limits(body_idle_timeout="100ms")) as made:
        async with raw_client(made.port) as client:
            await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc")
            assert (await client.head()).status == 408
        assert upstream.requests == []


async def test_declared_body_above_the_bound_is_refused_before_the_upstream_hears_of_it() -> None:
    async with raw_upstream(answering(OK)) as upstream, lane(upstream.url, bounds=limits(max_upload=1000)) as made:
        async with raw_client(made.port) as client:
            await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\n\r\n")
            assert (await client.head()).status == 413
        assert upstream.connections == 0


async def test_chunked_body_above_the_bound_is_cut_off() -> None:
    async with raw_upstream(answering(OK)) as upstream, lane(upstream.url, bounds=limits(max_upload=1000)) as made:
        async with raw_client(made.port) as client:
            await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n" + b"a" * 1001 + b"\r\n0\r\n\r\n")
            assert (await client.head()).status == 413
        assert upstream.requests == []
