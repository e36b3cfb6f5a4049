"""Bodies, streams, TLS, several upstreams and their faults, through the whole gateway."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import ssl
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.certificates import Authority
from tests.support.front import CHROME, FETCH, cookie_line, cookies, fronting
from tests.support.gateway import running
from tests.support.ports import free_port
from tests.support.process import outside
from tests.support.raw import OK, RawPeer, RawUpstream, answering, raw_client, raw_upstream, until

GATED = [{"name": "gated", "match": {"path": "/gated/**"}, "require": "human"}]
TEXT = b"Content-Type: text/plain\r\n"
EXPECT = b"Expect: 100-continue\r\n"

# -- Expect and 1xx -----------------------------------------------------------------------------------------------------


async def test_a_suspended_post_is_told_to_go_on_by_the_gateway_and_a_forwarded_one_by_the_upstream(tmp_path: Path) -> None:
    async def script(upstream: RawUpstream, peer: RawPeer) -> None:
        head = await peer.head()
        assert head.get(b"expect") == b"100-continue"
        await told.wait()
        await peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert await peer.body(head) == b"abc"
        await peer.send(OK)

    told = asyncio.Event()
    async with raw_upstream(script) as upstream, fronting(tmp_path, upstream.url, rules=GATED) as front, front.client() as client:
        await client.send(front.head("POST /gated", CHROME + TEXT + EXPECT + b"Content-Length: 3\r\n"))
        assert (await client.head()).status == 100
        await client.send(b"abc")
        assert (await client.response()).status == 303
        assert upstream.connections == 0
        await client.send(front.head("POST /x", TEXT + EXPECT + b"Content-Length: 3\r\n"))
        await until(lambda: upstream.connections == 1)
        told.set()
        assert (await client.head()).status == 100
        await client.send(b"abc")
        assert (await client.response()).body == b"ok"


async def test_early_hints_pass_before_the_answer_and_set_no_cookie_of_ours(tmp_path: Path) -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nLink: </b.js>\r\nSet-Cookie: stepup=evil\r\n\r\n"
    async with raw_upstream(answering(hints + OK)) as upstream, fronting(tmp_path, upstream.url) as front, front.client() as client:
        await client.send(front.head("GET /x"))
        early = await client.head()
        assert (early.status, early.fields) == (103, ((b"Link", b"</a.css>; rel=preload"), (b"Link", b"</b.js>")))
        assert (await client.response()).body == b"ok"


# -- HEAD, Range --------------------------------------------------------------------------------------------------------


async def test_head_has_the_length_and_no_body_and_a_gated_one_opens_nothing(tmp_path: Path) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
    async with (
        raw_upstream(answering(answer)) as upstream,
        fronting(tmp_path, upstream.url, rules=GATED) as front,
        front.client() as client,
    ):
        for _ in range(2):
            await client.send(front.head("HEAD /x", CHROME))
            assert (await client.response(method="HEAD")).head.get(b"content-length") == b"1000"
        await client.send(front.head("HEAD /gated", CHROME))
        refused = await client.response(method="HEAD")
        assert refused.status == 401
        assert not refused.head.all(b"set-cookie")
        await client.send(front.head("HEAD /x", CHROME))
        assert (await client.response(method="HEAD")).status == 200
    assert [request.head.line for request in upstream.requests] == [b"HEAD /x HTTP/1.1"] * 3


async def test_a_range_of_a_download_is_that_range(tmp_path: Path) -> None:
    async with running(tmp_path) as demo:
        browser = demo.browser()
        part = await browser.get("/download?bytes=1000", headers={"Range": "bytes=250-253"})
        assert (part.status, part.headers["Content-Range"], part.body) == (206, "bytes 250-253/1000", bytes([250, 0, 1, 2]))
        assert (await browser.get("/download?bytes=1000", headers={"Range": "bytes=2000-"})).status == 416


# -- large bodies -------------------------------------------------------------------------------------------------------

SIZE = 200 << 20
PIECE = bytes(range(256)) * 4096


def _highest(pid: int) -> int:
    """The highest resident set of a process since it was last reset, in bytes."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(fields["VmHWM"].split()[0]) * 1024


