"""What a gateway is made of: every object of the slow and the fast lane, wired from the settings. Nothing here starts or ends.

What a reload may change (rules, routes, steps, identity, upstreams, theme) is read through `Live`, which is replaced in one
assignment: a request that is under way keeps what it began with, the next one gets the new.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial

from gateway.app.live import Live, make_live
from gateway.app.part import WHOLE
from gateway.app.registry import STEP_FOLDERS
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
from gateway.lanes.fast.asking import AskingConnection, Mounted
from gateway.lanes.fast.known import Known
from gateway.lanes.forward_auth import ForwardAuth, integrations
from gateway.lanes.grants import Grants
from gateway.lanes.heads import Entrance
from gateway.lanes.intercept import Interceptor
from gateway.lanes.oauth import AnswerWatcher, OAuthRequests, Verdicts
from gateway.lanes.relay import Relay, Upstream
from gateway.lanes.slow import SlowLane
from gateway.lanes.suspend import Paths, Suspender
from gateway.lanes.ticket import Tickets
from gateway.lanes.tunnels import Tunnels
from gateway.settings.load import Loaded
from gateway.spec.base import parse_address
from gateway.spec.oauth import OAuthSpec
from gateway.stores import keyring
from gateway.stores.entropy import SystemEntropy
from gateway.stores.factory import StateBackend
from gateway.stores.mail import MemoryMailbox, SmtpMailer
from gateway.stores.records import SqliteRecords
from gateway.stores.revocations import RevocationFeed
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.trail import Telemetry
from gateway.tokens.keys import Keyring
from gateway.tokens.vault import KeyVault
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


class Wired:
    """The objects of one gateway. To be set before `_wire`: state, records, vault, keys. Afterwards `_go_live` makes it whole."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.entropy = SystemEntropy()
        self.clock: Callable[[], float] = time.time
        self.live: Live
        self.state: StateBackend
        self.records: SqliteRecords
        self.vault: KeyVault
        self.keys: keyring.KeyFile
        self.mailbox: MemoryMailbox | None = None
        self.fast: FastLane | None = None
        self._held = AsyncExitStack()
        self._part = WHOLE

    @property
    def keyring(self) -> Keyring:
        return self.keys.ring

    def _forget(self) -> None:
        if self.fast is not None:
            self.fast.known.forget()

    def _wire(self, loaded: Loaded) -> None:
        spec = loaded.spec
        self._trusted: Networks = parse_networks(spec.trusted_proxies)
        self.trail = Telemetry(self.metrics, self.records)
        self.feed = RevocationFeed(self.state, self.clock, self._forget)
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
        self.transactions = Transactions(self.state, self.vault, self.entropy, spec.transactions, lambda: self.live.patience)
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
            limit=spec.limits.answer_body, outside=outside, entropy=self.entropy, trail=self.trail,
        )  # fmt: skip
        paths = Paths(spec.prefix, spec.continue_path)
        anew = Anew(
            transactions=self.transactions, sessions=self.sessions, answers=answers, trail=self.trail, urls=lambda: self.live.begin_anew
        )
        suspender = Suspender(
            transactions=self.transactions, entropy=self.entropy, answers=answers, trail=self.trail, paths=paths,
        )  # fmt: skip
        intercepts = Interceptor(
            ruleset=lambda: self.live.ruleset, outsiders=self.outsiders, transactions=self.transactions, suspender=suspender,
            sessions=self.sessions, gate=self.gate, answers=answers, trail=self.trail, entropy=self.entropy, paths=paths,
        )  # fmt: skip
        self.issued = Issued(self.state, self.vault)
        memory = OAuthMemory(self.state, self.vault, spec.passes)
        verdicts = Verdicts(
            gate=self.gate, door=self.door, memory=memory, suspender=suspender, answers=answers,
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
            transactions=GrantTransactions(self.transactions, self.state, self.vault, self.entropy, lambda: self.keyring),
            rules=lambda: self.live.rules, limits=spec.limits,
        )  # fmt: skip
        entrance = Entrance("https" if spec.tls else "http", spec.public_url, self._trusted)
        self.lane = SlowLane(
            entrance=entrance, paths=paths, gate=self.gate,
            door=self.door, suspender=suspender, tickets=self.tickets, relay=relay, answers=answers,
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
            secret = self.forward_auth.with_secret
            asking = partial(AskingConnection, whose=Mounted(secret, premises, known).whose) if secret else None
            self.fast = FastLane(
                known=known, sessions=self.sessions, answers=answers, trail=self.trail, entropy=self.entropy, clock=self.clock,
                limits=spec.limits, make=asking or FastConnection, intercepts=intercepts,
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
