"""What a reload replaces, as one value: rules, routes, steps, identity, upstreams, pages. Made whole before anything changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from urllib.parse import urlsplit

from gateway.app.registry import STEP_FOLDERS, STEPS
from gateway.errors import StartRefused
from gateway.flow.identity import Identity, RequestSource, SessionSource
from gateway.flow.outside import Entry, Parties, Reader, Resumption, Writer
from gateway.flow.step import Services, Step
from gateway.flow.traffic import Traffic
from gateway.identity.header import HeaderSource, HeaderSpec
from gateway.identity.jwt import JwtSource, JwtSpec
from gateway.identity.login_form import LoginForm, LoginFormSpec
from gateway.identity.published import PublishedKeys
from gateway.identity.whoami import WhoAmI
from gateway.lanes.listening import reason
from gateway.lanes.pool import UpstreamPool
from gateway.lanes.relay import Upstream
from gateway.policy.model import Rule, Ruleset
from gateway.settings.load import Loaded
from gateway.spec.base import parse_origin
from gateway.spec.outside import BeginSpec, InterceptSpec, ResumeSpec
from gateway.spec.sections import GatewaySpec
from gateway.steps.redirect import RedirectConfig
from gateway.tokens.foreign import SharedSecret
from gateway.tokens.passes import session_digests
from gateway.web.pages import Pages
from gateway.web.static import Static
from gateway.wire.forwarding import Networks
from gateway.wire.head import header_key
from gateway.wire.headers import Rewrite


@dataclass(frozen=True, slots=True)
class Live:
    """Everything that a reload replaces, as one value.

    away: origins of pages of others that steps send browsers to. patience: how long such a step waits at least, seconds. begin_anew: the
    pages after which a user logs in anew, by step.
    """

    loaded: Loaded
    rules: Mapping[str, Rule]
    steps: Mapping[str, Step]
    identity: Identity
    upstreams: dict[str, Upstream]
    pages: Pages
    cors: tuple[str, ...]
    parties: Parties
    away: tuple[str, ...] = ()
    patience: Mapping[str, float] = field(default_factory=dict)
    begin_anew: Mapping[str, str] = field(default_factory=dict)

    @property
    def apart(self) -> tuple[bytes, ...]:
        """How a browser's `Referer` begins that comes from a page in `begin_anew`: with its origin; with its address where that is ours."""
        found = []
        for url in self.begin_anew.values():
            parts = urlsplit(url)
            origin = parse_origin(f"{parts.scheme}://{parts.netloc}")
            found.append(origin + (parts.path or "/") if origin in self.loaded.spec.public_url else origin)
        return tuple(start.encode("utf-8", "replace") for start in found)

    @property
    def ruleset(self) -> Ruleset:
        return self.loaded.ruleset


def source_names(loaded: Loaded) -> tuple[str, ...]:
    """What `subject.source` says of each identity source, in file order: its `from`; with a number from the second request source of one
    kind on, because the same id from two of them is two subjects."""
    seen: dict[str, int] = {}
    names = []
    for origin, config in loaded.identity:
        seen[origin] = seen.get(origin, 0) + 1
        names.append(origin if seen[origin] == 1 or isinstance(config, LoginFormSpec) else f"{origin}:{seen[origin]}")
    return tuple(names)


def make_live(
    loaded: Loaded, before: dict[str, Upstream], *, services: Services, static: Static, trusted: Networks, mailbox_url: str | None,
    traffic: Traffic,
) -> Live:  # fmt: skip
    """The settings as working objects. before: the upstreams that are in use, whose pools are kept where nothing about them changed.

    Raises StartRefused, OSError or ValueError where something cannot be put to use (a certificate, a logo).
    """
    spec = loaded.spec
    kinds = {kind.kind: kind for kind in STEPS}
    steps: dict[str, Step] = {name: kinds[loaded.step_kinds[name]].build(name, config, services) for name, config in loaded.steps.items()}
    pages = {name: config for name, config in loaded.steps.items() if isinstance(config, RedirectConfig)}
    return Live(
        loaded=loaded,
        rules={rule.name: rule for rule in loaded.ruleset.rules},
        steps=steps,
        identity=_identity(loaded, services, trusted),
        upstreams=_upstreams(loaded, before, traffic),
        pages=Pages(spec.theme, static, STEP_FOLDERS, prefix=spec.prefix, mailbox_url=mailbox_url),
        cors=tuple(sorted({origin for route in spec.routes for origin in route.cors})),
        parties=_parties(spec),
        away=tuple(sorted({origin for page in pages.values() for origin in page.origins})),
        patience={name: page.lifetime for name, page in pages.items()},
        begin_anew={name: page.url for name, page in pages.items() if page.then == "authorize_again"},
    )


