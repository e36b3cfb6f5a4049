"""Where a body ends: Transfer-Encoding and Content-Length in every form that some server reads otherwise (RFC 9112 section 6).

`Wire` holds the law itself: requests that the upstream saw = requests that were decided.
"""

from __future__ import annotations

import pytest

from tests.support.smuggling import (
    ABC,
    EITHER,
    LAST,
    REFUSED,
    SMUGGLED,
    Carried,
    Refused,
    as_expected,
    chunked,
    post,
)
from tests.support.wire import Wire

pytestmark = pytest.mark.asyncio(loop_scope="module")

# -- Transfer-Encoding --------------------------------------------------------------------------------------------------

GOOD_CODINGS = [b"chunked", b" chunked", b"chunked ", b"\tchunked", b"Chunked", b"CHUNKED", b"cHuNkEd"]
# RFC 9110 section 5.6.1.2 lets a recipient skip empty members of a list; a gateway need not. llhttp takes one kind of blank at the end.
LIST_CODINGS = [b"\t chunked \t", b",chunked", b", chunked", b"chunked,", b"chunked ,", b",,chunked,,"]
BAD_CODINGS = [
    b"", b" ", b"\t", b"identity", b"identity, chunked", b"chunked, identity", b"chunked, chunked", b"chunked,chunked",
    b"chunked chunked", b"chunkedchunked", b"gzip", b"gzip, chunked", b"chunked, gzip", b"deflate,chunked", b"x chunked", b"x, chunked",
    b"chunked x", b"xchunked", b"chunkedx", b"chunke", b"hunked", b"c", b"chunked;", b"chunked;q=1", b"chunked; a=b", b"chunked;q=0",
    b'"chunked"', b"'chunked'", b'"chunked', b"chun ked", b"chun\tked", b"chun-ked", b"chun_ked", b"chunked.", b"chunked/1", b"chunked#",
    b"chunked:", b"chunked=1", b"(x)chunked", b"chunked(x)", b"%63hunked", b"chunked%00", b"\\chunked", b"=?utf-8?q?chunked?=",
    b"trailers", b"trailers, chunked", b"pigeons", b"0", b"1", b"*", b"\x0bchunked", b"chunked\x0b", b"\x0cchunked", b"chunked\x0c",
    b"\x00chunked", b"chunked\x00", b"chun\x00ked", b"\x08chunked", b"\x1fchunked", b"\x7fchunked", b"\x85chunked", b"\xa0chunked",
    b"chunked\xa0", b"\xc2\xa0chunked", b"\xe2\x80\x8bchunked", b"\xef\xbb\xbfchunked", b"chun\xe2\x84\xaaed", b"chunked\xff",
    b"chunked\r", b"\rchunked", b"chunked\n", b"\nchunked", b"chunked\r\n ", b"\r\n chunked", b"\r\n\tchunked", b"x\r\n chunked",
    b"chunked\r\n x", b"chunked\r\n\t, identity",
]  # fmt: skip


@pytest.mark.parametrize("coding", GOOD_CODINGS)
async def test_chunked_is_chunked_in_any_case_and_with_blanks_around_it(wire: Wire, coding: bytes) -> None:
    as_expected(await wire.exchange(post(b"Transfer-Encoding:" + coding + b"\r\n", ABC), LAST), Carried(b"abc"))


@pytest.mark.parametrize("coding", LIST_CODINGS)
async def test_empty_members_of_the_list_are_skipped_or_refused(wire: Wire, coding: bytes) -> None:
    as_expected(await wire.exchange(post(b"Transfer-Encoding: " + coding + b"\r\n", ABC), LAST), Carried(b"abc", or_refused=EITHER))


# What a recipient that ignores the field, or one that understands it, would see behind the head.
BODIES = {"a chunk and a request": ABC + SMUGGLED, "a request": SMUGGLED, "an empty body and a request": b"0\r\n\r\n" + SMUGGLED}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
async def test_any_other_coding_is_refused(wire: Wire, body: bytes) -> None:
    for coding in BAD_CODINGS:
        as_expected(await wire.exchange(post(b"Transfer-Encoding: " + coding + b"\r\n", body)), Refused((400, 501)))


@pytest.mark.parametrize("length_first", [True, False], ids=["length first", "coding first"])
async def test_a_length_beside_any_coding_is_refused(wire: Wire, length_first: bool) -> None:
    for coding in (*GOOD_CODINGS, *LIST_CODINGS, *BAD_CODINGS):
        for length in (b"0", b"3", b"13", b"%d" % len(ABC + SMUGGLED)):
            pair = [b"Content-Length: %b\r\n" % length, b"Transfer-Encoding: %b\r\n" % coding]
            as_expected(await wire.exchange(post(b"".join(pair if length_first else pair[::-1]), ABC + SMUGGLED)), Refused((400, 501)))


