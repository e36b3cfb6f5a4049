"""Starts one gateway, reloads it and ends it. Everything is opened in an order that can be undone, and undone where the start fails
halfway.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import structlog

from gateway.app.live import Live
from gateway.app.part import ADMIN, FIXED, PUBLIC, WHOLE, Part, forward_auth_key, listeners
from gateway.app.wired import Wired
from gateway.errors import StartRefused, StoreTooNew, StoreUnavailable
from gateway.lanes.fast import FastLane
from gateway.lanes.fast.asking import Asking, AskingConnection
from gateway.lanes.listening import listening, renew_certificate, tls_context
from gateway.lanes.server import RunningServer, serve
from gateway.settings.load import Loaded
from gateway.spec.base import parse_address
from gateway.spec.sections import GatewaySpec, LimitsSpec
from gateway.stores import keyring
from gateway.stores.factory import open_state, resolve_url
from gateway.stores.fingerprint import claim_key
from gateway.stores.records import open_records
from gateway.tokens.keys import Keyring
from gateway.tokens.vault import KeyVault
from gateway.web.admin import Admin

log = structlog.get_logger(__name__)


class GatewayApp(Wired):
    """A running gateway: public listener, admin listener, stores. Made by `start`; end it by `close`."""

    @property
    def lane_name(self) -> str:
        """For the log: the lane in front."""
        return "slow" if self.fast is None else "fast"

    def __init__(self) -> None:
        super().__init__()
        self.public: RunningServer
        self.admin_port = 0
        self.forward_auth_listeners: dict[str, RunningServer] = {}
        self._drain = 0.0
        self._shown_pools: set[tuple[str, str, str]] = set()
        self._began: GatewaySpec
        self._tls: ssl.SSLContext | None

    @classmethod
    async def start(
        cls,
        loaded: Loaded,
        *,
        demo: bool = False,
        listen: str | None = None,
        clock: Callable[[], float] | None = None,
        admin_listen: str | None = None,
        part: Part = WHOLE,
    ) -> GatewayApp:
        """Wire and start everything. listen, admin_listen: in place of the settings' (port 0 takes a free one). part: what of it runs in
        this process, and on which sockets; the whole unless given.

        Raises StartRefused (a port in use), KeyFileFault, KeyMismatch, StoreUnavailable, OSError, ValueError; then nothing is left open.
        """
        self = cls()
        self._part = part
        if clock is not None:
            self.clock = clock
        try:
            await self._start(loaded, demo=demo, listen=listen, admin_listen=admin_listen)
        except BaseException:
            await self._held.aclose()
            raise
        return self

    async def close(self, drain: float = 0.0) -> None:
        """Stop accepting, let running requests end within `drain` seconds, close the stores."""
        self._drain = drain
        await self._held.aclose()

    async def reload(self, loaded: Loaded) -> list[str]:
        """Swap the new configuration in between two requests. Returns what takes effect at the next start only.

        Raises StartRefused, OSError or ValueError where it cannot be put to use (a certificate that does not load); then nothing has
        changed.
        """
        await self.adopt(self.prepare(loaded))
        self.metrics.reloads.labels("done").inc()
        return [name for name in FIXED if getattr(self._began, name) != getattr(loaded.spec, name)]

    def prepare(self, loaded: Loaded) -> Live:
        """The new configuration, made ready for `adopt` without a change to what runs. Raises as `reload` does."""
        new = self._make(loaded, self.live.upstreams)
        if self._tls is not None and self._began.tls is not None:
            tls_context(self._began.tls)
        return new

    async def adopt(self, new: Live) -> None:
        """Swap in what `prepare` has made. Raises StartRefused where a certificate was broken meanwhile; then nothing has changed."""
        old = self.live
        if self._tls is not None and self._began.tls is not None:
            renew_certificate(self._tls, self._began.tls)
        self._go_live(new)
        kept = {id(u.pool) for u in self.live.upstreams.values()}
        for upstream in old.upstreams.values():
            if id(upstream.pool) not in kept:
                await upstream.pool.aclose()

    async def _start(self, loaded: Loaded, *, demo: bool, listen: str | None, admin_listen: str | None) -> None:
        """What is opened is put on `_held` at once, so that a start that fails halfway leaves nothing behind. The public listener comes
        last, and so ends first: nothing is served before everything stands, and what is being served has all that it needs."""
        spec = self._began = loaded.spec
        where = listeners(spec, listen)
        admin = parse_address(admin_listen) if admin_listen is not None else where[ADMIN]
        self._refuse_unsafe(spec, demo=demo, hosts=(admin[0], *(host for key, (host, _) in where.items() if key != ADMIN)))
        part = self._part
        self._tls = part.tls if part.tls is not None or spec.tls is None else tls_context(spec.tls)
        key_file = Path(spec.secrets.key_file)
        self.keys = keyring.opened(key_file, algorithm=spec.tokens.algorithm, now=self.clock(), entropy=self.entropy)
        self.vault = KeyVault(self.keys.ring, partial(self.entropy.bytes, 12))
        stores = spec.stores
        state_url = resolve_url(stores.state, loaded.base)
        self.state = await open_state(state_url, redis_deadline=stores.redis_deadline, sqlite_deadline=stores.sqlite_deadline)
        self._held.push_async_callback(self.state.close)
        await self._check_store(local=state_url.startswith("sqlite:"))
        self.records = await open_records(resolve_url(stores.records, loaded.base), stores.sqlite_deadline)
        self._held.push_async_callback(self.records.close)
        self._wire(loaded)
        self._go_live(self._make(loaded, {}))
        self._held.push_async_callback(self._close_pools)
        if part.public:
            with suppress(StoreUnavailable):  # else a first request with a pass would find the feed unread, and get a 503
                await self.feed.refresh()
            for work in (self.feed.run(), self.keys.watch(self.state, self.clock, self._adopt)):
                self._held.push_async_callback(_cancel, asyncio.create_task(work))
        if part.admin:
            await self._start_admin(spec, *admin)
        if part.public:
            self._held.push_async_callback(self.tickets.drain)
            self._held.push_async_callback(self.grants.drain)
            for name in spec.forward_auth:
                key = forward_auth_key(name)
                if key in where:
                    await self._start_forward_auth(name, key, *where[key], spec)
            await self._start_public(spec, *where[PUBLIC])

    async def _start_public(self, spec: GatewaySpec, host: str, port: int) -> None:
        """On the sockets that we were given, else on one made here."""
        with listening(PUBLIC, host, port):
            self.public = await serve(
                self.forward_auth.public, host=host, port=port, ssl_context=self._tls, limits=self._part.limits(spec.limits),
                on_bad_request=self._bad_request, on_cut=self.metrics.cut, socks=self._part.sockets.get(PUBLIC, ()), fast=self.fast,
            )  # fmt: skip
        self._held.push_async_callback(self._close_public)
        self.metrics.workers.set(1)

    async def _start_forward_auth(self, name: str, key: str, host: str, port: int, spec: GatewaySpec) -> None:
        # All connections are of one address there: the proxy's.
        limits = self._part.limits(spec.limits)
        limits = limits.model_copy(update={"max_connections_per_address": limits.max_connections})
        with listening(key, host, port):
            server = await serve(
                self.forward_auth.listener(name), host=host, port=port, ssl_context=None, limits=limits,
                on_bad_request=self._bad_request, socks=self._part.sockets.get(key, ()), fast=self._asked_fast(name, limits),
            )  # fmt: skip
        self.forward_auth_listeners[name] = server
        self._held.push_async_callback(self._close_listener, server)

    def _asked_fast(self, name: str, limits: LimitsSpec) -> FastLane | None:
        if self.fast is None:
            return None
        asking = Asking(self.forward_auth.proxies[name], self._premises, self.fast.known)
        return self.fast.beside(limits, partial(AskingConnection, whose=lambda _data, _end: asking))

    async def _close_listener(self, server: RunningServer) -> None:
        await server.close(self._drain)

    def _adopt(self, ring: Keyring) -> None:
        self.vault.adopt(ring)
        self.gate.rekeyed()
        self._forget()

    async def _close_public(self) -> None:
        await self.public.close(self._drain)

    async def _close_pools(self) -> None:
        for upstream in self.live.upstreams.values():
            await upstream.pool.aclose()

    def _refuse_unsafe(self, spec: GatewaySpec, *, demo: bool, hosts: Sequence[str]) -> None:
        if demo and any(h not in ("127.0.0.1", "::1", "localhost") for h in hosts):
            raise StartRefused(
                "demo mode listens on loopback only; its mailbox shows everybody's codes. Use `gateway run` with `mail.smtp`"
            )
        if spec.mail is not None and spec.mail.demo and not demo:
            raise StartRefused("mail.demo works in `gateway demo` only; set mail.smtp to a mail server")

    async def _check_store(self, *, local: bool) -> None:
        """Another key's fingerprint stops the start, and so does a file that cannot be opened: neither gets better by waiting. A server
        that is away does not: gated requests wait for it by 503. local: the store is a file."""
        try:
            await claim_key(self.state, self.keyring.fingerprints(), self.clock())
            for warning in await self.state.warnings():
                log.warning("state store", warning=warning)
        except StoreTooNew:
            raise
        except StoreUnavailable as error:
            if local:
                raise
            log.warning("state store is away; gated requests get 503 until it is back", reason=str(error))

    # -- admin, odds --------------------------------------------------------------------------------------------------

    async def _start_admin(self, spec: GatewaySpec, host: str, port: int) -> None:
        mailbox = self.mailbox
        admin = Admin(
            hosts=(*spec.admin.hosts, f"[{host}]" if ":" in host else host),
            token=spec.admin.token,
            checks={"state": self._ping_state, "records": self.records.ping, **self._part.checks},
            metrics=self._part.metrics_text or self._metrics_text,
            pages=lambda: self.live.pages,
            shown=lambda: self._answers.shown(self.entropy.token()[:12]),
            mailbox=(lambda: mailbox.messages) if mailbox is not None else None,
        )
        # Heads as they are there by default: what is tightened for browsers must not shut a probe out.
        usual = LimitsSpec()
        heads = {"request_line": usual.request_line, "header_size": usual.header_size, "header_count": usual.header_count}
        with listening(ADMIN, host, port):
            server = await serve(
                admin.handle, host=host, port=port, ssl_context=None, limits=spec.limits.model_copy(update=heads),
                on_bad_request=self._bad_request, socks=self._part.sockets.get(ADMIN, ()),
            )  # fmt: skip
        self._held.push_async_callback(self._close_listener, server)
        self.admin_port = server.port

    async def _ping_state(self) -> None:
        """A write: a store that is locked, full or a replica answers reads, and can suspend nothing."""
        now = self.clock()
        await self.state.count("probe", "ready", by=1, expires=now + 60, now=now)

    def _metrics_text(self) -> bytes:
        self.settle()
        return self.metrics.text()

    def settle(self) -> None:
        """What is counted on the side becomes metrics. To be called before they are read."""
        self.settle_counts()
        for state, count in self.public.states().items():
            self.metrics.connections.labels(state).set(count)
        pools: dict[tuple[str, str, str], int] = {}
        for name, upstream in self.live.upstreams.items():
            self.metrics.waiting.labels(name).set(upstream.pool.waiting)
            for site in upstream.pool.status():
                url = site.url.partition("://")[2]
                pools[name, url, "idle"] = site.idle
                pools[name, url, "active"] = site.open - site.idle
        for labels, count in pools.items():
            self.metrics.pools.labels(*labels).set(count)
        # First to none: where several processes count, what is removed here alone would be remembered there.
        for labels in self._shown_pools - pools.keys():
            self.metrics.pools.labels(*labels).set(0)
            self.metrics.pools.remove(*labels)
        for name in {labels[0] for labels in self._shown_pools} - self.live.upstreams.keys():
            self.metrics.waiting.labels(name).set(0)
            self.metrics.waiting.remove(name)
        self._shown_pools = set(pools)

    def settle_counts(self) -> None:
        """The part of `settle` that a death would lose; it costs next to nothing."""
        self.trail.settle()
        if self._part.settled is not None:
            self._part.settled(self.metrics)

    def _bad_request(self, status: int, reason: str) -> str:
        """Note a request that had no readable head; the number that its answer carries."""
        number = self.entropy.token()[:12]
        self.trail.event("refused", request_id=number, kind="head_timeout" if status == 408 else f"malformed {status}", reason=reason[:200])
        return number


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
