"""Connections to upstreams: kept, bounded, taken in turn, repeated only where that is safe."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp.web_request import BaseRequest
from aiohttp.web_response import StreamResponse

from gateway.errors import BadTarget, ClientGone, UpstreamBroke, UpstreamTimeout, UpstreamUnreachable
from gateway.lanes.body import GivenBody
from gateway.lanes.forward import Relayed, forward
from gateway.lanes.health import Health, in_turn
from gateway.lanes.pool import UpstreamPool
from gateway.lanes.upstream import UpstreamConnection, parse_endpoint, request_head
from gateway.spec.sections import HealthSpec, UpstreamSpec
from tests.support.lane import Lane, lane, limits
from tests.support.raw import OK, RawPeer, RawUpstream, answering, raw_client, raw_upstream, until

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


async def ask(made: Lane, request: bytes = GET) -> int:
    async with raw_client(made.port) as client:
        await client.send(request)
        return (await client.response()).status


async def closed_port() -> str:
    server = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    return f"http://127.0.0.1:{port}"


async def test_connection_is_kept_for_the_next_client() -> None:
    async with raw_upstream(answering(OK)) as upstream, lane(upstream.url) as made:
        assert [await ask(made) for _ in range(3)] == [200, 200, 200]
        assert upstream.connections == 1


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", OK + b"x", b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok"],
)
async def test_connection_that_did_not_end_cleanly_is_not_kept(answer: bytes) -> None:
    async with raw_upstream(answering(answer)) as upstream, lane(upstream.url) as made:
        assert [await ask(made) for _ in range(2)] == [200, 200]
        assert upstream.connections == 2


async def test_bytes_sent_unasked_never_become_the_next_answer() -> None:
    async def script(upstream: RawUpstream, peer: RawPeer) -> None:
        upstream.requests.append(await peer.message())
        await peer.send(OK)
        if upstream.connections == 1:
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
            await peer.message()

    async with raw_upstream(script) as upstream, lane(upstream.url) as made:
        for _ in range(2):
            async with raw_client(made.port) as client:
                await client.send(GET)
                assert (await client.response()).body == b"ok"


async def test_unused_connection_ends_after_keepalive() -> None:
    async def script(upstream: RawUpstream, peer: RawPeer) -> None:
        await peer.message()
        await peer.send(OK)
        await peer.rest()
        ended.set()

    ended = asyncio.Event()
    async with raw_upstream(script) as upstream, lane(upstream.url, keepalive="50ms") as made:
        assert await ask(made) == 200
        async with asyncio.timeout(5):
            await ended.wait()
        assert made.pool.status()[0].open == 0


async def stale(upstream: RawUpstream, peer: RawPeer) -> None:
    """Answer once; take the second request of the first connection and close without a word."""
    upstream.requests.append(await peer.message())
    await peer.send(OK)
    upstream.requests.append(await peer.message())
    if upstream.connections > 1:
        await peer.send(OK)


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"])
async def test_kept_connection_closed_under_us_is_retried_once_on_a_fresh_one(method: bytes) -> None:
    async with raw_upstream(stale) as upstream, lane(upstream.url) as made:
        assert await ask(made) == 200
        async with raw_client(made.port) as client:
            await client.send(method + b" /again HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await client.response(method=method.decode())).status == 200
        assert [got.head.target for got in upstream.requests] == [b"/", b"/again", b"/again"]
        assert made.pool.status()[0].available


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx",
        b"POST / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"PATCH / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx",
    ],
)
async def test_request_that_may_not_be_repeated_is_not(request_bytes: bytes) -> None:
    async with raw_upstream(stale) as upstream, lane(upstream.url) as made:
        assert await ask(made) == 200
        assert await ask(made, request_bytes) == 502
        assert len(upstream.requests) == 2


async def test_no_retry_when_bytes_of_an_answer_came() -> None:
    async def script(upstream: RawUpstream, peer: RawPeer) -> None:
        upstream.requests.append(await peer.message())
        await peer.send(OK)
        upstream.requests.append(await peer.message())
        await peer.send(b"HTTP/1.1 2")

    async with raw_upstream(script) as upstream, lane(upstream.url) as made:
        assert await ask(made) == 200
        assert await ask(made) == 502
        assert len(upstream.requests) == 2


async def test_no_retry_on_a_first_connection() -> None:
    async def script(upstream: RawUpstream, peer: RawPeer) -> None:
        upstream.requests.append(await peer.message())

    async with raw_upstream(script) as upstream, lane(upstream.url) as made:
        assert await ask(made) == 502
        assert len(upstream.requests) == 1


async def test_connection_that_was_closed_while_unused_is_not_even_tried() -> None:
    async def script(upstream: RawUpstream, peer: RawPeer) -> None:
        upstream.requests.append(await peer.message())
        await peer.send(OK)

    async with raw_upstream(script) as upstream, lane(upstream.url) as made:
        for _ in range(3):
            assert await ask(made, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx") == 200
        assert len(upstream.requests) == upstream.connections == 3


# replays: connect, then send


async def replaying(made: Lane, request: BaseRequest) -> Relayed:
    connection = await made.pool.acquire(fresh=True)
    exchange = made.exchange(request, body=GivenBody(b"amount=5"), outlive=True)
    relayed = await forward(request, exchange, made.pool, made.limits, connection=connection)
    made.relayed.append(relayed)
    return relayed


async def test_fresh_connection_is_new_although_one_is_kept_and_carries_nothing_before_forward() -> None:
    async with raw_upstream(answering(OK)) as upstream:
        pool = UpstreamPool("app", UpstreamSpec.model_validate({"url": upstream.url}))
        kept = await pool.acquire()
        pool.release(kept)
        fresh = await pool.acquire(fresh=True)
        assert fresh is not kept
        await until(lambda: upstream.connections == 2)
        assert upstream.requests == []
        pool.release(fresh)
        assert pool.status()[0].idle == 2
        await pool.aclose()
        assert pool.status()[0].open == 0


async def test_given_body_is_sent_with_its_length() -> None:
    request = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    async with raw_upstream(answering(OK)) as upstream, lane(upstream.url, serving=replaying) as made:
        assert await ask(made, request) == 200
        assert upstream.requests[0].head.all(b"content-length") == [b"8"]
        assert upstream.requests[0].head.all(b"transfer-encoding") == []
        assert upstream.requests[0].body == b"amount=5"


async def test_replay_is_never_sent_twice() -> None:
    async def script(upstream: RawUpstream, peer: RawPeer) -> None:
        upstream.requests.append(await peer.message())

    async def serving(made: Lane, request: BaseRequest) -> StreamResponse:
        with pytest.raises(UpstreamBroke):
            await replaying(made, request)
        raise ClientGone("seen")

    async with raw_upstream(script) as upstream, lane(upstream.url, serving=serving) as made:
        async with raw_client(made.port) as client:
            await client.send(b"PUT / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert await client.rest() == b""
        assert len(upstream.requests) == 1


@pytest.mark.parametrize("moment", ["before the head", "within the body"])
async def test_replay_outlives_its_client(moment: str) -> None:
    async def script(upstream: RawUpstream, peer: RawPeer) -> None:
        upstream.requests.append(await peer.message())
        if moment == "within the body":
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nabc")
        arrived.set()
        await gone.wait()
        await peer.send(b"def" if moment == "within the body" else b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nabcdef")

    arrived, gone = asyncio.Event(), asyncio.Event()
    async with raw_upstream(script) as upstream, lane(upstream.url, serving=replaying) as made:
        async with raw_client(made.port) as client:
            await client.send(GET)
            await arrived.wait()
            await client.reset()
        await until(lambda: made.server is not None and all(c.transport is None for c in made.server._listener.connections))
        gone.set()
        await until(lambda: bool(made.relayed))
        assert made.relayed[0].status == 200
        assert isinstance(made.relayed[0].fault, ClientGone)


async def test_replay_whose_client_has_gone_does_not_wait_for_ever() -> None:
    async def script(upstream: RawUpstream, peer: RawPeer) -> None:
        await peer.message()
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        arrived.set()
        await peer.rest()

    arrived = asyncio.Event()
    async with raw_upstream(script) as upstream, lane(upstream.url, serving=replaying, first_byte_timeout="100ms") as made:
        async with raw_client(made.port) as client:
            await client.send(GET)
            await arrived.wait()
            await client.reset()
        await until(lambda: bool(made.relayed))
        assert isinstance(made.relayed[0].fault, UpstreamTimeout)


# timeouts


async def silent(upstream: RawUpstream, peer: RawPeer) -> None:
    await peer.message()
    await peer.rest()


async def test_no_answer_within_first_byte_timeout_is_a_504() -> None:
    async with raw_upstream(silent) as upstream, lane(upstream.url, first_byte_timeout="50ms") as made:
        assert await ask(made) == 504
        assert await ask(made, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx") == 504


async def test_upload_does_not_count_against_the_first_byte_timeout() -> None:
    async with (
        raw_upstream(answering(OK)) as upstream,
        lane(upstream.url, first_byte_timeout="300ms") as made,
        raw_client(made.port) as client,
    ):
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n")
        for _ in range(4):
            await asyncio.sleep(0.1)  # the subject of the test is time
            await client.send(b"x")
        assert (await client.response()).status == 200


async def test_silence_within_an_answer_ends_it() -> None:
    async def script(upstream: RawUpstream, peer: RawPeer) -> None:
        await peer.message()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
        await peer.rest()

    async with raw_upstream(script) as upstream, lane(upstream.url, idle_timeout="50ms") as made:
        async with raw_client(made.port) as client:
            await client.send(GET)
            await client.head()
            assert await client.rest() == b"abc"
        assert isinstance(made.relayed[0].fault, UpstreamTimeout)


async def test_total_timeout_ends_an_exchange_that_goes_on() -> None:
    async def script(upstream: RawUpstream, peer: RawPeer) -> None:
        await peer.message()
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            await peer.send(b"1\r\nx\r\n")
            await asyncio.sleep(0.01)

    async with raw_upstream(script) as upstream, lane(upstream.url, total_timeout="100ms") as made:
        async with raw_client(made.port) as client:
            await client.send(GET)
            await client.rest()
        assert isinstance(made.relayed[0].fault, UpstreamTimeout)


async def test_upstream_that_takes_no_bytes_is_a_504() -> None:
    async def script(upstream: RawUpstream, peer: RawPeer) -> None:
        peer.pause()
        await released.wait()

    released = asyncio.Event()
    bounds = limits(body_idle_timeout="30s")
    async with raw_upstream(script) as upstream, lane(upstream.url, idle_timeout="100ms", bounds=bounds) as made:
        async with raw_client(made.port) as client:
            size = 50_000_000
            sending = asyncio.ensure_future(client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size))
            assert (await client.head()).status == 504
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            await client.reset()
        released.set()


# several urls, bounds, health


async def test_nobody_listening_is_a_502_and_nothing_was_sent() -> None:
    async with lane(await closed_port()) as made:
        assert await ask(made) == 502
        assert isinstance(made.faults[0], UpstreamUnreachable)
        assert not made.pool.status()[0].available
        assert await ask(made) == 502  # all are out: tried anyway


async def test_urls_are_used_in_turn() -> None:
    async with raw_upstream(answering(OK)) as one, raw_upstream(answering(OK)) as two, lane(one.url, two.url) as made:
        for _ in range(6):
            assert await ask(made) == 200
        assert len(one.requests) == len(two.requests) == 3


async def test_url_that_refuses_connections_costs_no_request_and_is_left_alone() -> None:
    dead = await closed_port()
    async with raw_upstream(answering(OK)) as alive, lane(dead, alive.url) as made:
        assert [await ask(made, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx") for _ in range(4)] == [200] * 4
        assert [site.available for site in made.pool.status()] == [False, True]


async def test_active_checks_take_a_url_out_and_back() -> None:
    sick = asyncio.Event()

    async def script(upstream: RawUpstream, peer: RawPeer) -> None:
        got = await peer.message()
        if got.head.target == b"/health":
            await peer.send(b"HTTP/1.1 503 Sick\r\nContent-Length: 0\r\n\r\n" if sick.is_set() else OK)
        else:
            upstream.requests.append(got)
            await peer.send(OK)

    health = {"path": "/health", "interval": "20ms", "unhealthy_after": 2}
    async with raw_upstream(script) as one, raw_upstream(answering(OK)) as two, lane(one.url, two.url, health=health) as made:
        sick.set()
        await until(lambda: not made.pool.status()[0].available)
        before = len(one.requests)
        assert [await ask(made) for _ in range(4)] == [200] * 4
        assert len(one.requests) == before
        sick.clear()
        await until(lambda: made.pool.status()[0].available)


def test_failures_in_a_row_take_a_url_out_and_an_answer_brings_it_back() -> None:
    spec = HealthSpec(unhealthy_after=3, retry_after=5.0)
    health = Health()
    for now in (1.0, 2.0):
        health = health.after_failure(now, spec, connecting=False)
        assert health.available(now, spec)
    out = health.after_failure(3.0, spec, connecting=False)
    assert not out.available(7.9, spec)
    assert out.available(8.0, spec)
    assert not health.after_success().after_failure(4.0, spec, connecting=True).available(8.9, spec)
    assert out.after_success() == Health()


def test_urls_that_are_out_come_last_and_the_turn_goes_round() -> None:
    spec = HealthSpec()
    out = Health(out_until=100.0)
    assert in_turn([Health(), Health(), Health()], 1, 0.0, spec) == [1, 2, 0]
    assert in_turn([Health(), out, Health()], 1, 0.0, spec) == [2, 0, 1]
    assert in_turn([out, out], 1, 0.0, spec) == [1, 0]


async def test_connections_to_a_url_are_bounded_and_the_next_request_waits() -> None:
    async def script(upstream: RawUpstream, peer: RawPeer) -> None:
        while True:
            upstream.requests.append(await peer.message())
            await released.wait()
            await peer.send(OK)

    released = asyncio.Event()
    async with raw_upstream(script) as upstream, lane(upstream.url, max_connections=2) as made:
        asking = [asyncio.ensure_future(ask(made)) for _ in range(5)]
        await until(lambda: len(upstream.requests) == 2)
        released.set()
        assert await asyncio.gather(*asking) == [200] * 5
        assert upstream.connections == 2


async def test_waiting_for_a_connection_is_bounded() -> None:
    async with (
        raw_upstream(silent) as upstream,
        lane(upstream.url, max_connections=1, connect_timeout="100ms") as made,
        raw_client(made.port) as first,
    ):
        await first.send(GET)
        await until(lambda: made.pool.status()[0].open == 1)
        assert await ask(made) == 502
        assert isinstance(made.faults[0], UpstreamUnreachable)


async def test_fresh_connection_at_the_bound_takes_the_place_of_an_unused_one() -> None:
    async with raw_upstream(answering(OK)) as upstream:
        pool = UpstreamPool("app", UpstreamSpec.model_validate({"url": upstream.url, "max_connections": 1}))
        pool.release(await pool.acquire())
        fresh = await pool.acquire(fresh=True)
        assert isinstance(fresh, UpstreamConnection)
        assert pool.status()[0].open == 1
        pool.release(fresh)
        await pool.aclose()


# what goes on the wire


def test_head_is_the_bytes_given() -> None:
    headers = ((b"X", b"1"), (b"Host", b"a"), (b"x", b"\xff"))
    assert request_head("GET", b"/%2e%2e?", headers) == b"GET /%2e%2e? HTTP/1.1\r\nX: 1\r\nHost: a\r\nx: \xff\r\n\r\n"


@pytest.mark.parametrize("target", [b"", b"/a b", b"/a\r\n", b"/\x00"])
def test_target_that_would_not_stay_in_its_place_is_refused(target: bytes) -> None:
    with pytest.raises(BadTarget):
        request_head("GET", target, ())


@pytest.mark.parametrize("field", [(b"X", b"1\r\nY: 2"), (b"X\n", b"1"), (b"X", b"\x00"), (b"X", b"\r")])
def test_header_that_would_not_stay_one_line_is_refused(field: tuple[bytes, bytes]) -> None:
    with pytest.raises(ValueError, match="line break"):
        request_head("GET", b"/", (field,))


@pytest.mark.parametrize(
    ("url", "host", "port", "authority"),
    [
        ("http://a", "a", 80, "a"),
        ("https://a/", "a", 443, "a"),
        ("http://a:443", "a", 443, "a:443"),
        ("http://[::1]:81", "::1", 81, "[::1]:81"),
    ],
)
def test_endpoints(url: str, host: str, port: int, authority: str) -> None:
    endpoint = parse_endpoint(url)
    assert (endpoint.host, endpoint.port, endpoint.authority) == (host, port, authority)
