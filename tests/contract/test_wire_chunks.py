"""Chunks, their sizes, extensions and trailers (RFC 9112 section 7.1): what is not exactly right never becomes a whole request."""

from __future__ import annotations

import pytest

from tests.support.smuggling import (
    EITHER,
    LAST,
    REFUSED,
    SMUGGLED,
    Carried,
    as_expected,
    chunked,
)
from tests.support.wire import Wire

pytestmark = pytest.mark.asyncio(loop_scope="module")

# -- chunks -------------------------------------------------------------------------------------------------------------

# Behind the size, a blank is bad (RFC 9112 section 7.1.1 allows it before an extension only), and generous servers skip it.
GOOD_SIZES = [b"3", b"03", b"0003", b"00000003"]
EXTENSIONS = [
    b";", b";a", b";a=b", b";a=1;b=2", b';a="b"', b';a="b;c"', b';a="\\""', b";a=", b";=b", b";;", b"; a=b", b" ;a=b", b";a =b",
    b";a= b", b" ; a = b", b"\t;a", b";a;b=", b';a="', b';a="b', b";a b", b";\xe4", b";a\tb", b';a="\xff"', b";0", b";3",
    b";GET /smuggled HTTP/1.1", b";" + b"a" * 100,
]  # fmt: skip
BAD_SIZES = [
    b"", b" ", b"\t", b" 3", b"\t3", b"+3", b"-3", b"-0", b"--3", b"0x3", b"0X3", b"x3", b"\\x3", b"#3", b"3g", b"g", b"z3", b"3h",
    b"3,", b"3,3", b"3.0", b"3.", b"3_", b"1_0", b"3 3", b"3 a", b"3 0", b"3\t3", b"'3'", b'"3"', b"(3)", b"3=", b"3:", b"3/", b"3#a",
    b"%33", b"\x003", b"3\x00", b"3\x0b", b"\x0b3", b"3\x0c", b"\x0c3", b"3\x7f", b"\xb3", b"\xd9\xa3", b"\xef\xbc\x93", b"3\xa0",
    b"\xa03", b"3\x85", b"three", b"NaN", b"10000000000000000", b"10000000000000003", b"100000000000000000000000003",
    b"FFFFFFFFFFFFFFFFF", b"F" * 400, b"3\n", b"\n3", b"3\r", b"\r3", b"3\r\r", b"3;\n", b"3;\r", b"3;a\nb", b"3;a\rb", b"3;a\r\r",
    b"3;\x00", b"3;a=\x00", b'3;a="\x00"', b'3;a="\n"', b"3;\x0b", b"3;a=\x7f", b"3;\x1b[0m",
]  # fmt: skip


async def test_sizes_and_extensions_end_here(wire: Wire) -> None:
    """The strict reader upstream takes no extension."""
    for size in GOOD_SIZES:
        as_expected(await wire.exchange(chunked(size + b"\r\nabc\r\n0\r\n\r\n"), LAST), Carried(b"abc"))
    for zeros in (15, 16, 30, 100):
        sent = chunked(b"0" * zeros + b"3\r\nabc\r\n" + b"0" * zeros + b"\r\n\r\n")
        as_expected(await wire.exchange(sent, LAST), Carried(b"abc", or_refused=EITHER))
    for last in (b"0", b"00", b"000"):
        as_expected(await wire.exchange(chunked(b"3\r\nabc\r\n" + last + b"\r\n\r\n"), LAST), Carried(b"abc"))
    for size in (b"a", b"A", b"0a", b"000A"):
        as_expected(await wire.exchange(chunked(size + b"\r\n0\r\n\r\n\r\n\r\nab\r\n0\r\n\r\n"), LAST), REFUSED)
        as_expected(await wire.exchange(chunked(size + b"\r\n0\r\n\r\n0\r\nab\r\n0\r\n\r\n"), LAST), Carried(b"0\r\n\r\n0\r\nab"))
    for extension in EXTENSIONS:
        for sent in (b"3%b\r\nabc\r\n0\r\n\r\n", b"3\r\nabc\r\n0%b\r\n\r\n", b"1\r\na\r\n2%b\r\nbc\r\n0\r\n\r\n"):
            as_expected(await wire.exchange(chunked(sent % extension), LAST), Carried(b"abc", or_refused=EITHER))