PAIRS = [
    (b"chunked", b"chunked"), (b"chunked", b"identity"), (b"identity", b"chunked"), (b"gzip", b"chunked"), (b"chunked", b"x"),
    (b"", b"chunked"), (b"chunked", b""), (b"x", b"chunked"), (b"Chunked", b"chunked"),
]  # fmt: skip


@pytest.mark.parametrize(("first", "second"), PAIRS)
async def test_two_codings_are_refused(wire: Wire, first: bytes, second: bytes) -> None:
    for between in (b"", b"X: 1\r\n"):
        fields = b"Transfer-Encoding: %b\r\n%bTransfer-Encoding: %b\r\n" % (first, between, second)
        as_expected(await wire.exchange(post(fields, ABC + SMUGGLED)), Refused((400, 501)))


NAMES = [
    b"Transfer-Encoding ", b"Transfer-Encoding\t", b" Transfer-Encoding", b"\tTransfer-Encoding", b"Transfer_Encoding",
    b"transfer_encoding", b"TRANSFER_ENCODING", b"Transfer-Encoding\x0b", b"Transfer-Encoding\x00", b"\x00Transfer-Encoding",
    b"Transfer\x00Encoding", b"Transfer Encoding", b"Transfer-\rEncoding", b"Transfer-Encoding\r", b"\rTransfer-Encoding",
    b"Transfer-\nEncoding", b"\nTransfer-Encoding", b"Transfer\xadEncoding", b"\xefTransfer-Encoding", b"Transfer\xe2\x80\x90Encoding",
    b"Transfer-Encod\xc4\xb1ng", b'"Transfer-Encoding"', b"(x)Transfer-Encoding", b"Transfer-Encoding:", b"X: 1\rTransfer-Encoding",
    b"X: 1\nTransfer-Encoding", b"X: 1\r\rTransfer-Encoding", b"X\rTransfer-Encoding", b"X\nTransfer-Encoding",
    b"X: 1\r\n Transfer-Encoding", b"X: 1\r\n\tTransfer-Encoding", b"X: 1\x00\r\nTransfer-Encoding",
]  # fmt: skip


@pytest.mark.parametrize("name", [b"transfer-encoding", b"TRANSFER-ENCODING", b"tRANSFER-eNCODING"])
async def test_the_name_has_no_case(wire: Wire, name: bytes) -> None:
    as_expected(await wire.exchange(post(name + b": chunked\r\n", ABC), LAST), Carried(b"abc"))


@pytest.mark.parametrize("with_length", [True, False])
async def test_a_name_that_only_some_servers_read_as_the_coding_is_refused(wire: Wire, with_length: bool) -> None:
    for name in NAMES:
        fields = name + b": chunked\r\n"
        if with_length:
            fields = b"Content-Length: %d\r\n" % len(ABC + SMUGGLED) + fields
        as_expected(await wire.exchange(post(fields, ABC + SMUGGLED)), Refused((400, 501)))


async def test_chunked_in_http_1_0_is_refused(wire: Wire) -> None:
    for fields in (b"", b"Connection: keep-alive\r\n", b"Content-Length: 3\r\n"):
        sent = post(fields + b"Transfer-Encoding: chunked\r\n", ABC + SMUGGLED).replace(b"/1.1", b"/1.0", 1)
        as_expected(await wire.exchange(sent), REFUSED)


HARMLESS = [
    b"X-Transfer-Encoding: chunked\r\n", b"Transfer-Encoding-X: chunked\r\n", b"TE: chunked\r\n", b"X: Transfer-Encoding: chunked\r\n",
    b"Connection: Transfer-Encoding\r\n", b"Connection: Content-Length\r\n", b"Connection: Host\r\n",
]  # fmt: skip


@pytest.mark.parametrize("field", HARMLESS)
async def test_a_field_that_only_mentions_it_changes_nothing(wire: Wire, field: bytes) -> None:
    for fields, body in ((field, b"Content-Length: 3\r\n"), (b"Content-Length: 3\r\n", field)):
        as_expected(await wire.exchange(post(fields + body, b"abc"), LAST), Carried(b"abc"))
    as_expected(await wire.exchange(chunked(ABC, field), LAST), Carried(b"abc"))


# -- Content-Length -----------------------------------------------------------------------------------------------------

