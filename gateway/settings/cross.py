"""What no single section can tell: names that must exist, files that must be readable, sections that need or exclude one another.

Names are looked for in the values as written, so that a mistake elsewhere in an entry hides none of these.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gateway.settings.mistakes import Report, Source, nearest
from gateway.settings.places import Loc
from gateway.settings.registry import KeepsRecord, Registry
from gateway.spec.base import Spec, parse_address, parse_origin
from gateway.spec.oauth import OAuthSpec
from gateway.spec.rules import RuleSpec
from gateway.spec.sections import GatewaySpec
from gateway.wire.cookies import OWN_COOKIES

MAX_LOGO = 16_384
MAX_CLAIMED = 200

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,63}")
_COOKIE = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,128}")  # RFC 6265 §4.1.1, RFC 9110 §5.6.2
_ADDRESS = re.compile(r"[^\s@<>]+@[^\s@<>]+|[^<>\r\n]*<[^\s@<>]+@[^\s@<>]+>")


def check_names(report: Report, source: Source, raw: Mapping[str, Any]) -> None:
    """Names of upstreams and steps: they stand in tokens, URLs and logs."""
    for section, what in (("upstreams", "an upstream"), ("steps", "a step"), ("forward_auth", "a proxy"), ("begin", "an entry")):
        for name in _mapping(raw.get(section)):
            if not _NAME.fullmatch(name):
                message = f"the name of {what} is 1 to 64 letters, digits, `_`, `.` or `-`, and begins with a letter or digit"
                report.add(source, (section, name), message, key=True)


def check_references(report: Report, main: Source, raw: Mapping[str, Any], rules: Iterable[tuple[Source, int, Any]]) -> None:
    """Upstreams and steps that entries name, and names of rules that are taken. rules: of all files, in order."""
    upstreams, steps = list(_mapping(raw.get("upstreams"))), list(_mapping(raw.get("steps")))

    def refer(source: Source, loc: Loc, value: object, what: str, known: list[str]) -> None:
        for index, name in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if isinstance(name, str) and name not in known:
                report.add(source, loc if index is None else (*loc, index), f'no {what} named "{name}"{nearest(name, known)}')

    for section in ("routes", "identity"):
        for index, entry in enumerate(_list(raw.get(section))):
            refer(main, (section, index, "upstream"), _mapping(entry).get("upstream"), "upstream", upstreams)
    for key, party in _mapping(raw.get("begin")).items():
        refer(main, ("begin", key, "steps"), _mapping(party).get("steps"), "step", steps)
    taken: dict[str, tuple[Source, Loc]] = {}
    for source, index, rule in rules:
        entry = _mapping(rule)
        refer(source, ("rules", index, "require"), entry.get("require"), "step", steps)
        for key in ("match", "except"):
            refer(source, ("rules", index, key, "upstream"), _mapping(entry.get(key)).get("upstream"), "upstream", upstreams)
        if isinstance(name := entry.get("name"), str):
            loc: Loc = ("rules", index, "name")
            first, there = taken.setdefault(name, (source, loc))
            if (first, there) != (source, loc):
                report.add(source, loc, f'a rule named "{name}" stands at {first.name}:{first.document.mark(there).line} already')


def check_sections(report: Report, source: Source, spec: GatewaySpec, kinds: Registry) -> None:
    """What a typed section still can have wrong."""
    _upstreams(report, source, spec)
    if spec.continue_path == spec.prefix or spec.continue_path.startswith(spec.prefix + "/"):
        there = "continue_path" in spec.model_fields_set
        report.add(
            source, ("continue_path" if there else "prefix",), f"`continue_path` ({spec.continue_path}) lies under `prefix` ({spec.prefix})"
        )
    if not _loopback(spec.admin.listen) and spec.admin.token is None:
        report.add(source, ("admin", "listen"), "off loopback the admin listener needs `token`")
    if spec.admin.listen == spec.listen and parse_address(spec.listen)[1] != 0:
        at: Loc = ("admin", "listen") if "listen" in spec.admin.model_fields_set else ("listen",)
        report.add(source, at, "the public and the admin listener cannot have one address")
    _forward_auth(report, source, spec)
    for key, check in (("state", kinds.check_state), ("records", kinds.check_records)):
        if (wrong := check(getattr(spec.stores, key))) is not None:
            report.add(source, ("stores", key), wrong)
    if spec.mail is not None:
        if spec.mail.smtp is None and not spec.mail.demo:
            report.add(source, ("mail",), "needs `smtp`, the server that takes mail")
        if spec.mail.smtp is not None and not _smtp(spec.mail.smtp):
            report.add(
                source,
                ("mail", "smtp"),
                "is not the URL of a mail server; write smtp://[user:password@]host:port, smtps://… or smtp+starttls://…",
            )
        if not _ADDRESS.fullmatch(spec.mail.from_):
            report.add(source, ("mail", "from"), "is not a mail address")
    if spec.theme.support_url is not None and not spec.theme.support_url.startswith(("https://", "http://", "mailto:")):
        report.add(source, ("theme", "support_url"), "is not a link; write https://… or mailto:…")


def _forward_auth(report: Report, source: Source, spec: GatewaySpec) -> None:
    taken = {spec.listen: "the public listener", spec.admin.listen: "the admin listener"}
    secrets: set[str] = set()
    for name, proxy in spec.forward_auth.items():
        at: Loc = ("forward_auth", name)
        if (proxy.listen is None) == (proxy.secret is None):
            if not any(report.said_below(source, (*at, key)) for key in ("listen", "secret")):
                report.add(source, at, "needs exactly one of `listen` (an address of its own) and `secret`", key=True)
            continue
        if proxy.secret is not None:
            if proxy.secret.strip() != proxy.secret or not proxy.secret.isascii() or not proxy.secret.isprintable():
                report.add(source, (*at, "secret"), "is sent in a header: printable ASCII, without blanks around it")
            elif proxy.secret in secrets:
                report.add(source, (*at, "secret"), "is that of another proxy too; each has its own")
            secrets.add(proxy.secret)
        elif proxy.listen is not None:
            host, port = parse_address(proxy.listen)
            if not host:
                report.add(source, (*at, "listen"), f"names no host; write 127.0.0.1:{port}")
            elif port != 0 and (other := taken.setdefault(proxy.listen, f"forward_auth.{name}")) != f"forward_auth.{name}":
                report.add(source, (*at, "listen"), f"is the address of {other} already")
            elif not _loopback(proxy.listen):
                report.warn(source, (*at, "listen"), "is off loopback: whoever reaches it is believed to be the proxy")


def _upstreams(report: Report, source: Source, spec: GatewaySpec) -> None:
    written = _mapping(source.document.value)
    if len(_mapping(written.get("upstreams"))) > 1 and not written.get("routes"):
        report.add(source, ("upstreams",), "there are several, so `routes` must say which one serves a request", key=True)
    for name, upstream in spec.upstreams.items():
        for index, url in enumerate(upstream.url):
            parts = urlsplit(url)
            at: Loc = ("upstreams", name, "url", index)
            if parts.path not in ("", "/") or parts.query or parts.fragment:
                report.add(source, at, "an upstream's URL has no path; write http://host:port")
            if parts.username is not None:
                report.add(source, at, "an upstream's URL holds no user or password")
            try:
                _ = parts.port
            except ValueError:
                report.add(source, at, "the port is not a number from 0 to 65535")
        if upstream.oauth is not None:
            _oauth(report, source, spec, ("upstreams", name, "oauth"), upstream.oauth)
        tls = upstream.tls
        if tls is not None:
            if not any(url.lower().startswith("https:") for url in upstream.url):
                report.add(source, ("upstreams", name, "tls"), "is for https:// URLs, and there is none here")
            if (tls.cert_file is None) != (tls.key_file is None):
                report.add(source, ("upstreams", name, "tls"), "`cert_file` and `key_file` come together")


def _oauth(report: Report, source: Source, spec: GatewaySpec, at: Loc, oauth: OAuthSpec) -> None:
    paths = {key: path for key in ("authorize", "token", "resource_owner", "par") if (path := getattr(oauth, key)) is not None}
    if not paths:
        report.add(source, at, "names no endpoint; write `authorize`, `token`, `resource_owner` or `par`", key=True)
    taken = {spec.continue_path: "`continue_path`"}
    for key, path in paths.items():
        if path == spec.prefix or path.startswith(spec.prefix + "/"):
            report.add(source, (*at, key), f"lies under `prefix` ({spec.prefix})")
        elif (other := taken.setdefault(path, f"`{key}`")) != f"`{key}`":
            report.add(source, (*at, key), f"is the path of {other} already")
    if oauth.par is not None and oauth.authorize is None:
        report.add(source, (*at, "par"), "is of no use without `authorize`")
    for name in oauth.session_cookie:
        if not _COOKIE.fullmatch(name) or name in OWN_COOKIES:
            report.add(source, (*at, "session_cookie"), f'"{name}" is not the name of a cookie of the provider')
    if oauth.session_cookie and oauth.authorize is None:
        report.add(source, (*at, "session_cookie"), "is of no use without `authorize`")
    if oauth.authorize is not None and not oauth.session_cookie:
        report.warn(source, (*at, "authorize"), "without `session_cookie` a silent renewal in another site's frame is always refused")


def check_outside(
    report: Report, source: Source, spec: GatewaySpec, rules: Iterable[tuple[Source, int, RuleSpec]], steps: Mapping[str, Spec]
) -> None:
    """What ends at somebody else's continue URL. steps: those without mistakes."""

    def prove(file: Source, loc: Loc, names: Iterable[str]) -> None:
        for index, step in enumerate(names):
            if not getattr(steps.get(step), "counts", True):
                report.add(file, (*loc, index), f'"{step}" proves nothing (`answer: none`), and no rule runs again that could tell')

    for name, entry in spec.begin.items():
        if entry.issuer in spec.upstreams:
            report.add(source, ("begin", name, "issuer"), "is the name of an upstream, whose tokens would be taken for one another's")
        prove(source, ("begin", name, "steps"), entry.steps)
        for index, url in enumerate(entry.continue_url):
            parts = urlsplit(url)
            if parts.scheme == "http" and not _loopback(f"{parts.hostname}:80"):
                report.warn(source, ("begin", name, "continue_url", index), "is plain http: whoever is on the way can read our answer")
    ways: dict[tuple[str, str], tuple[str, str]] = {}
    for file, index, rule in rules:
        if rule.intercept is not None:
            prove(file, ("rules", index, "require"), rule.require or ())
        if rule.resume is None or rule.intercept is None:
            continue
        at: Loc = ("rules", index, "resume", "url")
        url = rule.resume.url
        if url == spec.prefix or url.startswith(spec.prefix + "/"):
            report.add(file, at, f"lies under `prefix` ({spec.prefix}), where no upstream is")
        if url == spec.continue_path and rule.enabled:
            # At our own path the name of the state must be known before the upstream is.
            first, name = ways.setdefault((rule.intercept.upstream, url), (rule.resume.state_parameter, rule.name))
            if first != rule.resume.state_parameter:
                report.add(file, (*at[:-1], "state_parameter"), f'"{name}" has another name for the state at the same address')