async def test_200_mb_each_way_grow_the_gateway_by_less_than_32_mib(tmp_path: Path) -> None:
    async def script(_upstream: RawUpstream, peer: RawPeer) -> None:
        while True:
            head = await peer.head()
            if head.target == b"/up":
                digest = hashlib.sha256()
                while part := await peer.chunk():
                    digest.update(part)
                await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 64\r\n\r\n" + digest.hexdigest().encode())
            elif head.target == b"/down":
                await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                for _ in range(SIZE // len(PIECE)):
                    await peer.send(b"%x\r\n%b\r\n" % (len(PIECE), PIECE))
                await peer.send(b"0\r\n\r\n")
            else:
                await peer.send(OK)

    whole = hashlib.sha256()
    for _ in range(SIZE // len(PIECE)):
        whole.update(PIECE)
    async with raw_upstream(script) as upstream, outside(tmp_path, upstreams={"bank": {"url": upstream.url}}) as found:
        port = int(found.base.rpartition(":")[2])
        host = f"Host: 127.0.0.1:{port}\r\n\r\n".encode()
        assert found.process._process is not None
        pid = found.process._process.pid
        async with raw_client(port, limit=4 << 20) as client:
            await client.send(b"GET /x HTTP/1.1\r\n" + host)
            assert (await client.response()).status == 200
            before = _highest(pid)
            await client.send(b"POST /up HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + host)
            for _ in range(SIZE // len(PIECE)):
                await client.send(b"%x\r\n%b\r\n" % (len(PIECE), PIECE))
            await client.send(b"0\r\n\r\n")
            assert (await client.response()).body == whole.hexdigest().encode()
            await client.send(b"GET /down HTTP/1.1\r\n" + host)
            assert (await client.head()).status == 200
            got, digest = 0, hashlib.sha256()
            while part := await client.chunk():
                got += len(part)
                digest.update(part)
            assert (got, digest.digest()) == (SIZE, whole.digest())
            assert _highest(pid) - before < 32 << 20


# -- events, WebSocket --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gated", [False, True])
async def test_each_event_arrives_before_the_next_is_sent(tmp_path: Path, gated: bool) -> None:
    async def script(_upstream: RawUpstream, peer: RawPeer) -> None:
        await peer.message()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number in range(3):
            await peer.send(b"8\r\ndata: %d\n\r\n" % number)
            await seen.acquire()
        await peer.send(b"0\r\n\r\n")

    seen = asyncio.Semaphore(0)
    async with raw_upstream(script) as upstream, fronting(tmp_path, upstream.url, rules=GATED) as front:
        held = await front.passed("GET /gated") if gated else b""
        async with front.client() as client:
            await client.send(front.head("GET /gated/events" if gated else "GET /events", held + FETCH))
            assert (await client.head()).status == 200
            for number in range(3):
                assert await client.chunk() == b"data: %d\n" % number
                seen.release()
            assert await client.chunk() == b""


async def test_a_websocket_works_with_its_subprotocol(tmp_path: Path) -> None:
    async with (
        running(tmp_path) as demo,
        aiohttp.ClientSession() as session,
        session.ws_connect(demo.base + "/ws", protocols=("other", "echo")) as socket,
    ):
        assert socket.protocol == "echo"
        for message in ("one", "x" * 200_000):
            await socket.send_str(message)
            assert await socket.receive_str() == message
        await socket.send_bytes(b"\0\xff")
        assert await socket.receive_bytes() == b"\0\xff"


UPGRADE = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"


async def test_a_gated_websocket_gets_a_401_without_a_transaction_and_passes_with_the_pass(tmp_path: Path) -> None:
    async def script(upstream: RawUpstream, peer: RawPeer) -> None:
        upstream.requests.append(await peer.message())
        await peer.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSet-Cookie: stepup=evil\r\n\r\n")
        assert await peer.exactly(4) == b"ping"
        await peer.send(b"pong")

    async with raw_upstream(script) as upstream, fronting(tmp_path, upstream.url, rules=GATED) as front:
        async with front.client() as client:
            await client.send(front.head("GET /gated/ws", UPGRADE))
            refused = await client.response()
        assert refused.status == 401
        assert not refused.head.all(b"set-cookie")
        assert "state" not in json.loads(refused.body)
        assert upstream.requests == []
        held = await front.passed("GET /gated")
        async with front.client() as client:
            await client.send(front.head("GET /gated/ws", UPGRADE + held) + b"ping")
            switched = await client.head()
            assert switched.status == 101
            assert not switched.all(b"set-cookie")
            assert await client.exactly(4) == b"pong"
        head = upstream.requests[0].head
        assert (head.get(b"upgrade"), head.get(b"connection"), head.get(b"cookie")) == (b"websocket", b"Upgrade", None)
        assert head.get(b"x-stepup-token") is not None


# -- several upstreams --------------------------------------------------------------------------------------------------


async def test_a_dead_url_costs_no_request(tmp_path: Path) -> None:
    async with raw_upstream(answering(OK)) as live:
        urls = {"app": {"url": [f"http://127.0.0.1:{free_port()}", live.url]}}
        async with fronting(tmp_path, urls, rules=GATED) as front:
            for method, body in (("GET", None), ("POST", b"")) * 4:
                assert (await front.ask(f"{method} /x", b"", body)).status == 200


def _named(name: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(name), name)


async def test_routes_choose_by_host_and_path_and_only_by_what_every_reading_says(tmp_path: Path) -> None:
    async with raw_upstream(answering(_named(b"one"))) as one, raw_upstream(answering(_named(b"two"))) as two:
        routes = [{"host": "localhost", "path": "/v2/**", "upstream": "two"}, {"host": "*.example", "path": ["/a/*", "re:/b/[0-9]+"],
        "upstream": "two"},
                  {"path": "/none/**", "host": "never.example", "upstream": "two"}, {"path": "/**", "upstream": "one"}]  # fmt: skip
        rules = [{"name": "two-only", "match": {"upstream": "two", "path": "/v2/secret"}, "deny": {"status": 451}}]
        async with fronting(
            tmp_path, {"one": one.url, "two": two.url}, hosts=["localhost", "x.example"], routes=routes, rules=rules
        ) as front:
            local, other = b"localhost:%d" % front.port, b"x.example:%d" % front.port
            for host, target, told in (
                (local, "/v2", b"two"), (local, "/v2/x?y", b"two"), (local, "/V2/x", b"one"), (local, "/v2x", b"one"), (None, "/v2",
                b"one"),
                (local, "/v2/../x", b"one"), (local, "/v2/%2e%2e/x", b"one"), (local, "/x/..%2fv2/y", b"one"), (other, "/a/x", b"two"),
                (other, "/a/x/y", b"one"), (other, "/b/12", b"two"), (other, "/b/12x", b"one"), (other.upper(), "/a/x", b"two"),
            ):  # fmt: skip
                answer = await front.ask(f"GET {target}", host=host)
                assert answer.body == told, (host, target)
            assert (await front.ask("GET /v2/secret", host=local)).status == 451
            assert (await front.ask("GET /v2/secret")).body == b"one"


async def test_no_route_is_a_404_of_the_gateway(tmp_path: Path) -> None:
    async with (
        raw_upstream(answering(OK)) as upstream,
        fronting(tmp_path, upstream.url, routes=[{"path": "/app/**", "upstream": "app"}]) as front,
    ):
        for fields, kind in ((CHROME, b"text/html"), (FETCH, b"application/problem+json")):
            answer = await front.ask("GET /other", fields)
            assert answer.status == 404
            assert (answer.head.get(b"content-type") or b"").startswith(kind)
        assert upstream.requests == []


# -- TLS ----------------------------------------------------------------------------------------------------------------


async def test_over_tls_only_host_prefixed_cookies_count_and_are_given(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    served = authority.issue("localhost")
    trust = ssl.create_default_context(cafile=authority.ca_file)
    tls = {"cert_file": served.cert_file, "key_file": served.key_file}
    async with (
        raw_upstream(answering(OK)) as upstream,
        fronting(tmp_path / "g", upstream.url, context=trust, rules=GATED, tls=tls) as front,
    ):
        asked = await front.ask("GET /gated", FETCH)
        ready, binding = await front.solve(asked)
        done = await front.ask(f"GET {ready['continue']}", binding + FETCH)
        assert {pair.partition(b"=")[0] for answer in (asked, done) for pair in cookies(answer)} == {
            b"__Host-stepup-browser",
            b"__Host-stepup",
        }
        for answer in (asked, done):
            for value in answer.head.all(b"set-cookie"):
                attributes = {part.strip().lower() for part in value.split(b";")[1:]}
                assert {b"path=/", b"secure", b"httponly", b"samesite=lax"} <= attributes
                assert not [part for part in attributes if part.startswith(b"domain")]
        held = cookie_line([*cookies(asked), *cookies(done)])
        assert (await front.ask("GET /gated", held + FETCH)).status == 200
        assert upstream.requests[0].head.all(b"x-forwarded-proto") == [b"https"]
        plain = held.replace(b"__Host-", b"")
        assert (await front.ask("GET /gated", plain + FETCH)).status == 401
        both = held.strip() + b"; " + cookies(done)[0].removeprefix(b"__Host-").replace(b"stepup=", b"stepup=x") + b"\r\n"
        assert (await front.ask("GET /gated", both + FETCH)).status == 200
        twice = held.strip() + b"; " + cookies(done)[0] + b"\r\n"
        assert (await front.ask("GET /gated", twice + FETCH)).status == 401
        assert (await front.ask(f"GET /.stepup/t/{ready['state']}", binding.replace(b"__Host-", b"") + FETCH)).status == 403


async def test_an_https_upstream_is_verified_by_its_ca_and_shown_our_certificate(tmp_path: Path) -> None:
    authority, stranger = Authority(tmp_path), Authority(tmp_path, "stranger")
    ours = authority.issue("gateway.example")
    context = authority.issue("127.0.0.1").server_context(client_ca=authority.ca_file)
    async with raw_upstream(answering(OK), context=context) as upstream:
        url = upstream.url.replace("http://", "https://")
        whole = {"ca_file": authority.ca_file, "cert_file": ours.cert_file, "key_file": ours.key_file}
        for number, (tls, status) in enumerate(
            ((whole, 200), ({**whole, "ca_file": stranger.ca_file}, 502), ({"ca_file": authority.ca_file}, 502))
        ):
            async with fronting(tmp_path / str(number), {"app": {"url": url, "tls": tls}}) as front:
                assert (await front.ask("GET /x")).status == status
        assert len(upstream.requests) == 1


# -- bounds -------------------------------------------------------------------------------------------------------------


async def test_a_post_too_large_to_suspend_is_a_413_and_not_asked_for(tmp_path: Path) -> None:
    small: dict[str, Any] = {"transactions": {"max_body": 1000}, "limits": {"max_upload": 5000}}
    async with raw_upstream(answering(OK)) as upstream, fronting(tmp_path, upstream.url, rules=GATED, **small) as front:
        async with front.client() as client:
            await client.send(front.head("POST /gated", CHROME + TEXT + EXPECT + b"Content-Length: 1001\r\n"))
            page = await client.head()
            assert (page.status, page.get(b"connection")) == (413, b"close")
            assert (page.get(b"content-type") or b"").startswith(b"text/html")
            assert b"1,000" in (body := await client.body(page)) or b"too large" in body
        async with front.client() as client:
            await client.send(
                front.head("POST /gated", CHROME + TEXT + b"Transfer-Encoding: chunked\r\n") + b"3e9\r\n" + b"x" * 1001 + b"\r\n0\r\n\r\n"
            )
            assert (await client.response()).status == 413
        said = await front.ask("POST /gated", CHROME.replace(b"text/html", b"application/json") + TEXT, b"x" * 1001)
        assert (said.status, said.head.get(b"content-type")) == (413, b"application/problem+json")
        assert json.loads(said.body)["limit"] == 1000
        said = await front.ask("POST /x", FETCH + TEXT, b"x" * 5001)
        assert (said.status, json.loads(said.body)["limit"]) == (413, 5000)
        assert upstream.connections == 0
        assert (await front.ask("POST /gated", CHROME + TEXT, b"x" * 1000)).status == 303
        assert (await front.ask("POST /x", FETCH + TEXT, b"x" * 5000)).status == 200


async def test_heads_are_bounded_in_size_and_time(tmp_path: Path) -> None:
    limits = {"header_size": 1000, "header_count": 20, "request_line": 500, "head_timeout": "100ms", "body_idle_timeout": "100ms"}
    async with raw_upstream(answering(OK)) as upstream, fronting(tmp_path, upstream.url, limits=limits, rules=GATED) as front:
        assert (await front.ask("GET /" + "a" * 500)).status == 414
        assert (await front.ask("GET /x", b"X: " + b"a" * 1100 + b"\r\n")).status == 431
        assert (await front.ask("GET /x", b"X: 1\r\n" * 21)).status == 431
        for begun in (b"GET /x HTTP/1.1\r\nHost", front.head("POST /gated", CHROME + TEXT + b"Content-Length: 5\r\n") + b"a"):
            async with front.client() as client:
                await client.send(begun)
                assert (await client.head()).status == 408
        assert upstream.connections == 0


# -- faults -------------------------------------------------------------------------------------------------------------


async def _silent(upstream: RawUpstream, peer: RawPeer) -> None:
    upstream.requests.append(await peer.message())
    await peer.rest()


async def test_faults_of_an_upstream_are_pages_and_problems_with_an_id(tmp_path: Path) -> None:
    garbage = answering(b"SSH-2.0-OpenSSH\r\n\r\n")
    async with raw_upstream(_silent) as silent, raw_upstream(garbage) as broken:
        upstreams = {
            "dead": f"http://127.0.0.1:{free_port()}",
            "broken": broken.url,
            "silent": {"url": silent.url, "first_byte_timeout": "50ms"},
            "busy": {"url": silent.url, "max_connections": 1, "connect_timeout": "50ms"},
        }
        routes = [{"path": f"/{name}/**", "upstream": name} for name in upstreams]
        async with fronting(tmp_path, upstreams, routes=routes) as front, front.client() as holder:
            await holder.send(front.head("GET /busy/first"))
            await until(lambda: len(silent.requests) == 1)
            for name, status in (("dead", 502), ("broken", 502), ("silent", 504), ("busy", 503)):
                page = await front.ask(f"GET /{name}", CHROME)
                said = await front.ask(f"GET /{name}", FETCH)
                assert (page.status, said.status) == (status, status), name
                assert (page.head.get(b"content-type") or b"").startswith(b"text/html")
                problem = json.loads(said.body)
                assert (problem["status"], len(problem["request_id"])) == (status, 12)
                assert re.search(rb'class="id">[A-Za-z0-9_-]{12}<', page.body)
                for text in (page.body, said.body):
                    assert b"127.0.0.1:%d" % silent.port not in text
                assert (said.head.get(b"retry-after") is not None) == (status == 503)
