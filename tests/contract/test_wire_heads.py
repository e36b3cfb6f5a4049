"""First lines, header lines and hosts (RFC 9112 sections 2.2, 3 and 5): where two servers could differ, nothing is served."""

from __future__ import annotations

import pytest

from tests.support.smuggling import EITHER, LAST, REFUSED, SMUGGLED, Carried, Refused, as_expected, get
from tests.support.wire import Wire

pytestmark = pytest.mark.asyncio(loop_scope="module")

# -- heads --------------------------------------------------------------------------------------------------------------

FOLDS = [
    b"X: 1\r\n 2\r\n", b"X: 1\r\n\t2\r\n", b"X:\r\n 1\r\n", b"X: 1\r\n \r\n", b"X: 1\r\n\t\r\n", b" X: 1\r\n", b"\tX: 1\r\n",
    b"X\r\n : 1\r\n", b"X: 1\r\n Content-Length: 40\r\n", b"X: 1\r\n Transfer-Encoding: chunked\r\n", b"Content-Length:\r\n 40\r\n",
    b"Content-Length: 4\r\n 0\r\n", b"Connection:\r\n close\r\n", b"Cookie: a=1;\r\n stepup=x\r\n",
]  # fmt: skip
BREAKS = [
    b"X: 1\nY: 2\r\n", b"X: 1\rY: 2\r\n", b"X: 1\n\r\n", b"X: 1\r\r\n", b"X: 1\n\nGET /smuggled HTTP/1.1\r\nHost: GATEWAY.TEST:80\r\n",
    b"\nX: 1\r\n", b"\rX: 1\r\n", b"X: 1\r\n\nY: 2\r\n", b"X: 1\r\n\rY: 2\r\n", b"X: 1\r\n\rZGET /smuggled: HTTP/1.1\r\n",
    b"X:\rTransfer-Encoding: chunked\r\n", b"X:\nTransfer-Encoding: chunked\r\n", b"X: \r\r\n", b"X: \n\r\n", b"X\r: 1\r\n",
    b"X\n: 1\r\n", b"X: 1\x00\r\n", b"X: 1\r\x00\n", b"X: 1\x00\nY: 2\r\n", b"X: 1\n\r\n\r\n", b"X: a\rb\r\n", b"X: \x85\n\r\n",
]  # fmt: skip
NO_FIELDS = [
    b"X\r\n", b": 1\r\n", b":\r\n", b" : 1\r\n", b"X 1\r\n", b"X=1\r\n", b"GET /smuggled HTTP/1.1\r\n", b"X : 1\r\n", b"X\t: 1\r\n",
    b"X Y: 1\r\n", b"X\tY: 1\r\n", b"Host GATEWAY.TEST:80\r\n", b"HTTP/1.1 200 OK\r\n",
]  # fmt: skip


@pytest.mark.parametrize("fields", [*FOLDS, *BREAKS, *NO_FIELDS])
async def test_a_line_that_two_servers_could_end_in_two_places_is_refused(wire: Wire, fields: bytes) -> None:
    for where in ("first", "between", "last"):
        host = b"Host: GATEWAY.TEST:80\r\n"
        head = {"first": fields + host, "between": host + fields + b"Z: 1\r\n", "last": host + fields}[where]
        for line in (b"GET /x HTTP/1.1\r\n", b"POST /x HTTP/1.1\r\nContent-Length: 0\r\n"):
            as_expected(await wire.exchange(line + head + b"\r\n" + SMUGGLED), REFUSED)


async def test_a_control_character_is_refused_wherever_it_stands(wire: Wire) -> None:
    for byte in {*range(0x20), 0x7F} - set(b"\t\r\n"):
        raw = bytes([byte])
        for field in (
            b"X: " + raw,
            b"X: 1" + raw,
            b"X: 1%b2" % raw,
            b"X" + raw + b": 1",
            raw + b"X: 1",
            b"X%bY: 1" % raw,
            b"Cookie: a=%b" % raw,
        ):
            as_expected(await wire.exchange(get(field + b"\r\n") + SMUGGLED), REFUSED)
        for line in (
            raw + b"GET /x HTTP/1.1",
            b"GE%bT /x HTTP/1.1" % raw,
            b"GET%b/x HTTP/1.1" % raw,
            b"GET /x%bHTTP/1.1" % raw,
            b"GET /x HTTP/1%b.1" % raw,
            b"GET /x HTTP/1.1" + raw,
        ):
            as_expected(await wire.exchange(line + b"\r\nHost: GATEWAY.TEST:80\r\n\r\n" + SMUGGLED), Refused((400, 505)))


