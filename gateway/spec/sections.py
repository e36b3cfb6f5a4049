"""The shapes of gateway.yaml's sections, and of the whole file.

What a kind of step or identity source needs is its own business: entries of `steps:` and `identity:` are checked against the shape that
the kind declares.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from gateway.spec.base import Address, Bool, Duration, HttpUrl, Int, Many, Network, Origin, PlainPath, Size, Spec
from gateway.spec.introspection import IntrospectionSpec
from gateway.spec.oauth import OAuthSpec
from gateway.spec.outside import BeginSpec
from gateway.spec.rules import RouteSpec, RuleSpec


class TlsSpec(Spec):
    """TLS on the public listener."""

    cert_file: str = Field(description="PEM file with the certificate chain.")
    key_file: str = Field(description="PEM file with the private key.")


class UpstreamTlsSpec(Spec):
    """How an https upstream is verified, and who we are to it."""

    ca_file: str | None = Field(None, description="PEM bundle that must have signed the upstream; the system's store unless set.")
    cert_file: str | None = Field(None, description="Client certificate chain (mTLS).")
    key_file: str | None = Field(None, description="Client private key (mTLS).")
    server_name: str | None = Field(None, description="Name to verify and to send as SNI; the URL's host unless set.")
    verify: Bool = Field(True, description="`false` accepts any certificate; for tests only.")


class HealthSpec(Spec):
    """Active and passive health of an upstream's urls."""

    path: str | None = Field(None, description="Asked every `interval`; 200–399 is healthy. No active checks unless set.")
    interval: Duration = Field(5.0, gt=0, description="Time between active checks.")
    timeout: Duration = Field(2.0, gt=0, description="How long an active check may take.")
    unhealthy_after: Int = Field(3, ge=1, description="Failures in a row that take a url out.")
    retry_after: Duration = Field(5.0, description="How long a url that failed passively is left alone.")


class UpstreamSpec(Spec):
    """An application behind the gateway."""

    url: Many[HttpUrl] = Field(min_length=1, description="Where it listens: scheme://host[:port], one or several used in turn.")
    host_header: str = Field(
        "keep", description="`keep` passes the client's Host on, `rewrite` sends the URL's, anything else is sent as it stands."
    )
    case_insensitive: Bool = Field(True, description="Paths are judged case-folded as well (IIS, Windows file systems).")
    rewrite_location: Bool = Field(
        False, description="`Location` answers that name the upstream's own URL are rewritten to the public origin."
    )
    cookie_domain: str | None = Field(None, description='`Domain` of the upstream\'s cookies is replaced by this; `""` removes it.')
    next_origins: Many[Origin] = Field(
        (),
        description="Other origins that its answers redirect to (an SSO). Browsers hold a form to the whole chain of redirects behind it, "
        "so they must be named.",
    )
    tls: UpstreamTlsSpec | None = Field(None, description="For https URLs.")
    oauth: OAuthSpec | None = Field(
        None, description="It is an OAuth or OpenID provider, with these endpoints. Served by the slow lane wholly."
    )
    health: HealthSpec = Field(default_factory=HealthSpec, description="Health checks.")
    connect_timeout: Duration = Field(5.0, gt=0, description="Time for making a connection; 502 above.")
    first_byte_timeout: Duration = Field(60.0, gt=0, description="Time from the end of the request to the head of the answer; 504 above.")
    idle_timeout: Duration = Field(
        300.0, gt=0, description="Silence within an answer, which then breaks off; or while the request is not taken: 504."
    )
    total_timeout: Duration | None = Field(
        None, gt=0, description="Time for a whole exchange; none unless set (SSE and downloads last). 504 above, or the answer breaks off."
    )
    max_connections: Int = Field(
        256, ge=1, description="Open connections to one url. A request waits `connect_timeout` for one; 503 with Retry-After above."
    )
    keepalive: Duration = Field(30.0, description="How long an unused connection is kept; then it is closed.")


