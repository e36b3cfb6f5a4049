"""TLS on the public listener. A connection counts within the bounds from its first packet on, not from the end of its handshake.

An event loop that is asked to speak TLS makes `connection_made` wait for the handshake, and tells nobody of one that fails. So the listener
speaks TCP, and TLS begins here, when the connection was counted.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, cast

from gateway.lanes.connection import peer_address

if TYPE_CHECKING:
    from gateway.lanes.server import Listener

_CLOSING = 5.0  # seconds that a client has to answer the end of TLS


class Handshake(asyncio.Protocol):
    """A connection until TLS stands; then it becomes what the listener makes. What came meanwhile goes along."""

    def __init__(self, listener: Listener, context: ssl.SSLContext, timeout: float) -> None:
        self._listener = listener
        self._context = context
        self._timeout = timeout
        self._received: list[bytes] = []
        self._lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        address = peer_address(transport)
        tcp = cast("asyncio.Transport", transport)
        if not self._listener.admit(address):
            tcp.abort()  # an answer would cost a handshake
            return
        tcp.pause_reading()
        task = asyncio.get_running_loop().create_task(self._shake(tcp, address))
        self._listener.handshakes.add(task)
        task.add_done_callback(self._listener.handshakes.discard)

    def data_received(self, data: bytes) -> None:
        self._received.append(data)

    def connection_lost(self, _exc: BaseException | None) -> None:
        self._lost = True

    async def _shake(self, tcp: asyncio.Transport, address: str) -> None:
        loop = asyncio.get_running_loop()
        tls = None
        try:
            tls = await loop.start_tls(
                tcp, self, self._context, server_side=True, ssl_handshake_timeout=self._timeout, ssl_shutdown_timeout=_CLOSING
            )
        except OSError as error:  # ssl.SSLError is one, and so is the ConnectionAbortedError of a handshake that takes too long
            self._listener.on_cut("tls_handshake_timeout" if isinstance(error, ConnectionAbortedError) else "tls_handshake")
        finally:
            self._listener.dismiss(address)
            if tls is None:
                tcp.abort()
        if tls is not None and not self._lost and not tls.is_closing():
            self._hand_on(tls)

    def _hand_on(self, tls: asyncio.Transport) -> None:
        """Nothing is awaited here: what arrives next arrives at the protocol."""
        protocol = self._listener()
        tls.set_protocol(protocol)
        protocol.connection_made(tls)
        if self._received:
            protocol.data_received(b"".join(self._received))