def check_steps(report: Report, source: Source, spec: GatewaySpec, steps: Mapping[str, Spec]) -> None:
    """What steps need of other sections."""
    for name, config in steps.items():
        if getattr(config, "needs_mail", False) and spec.mail is None:
            report.add(source, ("steps", name), "sends mail, so the section `mail` is needed")
        if (audience := getattr(config, "audience", None)) is not None and _same_issuer(audience, spec.public_url):
            # Else our own token could come back as its answer.
            report.add(source, ("steps", name, "audience"), "is a `public_url` of this gateway; the page needs a name of its own")


def check_claims(report: Report, source: Source, steps: Mapping[str, Spec], declared: frozenset[str]) -> None:
    """What users say of themselves changes nothing that an identity source says, and fits into a cookie together.

    declared: claims of sources.
    """
    room = MAX_CLAIMED
    for name, config in steps.items():
        room -= (length := getattr(config, "claimed", 0))
        if length and room < 0:
            message = f"with those of other steps, claims may hold more than {MAX_CLAIMED} characters, and a pass is a cookie"
            report.add(source, ("steps", name, "claims"), message, key=True)
        if isinstance(config, KeepsRecord):
            for claim in declared.intersection(getattr(config, "claims", ())):
                report.add(source, ("steps", name, "claims", claim), f'an identity source declares "{claim}"; take another name', key=True)


