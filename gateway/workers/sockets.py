"""The listening sockets of all processes, bound once, by the supervisor, before any of them starts.

Each worker has sockets of its own (SO_REUSEPORT: the kernel spreads connections over them). The supervisor holds them open, so that what
queues up at a worker that died waits for its successor; where that does not come at once, `withdraw` gives its place in the group up.
Sockets that systemd hands over are one queue, shared by all workers.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, MutableMapping, Sequence
from errno import EADDRNOTAVAIL, EAFNOSUPPORT
from ipaddress import ip_address

from gateway.app import ADMIN
from gateway.errors import StartRefused
from gateway.lanes.listening import listening

BACKLOG = 1024
_FIRST = 3  # SD_LISTEN_FDS_START


class Sockets:
    """`addresses`: host and port by settings key; `handed`: sockets from outside, by the same keys. After use you must call `close`."""

    def __init__(self, addresses: Mapping[str, tuple[str, int]], workers: int, handed: Mapping[str, Sequence[socket.socket]]) -> None:
        """Raises StartRefused: an address is in use, or not of this host."""
        self._addresses = dict(addresses)
        self._handed = {key: tuple(socks) for key, socks in handed.items()}
        self._own: list[dict[str, tuple[socket.socket, ...]]] = [{} for _ in range(workers)]
        self._admin: tuple[socket.socket, ...] = self._handed.pop(ADMIN, ())
        try:
            for key, (host, port) in self._addresses.items():
                if key == ADMIN:
                    with listening(key, host, port):
                        self._admin = self._admin or _bound_first(host, port)
                elif key not in self._handed:
                    with listening(key, host, port):
                        first = self._own[0][key] = _bound_first(host, port)
                        for own in self._own[1:]:
                            own[key] = tuple(_bound_like(sock) for sock in first)
        except BaseException:
            self.close()
            raise

    def of_worker(self, index: int) -> dict[str, tuple[socket.socket, ...]]:
        """What worker `index` accepts from."""
        return {**self._handed, **self._own[index]}

    def of_admin(self) -> dict[str, tuple[socket.socket, ...]]:
        return {ADMIN: self._admin}

    def port(self, key: str) -> int:
        socks = self._admin if key == ADMIN else self.of_worker(0)[key]
        return int(socks[0].getsockname()[1])

    def withdraw(self, index: int) -> None:
        """Worker `index` will not come back at once: the kernel gives its connections to the others. Never the last one's: while it is
        held, nobody else gets the port, and clients wait instead of being refused."""
        if sum(any(_open(own)) for own in self._own) > 1:
            for sock in _open(self._own[index]):
                sock.close()

    def restore(self, index: int) -> None:
        """Before worker `index` starts again. Raises OSError."""
        for key, socks in self._own[index].items():
            if any(sock.fileno() < 0 for sock in socks):
                like = next(_open({key: own[key]}) for own in self._own if _open({key: own[key]}))
                self._own[index][key] = tuple(_bound_like(sock) for sock in like)

    def close(self) -> None:
        """Every copy that this process holds."""
        self.keep({})

    def keep(self, mine: Mapping[str, Sequence[socket.socket]]) -> None:
        """Close every copy that this process holds, except of those."""
        kept = {id(sock) for socks in mine.values() for sock in socks}
        for group in (*self._own, self._handed, {ADMIN: self._admin}):
            for sock in _open(group):
                if id(sock) not in kept:
                    sock.close()


def _open(group: Mapping[str, Sequence[socket.socket]]) -> list[socket.socket]:
    return [sock for socks in group.values() for sock in socks if sock.fileno() >= 0]


def _bound_first(host: str, port: int) -> tuple[socket.socket, ...]:
    """A listening socket for every address of a host, as asyncio makes them. Raises OSError.

    The first one is bound without SO_REUSEPORT: else the port of another gateway of the same user could be had too, and each would get
    half of the other's connections. Two that start at once may both bind, but only one can listen. The option is set afterwards; Linux
    then lets those join that have it as well.
    """
    found = dict.fromkeys(socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE))
    made: list[socket.socket] = []
    fault: OSError | None = None
    for family, kind, protocol, _, address in found:
        sock = None
        try:
            sock = socket.socket(family, kind, protocol)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            # One port for all addresses of a host, where any will do.
            wanted = made[0].getsockname()[1] if made and port == 0 else port
            sock.bind((address[0], wanted, *address[2:]))
            sock.listen(BACKLOG)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            made.append(sock)
        except OSError as error:
            if sock is not None:
                sock.close()
            fault = error
            if error.errno in (EADDRNOTAVAIL, EAFNOSUPPORT):  # `localhost` is [::1] too, where IPv6 is off
                continue
            for other in made:
                other.close()
            raise
    if not made:
        raise fault or OSError(EADDRNOTAVAIL, os.strerror(EADDRNOTAVAIL))
    return tuple(made)


def _bound_like(first: socket.socket) -> socket.socket:
    """One more in the group of `first`. Raises OSError."""
    sock = socket.socket(first.family, first.type, first.proto)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if first.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(first.getsockname())
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def handed_over(environ: MutableMapping[str, str], keys: Sequence[str], pid: int) -> dict[str, tuple[socket.socket, ...]]:
    """The sockets that systemd (or whoever speaks its protocol, sd_listen_fds(3)) opened for us, by settings key. The variables are taken
    out of `environ`. FileDescriptorName= of the socket unit names the key; a single socket without such a name is the public one.

    Raises StartRefused where it cannot be told what a socket is for, or it is none that connections come in by.
    """
    count, ours = environ.pop("LISTEN_FDS", ""), environ.pop("LISTEN_PID", "")
    names = environ.pop("LISTEN_FDNAMES", "").split(":")
    if ours != str(pid) or not count.isdigit():
        return {}
    found: dict[str, list[socket.socket]] = {}
    made = [socket.socket(fileno=_FIRST + offset) for offset in range(int(count))]
    try:
        for offset, sock in enumerate(made):
            sock.set_inheritable(False)
            name = names[offset] if offset < len(names) else ""
            found.setdefault(_key_of(sock, name, keys, alone=len(made) == 1), []).append(sock)
    except BaseException:
        for sock in made:
            sock.close()
        raise
    return {key: tuple(socks) for key, socks in found.items()}


def on_loopback(key: str, handed: Sequence[socket.socket]) -> None:
    """What `gateway check` says of an address in the settings, for sockets that take its place. Raises StartRefused."""
    for sock in handed:
        host, port = sock.getsockname()[:2]
        if not ip_address(host.partition("%")[0]).is_loopback:
            raise StartRefused(
                f"the socket handed over for {key} is off loopback ({host} port {port}): the admin listener needs `admin.token`"
            )


def _key_of(sock: socket.socket, name: str, keys: Sequence[str], *, alone: bool) -> str:
    """Raises StartRefused."""
    if name not in keys and not alone:
        wanted = ", ".join(keys)
        raise StartRefused(f'a socket was handed over by the name "{name}"; give it FileDescriptorName= and one of: {wanted}')
    key = name if name in keys else keys[0]
    tcp = sock.family in (socket.AF_INET, socket.AF_INET6) and sock.type == socket.SOCK_STREAM
    if not tcp or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise StartRefused(f"the socket handed over for {key} is not a listening TCP socket; use ListenStream= and Accept=no")
    return key
