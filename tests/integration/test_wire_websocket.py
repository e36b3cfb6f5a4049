"""After the 101 the bytes are the two ends' own: a tunnel passes what they say, valid frames or not, and takes nothing for itself.

Frames are made here by hand (RFC 6455 section 5.2), because a library would not send most of these.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.front import Front
from tests.support.lanes import LANES
from tests.support.process import outside
from tests.support.raw import RawHead, RawPeer, RawUpstream, Truncated, raw_client, raw_upstream
from tests.support.resident import resident

pytestmark = pytest.mark.asyncio(loop_scope="module")

MESSAGES = 50_000
MASK = b"\x37\xfa\x21\x3d"
ASKED = (
    (b"Upgrade", b"websocket"),
    (b"Connection", b"Upgrade"),
    (b"Sec-WebSocket-Key", b"dGhlIHNhbXBsZSBub25jZQ=="),
    (b"sec-websocket-version", b"13"),
    (b"Sec-WebSocket-Protocol", b"chat, superchat;q=1"),
    (b"Sec-WebSocket-Protocol", b"another"),
    (b"SEC-WEBSOCKET-EXTENSIONS", b'permessage-deflate; client_max_window_bits="15", x-unknown;a'),
    (b"Sec-WebSocket-X", b""),
    (b"Origin", b"http://127.0.0.1"),
)
TOLD = (
    (b"Upgrade", b"websocket"),
    (b"Connection", b"Upgrade"),
    (b"Sec-WebSocket-Accept", b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
    (b"Sec-WebSocket-Protocol", b"chat"),
    (b"sec-websocket-extensions", b"permessage-deflate; server_no_context_takeover"),
    (b"Sec-WebSocket-Y", b"\xe4"),
)


def lines(fields: tuple[tuple[bytes, bytes], ...]) -> bytes:
    return b"".join(b"%b: %b\r\n" % each for each in fields)


def frame(first: int, payload: bytes, *, mask: bytes = MASK) -> bytes:
    """first: FIN, reserved bits and opcode. mask: b"" for what a server sends."""
    bit = 0x80 if mask else 0
    size = len(payload)
    length = (
        bytes([bit | size])
        if size < 126
        else bytes([bit | 126]) + size.to_bytes(2)
        if size < 1 << 16
        else bytes([bit | 127]) + size.to_bytes(8)
    )
    stretched = (mask * (size // 4 + 1))[:size]
    hidden = (int.from_bytes(payload) ^ int.from_bytes(stretched)).to_bytes(size) if mask else payload
    return bytes([first]) + length + mask + hidden


FRAMES = {
    "text": frame(0x81, b"hello"),
    "an empty text": frame(0x81, b""),
    "binary": frame(0x82, bytes(range(256))),
    "fragments with a ping between": frame(0x01, b"hel") + frame(0x89, b"ping") + frame(0x00, b"") + frame(0x80, b"lo"),
    "ping and pong": frame(0x89, b"x" * 125) + frame(0x8A, b"") + frame(0x8A, b"unasked"),
    "compressed": frame(0xC1, b"\xf2\x48\xcd\xc9\xc9\x07\x00"),
    "close": frame(0x88, b"\x03\xe8bye"),
    "close without a code": frame(0x88, b""),
    "invalid: no mask": frame(0x81, b"hello", mask=b""),
    "invalid: reserved bits": frame(0xF1, b"hello"),
    "invalid: unknown opcodes": b"".join(frame(0x80 | code, b"x") for code in (3, 7, 0xB, 0xF)),
    "invalid: no UTF-8": frame(0x81, b"\xff\xfe\xc0\xaf"),
    "invalid: a long ping": frame(0x89, b"x" * 126),
    "invalid: a ping in fragments": frame(0x09, b"x"),
    "invalid: a continuation of nothing": frame(0x80, b"x"),
    "invalid: a close of one byte": frame(0x88, b"\x03"),
    "invalid: a length in too many bytes": b"\x82\xfe\x00\x01" + MASK + b"x" + b"\x82\xff" + (1).to_bytes(8) + MASK + b"x",
    "invalid: a length of 64 bits": b"\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff" + MASK,
    "no frame at all": b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n\x00\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    "half a frame": b"\x81",
}
EVERYTHING = b"".join(FRAMES.values())


@dataclass
class Socket:
    """Both ends of a tunnel. asked: the head as the upstream got it; told: as the client did."""

    client: RawPeer
    upstream: RawPeer
    asked: RawHead
    told: RawHead


@dataclass
class Place:
    front: Front
    switched: asyncio.Queue[tuple[RawHead, RawPeer, asyncio.Event]] = field(default_factory=asyncio.Queue)

    @asynccontextmanager
    async def socket(self, *, with_head: bytes = b"") -> AsyncIterator[Socket]:
        """with_head: what the client sends in one segment with its request."""
        async with self.front.client() as client:
            await client.send(self.front.head("GET /ws?a=%2f", lines(ASKED)) + with_head)
            async with asyncio.timeout(5):
                told = await client.head()
                asked, upstream, over = await self.switched.get()
            try:
                yield Socket(client, upstream, asked, told)
            finally:
                over.set()


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=LANES)
async def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    made: list[Place] = []

    async def script(_upstream: RawUpstream, peer: RawPeer) -> None:
        head = await peer.head()
        over = asyncio.Event()
        await peer.send(b"HTTP/1.1 101 Switching Protocols\r\n" + lines(TOLD) + b"\r\n")
        await made[0].switched.put((head, peer, over))
        await over.wait()

    async with raw_upstream(script) as upstream, LANES[request.param](tmp_path_factory.mktemp("ws"), upstream.url) as front:
        made.append(Place(front))
        yield made[0]


async def test_what_the_two_ends_agree_on_is_theirs(place: Place) -> None:
    """Every `Sec-WebSocket-*` field in its spelling, order and number, both ways; the gateway's own stand behind."""
    async with place.socket() as socket:
        ours = [(name, value) for name, value in socket.asked.fields if name.lower().startswith((b"sec-websocket", b"origin"))]
        assert ours == [(name, value) for name, value in ASKED if name.lower().startswith((b"sec-websocket", b"origin"))]
        assert (socket.asked.target, socket.asked.all(b"upgrade"), socket.asked.all(b"connection")) == (
            b"/ws?a=%2f",
            [b"websocket"],
            [b"Upgrade"],
        )
        assert sorted(socket.told.fields) == sorted(TOLD)
        assert [f for f in socket.told.fields if f[0].lower().startswith(b"sec-")] == [f for f in TOLD if f[0].lower().startswith(b"sec-")]