def check_identity(report: Report, source: Source, spec: GatewaySpec, sources: Iterable[tuple[int, str]]) -> None:
    """What identity sources need of other sections. sources: position and `from`."""
    for index, origin in sources:
        if origin == "login_form" and spec.forward_auth:
            report.warn(
                source,
                ("identity", index),
                "login_form learns from the application's answers, which a proxy of `forward_auth` never shows: let the proxy send the "
                "paths of login and logout to the gateway itself",
            )


def check_files(report: Report, source: Source, spec: GatewaySpec) -> list[Path]:
    """Files that must be readable. Returns those that a watcher should know."""
    found: list[Path] = []
    for loc, name in _named_files(spec):
        path = source.base / name
        found.append(path)
        if (wrong := unreadable(path)) is not None:
            report.add(source, loc, f"cannot read {name}: {wrong}")
        elif loc == ("theme", "logo"):
            if path.stat().st_size > MAX_LOGO:
                report.add(source, loc, f"is larger than {MAX_LOGO // 1024} KiB")
            if path.suffix.lower() not in (".svg", ".png"):
                report.add(source, loc, "is neither SVG nor PNG by its name")
    wrong = unreadable(source.base / spec.secrets.key_file, may_be_missing=True)
    if wrong is not None:
        report.add(source, ("secrets", "key_file"), f"cannot read {spec.secrets.key_file}: {wrong}")
    return found


