"""TLS on the listener and to upstreams."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from gateway.errors import UpstreamBroke, UpstreamUnreachable
from tests.support.certificates import Authority
from tests.support.lane import lane, limits
from tests.support.raw import OK, RawPeer, RawUpstream, Truncated, answering, raw_client, raw_upstream, until

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def https(upstream: RawUpstream) -> str:
    return f"https://127.0.0.1:{upstream.port}"


async def ask(port: int) -> int:
    async with raw_client(port) as client:
        await client.send(GET)
        return (await client.response()).status


async def test_listener_speaks_tls(authority: Authority) -> None:
    served = authority.issue("localhost")
    async with (
        raw_upstream(answering(OK)) as upstream,
        lane(upstream.url, context=served.server_context()) as made,
        raw_client(made.port, context=ssl.create_default_context(cafile=authority.ca_file)) as client,
    ):
        for _ in range(2):
            await client.send(GET)
            assert (await client.response()).body == b"ok"


async def test_handshake_that_does_not_begin_is_bounded(authority: Authority) -> None:
    context = authority.issue("localhost").server_context()
    async with (
        raw_upstream(answering(OK)) as upstream,
        lane(upstream.url, context=context, bounds=limits(head_timeout="50ms")) as made,
        raw_client(made.port) as client,
    ):
        assert await client.rest() == b""


async def test_upstream_signed_by_the_configured_ca_is_served_over_a_kept_connection(authority: Authority) -> None:
    context = authority.issue("127.0.0.1").server_context()
    async with raw_upstream(answering(OK), context=context) as upstream, lane(https(upstream), tls={"ca_file": authority.ca_file}) as made:
        assert [await ask(made.port) for _ in range(2)] == [200, 200]
        assert upstream.connections == 1


async def test_upstream_signed_by_somebody_else_is_refused_unless_verify_is_off(authority: Authority, tmp_path: Path) -> None:
    other = Authority(tmp_path, "other")
    context = other.issue("127.0.0.1").server_context()
    async with raw_upstream(answering(OK), context=context) as upstream:
        async with lane(https(upstream), tls={"ca_file": authority.ca_file}) as made:
            assert await ask(made.port) == 502
            assert isinstance(made.faults[0], UpstreamUnreachable)
        async with lane(https(upstream), tls={"verify": False}) as made:
            assert await ask(made.port) == 200


async def test_upstream_with_another_name_is_refused_unless_that_name_is_expected(authority: Authority) -> None:
    seen: list[str | None] = []
    context = authority.issue("inner.example").server_context()
    context.sni_callback = lambda _socket, name, _context: seen.append(name)
    async with raw_upstream(answering(OK), context=context) as upstream:
        async with lane(https(upstream), tls={"ca_file": authority.ca_file}) as made:
            assert await ask(made.port) == 502
        async with lane(https(upstream), tls={"ca_file": authority.ca_file, "server_name": "inner.example"}) as made:
            assert await ask(made.port) == 200
        assert seen[-1] == "inner.example"


async def test_client_certificate_is_shown_to_an_upstream_that_asks(authority: Authority) -> None:
    ours = authority.issue("gateway.example")
    context = authority.issue("127.0.0.1").server_context(client_ca=authority.ca_file)
    names: list[object] = []

    async def script(upstream: RawUpstream, peer: RawPeer) -> None:
        await peer.message()
        names.append(peer.writer.get_extra_info("peercert")["subject"])
        await peer.send(OK)

    async with raw_upstream(script, context=context) as upstream:
        tls = {"ca_file": authority.ca_file, "cert_file": ours.cert_file, "key_file": ours.key_file}
        async with lane(https(upstream), tls=tls) as made:
            assert await ask(made.port) == 200
        async with lane(https(upstream), tls={"ca_file": authority.ca_file}) as made:
            assert await ask(made.port) == 502
    assert names == [((("commonName", "gateway.example"),),)]


async def test_tls_on_both_sides_carries_large_bodies_and_breaks_visibly(authority: Authority) -> None:
    context = authority.issue("localhost", "127.0.0.1").server_context()
    body = b"0123456789abcdef" * 65536

    async def script(upstream: RawUpstream, peer: RawPeer) -> None:
        got = await peer.message()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(got.body) + got.body)
        await peer.message()
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")

    async with (
        raw_upstream(script, context=context) as upstream,
        lane(https(upstream), context=context, tls={"ca_file": authority.ca_file}) as made,
    ):
        async with raw_client(made.port, context=ssl.create_default_context(cafile=authority.ca_file)) as client:
            sending = asyncio.ensure_future(client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body))
            assert (await client.response()).body == body
            await sending
            await client.send(GET)
            await client.head()
            assert await client.rest() == b"3\r\nabc\r\n"
        await until(lambda: len(made.relayed) == 2)
        assert isinstance(made.relayed[1].fault, UpstreamBroke)


# handshakes on the listener


async def test_a_handshake_counts_within_the_bounds_until_it_is_over(authority: Authority) -> None:
    context = authority.issue("localhost").server_context()
    trusting = ssl.create_default_context(cafile=authority.ca_file)
    bounds = limits(max_connections_per_address=2, head_timeout="300ms")
    async with raw_upstream(answering(OK)) as upstream, lane(upstream.url, context=context, bounds=bounds) as made:
        assert made.server is not None
        async with raw_client(made.port, context=trusting) as one, raw_client(made.port):
            await until(lambda: made.server is not None and made.server.states()["handshake"] == 1)
            async with raw_client(made.port) as three:
                with pytest.raises((Truncated, ConnectionError)):
                    await three.head()
            assert made.cut == ["too_many_connections_of_address"]
            await one.send(GET)
            assert (await one.response()).status == 200
            await until(lambda: made.cut[1:] == ["tls_handshake_timeout"])
            assert made.server.states() == {"idle": 1, "active": 0, "tunnel": 0, "handshake": 0}
            async with raw_client(made.port, context=trusting) as four:
                await four.send(GET)
                assert (await four.response()).status == 200
        await until(lambda: made.server is not None and made.server.connections == 0)


@pytest.mark.parametrize("sent", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x05hello", b""], ids=["HTTP", "bad record", "nothing"])
async def test_what_is_no_handshake_is_counted_and_leaves_nothing(authority: Authority, sent: bytes) -> None:
    context = authority.issue("localhost").server_context()
    async with raw_upstream(answering(OK)) as upstream, lane(upstream.url, context=context, bounds=limits(max_connections=1)) as made:
        for count in range(1, 4):
            async with raw_client(made.port) as client:
                if sent:
                    await client.send(sent)
                else:
                    client.writer.write_eof()
                with suppress(Truncated):
                    await client.rest()
            await until(partial(_holds, made.cut, count))
        assert made.cut == ["tls_handshake"] * 3
        assert made.server is not None
        assert set(made.server.states().values()) == {0}


def _holds(cut: list[str], count: int) -> bool:
    return len(cut) == count


async def test_what_comes_with_the_end_of_the_handshake_is_not_lost(authority: Authority) -> None:
    """The client's last flight and its first request in one piece, as TLS 1.3 allows."""
    context = authority.issue("localhost").server_context()
    trusting = ssl.create_default_context(cafile=authority.ca_file)
    async with raw_upstream(answering(OK)) as upstream, lane(upstream.url, context=context) as made, raw_client(made.port) as client:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = trusting.wrap_bio(incoming, outgoing, server_hostname="localhost")
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                await client.send(outgoing.read())
                incoming.write(await client.reader.read(65536))
        tls.write(GET)
        await client.send(outgoing.read())
        answer = b""
        while b"ok" not in answer:
            incoming.write(await client.reader.read(65536))
            with suppress(ssl.SSLWantReadError):
                answer += tls.read(65536)
        assert answer.startswith(b"HTTP/1.1 200 OK")
