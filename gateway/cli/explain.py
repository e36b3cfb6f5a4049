"""`gateway explain`: which rule does what to a request, and why. The same `decide()` as the proxy's."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

import click

from gateway.cli.common import MISTAKES, config_option, loaded_or_exit
from gateway.errors import BadTarget
from gateway.policy.body import parse_body
from gateway.policy.decision import Allow, Decision, Deny, Need, StepUp
from gateway.policy.explain import Explanation
from gateway.policy.explain import explain as explain_request
from gateway.policy.facts import Facts
from gateway.settings.load import Loaded
from gateway.spec.base import format_duration, parse_duration
from gateway.wire.head import RequestHead
from gateway.wire.headers import METHODS
from gateway.wire.subject import Proof, Scalar, Subject
from gateway.wire.target import parse_target


@click.command()
@config_option
@click.option("--user", metavar="ID", default="", help="The subject's id; nobody unless given.")
@click.option("--claim", metavar="NAME=VALUE", multiple=True, help="A claim of the subject; true, false and numbers are read as such.")
@click.option("--ip", metavar="ADDRESS", default="127.0.0.1", show_default=True, help="The client's address.")
@click.option("--header", metavar="'NAME: VALUE'", multiple=True, help="A request header.")
@click.option("--data", metavar="BODY", help="The request body; a form unless a Content-Type header says otherwise.")
@click.option("--passed", metavar="STEP=AGE", multiple=True, help="A step that was passed that long ago, for example code=2m.")
@click.option("--at", metavar="TIME", help="Judge at this time (ISO 8601); now unless given.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.argument("method")
@click.argument("url")
def explain(
    config: Path, user: str, claim: tuple[str, ...], ip: str, header: tuple[str, ...], data: str | None, passed: tuple[str, ...], at: str | None,
    as_json: bool, method: str, url: str,
) -> None:  # fmt: skip
    """Explain what the rules do with a request, rule by rule, and the decision.

    URL is a full one of `public_url`, or a path (then the first `public_url` is taken). Nothing is sent anywhere.

    \b
    Example:
      gateway explain --user alice --passed code=2m POST /transfer

    \b
    Exit codes: 0 explained, whatever the decision; 2 mistakes in the configuration or on the command line.
    """
    loaded = loaded_or_exit(config)
    try:
        now = datetime.fromisoformat(at).timestamp() if at else time.time()
        head = _head(loaded, method, url, ip, header)
        facts = _facts(loaded, head, user, claim, passed, data, now)
    except (ValueError, BadTarget) as error:
        click.echo(f"gateway: {error}", err=True)
        sys.exit(MISTAKES)
    found = explain_request(head, facts, loaded.ruleset, now)
    click.echo(_json(found, loaded) if as_json else _table(found, head))


def _head(loaded: Loaded, method: str, url: str, ip: str, headers: tuple[str, ...]) -> RequestHead:
    origins = loaded.spec.public_url
    parts = urlsplit(url if "://" in url else origins[0] + (url if url.startswith("/") else "/" + url))
    origin = f"{parts.scheme}://{parts.netloc}".lower()
    if origin not in origins:
        raise ValueError(f"{origin} is not in public_url ({', '.join(origins)}): the gateway would answer 421")
    if method.upper() not in METHODS:
        raise ValueError(f"{method} is no HTTP method that the gateway knows")
    raw = url.partition("://")[2].partition("/")[2] if "://" in url else url.removeprefix("/")
    given = []
    for line in headers:
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            raise ValueError(f"--header {line!r}: write 'Name: value'")
        given.append((name.strip().encode("latin-1"), value.strip().encode("latin-1")))
    if not any(n.lower() == b"host" for n, _ in given):
        given.insert(0, (b"Host", parts.netloc.encode("ascii")))
    target = parse_target(b"/" + raw.encode("ascii"))
    return RequestHead(method.upper(), target, tuple(given), parts.scheme, (parts.hostname or "").lower(), origin, ip, ip)


def _facts(
    loaded: Loaded, head: RequestHead, user: str, claims: tuple[str, ...], passed: tuple[str, ...], data: str | None, now: float
) -> Facts:
    declared: dict[str, Scalar] = {name: None for _, config in loaded.identity for name in getattr(config, "claim_names", frozenset)()}
    given = {name: _scalar(value) for name, value in (_pair(c, "--claim", "NAME=VALUE") for c in claims)}
    proofs = {}
    for name, age in (_pair(p, "--passed", "STEP=AGE") for p in passed):
        if name not in loaded.steps:
            raise ValueError(f"--passed {name}: no step of that name; there are {', '.join(loaded.steps) or 'none'}")
        proofs[name] = Proof(name, now - parse_duration(age))
    body = None
    if data is not None:
        body = parse_body(head.get("content-type") or "application/x-www-form-urlencoded", data.encode(), loaded.spec.limits.condition_body)
    subject = Subject(user, {**declared, **given}, loaded.identity[0][0] if loaded.identity else "") if user else Subject("", declared)
    return Facts(subject=subject, proofs=proofs, body=body, pass_issued=now if proofs or user else None)


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


def _words(decision: Decision) -> str:
    match decision:
        case Allow():
            by = f", satisfied by {', '.join(decision.steps)}" if decision.steps else ""
            return f"allow{by}"
        case StepUp():
            steps = ", ".join(
                f"{a.step} (not older than {a.max_age if isinstance(a.max_age, str) else format_duration(a.max_age)})"
                for a in decision.asked
            )
            return f"step-up: {steps}; replay {decision.replay}" + ("; somebody must log in first" if decision.login else "")
        case Deny():
            return f"deny {decision.status} by {decision.rule or 'the gateway'}: {decision.public}"
        case Need():
            return "not yet: the request's body decides; give it with --data"


def _table(found: Explanation, head: RequestHead) -> str:
    rows = [("rule", "verdict", "why"), *((r.name, r.verdict, r.why) for r in found.rules)]
    widths = [max(len(row[i]) for row in rows) for i in (0, 1)]
    lines = [f"{head.method} {head.origin}{head.target.raw.decode('ascii')}", f"upstream  {found.upstream or 'none'}", ""]
    lines += [f"{name:<{widths[0]}}  {verdict:<{widths[1]}}  {why}" for name, verdict, why in rows]
    return "\n".join([*lines, "", f"decision  {_words(found.decision)}"])


def _json(found: Explanation, loaded: Loaded) -> str:
    name = {Allow: "allow", StepUp: "step-up", Deny: "deny", Need: "need"}[type(found.decision)]
    decision = {"decision": name, **{k: sorted(v) if isinstance(v, frozenset) else v for k, v in asdict(found.decision).items()}}
    rules = [{"rule": r.name, "verdict": r.verdict, "why": r.why, "reached": r.reached} for r in found.rules]
    return json.dumps({"upstream": found.upstream, "rules": rules, "decision": decision, "ruleset": loaded.version}, indent=2)
