"""The composition root: settings in, wired objects out. The only file that names concrete steps, stores and sources.

What a reload may change (rules, routes, steps, identity, upstreams, theme) is read through `Live`, which is replaced in one
assignment: a request that is under way keeps what it began with, the next one gets the new.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from aiohttp import web

import gateway.steps
from gateway.errors import GatewayError, KeyFileFault, StoreUnavailable
from gateway.flow.cookies import PassCookies
from gateway.flow.gate import Gate
from gateway.flow.guessing import Guessing
from gateway.flow.identity import Identity, RequestSource, SessionSource
from gateway.flow.issuer import Issuer
from gateway.flow.ports import Mailer
from gateway.flow.progress import Progress
from gateway.flow.repository import Transactions
from gateway.flow.sessions import Sessions
from gateway.flow.step import Services, Step
from gateway.flow.visit import Door
from gateway.identity.header import HeaderSource, HeaderSpec
from gateway.identity.jwt import JwtSource, JwtSpec
from gateway.identity.login_form import LoginForm, LoginFormSpec
from gateway.identity.whoami import WhoAmI
from gateway.lanes.body import read_body
from gateway.lanes.errand import errand
from gateway.lanes.heads import Entrance
from gateway.lanes.pool import UpstreamPool
from gateway.lanes.relay import Relay, Upstream
from gateway.lanes.server import RunningServer, serve
from gateway.lanes.slow import SlowLane
from gateway.lanes.suspend import Paths, Suspender
from gateway.lanes.ticket import Tickets
from gateway.policy.model import Rule, Ruleset
from gateway.settings.load import Loaded
from gateway.settings.registry import Registry, StepKind
from gateway.spec.base import Spec, parse_address, parse_origin
from gateway.spec.sections import GatewaySpec
from gateway.steps.captcha.step import Captcha
from gateway.steps.otp.step import Otp
from gateway.steps.password_change.step import PasswordChange
from gateway.stores.entropy import SystemEntropy
from gateway.stores.factory import StateBackend, check_records_url, check_url, open_state, resolve_url
from gateway.stores.fingerprint import claim_key
from gateway.stores.keyfile import read, write_new
from gateway.stores.mail import MemoryMailbox, SmtpMailer
from gateway.stores.records import SqlRecords, open_records
from gateway.stores.revocations import RevocationFeed
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.trail import Telemetry
from gateway.tokens.keys import Keyring, generate_private_pem, new_keyring
from gateway.tokens.passes import session_digests
from gateway.tokens.vault import KeyVault
from gateway.web.admin import Admin
from gateway.web.answers import WebAnswers
from gateway.web.pages import Pages
from gateway.web.resume import Resume
from gateway.web.site import Site
from gateway.web.static import Static
from gateway.web.transaction import TransactionPages
from gateway.wire.forwarding import Networks, parse_networks
from gateway.wire.head import Headers, RequestHead, header_key
from gateway.wire.headers import Rewrite, request_for_upstream

log = structlog.get_logger(__name__)

STEPS: tuple[Any, ...] = (Captcha, Otp, PasswordChange)
IDENTITY: Mapping[str, type[Spec]] = {"login_form": LoginFormSpec, "header": HeaderSpec, "jwt": JwtSpec}
STEP_FOLDERS = {kind.kind: Path(gateway.steps.__file__).parent / kind.kind for kind in STEPS}


def _asks_somebody(kind: Any, _config: Spec) -> bool:
    """What proves an identity must know whose."""
    return bool(kind.proves_identity)


REGISTRY = Registry(
    steps={kind.kind: StepKind(kind.Config, partial(_asks_somebody, kind)) for kind in STEPS},
    identity=IDENTITY,
    check_state=check_url,
    check_records=check_records_url,
    records=frozenset(),
)


class StartRefused(GatewayError):
    """The gateway cannot start with these settings; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Live:
    """Everything that a reload replaces, as one value."""

    loaded: Loaded
    rules: Mapping[str, Rule]
    steps: Mapping[str, Step]
    identity: Identity
    upstreams: dict[str, Upstream]
    pages: Pages
    cors: tuple[str, ...]

    @property
    def ruleset(self) -> Ruleset:
        return self.loaded.ruleset


def open_keyring(path: Path, algorithm: Any, now: float, entropy: SystemEntropy) -> tuple[Keyring, str]:
    """The key file, made on first start with mode 0600. Raises KeyFileFault."""
    text = read(path)
    if text is None:
        made = new_keyring(now=now, secret=entropy.bytes(32), private_pem=generate_private_pem(algorithm), algorithm=algorithm)
        text = write_new(path, made.to_text())
    return Keyring.from_text(text), text


