"""TLS on the listener and to upstreams."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest

from gateway.errors import UpstreamBroke, UpstreamUnreachable
from tests.support.certificates import Authority
from tests.support.lane import lane, limits
from tests.support.raw import OK, RawPeer, RawUpstream, answering, raw_client, raw_upstream, until

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
