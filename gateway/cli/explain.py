"""`gateway explain`: which rule does what to a request, and why. The same `decide()` as the proxy's, fed as the proxy feeds it."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from gateway.app import source_names
from gateway.cli.common import MISTAKES, config_option, fail, loaded_or_exit
from gateway.errors import BadTarget
from gateway.flow.functions import Calling, Occasion
from gateway.flow.identity import Identified
from gateway.flow.protocol import protocol_of
from gateway.functions.house import House
from gateway.functions.metadata import NoMetadata
from gateway.functions.runner import Runner
from gateway.policy.body import parse_body
from gateway.policy.decide import route
from gateway.policy.decision import Allow, Asked, Decision, Deny, Need, StepUp
from gateway.policy.explain import Explanation
from gateway.policy.explain import explain as explain_request
from gateway.policy.facts import Body, BodyUnavailable, Facts, Functions
from gateway.settings.load import Loaded
from gateway.settings.mistakes import nearest
from gateway.settings.registry import IdentityConfig, KeepsRecord
from gateway.spec.base import RecordType, format_duration, parse_duration
from gateway.stores.entropy import SystemEntropy
from gateway.wire.forwarding import origin_of
from gateway.wire.head import RequestHead
from gateway.wire.headers import METHODS
from gateway.wire.subject import Proof, Scalar, Subject
from gateway.wire.target import parse_target

_URL = re.compile(r"(?P<origin>[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*)?(?P<target>.*)")
_BODILESS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "DELETE"})
_FORM = "application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True)
class Asking:
    """What stands on the command line, as text."""

    method: str
    url: str
    user: str
    claims: tuple[str, ...]
    ip: str
    headers: tuple[str, ...]
    data: str | None
    passed: tuple[str, ...]
    at: str | None
    records: tuple[str, ...]


@click.command()
@config_option
@click.option("--user", metavar="ID", default="", help="The subject's id; nobody unless given.")
@click.option("--claim", metavar="NAME=VALUE", multiple=True, help="A claim of the subject; true, false and numbers are read as such.")
@click.option("--ip", metavar="ADDRESS", default="127.0.0.1", show_default=True, help="The client's address.")
@click.option("--header", metavar="'NAME: VALUE'", multiple=True, help="A request header.")
@click.option("--data", metavar="BODY", help="The request's body; a form unless a Content-Type header says otherwise.")
@click.option("--passed", metavar="STEP=AGE", multiple=True, help="A step that was passed that long ago, for example code=2m.")
@click.option(
    "--record",
    metavar="STEP.NAME=VALUE",
    multiple=True,
    help="What a record of the user holds, for example terms.version=2026-11; STEP=none for no record.",
)
@click.option("--at", metavar="TIME", help="Judge at this time (ISO 8601; local time unless it names a zone); now unless given.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.argument("method")
@click.argument("url")
def explain(config: Path, *, as_json: bool, **given: Any) -> None:
    """Explain what the rules do with a request, and why.

    Prints what each rule says, and the decision that follows; nothing is sent anywhere. A rule is a hit, a miss, or unknown: where the
    body decides and --data does not give it. Rule functions that are hit do run, for a user without metadata, and nothing of what they
    change is kept; whatever else they do, they do. URL is a full one of `public_url`, or a path (of the first `public_url`).

    \b
    Examples:
      gateway explain --user alice --passed code=2m POST /transfer
      gateway explain --user bob --claim password_expired=true GET /account
      gateway explain --data 'to=carol&amount=500' POST /transfer
      gateway explain --ip 192.0.2.7 --json GET http://127.0.0.1:8080/admin

    \b
    Exit codes:
      0  explained, whatever the decision
      2  mistakes in the configuration or on the command line
    """
    loaded = loaded_or_exit(config)
    asking = Asking(
        given["method"],
        given["url"],
        given["user"],
        given["claim"],
        given["ip"],
        given["header"],
        given["data"],
        given["passed"],
        given["at"],
        given["record"],
    )
    try:
        now = _time(asking.at)
        head = _head(loaded, asking)
        facts = _facts(loaded, head, asking, now)
    except BadTarget as error:
        fail(f"{asking.url}: {error}; the gateway would answer 400", MISTAKES)
    except ValueError as error:
        fail(error, MISTAKES)
    found = explain_request(head, facts, loaded.ruleset, now)
    if isinstance(found.decision, Need) and found.decision.functions:
        facts = replace(facts, functions=asyncio.run(_run(loaded, head, facts, found, now)))
        found = explain_request(head, facts, loaded.ruleset, now)
    click.echo(_json(found, loaded) if as_json else _table(found, head, ran=facts.functions is not None))


async def _run(loaded: Loaded, head: RequestHead, facts: Facts, found: Explanation, now: float) -> Functions:
    """As the gateway runs them, for somebody of whom nothing is kept."""
    assert isinstance(found.decision, Need)  # noqa: S101 - tells mypy what the caller has asked
    hit = [rule for rule in loaded.ruleset.rules if rule.name in found.decision.functions]
    spec = loaded.spec.functions
    house = House(spec.threads)
    try:
        runner = Runner(house, NoMetadata(), SystemEntropy(), spec)
        calling = Calling(head, facts.body, found.upstream or "", Identified(facts.subject), facts.proofs, Occasion(), now)
        return await runner.run(hit, loaded.ruleset, calling)
    finally:
        house.close()


# -- what was asked ------------------------------------------------------------------------------------------------------


def _time(text: str | None, option: str = "--at") -> float:
    if text is None:
        return time.time()
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        raise ValueError(f"{option} {text!r}: write a time as 2026-11-23T08:30 or 2026-11-23T08:30:00+01:00") from None


def _head(loaded: Loaded, asking: Asking) -> RequestHead:
    """Every message of a ValueError is for the person who typed it."""
    method = asking.method.upper()
    if method not in METHODS:
        status = 405 if method == "CONNECT" else 400
        raise ValueError(f"{asking.method}: no HTTP method that the gateway serves; it would answer {status}")
    headers = [_header(line) for line in asking.headers]
    found = _URL.fullmatch(asking.url)
    if found is None:
        raise ValueError(f"{asking.url!r}: no URL")
    public = loaded.spec.public_url
    parts = urlsplit(found["origin"] or public[0])
    hosts = [value for name, value in headers if name.lower() == b"host"]
    if len(hosts) > 1:
        raise ValueError("--header: Host stands there twice; the gateway would answer 400")
    if not hosts:
        headers.insert(0, (b"Host", parts.netloc.encode("idna" if not parts.netloc.isascii() else "ascii")))
    authority = headers[0][1] if not hosts else hosts[0]
    origin = origin_of(authority.decode("latin-1"), parts.scheme, public)
    if origin is None:
        raise ValueError(
            f"{parts.scheme}://{authority.decode('latin-1')} is not in public_url ({', '.join(public)}): the gateway would answer 421"
        )
    target = found["target"] if found["target"].startswith("/") else "/" + found["target"]
    if not target.isascii():
        raise ValueError(f"{target}: write what is not ASCII as browsers send it, percent-encoded")
    _not_ours(loaded, target)
    if asking.data is not None:
        names = {name.lower() for name, _ in headers}
        headers += [] if b"content-type" in names else [(b"Content-Type", _FORM.encode())]
        headers += [] if b"content-length" in names else [(b"Content-Length", str(len(asking.data.encode())).encode())]
    address = _address(asking.ip)
    host = urlsplit(origin).hostname or ""
    return RequestHead(method, parse_target(target.encode()), tuple(headers), parts.scheme, host, origin, address, address)


def _header(line: str) -> tuple[bytes, bytes]:
    name, colon, value = line.partition(":")
    if not colon or not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name) or not re.fullmatch(r"[\t\x20-\x7e\x80-\xff]*", value):
        raise ValueError(f"--header {line!r}: write 'Name: value'")
    return name.encode("ascii"), value.strip().encode("latin-1")


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise ValueError(f"--ip {text!r}: no IP address") from None


def _not_ours(loaded: Loaded, target: str) -> None:
    path = target.partition("?")[0]
    own = loaded.spec.prefix, loaded.spec.continue_path
    if path in own or path.startswith(own[0] + "/"):
        raise ValueError(f"{path} is one of the gateway's own paths: no rule is asked")


# -- what is known -------------------------------------------------------------------------------------------------------


def _facts(loaded: Loaded, head: RequestHead, asking: Asking, now: float) -> Facts:
    proofs = {}
    for name, age in (_pair(p, "--passed", "STEP=AGE") for p in asking.passed):
        if name not in loaded.steps:
            raise ValueError(f'--passed {name}={age}: no step named "{name}"{nearest(name, list(loaded.steps))}')
        proofs[name] = Proof(name, now - _age(loaded, name, age), edition=loaded.ruleset.steps[name].edition)
    body = None
    if asking.data is not None:
        body = parse_body(head.get("content-type"), asking.data.encode(), loaded.spec.limits.condition_body)
    elif head.method in _BODILESS:
        body = Body()
    subject, held = _subject(loaded, head, asking)
    issued = min((proof.at for proof in proofs.values()), default=now) if proofs or held else None
    call = _call(loaded, head, body)
    records = _records(loaded, asking, subject)
    return Facts(subject=subject, proofs=proofs, body=body, records=records, pass_issued=issued, protocol=call, call=call)


def _records(loaded: Loaded, asking: Asking, subject: Subject) -> dict[str, Any]:
    """By step. Nobody has records, as in the gateway; a field that is not given is null."""
    kept = {name: config.record_fields for name, config in loaded.steps.items() if isinstance(config, KeepsRecord)}
    found: dict[str, Any] = {} if subject.known else dict.fromkeys(kept)
    for text in asking.records:
        named, value = _pair(text, "--record", "STEP.NAME=VALUE, or STEP=none")
        # A name of a step may hold dots, that of an entry may not.
        step, dot, entry = (named, "", "") if named in kept else named.rpartition(".")
        if step not in kept:
            raise ValueError(f'--record {text}: no step that keeps a record is named "{step}"{nearest(step, list(kept))}')
        if not subject.known:
            raise ValueError("--record: nobody has no records; say whose by --user")
        if not dot:
            if value != "none":
                raise ValueError(f"--record {text}: write {step}.NAME=VALUE, or {step}=none")
            found[step] = None
            continue
        if entry not in kept[step]:
            raise ValueError(f'--record {text}: record.{step} has no "{entry}"{nearest(entry, list(kept[step]))}')
        held = found.get(step) or dict.fromkeys(kept[step])
        found[step] = {**held, entry: _recorded(kept[step][entry], text, value)}
    return found


def _recorded(kind: RecordType, given: str, value: str) -> Any:
    """What stands behind `=`, as the gateway would have it."""
    match kind:
        case "text":
            return value
        case "time":
            return datetime.fromtimestamp(_time(value, f"--record {given}"), UTC)
        case "number" | "boolean":
            found = _scalar(value)
            if isinstance(found, str) or isinstance(found, bool) is not (kind == "boolean"):
                raise ValueError(f"--record {given}: write {'a number' if kind == 'number' else 'true or false'}")
            return found


def _call(loaded: Loaded, head: RequestHead, body: Body | BodyUnavailable | None) -> str:
    """What kind of request it is (flow.protocol)."""
    chosen = route(head, loaded.ruleset)
    form = (body.form or body.json) if isinstance(body, Body) else None
    oauth = loaded.spec.upstreams[chosen.upstream].oauth if chosen is not None else None
    return protocol_of(head, oauth, form if isinstance(form, Mapping) else None)


def _age(loaded: Loaded, name: str, text: str) -> float:
    try:
        age = parse_duration(text)
    except ValueError as error:
        raise ValueError(f"--passed {name}={text}: {error}") from None
    if age >= loaded.spec.passes.max_age:
        lasts = format_duration(loaded.spec.passes.max_age)
        raise ValueError(f"--passed {name}={text}: a pass lasts {lasts} (passes.max_age), so nothing would be left of it")
    return age


def _subject(loaded: Loaded, head: RequestHead, asking: Asking) -> tuple[Subject, bool]:
    """As the first identity source of the request's upstream would name it, and whether it would be known by a pass."""
    claims = {name: _scalar(value) for name, value in (_pair(c, "--claim", "NAME=VALUE") for c in asking.claims)}
    declared = _declared(loaded)
    for name in claims:
        if name not in declared:
            raise ValueError(f"--claim {name}: no identity source or step declares a claim of that name{nearest(name, declared)}")
    if not asking.user:
        if claims:
            raise ValueError("--claim: nobody has no claims; say whose by --user")
        return Subject(), False
    chosen = route(head, loaded.ruleset)
    for source, (_, config) in zip(source_names(loaded), loaded.identity, strict=True):
        if isinstance(config, IdentityConfig) and chosen is not None and config.upstream in (None, chosen.upstream):
            return Subject(asking.user, claims, source), bool(config.login_paths())
    return Subject(asking.user, claims), False