class GatewayApp:
    """A running gateway: public listener, admin listener, stores. Made by `start`; end it by `close`."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.entropy = SystemEntropy()
        self.clock: Callable[[], float] = time.time
        self.live: Live
        self.state: StateBackend
        self.mailbox: MemoryMailbox | None = None
        self.public: RunningServer
        self.admin_port = 0
        self._admin: web.AppRunner
        self._tasks: list[asyncio.Task[None]] = []
        self.records: SqlRecords
        self.vault: KeyVault
        self.keyring: Keyring
        self._key_path: Path
        self._key_text = ""

    @classmethod
    async def start(
        cls,
        loaded: Loaded,
        *,
        demo: bool = False,
        listen: str | None = None,
        clock: Callable[[], float] | None = None,
        admin_listen: str | None = None,
    ) -> GatewayApp:
        """Wire and start everything. listen, admin_listen: in place of the settings' (port 0 takes a free one).

        Raises StartRefused, KeyFileFault, KeyMismatch, OSError (a port in use).
        """
        self = cls()
        if clock is not None:
            self.clock = clock
        spec = loaded.spec
        host, port = parse_address(listen or spec.listen)
        self._refuse_unsafe(spec, demo=demo, hosts=(host, parse_address(admin_listen or spec.admin.listen)[0]))
        self._key_path = loaded.base / spec.secrets.key_file
        self.keyring, self._key_text = open_keyring(self._key_path, spec.tokens.algorithm, self.clock(), self.entropy)
        self.vault = KeyVault(self.keyring, partial(self.entropy.bytes, 12))
        stores = spec.stores
        self.state = await open_state(
            resolve_url(stores.state, loaded.base), redis_deadline=stores.redis_deadline, sqlite_deadline=stores.sqlite_deadline
        )
        self.records = await open_records(resolve_url(stores.records, loaded.base), stores.sqlite_deadline)
        await self._check_store()
        self._wire(loaded)
        self.live = await self._make_live(loaded, {})
        self.public = await serve(
            self.lane.handle,
            host=host,
            port=port,
            ssl_context=_tls(spec, loaded.base),
            limits=spec.limits,
            on_bad_request=self._bad_request,
        )
        await self._start_admin(spec, admin_listen)
        self._tasks = [asyncio.create_task(self.feed.run()), asyncio.create_task(self._watch_keys())]
        return self

    async def close(self, drain: float = 0.0) -> None:
        """Stop accepting, let running requests end within `drain` seconds, close the stores."""
        await self.public.close(drain)
        await self.tickets.drain()
        await self._admin.cleanup()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for upstream in self.live.upstreams.values():
            await upstream.pool.aclose()
        await self.state.close()
        await self.records.close()

    async def reload(self, loaded: Loaded) -> list[str]:
        """Swap the new configuration in between two requests. Returns what takes effect at the next start only."""
        old = self.live
        fixed = [
            name
            for name in ("listen", "tls", "public_url", "admin", "trusted_proxies", "stores", "secrets", "prefix", "continue_path", "mail",
                         "transactions", "passes", "guessing", "tokens", "limits", "log")
            if getattr(old.loaded.spec, name) != getattr(loaded.spec, name)
        ]  # fmt: skip
        self.live = await self._make_live(loaded, old.upstreams)
        kept = {id(u.pool) for u in self.live.upstreams.values()}
        for upstream in old.upstreams.values():
            if id(upstream.pool) not in kept:
                await upstream.pool.aclose()
        self.metrics.reloads.labels("done").inc()
        return fixed

    # -- wiring -----------------------------------------------------------------------------------------------------

    def _refuse_unsafe(self, spec: GatewaySpec, *, demo: bool, hosts: Sequence[str]) -> None:
        if demo and any(h not in ("127.0.0.1", "::1", "localhost") for h in hosts):
            raise StartRefused(
                "demo mode listens on loopback only; its mailbox shows everybody's codes. Use `gateway run` with `mail.smtp`"
            )
        if spec.mail is not None and spec.mail.demo and not demo:
            raise StartRefused("mail.demo works in `gateway demo` only; set mail.smtp to a mail server")

    async def _check_store(self) -> None:
        """Another key's fingerprint stops the start; a store that is away does not: gated requests wait for it by 503."""
        try:
            await claim_key(self.state, self.keyring.fingerprints(), self.clock())
            for warning in await self.state.warnings():
                log.warning("state store", warning=warning)
        except StoreUnavailable as error:
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
            keyring=lambda: self.keyring, vault=self.vault, entropy=self.entropy, spec=spec.tokens, steps=lambda: self.live.ruleset.steps
        )
        self.passes = PassCookies(self.issuer, spec.passes)
        self.gate = Gate(
            ruleset=lambda: self.live.ruleset,
            identity=lambda: self.live.identity,
            vault=self.vault,
            revocations=self.feed,
            spec=spec.passes,
        )
        self.door = Door(self.transactions, self.guessing, self.gate)
        self.sessions = Sessions(
            identity=lambda: self.live.identity,
            issuer=self.issuer,
            passes=self.passes,
            revoker=self.feed,
            errand=self._errand,
            trail=self.trail,
            spec=spec.passes,
        )
        answers = WebAnswers(
            pages=lambda: self.live.pages,
            steps=lambda: self.live.ruleset.steps,
            entropy=self.entropy,
            prefix=spec.prefix,
            continue_path=spec.continue_path,
        )
        self._answers = answers
        reader = partial(_read_body, idle_timeout=spec.limits.body_idle_timeout)
        progress = Progress(self.transactions, self.guessing, lambda: self.live.steps)
        transaction_pages = TransactionPages(
            transactions=self.transactions, door=self.door, progress=progress, answers=answers, issuer=self.issuer, trail=self.trail, sessions=self.sessions,
            read_body=reader, answer_limit=spec.limits.answer_body,
        )  # fmt: skip
        resume = Resume(
            transactions=self.transactions, door=self.door, gate=self.gate, pages=transaction_pages, answers=answers, issuer=self.issuer,
            keyring=lambda: self.keyring, passes=self.passes, trail=self.trail, read_body=reader, answer_limit=spec.limits.answer_body,
            condition_limit=spec.limits.condition_body,
        )  # fmt: skip
        self.site = Site(
            prefix=spec.prefix, continue_path=spec.continue_path, transactions=transaction_pages, resume=resume, answers=answers, static=self.static,
            gate=self.gate, sessions=self.sessions, keyring=lambda: self.keyring, cors=lambda: self.live.cors,
            form_token=lambda sid: self.vault.mac("form", b"pass/" + sid.encode())[:16].hex(), read_body=reader, limit=spec.limits.answer_body,
        )  # fmt: skip
        paths = Paths(spec.prefix, spec.continue_path)
        suspender = Suspender(transactions=self.transactions, entropy=self.entropy, answers=answers, trail=self.trail, paths=paths)
        relay = Relay(
            upstreams=lambda: self.live.upstreams, sessions=self.sessions, issuer=self.issuer, transactions=self.transactions, answers=answers,
            limits=spec.limits, trusted=self._trusted,
        )  # fmt: skip
        self.tickets = Tickets(
            transactions=self.transactions, door=self.door, gate=self.gate, relay=relay, answers=answers, trail=self.trail, ended=transaction_pages.ended,
            closed=transaction_pages.closed, clock=self.clock, condition_limit=spec.limits.condition_body,
        )  # fmt: skip
        self.lane = SlowLane(
            entrance=Entrance("https" if spec.tls else "http", spec.public_url, self._trusted), paths=paths, gate=self.gate, door=self.door,
            transactions=self.transactions, suspender=suspender, tickets=self.tickets, relay=relay, answers=answers, own_pages=self.site.handle,
            trail=self.trail, entropy=self.entropy, clock=self.clock, limits=spec.limits, rules=lambda: self.live.rules,
        )  # fmt: skip

    async def _make_live(self, loaded: Loaded, before: dict[str, Upstream]) -> Live:
        spec = loaded.spec
        services = Services(state=self.state, records=self.records, vault=self.vault, entropy=self.entropy, mailer=self._mailer)
        kinds = {kind.kind: kind for kind in STEPS}
        steps: dict[str, Step] = {
            name: kinds[loaded.step_kinds[name]].build(name, config, services) for name, config in loaded.steps.items()
        }
        return Live(
            loaded=loaded,
            rules={rule.name: rule for rule in loaded.ruleset.rules},
            steps=steps,
            identity=self._identity(loaded),
            upstreams=self._upstreams(loaded, before),
            pages=Pages(spec.theme, self.static, STEP_FOLDERS, prefix=spec.prefix, mailbox_url=self._mailbox_url),
            cors=tuple(sorted({origin for route in spec.routes for origin in route.cors})),
        )

    def _identity(self, loaded: Loaded) -> Identity:
        sessions: dict[str, SessionSource] = {}
        requests: list[RequestSource] = []
        order: list[str] = []
        for index, (origin, config) in enumerate(loaded.identity):
            name = f"{origin}:{index}"
            match config:
                case LoginFormSpec():
                    whoami = WhoAmI(config.whoami.url, config.whoami.field, config.whoami.timeout) if config.whoami else None
                    sessions[config.upstream] = LoginForm(config, partial(session_digests, self.vault), whoami)
                    if "session" not in order:
                        order.append("session")
                case HeaderSpec():
                    requests.append(HeaderSource(config, self._trusted, name))
                    order.append(name)
                case JwtSpec():
                    requests.append(JwtSource(config, name))
                    order.append(name)
                case _:
                    raise AssertionError(f"identity source {origin} has no class")
        return Identity(sessions, tuple(requests), tuple(order))

    def _upstreams(self, loaded: Loaded, before: dict[str, Upstream]) -> dict[str, Upstream]:
        """Pools whose settings did not change are kept, connections and health included."""
        spec = loaded.spec
        headers = frozenset(
            header_key(h.encode())
            for _, config in loaded.identity
            if isinstance(config, HeaderSpec)
            for h in (config.name, *config.claims.values())
        )
        made: dict[str, Upstream] = {}
        for name, upstream in spec.upstreams.items():
            old = before.get(name)
            if old is not None and old.pool.spec == upstream:
                pool = old.pool
            else:
                pool = UpstreamPool(name, upstream)
                pool.start()
            rewrite = None
            if upstream.rewrite_location or upstream.cookie_domain is not None:
                origins = frozenset(parse_origin(url) for url in upstream.url) if upstream.rewrite_location else frozenset()
                rewrite = Rewrite(origins, spec.public_url[0], upstream.cookie_domain)
            made[name] = Upstream(pool, rewrite, headers)
        return made

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

    # -- admin, keys, odds --------------------------------------------------------------------------------------------

    async def _start_admin(self, spec: GatewaySpec, listen: str | None) -> None:
        host, port = parse_address(listen or spec.admin.listen)
        mailbox = self.mailbox
        admin = Admin(
            hosts=(*spec.admin.hosts, host), token=spec.admin.token, checks={"state": self._ping_state, "records": self.records.ping},
            metrics=self._metrics_text, pages=lambda: self.live.pages, shown=lambda: self._answers.shown(self.entropy.token()[:12]),
            mailbox=(lambda: mailbox.messages) if mailbox is not None else None,
        )  # fmt: skip
        self._admin = web.AppRunner(admin.application(), access_log=None)
        await self._admin.setup()
        site = web.TCPSite(self._admin, host, port)
        await site.start()
        server = site._server  # noqa: SLF001 - aiohttp tells a bound port 0 nowhere else
        self.admin_port = server.sockets[0].getsockname()[1] if isinstance(server, asyncio.Server) else port

    async def _ping_state(self) -> None:
        await self.state.get("probe", "ready", self.clock())

    def _metrics_text(self) -> bytes:
        self.metrics.connections.set(self.public.connections)
        return self.metrics.text()

    def _bad_request(self, status: int, reason: str) -> None:
        self.trail.event("refused", kind=f"malformed {status}", reason=reason[:200])

    async def _watch_keys(self) -> None:
        """Adopt a rotated key file within a second; one that cannot be read changes nothing."""
        while True:
            await asyncio.sleep(1.0)
            try:
                text = await asyncio.to_thread(read, self._key_path)
                if text is None or text == self._key_text:
                    continue
                ring = Keyring.from_text(text)
                await claim_key(self.state, ring.fingerprints(), self.clock())
            except (KeyFileFault, GatewayError) as error:
                log.warning("key file not adopted", reason=str(error))
                continue
            self.keyring, self._key_text = ring, text
            self.vault.adopt(ring)
            log.info("key file adopted", signing_kid=ring.signing[0].kid)


def _tls(spec: GatewaySpec, base: Path) -> ssl.SSLContext | None:
    if spec.tls is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(base / spec.tls.cert_file, base / spec.tls.key_file)
    return context


async def _read_body(request: web.BaseRequest, limit: int, *, idle_timeout: float) -> bytes:
    return await read_body(request, limit, idle_timeout=idle_timeout)