async def test_a_name_holds_token_characters_only(wire: Wire) -> None:
    token = set(b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
    for byte in range(0x100):
        raw = bytes([byte])
        if byte in token:
            outcome = await wire.exchange(get(b"X%bY: 1\r\n" % raw), LAST)
            as_expected(outcome, Carried())
            assert outcome.arrived[0].all(b"x%by" % raw.lower()) == [b"1"]
        elif raw != b":":
            as_expected(await wire.exchange(get(b"X%bY: 1\r\n" % raw) + SMUGGLED), REFUSED)


async def test_bytes_of_a_value_arrive_as_they_are(wire: Wire) -> None:
    value = bytes({*range(0x21, 0x7F), *range(0x80, 0x100)})
    for sent, arrives in (
        (value, value),
        (b" \t a \t b \t ", b"a \t b"),
        (b"", b""),
        (b":", b":"),
        (b"a: b", b"a: b"),
        (b"\xc3\xa4\xff", b"\xc3\xa4\xff"),
    ):
        outcome = await wire.exchange(get(b"X:" + sent + b"\r\n"), LAST)
        as_expected(outcome, Carried(or_refused=EITHER if sent.endswith(b"\t ") else ()))
        if outcome.arrived:
            assert outcome.arrived[0].all(b"x") == [arrives]


LINES = {
    "no version": b"GET /x", "version without a number": b"GET /x HTTP", "HTTP/1": b"GET /x HTTP/1", "HTTP/1.": b"GET /x HTTP/1.",
    "HTTP/.1": b"GET /x HTTP/.1", "HTTP/1.10": b"GET /x HTTP/1.10", "HTTP/1.01": b"GET /x HTTP/1.01", "HTTP/01.1": b"GET /x HTTP/01.1",
    "HTTP/11.1": b"GET /x HTTP/11.1", "HTTP/1,1": b"GET /x HTTP/1,1", "HTTP/1.2": b"GET /x HTTP/1.2", "HTTP/1.9": b"GET /x HTTP/1.9",
    "HTTP/0.9": b"GET /x HTTP/0.9", "HTTP/2": b"GET /x HTTP/2", "HTTP/2.0": b"GET /x HTTP/2.0", "HTTP/3.0": b"GET /x HTTP/3.0",
    "HTTP/9.9": b"GET /x HTTP/9.9", "HTTP/-1.1": b"GET /x HTTP/-1.1", "lower case": b"GET /x http/1.1", "mixed case": b"GET /x Http/1.1",
    "space in the version": b"GET /x HTTP/ 1.1", "space before the slash": b"GET /x HTTP /1.1", "HTTPS": b"GET /x HTTPS/1.1",
    "HTP": b"GET /x HTP/1.1", "IHTTP": b"GET /x IHTTP/1.1", "hexadecimal version": b"GET /x HTTP/0x1.1", "RTSP": b"GET /x RTSP/1.0",
    "RTSP, OPTIONS": b"OPTIONS /x RTSP/1.0", "RTSP, its own method": b"ANNOUNCE /x RTSP/1.0", "RTSP's method": b"ANNOUNCE /x HTTP/1.1",
    "ICE": b"GET /x ICE/1.0", "ICE, its own method": b"SOURCE /x ICE/1.0", "ICE's method as 1.0": b"SOURCE /x HTTP/1.0",
    "something behind the version": b"GET /x HTTP/1.1 x", "a version twice": b"GET /x HTTP/1.1HTTP/1.1",
    "lower case method": b"get /x HTTP/1.1", "mixed case method": b"Get /x HTTP/1.1", "unknown method": b"FROB /x HTTP/1.1",
    "method with a prefix": b"XGET /x HTTP/1.1", "method with a suffix": b"GETX /x HTTP/1.1", "no method": b" /x HTTP/1.1",
    "colon in the method": b"GE:T /x HTTP/1.1", "a quoted method": b'"GET" /x HTTP/1.1', "blank in the method": b"GE T /x HTTP/1.1",
    "tab behind the method": b"GET\t/x HTTP/1.1", "tab before the version": b"GET /x\tHTTP/1.1",
    "8-bit in the method": b"G\xc9T /x HTTP/1.1", "space first": b" GET /x HTTP/1.1", "tab first": b"\tGET /x HTTP/1.1",
    "a header first": b"Host: x", "an answer": b"HTTP/1.1 200 OK", "HTTP/2's preface": b"PRI * HTTP/2.0",
    "TLS": b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03", "SSH": b"SSH-2.0-x",
    "a proxy's preface": b"PROXY TCP4 6.6.6.6 127.0.0.1 1 2", "a proxy's binary preface": b"\r\n\r\n\x00\r\nQUIT\n!\x11\x00\x0c",
    "nothing but blanks": b"   ", "HTTP/1.1 alone": b"HTTP/1.1",
}  # fmt: skip


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
async def test_a_first_line_that_is_none_of_ours_is_refused(wire: Wire, line: bytes) -> None:
    for body in (b"", b"Content-Length: 0\r\n"):
        outcome = await wire.exchange(line + b"\r\nHost: GATEWAY.TEST:80\r\n" + body + b"\r\n" + SMUGGLED)
        as_expected(outcome, Refused((400, 405, 501, 505)))


LENIENT = {
    "CRLF before": b"\r\nGET /x HTTP/1.1\r\n", "two CRLF before": b"\r\n\r\nGET /x HTTP/1.1\r\n",
    "many CRLF before": b"\r\n" * 50 + b"GET /x HTTP/1.1\r\n", "LF before": b"\nGET /x HTTP/1.1\r\n",
    "CR before": b"\rGET /x HTTP/1.1\r\n", "two spaces behind the method": b"GET  /x HTTP/1.1\r\n",
    "two spaces before the version": b"GET /x  HTTP/1.1\r\n", "a space behind the version": b"GET /x HTTP/1.1 \r\n",
}  # fmt: skip


@pytest.mark.parametrize("line", LENIENT.values(), ids=LENIENT)
async def test_blanks_and_empty_lines_around_the_first_line_are_skipped_or_refused(wire: Wire, line: bytes) -> None:
    """RFC 9112 sections 2.2 and 3 let a recipient choose; what it passes on has none of them."""
    as_expected(await wire.exchange(line + b"Host: GATEWAY.TEST:80\r\n\r\n", LAST), Carried(or_refused=EITHER))


HOSTS = [
    b"", b"Host: GATEWAY.TEST:80\r\nHost: GATEWAY.TEST:80\r\n", b"Host: GATEWAY.TEST:80\r\nHost: evil\r\n",
    b"Host: evil\r\nHost: GATEWAY.TEST:80\r\n", b"Host: evil\r\n", b"Host:\r\n", b"Host: GATEWAY.TEST:80, evil\r\n",
    b"Host: evil, GATEWAY.TEST:80\r\n", b"Host: GATEWAY.TEST:80 evil\r\n", b"Host: a@GATEWAY.TEST:80\r\n",
    b"Host: GATEWAY.TEST:80/x\r\n", b"Host: GATEWAY.TEST:80#x\r\n", b"Host: GATEWAY.TEST:80?x\r\n", b"Host: http://GATEWAY.TEST:80\r\n",
    b"Host: GATEWAY.TEST:80:80\r\n", b"Host: .GATEWAY.TEST:80\r\n", b"Host: GATEWAY.TEST:80.\r\n", b"Host: GATEWAY.TEST:80\\x\r\n",
    b"Host: GATEWAY.TEST:080\r\n", b"Host: GATEWAY.TEST:80\r\nHost :evil\r\n", b"Host : GATEWAY.TEST:80\r\n",
    b"Host\t: GATEWAY.TEST:80\r\n", b" Host: GATEWAY.TEST:80\r\n", b"HOST: GATEWAY.TEST:80\r\nhost: evil\r\n",
    b"H\xefst: GATEWAY.TEST:80\r\n", b"Host: 127.0.0.1\r\n", b"Host: [::1]\r\n", b"Host: 0x7f000001\r\n",
    b"Host: %31GATEWAY.TEST:80\r\n", b"Host: GATEWAY.TEST:80\xa0\r\n", b"Host_: GATEWAY.TEST:80\r\n",
]  # fmt: skip


@pytest.mark.parametrize("fields", HOSTS)
async def test_any_other_host_than_ours_reaches_nobody(wire: Wire, fields: bytes) -> None:
    outcome = await wire.exchange(b"GET /x HTTP/1.1\r\n" + fields + b"Connection: close\r\n\r\n")
    assert (len(outcome.statuses), outcome.arrived, outcome.broken) == (1, (), ())
    assert outcome.statuses[0] in (400, 421)


async def test_a_large_head_is_one_head_however_late_its_rest_comes(wire: Wire) -> None:
    """Within every bound; the rest of it, alone, would be a request."""
    large = b"GET /x HTTP/1.1\r\nConnection: close\r\n" + b"X: %b\r\n" % (b"1" * 1000) * 100 + b"Y: "
    outcome = await wire.exchange(large, b"GET /smuggled HTTP/1.1\r\nHost: GATEWAY.TEST:80\r\n\r\n")
    as_expected(outcome, Carried(or_refused=(400, 431)))