def _declared(loaded: Loaded) -> list[str]:
    found = {name for _, config in loaded.identity if isinstance(config, IdentityConfig) for name in config.claim_names()}
    return sorted(found.union(*(getattr(config, "claims", None) or () for config in loaded.steps.values())))


def _pair(text: str, option: str, form: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ValueError(f"{option} {text!r}: write {form}")
    return name, value


def _scalar(text: str) -> Scalar:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


# -- what is said --------------------------------------------------------------------------------------------------------


def _words(decision: Decision) -> str:
    match decision:
        case Allow():
            return "allow" + (f", satisfied by {', '.join(decision.steps)}" if decision.steps else "")
        case StepUp():
            steps = ", ".join(f"{_step(asked)} ({_how_old(asked.max_age)})" for asked in decision.asked)
            return f"step-up: {steps}; replay {decision.replay}" + ("; somebody must log in first" if decision.login else "")
        case Deny():
            return f"deny {decision.status} by {decision.rule or 'the gateway'}: {decision.public}"
        case Need():
            lacks = ["the request's body decides; give it with --data"] if decision.body else []
            lacks += [f"the record {name} decides; give it with --record" for name in sorted(decision.records)]
            return "unknown: " + "; ".join(lacks)


def _step(asked: Asked) -> str:
    """A step by its name; a page of others by its URL, without the query, which may hold a token."""
    return asked.url.partition("?")[0] if asked.url else asked.step


def _how_old(max_age: float | str) -> str:
    match max_age:
        case "once":
            return "for this very request"
        case "session":
            return "as long as the pass lasts"
        case _:
            return f"not older than {format_duration(float(max_age))}"


def _table(found: Explanation, head: RequestHead, *, ran: bool) -> str:
    rows = [("rule", "verdict", "why"), *((rule.name, rule.verdict, rule.why) for rule in found.rules)]
    widths = [max(len(row[i]) for row in rows) for i in (0, 1)]
    lines = [f"{head.method} {head.origin}{head.target.raw.decode('ascii')}", f"upstream  {found.upstream or 'none'}", ""]
    lines += [f"{name:<{widths[0]}}  {verdict:<{widths[1]}}  {why}" for name, verdict, why in rows]
    note = ["", "Rule functions ran for a user without metadata; what they changed was not kept."] if ran else []
    return "\n".join([*lines, "", f"decision  {_words(found.decision)}", *note])


def _json(found: Explanation, loaded: Loaded) -> str:
    name = {Allow: "allow", StepUp: "step-up", Deny: "deny", Need: "need"}[type(found.decision)]
    decision = {"decision": name, **{k: sorted(v) if isinstance(v, frozenset) else v for k, v in asdict(found.decision).items()}}
    rules = [{"rule": r.name, "verdict": r.verdict, "why": r.why, "reached": r.reached} for r in found.rules]
    return json.dumps({"upstream": found.upstream, "rules": rules, "decision": decision, "ruleset": loaded.version}, indent=2)