class StoresSpec(Spec):
    """Where state (what expires) and records (what stays) live."""

    state: str = Field("sqlite:///var/state.db", description="sqlite:///path, redis://, rediss://, redis+sentinel://, redis+cluster://")
    records: str = Field("sqlite:///var/records.db", description="sqlite:///path or postgresql://")
    redis_deadline: Duration = Field(0.25, gt=0, description="A Redis call past this counts as failed.")
    sqlite_deadline: Duration = Field(2.0, gt=0, description="An SQLite call past this counts as failed.")


class SecretsSpec(Spec):
    """The gateway's keys."""

    key_file: str = Field("var/secret.key", description="Made on first start with mode 0600; encrypts what is stored and signs tokens.")


class AdminSpec(Spec):
    """Metrics, health and admin pages; never on the public listener."""

    listen: Address = Field(
        "127.0.0.1:8090", description="Address of the admin listener. Times and connections of `limits` bound its clients too."
    )
    token: str | None = Field(None, min_length=16, description="Bearer token; required when the listener is off loopback.")
    hosts: Many[str] = Field((), description="Further Host values that the admin listener answers to.")


class MailSpec(Spec):
    """How mail leaves. `demo: true` keeps it in memory and works in `gateway demo` only."""

    smtp: str | None = Field(None, description="smtp://[user:password@]host:port, smtps://…, or smtp+starttls://…")
    from_: str = Field("stepup@localhost", alias="from", description="Sender address.")
    timeout: Duration = Field(10.0, gt=0, description="Bound on one delivery to the mail server.")
    demo: Bool = Field(False, description="In-memory mailbox; refused by `gateway run`.")


class ThemeSpec(Spec):
    """How the interstitial pages look."""

    name: str = Field("Step-up Gateway", max_length=60, description="Shown in the header of every page.")
    logo: str | None = Field(None, description="SVG or PNG file, inlined as data; at most 16 KiB.")
    color: str = Field(
        "#1d4ed8", pattern=r"^#[0-9A-Fa-f]{6}$", description="Accent colour; text on it is black or white, whichever reads better."
    )
    support_url: str | None = Field(None, description="https:// or mailto: link for people who are stuck.")
    support_label: str = Field("Get help", description="Text of that link.")


class TransactionsSpec(Spec):
    """Suspended requests."""

    ttl: Duration = Field(600.0, gt=0, description="How long a suspended request waits.")
    tombstone: Duration = Field(3600.0, description="How long an ended one is remembered, so that its page can say what happened.")
    max_body: Size = Field(1 << 20, description="Largest body that is stored; 413 above.")
    max_per_browser: Int = Field(20, ge=1, description="Open transactions of one browser.")
    max_per_address: Int = Field(200, ge=1, description="Open transactions of one client address.")
    max_total: Int = Field(100_000, ge=1, description="Open transactions in all.")
    max_attempts: Int = Field(10, ge=1, description="Answers to one step; then the transaction has failed.")
    sending_timeout: Duration = Field(120.0, gt=0, description="A request being sent for longer than this is UNKNOWN.")
    loop_limit: Int = Field(
        3, ge=1, description="The same step for one target this often within `loop_window` without progress ends in an explanation."
    )
    loop_window: Duration = Field(60.0, gt=0, description="See `loop_limit`.")


class PassSpec(Spec):
    """What a browser has proved."""

    max_age: Duration = Field(28800.0, gt=0, description="Longest life of a pass.")
    idle: Duration = Field(3600.0, gt=0, description="A pass unused for this long is over.")


class GuessingSpec(Spec):
    """Bounds on guessing, counted in the state store."""

    per_subject: Int = Field(20, ge=1, description="Wrong answers to one step by one subject within `window`.")
    per_address: Int = Field(100, ge=1, description="Wrong answers by one address within `window`.")
    window: Duration = Field(900.0, gt=0, description="See above.")
    logins_per_proof: Int = Field(5, ge=1, description="Logins within `window` that what was proved before them (a captcha) counts for.")
    foreign_per_address: Int = Field(30, ge=1, description="Requests for other browsers' or unknown states by one address within `window`.")