GOOD_LENGTHS = [b"3", b" 3", b"3 ", b"\t3", b"3\t", b" \t3\t ", b"03", b"0003", b"000000000000003"]
BAD_LENGTHS = [
    b"", b" ", b"\t", b"+3", b"-3", b"-0", b"--3", b"+", b"-", b"3,3", b"3, 3", b"3,", b",3", b"3,4", b"3, 0", b"3;3", b"3;", b"0x3",
    b"0X3", b"x3", b"3h", b"0b11", b"0o3", b"3.0", b"3.", b".3", b"3e0", b"3E0", b"1_0", b"3_", b"3L", b"3u", b"three", b"NaN",
    b"Infinity", b"3 3", b"3 0", b"3\t3", b"0 3", b"- 3", b"3 abc", b"3abc", b'"3"', b"'3'", b"(3)", b"3(x)", b"%33", b"\\3", b"3%",
    b"3#", b"3/3", b"3:3", b"3=3", b"\x0b3", b"3\x0b", b"3\x0c", b"\x003", b"3\x00", b"3\x000", b"\x1f3", b"3\x7f", b"\xa03", b"3\xa0",
    b"\xb3", b"\xd9\xa3", b"\xef\xbc\x93", b"3\r", b"\r3", b"3\n", b"\n3", b"\r\n 3", b"3\r\n ", b"3\r\n 3", b"3\r\n\t0", b"9" * 20,
    b"9" * 400, b"18446744073709551616", b"18446744073709551619", b"36893488147419103235", b"340282366920938463463374607431768211459",
]  # fmt: skip
# Lengths, but no body is that long; the refusal may wait a while for the bytes that were announced.
HUGE_LENGTHS = [b"9" * 11, b"9" * 18, b"9" * 19, b"4294967299000", b"9223372036854775807", b"9223372036854775808", b"18446744073709551615"]


@pytest.mark.parametrize("length", GOOD_LENGTHS)
async def test_a_length_of_digits_is_that_length(wire: Wire, length: bytes) -> None:
    outcome = await wire.exchange(post(b"Content-Length:" + length + b"\r\n", b"abc") + LAST)
    as_expected(outcome, Carried(b"abc"))
    assert outcome.targets == [b"/x", b"/last"]


@pytest.mark.parametrize("method", [b"POST", b"GET", b"HEAD"])
async def test_any_other_length_is_refused(wire: Wire, method: bytes) -> None:
    for length in BAD_LENGTHS:
        sent = post(b"Content-Length: " + length + b"\r\n", b"abc" + SMUGGLED).replace(b"POST", method, 1)
        as_expected(await wire.exchange(sent), Refused((400, 413)))


async def test_a_length_beyond_any_bound_is_refused_and_takes_what_follows_with_it(wire: Wire) -> None:
    for length in HUGE_LENGTHS:
        client = await wire.client()
        await client.send([wire.hosted(post(b"Content-Length: " + length + b"\r\n", b"abc" + SMUGGLED))])
        await client.until(len(b"HTTP/1.1 xxx"))
        client.transport.close()
        await client.end()
        assert client.came[9:12] in (b"400", b"413")
    await wire.settle()
    wire.sound()
    assert wire.upstream.arrived == []


async def test_zeros_in_front_beyond_reason_are_that_length_or_refused(wire: Wire) -> None:
    for zeros in (16, 17, 18, 19, 20, 40, 1000):
        sent = post(b"Content-Length: " + b"0" * zeros + b"3\r\n", b"abc")
        as_expected(await wire.exchange(sent, LAST), Carried(b"abc", or_refused=EITHER))


async def test_more_lengths_than_one_are_refused(wire: Wire) -> None:
    for first, second in (
        (b"3", b"3"),
        (b"3", b"4"),
        (b"0", b"3"),
        (b"3", b"0"),
        (b"3", b""),
        (b"", b"3"),
        (b"3", b"x"),
        (b"3", b"03"),
        (b"3", b"+3"),
    ):
        for name in (b"Content-Length", b"content-length", b"Content_Length", b"CONTENT_LENGTH"):
            for between in (b"", b"X: 1\r\n"):
                fields = b"Content-Length: %b\r\n%b%b: %b\r\n" % (first, between, name, second)
                as_expected(await wire.exchange(post(fields, b"abc" + SMUGGLED)), REFUSED)


LENGTH_NAMES = [
    b"Content-Length ", b"Content-Length\t", b" Content-Length", b"Content_Length", b"content_length", b"Content-Length\x00",
    b"Content\x00Length", b"\x0bContent-Length", b"Content-Length\r", b"Content Length", b"Content\xadLength", b"X: 1\rContent-Length",
    b"X: 1\nContent-Length", b"X: 1\r\n Content-Length",
]  # fmt: skip


async def test_a_name_that_only_some_servers_read_as_the_length_is_refused(wire: Wire) -> None:
    for name in LENGTH_NAMES:
        for fields in (b"", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n"):
            field = name + b": %d\r\n" % len(SMUGGLED)
            as_expected(await wire.exchange(post(fields + field, SMUGGLED)), REFUSED)
            as_expected(await wire.exchange(post(field + fields, SMUGGLED)), REFUSED)


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"PROPFIND", b"TRACE"])
async def test_a_request_within_a_body_is_a_body_whatever_the_method(wire: Wire, method: bytes) -> None:
    for sent in (post(b"Content-Length: %d\r\n" % len(SMUGGLED), SMUGGLED), chunked(b"%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED))):
        outcome = await wire.exchange(sent.replace(b"POST", method, 1), LAST, methods=[method])
        as_expected(outcome, Carried(wire.hosted(SMUGGLED)))
