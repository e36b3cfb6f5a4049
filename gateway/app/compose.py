"""Wires one gateway and starts it. Everything is opened in an order that can be undone, and undone where the start fails halfway.

What a reload may change (rules, routes, steps, identity, upstreams, theme) is read through `Live`, which is replaced in one
assignment: a request that is under way keeps what it began with, the next one gets the new.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path

import structlog
from aiohttp import web

from gateway.app.live import Live, make_live
from gateway.app.part import ADMIN, FIXED, PUBLIC, WHOLE, Part, forward_auth_key, listeners
from gateway.app.registry import STEP_FOLDERS
from gateway.errors import StartRefused, StoreTooNew, StoreUnavailable
from gateway.flow.cookies import PassCookies
from gateway.flow.gate import Gate
from gateway.flow.guessing import Guessing
from gateway.flow.introspection import Introspection
from gateway.flow.issued import CODE_TTL, Issued
from gateway.flow.issuer import Issuer
from gateway.flow.oauth.memory import OAuthMemory
from gateway.flow.outside import Outsiders
from gateway.flow.parking import Parking
from gateway.flow.ports import Mailer
from gateway.flow.progress import Progress
from gateway.flow.redeem import GrantTransactions
from gateway.flow.remembered import Remembered
from gateway.flow.repository import TICKET_PARAMETER, Transactions
from gateway.flow.sessions import Sessions
from gateway.flow.step import Services
from gateway.flow.transaction import Transaction
from gateway.flow.visit import Door
from gateway.functions.house import House
from gateway.functions.metadata import RecordedMetadata
from gateway.functions.runner import Runner
from gateway.identity.published import PublishedKeys
from gateway.lanes.anew import Anew
from gateway.lanes.body import read_body
from gateway.lanes.errand import errand
from gateway.lanes.fast import FastConnection, FastLane
from gateway.lanes.fast.asking import Asking, AskingConnection
from gateway.lanes.fast.known import Known
from gateway.lanes.forward_auth import ForwardAuth, integrations
from gateway.lanes.grants import Grants
from gateway.lanes.heads import Entrance
from gateway.lanes.intercept import Interceptor
from gateway.lanes.listening import listening, renew_certificate, tls_context
from gateway.lanes.oauth import AnswerWatcher, OAuthRequests, Verdicts
from gateway.lanes.relay import Relay, Upstream
from gateway.lanes.server import RunningServer, serve
from gateway.lanes.slow import SlowLane
from gateway.lanes.suspend import Paths, Suspender
from gateway.lanes.ticket import Tickets
from gateway.lanes.tunnels import Tunnels
from gateway.settings.load import Loaded
from gateway.spec.base import parse_address
from gateway.spec.oauth import OAuthSpec
from gateway.spec.sections import GatewaySpec, LimitsSpec
from gateway.stores import keyring
from gateway.stores.entropy import SystemEntropy
from gateway.stores.factory import StateBackend, open_state, resolve_url
from gateway.stores.fingerprint import claim_key
from gateway.stores.mail import MemoryMailbox, SmtpMailer
from gateway.stores.records import SqliteRecords, open_records
from gateway.stores.revocations import RevocationFeed
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.trail import Telemetry
from gateway.tokens.keys import Keyring
from gateway.tokens.vault import KeyVault
from gateway.web.admin import Admin
from gateway.web.answers import WebAnswers
from gateway.web.arrival import Arrivals
from gateway.web.introspect import Introspect
from gateway.web.outside import OutsidePages
from gateway.web.resume import Resume
from gateway.web.site import Site
from gateway.web.static import Static
from gateway.web.transaction import TransactionPages
from gateway.wire.forward_auth import Premises
from gateway.wire.forwarding import Networks, parse_networks
from gateway.wire.head import Headers, RequestHead
from gateway.wire.headers import request_for_upstream

log = structlog.get_logger(__name__)


class GatewayApp:
    """A running gateway: public listener, admin listener, stores. Made by `start`; end it by `close`."""

    @property
    def lane_name(self) -> str:
        """For the log: the lane in front."""
        return "slow" if self.fast is None else "fast"

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.entropy = SystemEntropy()
        self.clock: Callable[[], float] = time.time
        self.live: Live
        self.state: StateBackend
        self.mailbox: MemoryMailbox | None = None
        self.public: RunningServer
        self.admin_port = 0
        self.forward_auth_listeners: dict[str, RunningServer] = {}
        self._held = AsyncExitStack()
        self._drain = 0.0
        self._part = WHOLE
        self._shown_pools: set[tuple[str, str, str]] = set()
        self.records: SqliteRecords
        self.vault: KeyVault
        self.keys: keyring.KeyFile
        self._began: GatewaySpec
        self._tls: ssl.SSLContext | None
        self.fast: FastLane | None = None

    @property
    def keyring(self) -> Keyring:
        return self.keys.ring

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
        return self.fast.beside(limits, partial(AskingConnection, asking=asking))

    async def _close_listener(self, server: RunningServer) -> None:
        await server.close(self._drain)

    def _adopt(self, ring: Keyring) -> None:
        self.vault.adopt(ring)
        self.gate.rekeyed()
        self._forget()

    def _forget(self) -> None:
        if self.fast is not None:
            self.fast.known.forget()

    async def _close_public(self) -> None:
        await self.public.close(self._drain)

    async def _close_pools(self) -> None:
        for upstream in self.live.upstreams.values():
            await upstream.pool.aclose()

    # -- wiring -----------------------------------------------------------------------------------------------------

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

    def _wire(self, loaded: Loaded) -> None:
        spec = loaded.spec
        self._trusted: Networks = parse_networks(spec.trusted_proxies)
        self.trail = Telemetry(self.metrics, self.records)
        self.feed = RevocationFeed(self.state, self.clock)
        self.static = Static(spec.prefix, STEP_FOLDERS)
        self._mailbox_url: str | None = None
        self._mailer: Mailer | None = None
        if spec.mail is not None and spec.mail.demo:
            self.mailbox = MemoryMailbox()
            self._mailer = self.mailbox
            host, port = parse_address(spec.admin.listen)
            self._mailbox_url = f"http://{host}:{port}/dev/mailbox"
        elif spec.mail is not None and spec.mail.smtp is not None:
            self._mailer = SmtpMailer(spec.mail.smtp, spec.mail.from_, spec.mail.timeout)
        self.transactions = Transactions(self.state, self.vault, self.entropy, spec.transactions)
        self.guessing = Guessing(self.state, spec.guessing)
        self.issuer = Issuer(
            keyring=lambda: self.keyring,
            vault=self.vault,
            entropy=self.entropy,
            spec=spec.tokens,
            steps=lambda: self.live.ruleset.steps,
            challenged=self._challenged,
        )
        self.passes = PassCookies(self.issuer, spec.passes)
        remembered = self._remembered = Remembered(lambda: self.live.steps)
        house = House(spec.functions.threads)
        self._held.callback(house.close)
        self.gate = Gate(
            ruleset=lambda: self.live.ruleset,
            identity=lambda: self.live.identity,
            vault=self.vault,
            revocations=self.feed,
            records=remembered,
            spec=spec.passes,
            functions=Runner(house, RecordedMetadata(self.records, self.vault), self.entropy, spec.functions),
        )
        self.door = Door(self.transactions, self.guessing, self.gate, self.entropy)
        self.sessions = Sessions(
            identity=lambda: self.live.identity,
            issuer=self.issuer,
            passes=self.passes,
            revoker=self.feed,
            errand=self._errand,
            trail=self.trail,
            spec=spec.passes,
            forgotten=self._forgotten,
        )
        answers = WebAnswers(
            pages=lambda: self.live.pages,
            steps=lambda: self.live.ruleset.steps,
            entropy=self.entropy,
            prefix=spec.prefix,
            continue_path=spec.continue_path,
        )
        self._answers = answers
        reader = partial(read_body, idle_timeout=spec.limits.body_idle_timeout, timeout=spec.limits.body_timeout)
        self._published: dict[str, PublishedKeys] = {}
        progress = Progress(self.transactions, self.guessing, lambda: self.live.steps)
        transaction_pages = TransactionPages(
            transactions=self.transactions, door=self.door, progress=progress, answers=answers, issuer=self.issuer, trail=self.trail,
            sessions=self.sessions, read_body=reader, answer_limit=spec.limits.answer_body, next_origins=self._next_origins,
        )  # fmt: skip
        self.outsiders = Outsiders(
            transactions=self.transactions, entropy=self.entropy, parties=lambda: self.live.parties, keyring=lambda: self.keyring,
            steps=lambda: self.live.ruleset.steps,
        )  # fmt: skip
        outside = OutsidePages(
            outsiders=self.outsiders, transactions=self.transactions, state=self.state, pages=transaction_pages, answers=answers,
            issuer=self.issuer, passes=self.passes, entropy=self.entropy, trail=self.trail, read_body=reader,
            answer_limit=spec.limits.answer_body, prefix=spec.prefix,
        )  # fmt: skip
        arrivals = Arrivals(
            transactions=self.transactions, parking=Parking(self.state, self.vault, self.entropy), door=self.door, guessing=self.guessing,
            progress=progress, pages=transaction_pages, answers=answers, trail=self.trail, continue_path=spec.continue_path,
        )  # fmt: skip
        resume = Resume(
            arrivals=arrivals, transactions=self.transactions, door=self.door, gate=self.gate, pages=transaction_pages, answers=answers,
            issuer=self.issuer, keyring=lambda: self.keyring, passes=self.passes, trail=self.trail, read_body=reader,
            answer_limit=spec.limits.answer_body, condition_limit=spec.limits.condition_body, outside=outside, leads_away=self._leads_away,
            endpoints=self._oauth,
        )  # fmt: skip
        introspection = Introspection(
            state=self.state, guessing=self.guessing, transactions=self.transactions, revocations=self.feed, keyring=lambda: self.keyring,
            issuers=lambda: (*spec.public_url, *self.live.parties.issuers),
        )  # fmt: skip
        introspect = Introspect(
            spec=lambda: self.live.loaded.spec.introspection, introspection=introspection, trail=self.trail, read_body=reader,
            limit=spec.limits.answer_body,
        )  # fmt: skip
        self.site = Site(
            prefix=spec.prefix, continue_path=spec.continue_path, transactions=transaction_pages, resume=resume, answers=answers,
            introspect=introspect,
            static=self.static, gate=self.gate, sessions=self.sessions, keyring=lambda: self.keyring, cors=lambda: self.live.cors,
            form_token=lambda sid: self.vault.mac("form", b"pass/" + sid.encode())[:16].hex(), read_body=reader,
            limit=spec.limits.answer_body, outside=outside, entropy=self.entropy,
        )  # fmt: skip
        paths = Paths(spec.prefix, spec.continue_path)
        anew = Anew(
            transactions=self.transactions, sessions=self.sessions, answers=answers, trail=self.trail, urls=lambda: self.live.begin_anew
        )

        def patience(steps: Sequence[str]) -> float:
            return max((self.live.patience.get(step, 0.0) for step in steps), default=0.0)

        suspender = Suspender(
            transactions=self.transactions, entropy=self.entropy, answers=answers, trail=self.trail, paths=paths,
            patience=patience,
        )  # fmt: skip
        intercepts = Interceptor(
            ruleset=lambda: self.live.ruleset, outsiders=self.outsiders, transactions=self.transactions, suspender=suspender,
            sessions=self.sessions, gate=self.gate, answers=answers, trail=self.trail, entropy=self.entropy, paths=paths,
        )  # fmt: skip
        self.issued = Issued(self.state, self.vault)
        memory = OAuthMemory(self.state, self.vault, spec.passes)
        verdicts = Verdicts(
            gate=self.gate, door=self.door, transactions=self.transactions, memory=memory, suspender=suspender, answers=answers,
            trail=self.trail, issued=self.issued,
        )  # fmt: skip
        oauth = OAuthRequests(
            specs=self._oauth, gate=self.gate, memory=memory, verdicts=verdicts, condition_body=spec.limits.condition_body
        )
        watcher = AnswerWatcher(specs=self._oauth, gate=self.gate, memory=memory, verdicts=verdicts, entropy=self.entropy, trail=self.trail)
        relay = Relay(
            upstreams=lambda: self.live.upstreams, sessions=self.sessions, issuer=self.issuer, transactions=self.transactions,
            answers=answers, limits=spec.limits, trusted=self._trusted,
            tunnels=Tunnels(self.feed, spec.passes, lambda: self.live.rules, self.clock), intercepts=intercepts, watcher=watcher,
        )  # fmt: skip
        self.tickets = Tickets(
            transactions=self.transactions, door=self.door, gate=self.gate, relay=relay, answers=answers, trail=self.trail,
            ended=transaction_pages.ended, closed=transaction_pages.closed, clock=self.clock, condition_limit=spec.limits.condition_body,
        )  # fmt: skip
        self.grants = Grants(
            gate=self.gate, relay=relay, issued=self.issued, answers=answers, trail=self.trail, oauth=self._oauth,
            transactions=GrantTransactions(self.transactions, self.state, self.vault, self.entropy, lambda: self.keyring, patience),
            rules=lambda: self.live.rules, limits=spec.limits,
        )  # fmt: skip
        entrance = Entrance("https" if spec.tls else "http", spec.public_url, self._trusted)
        self.lane = SlowLane(
            entrance=entrance, paths=paths, gate=self.gate,
            door=self.door, transactions=self.transactions, suspender=suspender, tickets=self.tickets, relay=relay, answers=answers,
            own_pages=self.site.handle, trail=self.trail, entropy=self.entropy, guessing=self.guessing, clock=self.clock,
            limits=spec.limits, rules=lambda: self.live.rules, anew=anew, remembered=remembered, intercepts=intercepts, oauth=oauth,
            grants=self.grants,
        )  # fmt: skip
        premises = self._premises = Premises(
            origins=spec.public_url, trusted=self._trusted, prefix=spec.prefix.encode("ascii"),
            continue_path=spec.continue_path.encode("ascii"), ticket=TICKET_PARAMETER, longest=spec.limits.request_line,
        )  # fmt: skip
        self.forward_auth = ForwardAuth(
            lane=self.lane, proxies=integrations(spec.forward_auth, spec.prefix), premises=premises, relay=relay, sessions=self.sessions,
            passes=self.passes, upstreams=lambda: self.live.upstreams, answers=answers, trail=self.trail, entropy=self.entropy,
            clock=self.clock, limits=spec.limits,
        )  # fmt: skip
        self.fast = None
        if spec.lane == "auto":
            known = Known(
                entrance=entrance, paths=paths, gate=self.gate, issuer=self.issuer, passes=self.passes, trail=self.trail,
                limits=spec.limits, ruleset=lambda: self.live.ruleset, identity=lambda: self.live.identity,
                upstreams=lambda: self.live.upstreams, apart=lambda: self.live.apart,
            )  # fmt: skip
            self.fast = FastLane(
                known=known, sessions=self.sessions, answers=answers, trail=self.trail, entropy=self.entropy, clock=self.clock,
                limits=spec.limits, make=FastConnection, intercepts=intercepts,
            )  # fmt: skip

    def _next_origins(self, upstream: str) -> Sequence[str]:
        """Where answers of an upstream redirect to (none for one that a reload took away), and where steps send browsers."""
        found = self.live.loaded.spec.upstreams.get(upstream)
        return (*(found.next_origins if found is not None else ()), *self.live.away)

    def _keys_of(self, url: str) -> PublishedKeys:
        """The keys that a URL publishes: fetched once for all who need them, and kept over a reload."""
        return self._published.setdefault(url, PublishedKeys(url))

    def _challenged(self, upstream: str) -> bool:
        return self.live.ruleset.challenged(upstream)

    async def _forgotten(self, sid: str, now: float) -> None:
        longest = max(
            (entry.oauth.refresh_ttl for entry in self.live.loaded.spec.upstreams.values() if entry.oauth is not None), default=0.0
        )
        if longest:
            await self.issued.void(sid, ttl=max(longest, CODE_TTL), now=now)

    def _oauth(self, upstream: str) -> OAuthSpec | None:
        """The endpoints of an upstream that is a provider."""
        found = self.live.loaded.spec.upstreams.get(upstream)
        return found.oauth if found is not None else None

    def _leads_away(self, transaction: Transaction) -> bool:
        """What is resumed is an authorize request, whose answer leads to some client of the provider."""
        spec = self._oauth(transaction.upstream)
        path = transaction.target.partition(b"?")[0].decode("latin-1")
        return spec is not None and path == spec.authorize and not transaction.ticketed

    def _go_live(self, live: Live) -> None:
        """The one assignment. Health checks of new pools begin."""
        self.live = live
        self._forget()
        if self._part.public:
            for upstream in live.upstreams.values():
                upstream.pool.start()

    def _make(self, loaded: Loaded, before: dict[str, Upstream]) -> Live:
        services = Services(
            state=self.state, records=self.records, vault=self.vault, entropy=self.entropy, mailer=self._mailer,
            keyring=lambda: self.keyring, published=self._keys_of, record=self._remembered.record,
        )  # fmt: skip
        return make_live(
            loaded, before, services=services, static=self.static, trusted=self._trusted, mailbox_url=self._mailbox_url,
            traffic=self.metrics.traffic,
        )  # fmt: skip

    async def _errand(self, upstream: str, path: str, head: RequestHead, cookies: tuple[tuple[str, str], ...]) -> Headers:
        """A GET in the user's name, with these cookies and nothing else of theirs."""
        own = [
            (b"Host", (head.get("host") or head.host).encode("latin-1")),
            (b"Cookie", "; ".join(f"{n}={v}" for n, v in cookies).encode("latin-1")),
        ]
        headers = request_for_upstream(
            RequestHead("GET", head.target, tuple(own), head.scheme, head.host, head.origin, head.client_ip, head.peer),
            host=own[0][1],
            trusted=False,
        )
        return await errand(self.live.upstreams[upstream].pool, path.encode("ascii"), headers)

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
        runner = web.AppRunner(admin.application(), access_log=None)
        await runner.setup()
        self._held.push_async_callback(runner.cleanup)
        given = self._part.sockets.get(ADMIN, ())
        with listening(ADMIN, host, port):
            for sock in given:
                await web.SockSite(runner, sock).start()
            if not given:
                await web.TCPSite(runner, host, port).start()
        self.admin_port = int(runner.addresses[0][1])

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

    def _bad_request(self, status: int, reason: str) -> None:
        self.trail.event("refused", kind="head_timeout" if status == 408 else f"malformed {status}", reason=reason[:200])


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