def _parties(spec: GatewaySpec) -> Parties:
    """Whoever sends users here or has them intercepted. The keys that they publish are fetched when they are first needed."""
    taken = [(rule.name, rule.intercept, rule.resume) for rule in spec.rules]
    return Parties(
        entries={name: _entry(name, entry) for name, entry in spec.begin.items()},
        resumptions={name: _resumption(name, answers, resume, spec) for name, answers, resume in taken if answers and resume},
    )


def _entry(name: str, entry: BeginSpec) -> Entry:
    secret = _shared(entry.secret)
    keys = PublishedKeys(entry.jwks_url) if entry.jwks_url is not None else None
    return Entry(
        name=name,
        reader=Reader(entry.issuer, entry.audience, secret, keys, entry.subject),
        writer=Writer(entry.answer_issuer or entry.audience, entry.issuer, secret, entry.lifetime),
        continue_urls=entry.continue_url,
        steps=entry.steps,
        method=entry.method,
        state_parameter=entry.state_parameter,
        token_parameter=entry.token_parameter,
        answer_parameter=entry.answer_parameter,
        claims=entry.claims,
        next_origins=entry.next_origins,
    )


def _resumption(rule: str, answers: InterceptSpec, resume: ResumeSpec, spec: GatewaySpec) -> Resumption:
    token, incoming = answers.session_token, None
    if token is not None:
        keys = PublishedKeys(token.jwks_url) if token.jwks_url is not None else None
        incoming = token.parameter, Reader(token.issuer, token.audience, _shared(token.secret), keys, token.subject)
    return Resumption(
        rule=rule,
        url=resume.url,
        state_parameter=resume.state_parameter,
        token_parameter=resume.token_parameter,
        method="post" if resume.method == "post" else "query",
        writer=Writer(resume.issuer or "", resume.audience, _shared(resume.secret), resume.lifetime),
        incoming=incoming,
        next_origins=spec.upstreams[answers.upstream].next_origins,
    )


def _shared(secret: str | None) -> SharedSecret | None:
    return SharedSecret(secret.encode()) if secret is not None else None


def _identity(loaded: Loaded, services: Services, trusted: Networks) -> Identity:
    sessions: dict[str, SessionSource] = {}
    requests: list[RequestSource] = []
    order: list[str] = []
    for name, (origin, config) in zip(source_names(loaded), loaded.identity, strict=True):
        match config:
            case LoginFormSpec():
                whoami = WhoAmI(config.whoami.url, config.whoami.field, config.whoami.timeout) if config.whoami else None
                sessions[config.upstream] = LoginForm(config, partial(session_digests, services.vault), whoami)
                if "session" not in order:
                    order.append("session")
            case HeaderSpec():
                requests.append(HeaderSource(config, trusted, name))
                order.append(name)
            case JwtSpec():
                requests.append(JwtSource(config, name))
                order.append(name)
            case _:
                raise AssertionError(f"identity source {origin} has no class")
    return Identity(sessions, tuple(requests), tuple(order))


def _upstreams(loaded: Loaded, before: dict[str, Upstream], traffic: Traffic) -> dict[str, Upstream]:
    """Pools whose settings did not change are kept, connections and health included; not those with certificates, for what these
    files hold may have changed."""
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
        if old is not None and old.pool.spec == upstream and upstream.tls is None:
            pool = old.pool
        else:
            try:
                pool = UpstreamPool(name, upstream)
            except OSError as error:  # ssl.SSLError is one
                raise StartRefused(f"upstreams.{name}.tls: the certificates cannot be used: {reason(error)}") from error
        rewrite = None
        if upstream.rewrite_location or upstream.cookie_domain is not None:
            origins = frozenset(parse_origin(url) for url in upstream.url) if upstream.rewrite_location else frozenset()
            rewrite = Rewrite(origins, spec.public_url[0], upstream.cookie_domain)
        made[name] = Upstream(pool, rewrite, headers, traffic.upstream(name))
    return made
