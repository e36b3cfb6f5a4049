"""What is special about the state store on Redis: how it fails and comes back, sentinels, clusters, TLS, and what the operator is told."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.errors import Conflict, StoreUnavailable
from gateway.flow.ports import Count, Delete, Entry, Leave, Put, Write
from gateway.stores.state_redis import RedisState
from tests.support.process import eventually
from tests.support.redis_server import RedisServer, free_port

pytestmark = pytest.mark.redis

NOW, LATER = 1_795_000_000.0, 1_795_000_600.0
PATIENT = 5.0  # seconds, for calls that are to succeed however busy the machine is
DEADLINE = 1.0
HUNG = 10.0  # seconds: far above the deadlines


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path, "--save", "") as server:
        yield server


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
def store(server: RedisServer, stack: AsyncExitStack) -> RedisState:
    return opened(server.url, stack)


def opened(url: str, stack: AsyncExitStack, deadline: float = PATIENT) -> RedisState:
    store = RedisState(url, deadline=deadline)
    stack.push_async_callback(store.close)
    return store


async def every_operation(store: RedisState) -> None:
    assert await store.put("s", "a", b"x", version=0, expires=LATER, now=NOW) == 1
    assert await store.get("s", "a", NOW) == Entry(b"x", 1)
    with pytest.raises(Conflict):
        await store.put("s", "a", b"x", version=0, expires=LATER, now=NOW)
    await store.delete("s", "a")
    for number in range(20):  # in a cluster: many slots
        assert await store.count("s", f"c{number}", by=2, expires=LATER, now=NOW) == 2
    assert await store.join("s", "g", "m", cap=1, expires=LATER, now=NOW)
    await store.leave("s", "g", "m")
    together: list[Write] = [Put("s", "t", b"x", 0, LATER), Count("s", "t", 1, LATER), Delete("s", "t"), Put("s", "u", b"x", 3, LATER)]
    *done, refused = await store.together(together, NOW)
    assert (done, type(refused)) == ([1, 1, None], Conflict)
    await store.revoke("sid", until=LATER, now=NOW)
    assert [entry.sid for entry in await store.revocations(0, NOW)] == ["sid"]
    assert await store.warnings()


async def assert_down(store: RedisState) -> None:
    began = time.monotonic()
    done = await asyncio.gather(
        store.get("s", "a", NOW),
        store.put("s", "down", b"x", version=0, expires=LATER, now=NOW),
        store.count("s", "down", by=1, expires=LATER, now=NOW),
        store.join("s", "down", "m", cap=1, expires=LATER, now=NOW),
        store.revocations(0, NOW),
        *(store.get("s", f"{number}", NOW) for number in range(100)),
        return_exceptions=True,
    )
    assert {type(result) for result in done} == {StoreUnavailable}
    assert time.monotonic() - began < HUNG


async def test_a_redis_that_hangs_fails_calls_and_works_when_it_goes_on(server: RedisServer, stack: AsyncExitStack) -> None:
    store = opened(server.url, stack, DEADLINE)
    await store.put("s", "a", b"x", version=0, expires=LATER, now=NOW)
    server.freeze()
    try:
        await assert_down(store)
        await assert_down(store)
    finally:
        server.thaw()
    assert await store.get("s", "a", NOW) == Entry(b"x", 1)
    assert await store.put("s", "a", b"y", version=1, expires=LATER, now=NOW) == 2


async def test_who_called_later_has_the_whole_time_too(server: RedisServer, stack: AsyncExitStack) -> None:
    store = opened(server.url, stack, DEADLINE)
    await store.put("s", "a", b"x", version=0, expires=LATER, now=NOW)
    server.freeze()
    early = asyncio.ensure_future(store.get("s", "a", NOW))
    await asyncio.sleep(DEADLINE * 0.6)
    later = asyncio.ensure_future(store.get("s", "a", NOW))
    with pytest.raises(StoreUnavailable):
        await early
    newest = asyncio.ensure_future(store.get("s", "a", NOW))
    await asyncio.sleep(0)
    server.thaw()
    assert await later == await newest == Entry(b"x", 1)
    assert await store.get("s", "a", NOW) == Entry(b"x", 1)
    await eventually(lambda: server.command("CLIENT", "LIST").count(b" addr=") == 1 + 1)  # and one is this question


async def test_a_redis_that_is_gone_fails_calls_and_works_when_it_is_back(server: RedisServer, store: RedisState) -> None:
    await asyncio.gather(*(store.count("s", "before", by=1, expires=LATER, now=NOW) for _ in range(20)))
    server.kill()
    await assert_down(store)
    server.start()
    assert await store.count("s", "after", by=1, expires=LATER, now=NOW) == 1


async def test_a_restart_between_two_calls_fails_none(server: RedisServer, store: RedisState) -> None:
    await asyncio.gather(*(store.count("s", "before", by=1, expires=LATER, now=NOW) for _ in range(20)))
    server.kill()
    await asyncio.to_thread(server.start)
    assert sorted(await asyncio.gather(*(store.count("s", "after", by=1, expires=LATER, now=NOW) for _ in range(20)))) == list(range(1, 21))


async def test_a_store_can_be_opened_before_its_redis(tmp_path: Path, stack: AsyncExitStack) -> None:
    server = RedisServer(tmp_path, "--save", "")
    store = opened(server.url, stack)
    with pytest.raises(StoreUnavailable):
        await store.get("s", "a", NOW)
    with server:
        assert await store.get("s", "a", NOW) is None


async def test_scripts_that_redis_forgot_are_sent_again(server: RedisServer, store: RedisState) -> None:
    await store.count("s", "a", by=1, expires=LATER, now=NOW)
    server.command("SCRIPT", "FLUSH")
    assert await store.count("s", "a", by=1, expires=LATER, now=NOW) == 2


async def test_more_calls_at_once_than_connections_all_succeed(server: RedisServer, stack: AsyncExitStack) -> None:
    store = opened(server.url, stack, deadline=HUNG)
    assert max(await asyncio.gather(*(store.count("s", "a", by=1, expires=LATER, now=NOW) for _ in range(300)))) == 300
    clients = server.command("INFO", "clients").split()
    connected = next(int(line.split(b":")[1]) for line in clients if line.startswith(b"connected_clients"))
    assert connected <= 64 + 1, "and one is this question"


async def test_answers_find_their_callers_when_others_have_gone(server: RedisServer, store: RedisState) -> None:
    for number in range(40):
        await store.put("s", f"{number}", b"%d" % number, version=0, expires=LATER, now=NOW)
    calls = [asyncio.ensure_future(store.get("s", f"{number}", NOW)) for number in range(40)]
    await asyncio.sleep(0)  # all are sent
    for call in calls[::3]:
        call.cancel()
    done = await asyncio.gather(*calls, return_exceptions=True)
    assert [result.value for result in done if isinstance(result, Entry)] == [b"%d" % number for number in range(40) if number % 3]
    assert await store.get("s", "7", NOW) == Entry(b"7", 1)
    clients = server.command("CLIENT", "LIST").count(b" addr=")
    assert clients == 1 + 1, "they share one connection; one more is this question"


async def test_who_is_cancelled_while_the_connection_is_made_leaves_it_to_the_others(store: RedisState) -> None:
    calls = [asyncio.ensure_future(store.count("s", "a", by=1, expires=LATER, now=NOW)) for _ in range(5)]
    await asyncio.sleep(0)
    calls[0].cancel()
    done = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(result) for result in done] == [asyncio.CancelledError, int, int, int, int]


async def test_writes_together_send_again_what_redis_forgot(server: RedisServer, store: RedisState) -> None:
    await store.together([Put("s", "a", b"x", 0, LATER), Count("s", "a", 1, LATER)], NOW)
    server.command("SCRIPT", "FLUSH")
    assert await store.together([Put("s", "a", b"y", 1, LATER), Count("s", "a", 1, LATER), Put("s", "b", b"z", 0, LATER)], NOW) == [2, 2, 1]


async def test_writes_together_on_a_full_redis_are_a_fault(server: RedisServer, store: RedisState) -> None:
    await store.put("s", "a", b"x", version=0, expires=LATER, now=NOW)
    server.command("CONFIG", "SET", "maxmemory", "1")
    with pytest.raises(StoreUnavailable, match="memory"):
        await store.together([Leave("s", "g", "m"), Put("s", "a", b"y", 1, LATER)], NOW)
    server.command("CONFIG", "SET", "maxmemory", "0")
    assert await store.get("s", "a", NOW) == Entry(b"x", 1)


async def test_an_answer_that_came_while_this_process_was_stopped_counts(server: RedisServer, stack: AsyncExitStack) -> None:
    store = opened(server.url, stack, DEADLINE)
    await store.put("s", "a", b"x", version=0, expires=LATER, now=NOW)
    for _ in range(3):
        call = asyncio.ensure_future(store.get("s", "a", NOW))
        await asyncio.sleep(0)  # it is sent
        time.sleep(DEADLINE + 0.1)  # noqa: ASYNC251 - the whole process stands still
        assert await call == Entry(b"x", 1)


async def test_what_is_no_redis_is_a_fault(stack: AsyncExitStack) -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    other = await asyncio.start_server(answer, "127.0.0.1", 0)
    stack.push_async_callback(other.wait_closed)
    stack.callback(other.close)
    store = opened(f"redis://127.0.0.1:{other.sockets[0].getsockname()[1]}", stack)
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            await store.get("s", "a", NOW)


async def test_keys_carry_the_prefix_and_go_some_time_after_their_expiry(server: RedisServer, store: RedisState) -> None:
    await store.put("s", "a", b"x", version=0, expires=LATER, now=NOW)
    await store.count("s", "b", by=1, expires=LATER, now=NOW)
    await store.join("s", "c", "m", cap=9, expires=LATER, now=NOW)
    await store.join("s", "c", "n", cap=9, expires=NOW + 1, now=NOW)
    for key in ("stepup:entry:s:a", "stepup:counter:s:b", "stepup:group:s:c"):
        ttl = int(server.command("PTTL", key).strip()[1:])
        assert 600_000 < ttl <= 900_000, key
    await store.revoke("sid", until=LATER, now=NOW)
    assert server.command("PTTL", "stepup:revocations") == b":-1\r\n", "the feed's cursor must not start anew"
    await store.put("s", "a", b"x", version=1, expires=NOW + 3.2e10, now=NOW)
    assert server.command("PTTL", "stepup:entry:s:a") == b":-1\r\n"
    await store.put("s", "a", b"x", version=2, expires=LATER, now=NOW)
    assert server.command("PTTL", "stepup:entry:s:a") != b":-1\r\n"


async def test_the_feed_drops_what_has_long_expired(server: RedisServer, store: RedisState) -> None:
    for number in range(40):
        await store.revoke(f"old{number}", until=LATER, now=NOW)
    for number in range(40):
        await store.revoke(f"new{number}", until=LATER + 9000, now=LATER + 3600)
    assert server.command("ZCARD", "stepup:revocations") == b":41\r\n", "and one holds the cursor"


async def test_a_feed_that_was_lost_goes_on_after_what_its_readers_have_seen(server: RedisServer, store: RedisState) -> None:
    for number in range(5):
        await store.revoke(f"{number}", until=LATER, now=NOW)
    last = (await store.revocations(0, NOW))[-1].cursor
    server.command("FLUSHALL")
    await store.revoke("new", until=LATER, now=NOW + 1)
    assert [entry.sid for entry in await store.revocations(last, NOW + 1)] == ["new"]


async def test_a_full_redis_fails_the_write_and_keeps_what_it_has(server: RedisServer, store: RedisState) -> None:
    await store.put("s", "a", b"x", version=0, expires=LATER, now=NOW)
    server.command("CONFIG", "SET", "maxmemory", "1")
    with pytest.raises(StoreUnavailable, match="memory"):
        await store.put("s", "a", b"y", version=1, expires=LATER, now=NOW)
    server.command("CONFIG", "SET", "maxmemory", "0")
    assert await store.put("s", "a", b"y", version=1, expires=LATER, now=NOW) == 2


async def test_the_operator_is_warned_of_eviction_and_of_a_missing_log(server: RedisServer, store: RedisState) -> None:
    (only,) = await store.warnings()
    assert "appendonly yes" in only
    server.command("CONFIG", "SET", "appendonly", "yes")
    assert await store.warnings() == []
    server.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    (only,) = await store.warnings()
    assert "allkeys-lru" in only
    assert "noeviction" in only


async def test_a_password_and_a_database_number_are_used_and_never_shown(tmp_path: Path, stack: AsyncExitStack) -> None:
    with RedisServer(tmp_path, "--save", "") as server:
        server.command("CONFIG", "SET", "requirepass", "s3cret/@:")
        right = opened(f"redis://default:s3cret%2F%40%3A@127.0.0.1:{server.port}/3", stack)
        await right.put("s", "a", b"x", version=0, expires=LATER, now=NOW)
        wrong = opened(f"redis://:gue55ed@127.0.0.1:{server.port}/3", stack)
        with pytest.raises(StoreUnavailable) as caught:
            await wrong.get("s", "a", NOW)
        assert "gue55ed" not in str(caught.value)
        other = opened(f"redis://:s3cret%2F%40%3A@127.0.0.1:{server.port}", stack)
        assert await other.get("s", "a", NOW) is None, "database 0"


async def test_a_cluster_takes_every_operation_and_comes_back(tmp_path: Path, stack: AsyncExitStack) -> None:
    with RedisServer(tmp_path, "--save", "", "--appendonly", "no", "--cluster-enabled", "yes") as server:
        server.command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        await asyncio.to_thread(ready, server)
        store = opened(f"redis+cluster://127.0.0.1:{server.port}", stack, 2.0)
        await every_operation(store)
        server.freeze()
        try:
            await assert_down(store)
        finally:
            server.thaw()
        await comes_back(store)


async def test_sentinels_are_asked_for_the_master_even_if_the_first_is_gone(tmp_path: Path, stack: AsyncExitStack) -> None:
    folders = [tmp_path / name for name in ("master", "sentinel")]
    for folder in folders:
        folder.mkdir()
    with RedisServer(folders[0], "--save", "") as master:
        config = folders[1] / "sentinel.conf"
        config.write_text(f"sentinel monitor mymaster 127.0.0.1 {master.port} 1\n")
        with RedisServer(folders[1], str(config), "--sentinel") as sentinel:
            store = opened(f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{sentinel.port}/mymaster/2", stack, 2.0)
            await every_operation(store)
            master.freeze()
            try:
                await assert_down(store)
            finally:
                master.thaw()
            await comes_back(store)
            unknown = opened(f"redis+sentinel://127.0.0.1:{sentinel.port}/another", stack)
            with pytest.raises(StoreUnavailable, match="another"):
                await unknown.get("s", "a", NOW)


async def test_tls_is_verified_against_the_named_ca(tmp_path: Path, stack: AsyncExitStack) -> None:
    certificate, key = self_signed(tmp_path)
    tls = ("--port", "0", "--tls-cert-file", str(certificate), "--tls-key-file", str(key), "--tls-auth-clients", "no")
    secure_port = free_port()
    with RedisServer(tmp_path, "--save", "", "--tls-port", str(secure_port), *tls[2:]):
        store = opened(f"rediss://127.0.0.1:{secure_port}?ssl_ca_certs={certificate}", stack, deadline=2.0)
        await every_operation(store)
        trusting_nobody = opened(f"rediss://127.0.0.1:{secure_port}", stack, deadline=2.0)
        with pytest.raises(StoreUnavailable, match=r"(?i)certificate"):
            await trusting_nobody.get("s", "a", NOW)


async def comes_back(store: RedisState) -> None:
    async def works() -> bool:
        try:
            return await store.count("s", "back", by=1, expires=LATER, now=NOW) > 0
        except StoreUnavailable:
            return False

    async with asyncio.timeout(HUNG):
        while not await works():
            pass


def ready(cluster: RedisServer) -> None:
    """Wait until a cluster has noticed that all its slots are served; it looks now and then."""
    end = time.monotonic() + HUNG
    while b"cluster_state:ok" not in cluster.command("CLUSTER", "INFO"):
        assert time.monotonic() < end
        time.sleep(0.01)


def self_signed(folder: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "redis")])
    today = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(today - dt.timedelta(days=1))
        .not_valid_after(today + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "cert.pem", folder / "key.pem"