def _named_files(spec: GatewaySpec) -> Iterator[tuple[Loc, str]]:
    if spec.tls is not None:
        yield ("tls", "cert_file"), spec.tls.cert_file
        yield ("tls", "key_file"), spec.tls.key_file
    for name, upstream in spec.upstreams.items():
        if upstream.tls is not None:
            for key in ("ca_file", "cert_file", "key_file"):
                if (file := getattr(upstream.tls, key)) is not None:
                    yield ("upstreams", name, "tls", key), file
    if spec.theme.logo is not None:
        yield ("theme", "logo"), spec.theme.logo


def unreadable(path: Path, *, may_be_missing: bool = False) -> str | None:
    """Why a file cannot be read, or None."""
    try:
        with path.open("rb") as file:
            file.read(1)
    except FileNotFoundError as error:
        return None if may_be_missing else error.strerror
    except OSError as error:
        return error.strerror or str(error)
    except ValueError:  # a NUL in the name
        return "no file has such a name"
    return None


def _same_issuer(audience: str, origins: Iterable[str]) -> bool:
    try:
        return parse_origin(audience.rstrip("/")) in {parse_origin(origin) for origin in origins}
    except ValueError:
        return audience in origins


def _loopback(address: str) -> bool:
    host, _ = parse_address(address)
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _smtp(url: str) -> bool:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return False
    return parts.scheme in ("smtp", "smtps", "smtp+starttls") and bool(parts.hostname) and parts.path in ("", "/")


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