class TokensSpec(Spec):
    """What we sign."""

    algorithm: Literal["ES256", "RS256"] = Field("ES256", description="Signature algorithm of new keys.")
    upstream_ttl: Duration = Field(60.0, gt=0, le=60.0, description="Life of an upstream token.")
    continue_ttl: Duration = Field(300.0, gt=0, le=300.0, description="Life of a continue token.")


class LimitsSpec(Spec):
    """What one client can hold."""

    max_connections: Int = Field(
        10_000,
        ge=1,
        description="Open client connections in all; further ones get 503 with Retry-After, over TLS they are closed. "
        "Each worker has its share.",
    )
    max_connections_per_address: Int = Field(
        1_000,
        ge=1,
        description="Open client connections of one address; the same above. Each worker has its share: where the kernel spreads them "
        "unevenly, an address meets it somewhat earlier.",
    )
    request_line: Size = Field(8190, ge=1, description="Longest request line; 414 above.")
    header_size: Size = Field(16_384, ge=1, description="Longest value of a single header field; 431 above.")
    header_count: Int = Field(128, ge=1, description="Header fields of a request; 431 above.")
    head_timeout: Duration = Field(
        15.0,
        gt=0,
        description="Time for a request head to arrive in full; 408 above. As long for a TLS handshake or a first byte; then it is closed.",
    )
    keepalive: Duration = Field(75.0, description="How long an unused client connection is kept; then it is closed.")
    body_idle_timeout: Duration = Field(60.0, gt=0, description="Silence within a request body; 408 above.")
    body_timeout: Duration = Field(
        120.0,
        gt=0,
        description="Time for a body that the gateway reads itself (an answer, a form to look into or to suspend) to arrive; 408 above.",
    )
    upload_timeout: Duration = Field(
        7200.0, gt=0, description="Time for a whole request body to arrive, however steadily it comes; 408 above, or the answer breaks off."
    )
    write_idle_timeout: Duration = Field(60.0, gt=0, description="A client that does not read for this long is closed.")
    max_upload: Size = Field(10 << 30, description="Largest request body that is forwarded; 413 above.")
    condition_body: Size = Field(
        65_536,
        description="Largest body that `request.form` and `request.json` look into; above, it counts as met for `require` and `deny`.",
    )
    answer_body: Size = Field(65_536, ge=1, description="Largest body of an answer to an interstitial; 413 above.")
    drain: Duration = Field(10.0, description="How long running requests may go on after SIGTERM; then they are closed.")
    tunnel_idle_timeout: Duration = Field(3600.0, gt=0, description="Silence within a WebSocket; then it is closed.")


class ForwardAuthSpec(Spec):
    """One proxy that asks the gateway for the decision and forwards by itself (`auth_request`, ForwardAuth, `forward_auth`, `ext_authz`).

    Exactly one of `listen` and `secret` says how the gateway knows that it is this proxy who asks.
    """

    dialect: Literal["nginx", "traefik", "caddy", "envoy"] = Field(
        description="How the proxy tells about the request, and what it makes of the answer."
    )
    listen: Address | None = Field(
        None,
        description="A listener of its own for this proxy, where every path is an auth request. Whoever reaches it is the proxy: keep it "
        "on loopback, or in a network of the two.",
    )
    secret: str | None = Field(
        None,
        min_length=16,
        description="Asks at `<prefix>/forward-auth` of the public listener, with this in the header `X-Stepup-Forward-Auth`. Without it "
        "the path does not exist.",
    )