@pytest.mark.parametrize("sent", FRAMES.values(), ids=FRAMES)
async def test_a_frame_arrives_as_it_was_sent_valid_or_not(place: Place, sent: bytes) -> None:
    async with place.socket() as socket:
        await socket.client.send(sent)
        assert await socket.upstream.exactly(len(sent)) == sent
        await socket.upstream.send(sent)
        assert await socket.client.exactly(len(sent)) == sent


async def test_frames_sent_with_the_request_arrive_once_and_first(place: Place) -> None:
    async with place.socket(with_head=EVERYTHING) as socket:
        await socket.client.send(b"end")
        assert await socket.upstream.exactly(len(EVERYTHING) + 3) == EVERYTHING + b"end"


async def test_frames_byte_by_byte_arrive_before_the_next_one_is_sent(place: Place) -> None:
    """Nothing waits for a frame to be whole."""
    async with place.socket() as socket:
        for byte in FRAMES["fragments with a ping between"]:
            await socket.client.send(bytes([byte]))
            assert await socket.upstream.exactly(1) == bytes([byte])
            await socket.upstream.send(bytes([byte]))
            assert await socket.client.exactly(1) == bytes([byte])


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1006, 1009, 1011, 1015, 3000, 4999, 0, 65535])
async def test_close_codes_go_through_and_the_end_behind_them(place: Place, code: int) -> None:
    closing = code.to_bytes(2) + "goodbye \u00e4".encode()
    async with place.socket() as socket:
        await socket.client.send(frame(0x88, closing))
        sent = frame(0x88, closing)
        assert await socket.upstream.exactly(len(sent)) == sent
        answer = frame(0x88, closing, mask=b"")
        await socket.upstream.send(answer)
        await socket.upstream.close()
        assert await socket.client.rest() == answer