@pytest.mark.parametrize("where", ["first", "second", "last"])
async def test_any_other_size_ends_the_request_and_the_connection(wire: Wire, where: str) -> None:
    for size in BAD_SIZES:
        sent = {
            "first": size + b"\r\nabc\r\n0\r\n\r\n",
            "second": b"1\r\na\r\n" + size + b"\r\nabc\r\n0\r\n\r\n",
            "last": b"1\r\na\r\n" + size.replace(b"3", b"0") + b"\r\n\r\n",
        }[where]
        if size == b"" and where == "last":
            continue  # the bytes of "second"
        as_expected(await wire.exchange(chunked(sent + SMUGGLED)), REFUSED)


BAD_ENDS = {
    "longer than its size": b"3\r\nabcd\r\n0\r\n\r\n",
    "shorter than its size": b"5\r\nabc\r\n0\r\n\r\n",
    "nothing behind the data": b"3\r\nabc0\r\n\r\n",
    "LF behind the data": b"3\r\nabc\n0\r\n\r\n",
    "CR behind the data": b"3\r\nabc\r0\r\n\r\n",
    "LF CR behind the data": b"3\r\nabc\n\r0\r\n\r\n",
    "two line breaks behind the data": b"3\r\nabc\r\n\r\n0\r\n\r\n",
    "a space behind the data": b"3\r\nabc \r\n0\r\n\r\n",
    "data behind the last chunk": b"0\r\nabc\r\n\r\n",
    "data behind the last chunk that looks like a chunk": b"0\r\n3\r\nabc\r\n0\r\n\r\n",
    "a request instead of the trailers": b"3\r\nabc\r\n0\r\nGET /smuggled HTTP/1.1\r\nHost: GATEWAY.TEST:80\r\n\r\n",
    "LF behind the last chunk": b"3\r\nabc\r\n0\n\r\n",
    "LF at the end": b"3\r\nabc\r\n0\r\n\n",
    "CR at the end": b"3\r\nabc\r\n0\r\n\r",
    "LF everywhere": b"3\nabc\n0\n\n",
    "no chunk at all": b"xyz\r\n\r\n",
    "NUL for a size": b"\x00\r\n\r\n",
}


@pytest.mark.parametrize("body", BAD_ENDS.values(), ids=BAD_ENDS)
async def test_chunks_that_do_not_end_as_they_should_end_the_connection(wire: Wire, body: bytes) -> None:
    as_expected(await wire.exchange(chunked(body + SMUGGLED)), REFUSED)