class FunctionsSpec(Spec):
    """Rule functions (`python:` in rules)."""

    timeout: Duration = Field(20.0, gt=0, description="Time for all rule functions of one run; one that is not done by then has failed.")
    metadata_limit: Size = Field(16_384, description="Largest `app_metadata` and `user_metadata` of a user, together, as JSON.")
    threads: Int = Field(16, ge=1, description="Plain functions (`def`) that run at once, in each worker; further ones wait.")


class LogSpec(Spec):
    """What is logged, on standard error."""

    format: Literal["text", "json"] = Field("text", description="`text` for people, `json` for machines.")
    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged.")


def _string_keys(value: object) -> object:
    return {} if value is None else value


class GatewaySpec(Spec):
    """gateway.yaml as a whole."""

    listen: Address = Field("127.0.0.1:8080", description="Address of the public listener.")
    tls: TlsSpec | None = Field(None, description="TLS on the public listener; plain HTTP unless set.")
    lane: Literal["auto", "slow"] = Field(
        "auto",
        description="`auto`: what is allowed and plain takes the fast lane. `slow`: everything takes the slow lane, which decides and "
        "forwards alike; for comparison.",
    )
    public_url: Many[Origin] = Field(
        ("http://127.0.0.1:8080",),
        min_length=1,
        description="Exact origins that clients use; the only source of absolute URLs; another Host gets 421.",
    )
    admin: AdminSpec = Field(default_factory=AdminSpec, description="The admin listener.")
    trusted_proxies: tuple[Network, ...] = Field((), description="Who may set forwarding and identity headers; nobody by default.")
    stores: StoresSpec = Field(default_factory=StoresSpec, description="State store and records.")
    secrets: SecretsSpec = Field(default_factory=SecretsSpec, description="Keys.")
    prefix: PlainPath = Field("/.stepup", description="The gateway's own paths start here.")
    continue_path: PlainPath = Field("/continue", description="Where transactions are resumed.")
    upstreams: dict[str, UpstreamSpec] = Field(min_length=1, description="The applications behind the gateway, by name.")
    routes: tuple[RouteSpec, ...] = Field(
        (), description="Which upstream serves a request; the first match wins. May be left out with one upstream."
    )
    identity: tuple[dict[str, Any], ...] = Field((), description="Where subjects come from; the first source that answers wins.")
    mail: MailSpec | None = Field(None, description="How mail leaves; needed by steps that send mail.")
    theme: ThemeSpec = Field(default_factory=ThemeSpec, description="Looks of the pages.")
    transactions: TransactionsSpec = Field(default_factory=TransactionsSpec, description="Suspended requests.")
    passes: PassSpec = Field(default_factory=PassSpec, description="Passes.")
    guessing: GuessingSpec = Field(default_factory=GuessingSpec, description="Bounds on guessing.")
    tokens: TokensSpec = Field(default_factory=TokensSpec, description="Signed tokens.")
    introspection: IntrospectionSpec | None = Field(None, description="Who may ask what a token says (RFC 7662); nobody unless set.")
    limits: LimitsSpec = Field(default_factory=LimitsSpec, description="Bounds on clients.")
    functions: FunctionsSpec = Field(default_factory=FunctionsSpec, description="Rule functions.")
    log: LogSpec = Field(default_factory=LogSpec, description="Logging.")
    forward_auth: Annotated[dict[str, ForwardAuthSpec], BeforeValidator(_string_keys)] = Field(
        default_factory=dict, description="Proxies that ask for the decision and forward by themselves, by name."
    )
    begin: Annotated[dict[str, BeginSpec], BeforeValidator(_string_keys)] = Field(
        default_factory=dict, description="Others who send their users here for steps, by name: `<prefix>/begin/NAME`."
    )
    steps: Annotated[dict[str, dict[str, Any]], BeforeValidator(_string_keys)] = Field(
        default_factory=dict, description="Step name to settings; `kind` names the plugin."
    )
    rules: tuple[RuleSpec, ...] = Field((), description="All run, in order.")
    rules_dir: str | None = Field(None, description="A folder of further files with `rules:`, read in name order after this file's rules.")