async def test_a_message_of_16_mb_arrives_whole_each_way(place: Place) -> None:
    message = frame(0x82, b"0123456789abcdef" * (1 << 20))
    wanted = hashlib.sha256(message).digest()
    async with place.socket() as socket:
        for sender, receiver in ((socket.client, socket.upstream), (socket.upstream, socket.client)):
            sending = asyncio.ensure_future(sender.send(message))
            digest, left = hashlib.sha256(), len(message)
            async with asyncio.timeout(20):
                while left:
                    piece = await receiver.reader.read(min(left, 1 << 20))
                    assert piece
                    digest.update(piece)
                    left -= len(piece)
                await sending
            assert digest.digest() == wanted


@pytest.mark.parametrize("first", ["client", "upstream"])
async def test_one_end_may_fall_silent_and_still_listen(place: Place, first: str) -> None:
    async with place.socket() as socket:
        quiet, other = (socket.client, socket.upstream) if first == "client" else (socket.upstream, socket.client)
        await quiet.send(EVERYTHING)
        quiet.writer.write_eof()
        assert await other.rest() == EVERYTHING  # the end arrives, and only behind all that was said
        await other.send(EVERYTHING)
        other.writer.write_eof()
        assert await quiet.rest() == EVERYTHING


async def test_an_end_that_is_reset_takes_the_other_one_with_it(place: Place) -> None:
    for leaving in ("client", "upstream"):
        async with place.socket() as socket:
            gone, other = (socket.client, socket.upstream) if leaving == "client" else (socket.upstream, socket.client)
            await gone.reset()
            with suppress(Truncated):  # a reset is as good
                assert await other.rest() == b""


@pytest.mark.parametrize("lane", ["slow", "auto"])
async def test_many_small_messages_leave_nothing_behind(tmp_path: Path, lane: str) -> None:
    """`make soak` sends a million."""
    async with raw_upstream(echoing) as upstream, outside(tmp_path, upstreams={"bank": {"url": upstream.url}}, lane=lane) as found:
        assert found.process._process is not None
        pid = found.process._process.pid
        async with echo_socket(int(found.base.rpartition(":")[2])) as client:
            await echoed(client, 2_000)
            before = resident(pid)
            await echoed(client, MESSAGES)
            assert resident(pid) - before < 4 << 20


async def echoing(_upstream: RawUpstream, peer: RawPeer, head: RawHead | None = None) -> None:
    """head: what was read of the peer already."""
    if head is None:
        await peer.head()
    await peer.send(b"HTTP/1.1 101 Switching Protocols\r\n" + lines(TOLD) + b"\r\n")
    while data := await peer.reader.read(65536):
        await peer.send(data)


@asynccontextmanager
async def echo_socket(port: int) -> AsyncIterator[RawPeer]:
    async with raw_client(port) as client:
        await client.send(b"GET /socket HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n" % port + lines(ASKED) + b"\r\n")
        assert (await client.head()).status == 101
        yield client


async def echoed(client: RawPeer, count: int) -> None:
    """So many messages there and back, each written by itself; some are under way at a time."""
    under_way = 20
    sent = frame(0x81, b"a small message")
    for _ in range(count // under_way):
        for _ in range(under_way):
            client.writer.write(sent)
        await client.writer.drain()
        assert await client.exactly(len(sent) * under_way) == sent * under_way