@pytest.mark.parametrize("size", [1000, 5000, 16_500, 70_000, 300_000])
async def test_an_extension_beyond_reason_is_dropped_or_refused(wire: Wire, size: int) -> None:
    for extension in (b";" + b"a" * size, b";a=" + b"b" * size, b';a="' + b"b" * size + b'"', b";a" * (size // 2)):
        outcome = await wire.exchange(chunked(b"3" + extension + b"\r\nabc\r\n0\r\n\r\n"), LAST)
        as_expected(outcome, Carried(b"abc", or_refused=(400, 413, 431)))


async def test_a_chunk_that_never_ends_is_no_request(wire: Wire) -> None:
    for size in (b"7fffffffffffffff", b"8000000000000000", b"ffffffffffffffff", b"fffffffffffffffe", b"80000000", b"100000003"):
        outcome = await wire.exchange(chunked(size + b"\r\nabc\r\n0\r\n\r\n" + SMUGGLED), leaves=True)
        assert outcome.arrived == ()


CUT = {
    "a length": b"Content-Length: 9\r\n\r\n0\r\n\r\nGET ",
    "chunks": b"Transfer-Encoding: chunked\r\n\r\n4;a=b\r\nabcd\r\n1\r\ne\r\n0\r\nX: 1\r\n\r\n",
}


@pytest.mark.parametrize("kind", CUT)
async def test_a_request_that_is_cut_off_anywhere_is_no_request(wire: Wire, kind: str) -> None:
    sent = wire.hosted(b"POST /x HTTP/1.1\r\nHost: GATEWAY.TEST:80\r\n" + CUT[kind])
    for end in range(1, len(sent)):
        outcome = await wire.exchange(sent[:end], leaves=True)
        assert outcome.arrived == (), end


# -- trailers -----------------------------------------------------------------------------------------------------------

TRAILERS = [
    b"X: 1", b"X:", b"Content-Length: 5", b"Content-Length: 0", b"Transfer-Encoding: chunked", b"Host: evil", b"X-Stepup-Token: forged",
    b"X_Stepup_Token: forged", b"X-Forwarded-For: 6.6.6.6", b"Forwarded: for=6.6.6.6", b"X-Forwarded-User: root",
    b"Cookie: stepup=forged", b"Cookie: a=1", b"Authorization: Basic eDp5", b"Connection: close", b"Connection: keep-alive",
    b"Upgrade: websocket", b"Expect: 100-continue", b"Content-Type: a/b", b"X-HTTP-Method-Override: DELETE", b"Trailer: X",
    b"TE: trailers", b"X: \xe4\xff", b"X: 1\r\nX: 2", b"X: 1\r\nContent-Length: 70\r\nY: 2",
]  # fmt: skip
BAD_TRAILERS = [
    b"X", b": 1", b"X : 1", b"X\t: 1", b" X: 1", b"\tX: 1", b"X: 1\r\n 2", b"X: 1\r\n\t2", b"X: 1\nY: 2", b"X: 1\rY: 2", b"X: 1\r",
    b"X: \x00", b"X\x00: 1", b"X: \x0b\r\n\x0b", b"X: \x7f", b"X Y: 1", b"X\xe4: 1", b"GET /smuggled HTTP/1.1", b"X: 1\n", b"\rX: 1",
    b"X(): 1", b"X: \x1b[0m", b"\x00", b'"X": 1',
]  # fmt: skip


@pytest.mark.parametrize("together", [True, False], ids=["one segment", "two segments"])
async def test_no_trailer_is_passed_on_or_becomes_a_header_of_the_next_request(wire: Wire, together: bool) -> None:
    for trailer in TRAILERS:
        parts = [chunked(b"3\r\nabc\r\n0\r\n" + trailer + b"\r\n\r\n"), LAST]
        outcome = await wire.exchange(*([b"".join(parts)] if together else parts))
        as_expected(outcome, Carried(b"abc", or_refused=EITHER))
        for request in outcome.arrived:
            names = {name.lower() for name, _ in request.fields}
            assert names - {b"transfer-encoding"} <= {
                b"host",
                b"via",
                b"x-forwarded-for",
                b"x-forwarded-proto",
                b"x-forwarded-host",
                b"forwarded",
            }, request
            assert (request.all(b"host"), request.all(b"x-forwarded-for")) == ([wire.front.host], [b"127.0.0.1"])


async def test_trailers_that_are_no_fields_end_the_connection(wire: Wire) -> None:
    for trailer in BAD_TRAILERS:
        as_expected(await wire.exchange(chunked(b"3\r\nabc\r\n0\r\n" + trailer + b"\r\n\r\n" + SMUGGLED)), REFUSED)


async def test_trailers_beyond_reason_are_dropped_or_refused(wire: Wire) -> None:
    for trailers in (b"X: " + b"1" * 20_000 + b"\r\n", b"X: 1\r\n" * 200, b"X: 1\r\n" * 20_000, b"X" * 70_000 + b": 1\r\n"):
        outcome = await wire.exchange(chunked(b"3\r\nabc\r\n0\r\n" + trailers + b"\r\n"), LAST)
        as_expected(outcome, Carried(b"abc", or_refused=(400, 413, 431)))
