"""The connections to one upstream: bounded per url, kept while unused, urls in turn.

Connecting and sending are two acts, so that a caller can make its own state durable in between: `acquire` sends nothing.
Every connection that `acquire` hands out must come back through `release`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from functools import partial

from gateway.errors import UpstreamBroke, UpstreamBusy, UpstreamUnreachable
from gateway.lanes.health import Health, in_turn, watch
from gateway.lanes.upstream import Endpoint, UpstreamConnection, connect, parse_endpoint, tls_context
from gateway.spec.sections import UpstreamSpec


@dataclass(slots=True)
class _Site:
    """One url: what is known of it, its unused connections (newest last) with the loop's time at which each ends, the timer of the first
    that does, and how many are open in all."""

    endpoint: Endpoint
    health: Health = field(default_factory=Health)
    idle: dict[UpstreamConnection, float] = field(default_factory=dict)
    timer: asyncio.TimerHandle | None = None
    open: int = 0


@dataclass(frozen=True, slots=True)
class SiteStatus:
    """One url as metrics and readiness see it."""

    url: str
    available: bool
    open: int
    idle: int


class UpstreamPool:
    """The pool of one upstream. Make it inside a running loop; call `start` once and `aclose` at the end.

    Raises OSError when a certificate file of `spec.tls` cannot be read.
    """

    def __init__(self, name: str, spec: UpstreamSpec) -> None:
        self.name = name
        self.spec = spec
        self._sites = [_Site(parse_endpoint(url)) for url in spec.url]
        self._by_endpoint = {site.endpoint.url: site for site in self._sites}
        self._context = tls_context(spec.tls) if any(site.endpoint.tls for site in self._sites) else None
        self._server_name = spec.tls.server_name if spec.tls else None
        self._keepalive = spec.keepalive
        self._turn = 0
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._watch: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()

    def start(self) -> None:
        """Begin active health checks, where configured."""
        if self.spec.health.path is not None and self._watch is None:
            endpoints = [site.endpoint for site in self._sites]
            self._watch = asyncio.create_task(watch(endpoints, self._context, self._server_name, self.spec.health, self._probed))

    async def aclose(self) -> None:
        """Stop the checks and close what is unused. Connections in use are closed when they are released."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
            self._watch = None
        closing = []
        for site in self._sites:
            if site.timer is not None:
                site.timer.cancel()
                site.timer = None
            site.open -= len(site.idle)
            closing += [connection.aclose() for connection in site.idle]
            site.idle.clear()
        await asyncio.gather(*closing)

    def status(self) -> tuple[SiteStatus, ...]:
        """Every url, in the order of the settings."""
        now = self._loop.time()
        return tuple(SiteStatus(s.endpoint.url, s.health.available(now, self.spec.health), s.open, len(s.idle)) for s in self._sites)

    @property
    def waiting(self) -> int:
        """How many wait for a connection."""
        return len(self._waiters)

    async def acquire(self, *, fresh: bool = False) -> UpstreamConnection:
        """A connection, an unused one where there is one; `fresh` always makes a new one. Nothing is sent.

        Raises UpstreamUnreachable when no url takes a connection, UpstreamBusy when all are at `max_connections` for `connect_timeout`.
        """
        if not fresh and len(self._sites) == 1 and (connection := self._take_idle(self._sites[0])) is not None:
            return connection
        deadline = self._loop.time() + self.spec.connect_timeout
        while True:
            fault: UpstreamUnreachable | None = None
            self._turn = (self._turn + 1) % len(self._sites)
            for index in in_turn([s.health for s in self._sites], self._turn, self._loop.time(), self.spec.health):
                site = self._sites[index]
                if not fresh and (connection := self._take_idle(site)) is not None:
                    return connection
                if site.open >= self.spec.max_connections and site.idle:
                    self._discard(site, next(iter(site.idle)))
                if site.open < self.spec.max_connections:
                    try:
                        return await self._connect(site)
                    except UpstreamUnreachable as error:
                        fault = error
            if fault is not None:
                raise fault
            await self._wait_for_room(deadline)

    def lend(self, *, sure: bool) -> UpstreamConnection | None:
        """An unused connection at once, of the url whose turn it is; None: `acquire` has to wait for one. sure: ask the system whether it
        is still open; without, what is sent may have to be repeated."""
        if self._waiters:
            return None
        site = self._sites[0]
        if len(self._sites) == 1 and site.idle and not sure:  # nearly always
            connection, _ = site.idle.popitem()
            if connection.rouse_lightly():
                return connection
            site.open -= 1
            connection.abort(UpstreamBroke("closed while unused"))
        elif len(self._sites) > 1:
            turn = (self._turn + 1) % len(self._sites)
            site = self._sites[in_turn([s.health for s in self._sites], turn, self._loop.time(), self.spec.health)[0]]
            if not site.idle:
                return None
            self._turn = turn
        return self._take_idle(site, sure=sure)

    def release(self, connection: UpstreamConnection, *, failed: bool = False) -> None:
        """Give a connection back. It is kept if its exchange ended cleanly or never began, else closed.

        `failed` says that the upstream gave no answer; it counts against the url's health.
        """
        site = self._by_endpoint[connection.endpoint.url]
        if failed:
            site.health = site.health.after_failure(self._loop.time(), self.spec.health, connecting=False)
        elif connection.responded:
            site.health = site.health.after_success()
        if connection.complete or connection.unused:
            connection.rest(lambda: self._discard(site, connection))
            site.idle[connection] = self._loop.time() + self.spec.keepalive
            if site.timer is None:
                site.timer = self._loop.call_later(self.spec.keepalive, self._end_idle, site)
        else:
            site.open -= 1
            connection.abort(UpstreamBroke("the exchange is over"))
        self._room()

    def put_back(self, connection: UpstreamConnection) -> None:
        """What `release` does with a connection that was lent for bytes of the caller's own, when these ended cleanly."""
        site = connection.site
        if site is None:
            self.release(connection)
            return
        if site.health.failures or site.health.out_until:
            site.health = site.health.after_success()
        connection.responded = False
        connection.duplex.on_stir = connection.discard
        site.idle[connection] = self._loop.time() + self._keepalive
        if site.timer is None:
            site.timer = self._loop.call_later(self._keepalive, self._end_idle, site)
        if self._waiters:
            self._room()

    def _take_idle(self, site: _Site, *, sure: bool = True) -> UpstreamConnection | None:
        while site.idle:
            connection, _ = site.idle.popitem()
            if connection.rouse() if sure else connection.rouse_lightly():
                return connection
            site.open -= 1
            connection.abort(UpstreamBroke("closed while unused"))
        return None

    def _discard(self, site: _Site, connection: UpstreamConnection) -> None:
        if site.idle.pop(connection, None) is not None:
            site.open -= 1
            connection.abort(UpstreamBroke("closed while unused"))
            self._room()

    def _end_idle(self, site: _Site) -> None:
        """End what was unused for too long. One timer a url: most connections are taken again long before their end."""
        site.timer = None
        now = self._loop.time()
        for connection, end in list(site.idle.items()):
            if end > now:
                site.timer = self._loop.call_at(end, self._end_idle, site)
                return
            self._discard(site, connection)

    async def _connect(self, site: _Site) -> UpstreamConnection:
        site.open += 1
        try:
            made = await connect(site.endpoint, self._context, self._server_name, self.spec.connect_timeout)
        except BaseException as error:
            site.open -= 1
            if isinstance(error, UpstreamUnreachable):
                site.health = site.health.after_failure(self._loop.time(), self.spec.health, connecting=True)
            self._room()
            raise
        made.site = site
        made.discard = partial(self._discard, site, made)
        return made

    async def _wait_for_room(self, deadline: float) -> None:
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout_at(deadline):
                await waiter
        except BaseException as error:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
            else:
                self._room()  # woken and gone at once: the next in line takes the place
            if isinstance(error, TimeoutError):
                raise UpstreamBusy(f"{self.name}: all {self.spec.max_connections} connections to each url are in use") from error
            raise

    def _room(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def _probed(self, endpoint: Endpoint, healthy: bool) -> None:
        site = self._by_endpoint[endpoint.url]
        site.health = site.health.after_probe(healthy)
