from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from gateway.policy.decision import Need
from gateway.policy.expression import Broken, Lacks, Met, Outcome, compile_expression
from gateway.policy.facts import Body, BodyUnavailable, Facts, RecordUnavailable
from gateway.policy.references import ExpressionError
from gateway.policy.view import View
from gateway.wire.head import RequestHead
from gateway.wire.subject import Proof, Subject
from tests.support.policy import CLAIMS, NOTHING_KNOWN, NOW, form_post, request

RECORDS = {"consent": None, "terms": frozenset({"version", "at"})}
STEPS = frozenset({"code", "new-password"})
PAST_LIMIT = "request.form.amount == null || double(request.form.amount) > 100.0"


def outcome(
    source: str, head: RequestHead | None = None, facts: Facts = NOTHING_KNOWN, *, every: bool = False, folds: bool = False
) -> Outcome:
    expression = compile_expression(source, claims=CLAIMS, records=RECORDS, steps=STEPS)
    return expression.evaluate(View(head or request("/x"), facts.body, "bank", folds=folds), facts, NOW, every=every)


def form(**fields: Any) -> Facts:
    return Facts(body=Body(form=fields))


@pytest.mark.parametrize(
    ("amount", "met"), [("100.00", False), ("100.01", True), ("5", False), ("1e9", True), ("-5", False), ("inf", True), ("0100.5", True)]
)
def test_the_example_of_the_contract(amount: str, met: bool) -> None:
    assert outcome(PAST_LIMIT, form_post("/transfer"), form(amount=amount)) == Met(met)


def test_the_example_is_met_where_the_field_or_the_form_is_missing() -> None:
    assert outcome(PAST_LIMIT, form_post("/transfer"), form()) == Met(True)
    assert outcome(PAST_LIMIT, request("/transfer", "POST"), Facts(body=Body(json={"amount": 5}))) == Met(True)


@pytest.mark.parametrize("amount", ["abc", "", " 5", "5,00", "0x10", ["5", "500"], "NaN", "nan", "-nan"])
def test_what_is_no_single_number_breaks_the_condition_and_never_passes_a_limit(amount: object) -> None:
    """NaN too: by IEEE 754 it would compare as false with every limit; the library refuses to order it."""
    assert isinstance(outcome(PAST_LIMIT, form_post("/transfer"), form(amount=amount)), Broken)


def test_a_reason_never_repeats_what_the_client_sent() -> None:
    broken = outcome(PAST_LIMIT, form_post("/transfer"), form(amount="hunter2"))
    assert isinstance(broken, Broken)
    assert "hunter2" not in broken.reason


@pytest.mark.parametrize(
    "source",
    [
        'request.method == "POST"',
        'request.host == "bank.example.com"',
        'request.path == "/transfer"',
        'request.path.startsWith("/tra")',
        'request.query.a == "1"',
        'request.query["b"] == ["2", "3"]',
        "request.query.c == null",
        '"a" in request.query',
        '!("c" in request.query)',
        'request.headers["X-App"] == "one, two"',
        'request.headers.host == "bank.example.com"',
        "request.headers.missing == null",
        'request.headers.exists(name, name == "x-app")',
        'request.ip == "192.0.2.7"',
        'request.ip.in_network("192.0.2.0/24")',
        '!request.ip.in_network("10.0.0.0/8")',
        'subject.id == "alice" && subject.source == "login"',
        "subject.claims.password_expired == true",
        "subject.claims.department == null",
        "!has(subject.claims.department) && has(subject.claims.password_expired)",
        "pass.steps.code == 60.0 && pass.steps.code < 300",
        'pass.steps["new-password"] == null',
        "pass.age == 600.0",
        'record.consent == "2026-11"',
        'now > timestamp("2026-01-01T00:00:00Z")',
        'now - duration("5m") < now',
        "now.getHours() == 8",
        'request.json.user.name == "bob"',
        "request.json.items.exists(item, item > 2 && item < 4)",
        "has(request.json.user.name) && !has(request.json.user.age)",
        "request.json.absent == null",
        "size(request.form) == 0",
        "!has(request.form.amount)",
        '"request.nonsense" != r"\\" // request.nonsense',
    ],
)
def test_every_field_says_what_the_reference_promises(source: str) -> None:
    head = request("/transfer?a=1&b=2&b=3", "POST", [("X-App", "one"), ("x-app", "two"), ("Content-Type", "application/json")])
    facts = Facts(
        subject=Subject("alice", {"password_expired": True}, "login"),
        proofs={"code": Proof("code", NOW - 60)},
        pass_issued=NOW - 600,
        records={"consent": "2026-11"},
        body=Body(json={"user": {"name": "bob"}, "items": [1, 2, 3]}),
    )
    assert outcome(source, head, facts) == Met(True)


def test_the_path_has_readings_like_a_match() -> None:
    head = request("/public/..%2fadmin")
    assert outcome('request.path.startsWith("/admin")', head) == Met(True)
    assert outcome('request.path.startsWith("/admin")', head, every=True) == Met(False)
    assert outcome('request.path.startsWith("/public")', head, every=True) == Met(False)
    assert outcome('request.path.startsWith("/public")', request("/public/x"), every=True) == Met(True)


def test_the_path_is_folded_to_protect_where_the_upstream_ignores_case() -> None:
    source = 'request.path.startsWith("/admin")'
    assert outcome(source, request("/ADMIN"), folds=True) == Met(True)
    assert outcome(source, request("/ADMIN")) == Met(False)
    assert outcome(source, request("/ADMIN"), folds=True, every=True) == Met(False)


def test_bytes_that_are_no_utf8_do_not_break_a_condition() -> None:
    assert outcome('request.path.startsWith("/a")', request("/a%ff")) == Met(True)


def test_the_method_counts_overrides() -> None:
    head = request("/x", "POST", [("X-HTTP-Method-Override", "DELETE")])
    assert outcome('request.method == "DELETE"', head) == Met(True)
    assert outcome('request.method == "POST"', head, every=True) == Met(False)
    assert outcome('request.method == "GET"', request("/x", "HEAD")) == Met(True)


def test_a_form_may_override_the_method() -> None:
    source = 'request.method == "DELETE"'
    assert outcome(source, form_post("/x")) == Lacks(Need(body=True))
    assert outcome(source, form_post("/x"), Facts(body=Body(form={}, override="DELETE"))) == Met(True)
    assert outcome(source, form_post("/x"), Facts(body=Body(form={}))) == Met(False)
    assert outcome('request.method == "POST"', form_post("/x")) == Met(True)


class TestWhatIsMissing:
    def test_the_body_is_asked_for_only_where_the_outcome_hangs_on_it(self) -> None:
        source = 'request.path == "/transfer" && double(request.form.amount) > 100.0'
        assert outcome(source, request("/transfer", "PUT")) == Lacks(Need(body=True))
        assert outcome(source, request("/other", "PUT")) == Met(False)
        assert outcome('double(request.form.amount) > 100.0 || request.path == "/other"', request("/other", "PUT")) == Met(True)

    def test_so_is_a_record(self) -> None:
        source = 'subject.id != "" && record.consent == null'
        assert outcome(source) == Met(False)
        assert outcome(source, facts=Facts(subject=Subject("alice"))) == Lacks(Need(records=frozenset({"consent"})))
        assert outcome(source, facts=Facts(subject=Subject("alice"), records={"consent": None})) == Met(True)

    def test_all_of_it_is_asked_for_at_once(self) -> None:
        source = "record.consent == null && request.json.a == 1"
        assert outcome(source, request("/x", "PUT")) == Lacks(Need(body=True, records=frozenset({"consent"})))

    def test_a_body_that_cannot_be_had_counts_as_met_to_protect_and_as_not_met_to_allow(self) -> None:
        gone = Facts(body=BodyUnavailable("forward-auth"))
        assert outcome("request.form.a == null", request("/x", "PUT"), gone) == Met(True)
        assert outcome('request.form.a == "x"', request("/x", "PUT"), gone) == Met(True)
        assert outcome("request.form.a == null", request("/x", "PUT"), gone, every=True) == Met(False)
        assert outcome('request.path == "/y" && request.form.a == null', request("/x", "PUT"), gone) == Met(False)

    def test_a_compressed_body_cannot_be_had(self) -> None:
        head = request("/x", "PUT", [("Content-Encoding", "gzip")])
        assert outcome('request.form.a == "x"', head, form(a="y")) == Met(True)
        assert outcome('request.form.a == "y"', head, form(a="y"), every=True) == Met(False)


@pytest.mark.parametrize(
    "source",
    [
        "request.query",
        "1 / 0 == 1",
        'request.json.a.b == "x"',
        "request.query.a > 1",
        "subject.claims",
        "record.consent.x > 1",
        "[1][2] == 1",
    ],
)
def test_errors_and_values_that_are_no_boolean_are_broken(source: str) -> None:
    assert isinstance(outcome(source, facts=Facts(body=Body(), records={"consent": {}})), Broken)


@pytest.mark.parametrize(
    ("source", "offset", "message"),
    [
        ("request.path ==", 15, "ends too early"),
        ("request.path == )", 16, "unexpected `)`"),
        ('true &&\n  request.path == "a" "b"', 30, 'unexpected `"b"`'),
        ('"é😀" == now ^ 1', 12, "cannot read"),
        ("requst.path", 0, 'did you mean "request"?'),
        ("request.pth", 8, 'did you mean "path"?'),
        ("true && request", 8, "no value by itself"),
        ('request["path"] == ""', 8, "write request.path"),
        ("request.method.x", 15, 'no field "x"'),
        ("subject.claims.pasword_expired", 15, 'did you mean "password_expired"?'),
        ('subject.claims["pasword_expired"]', 15, 'did you mean "password_expired"?'),
        ("pass.steps.cod < 3", 11, 'did you mean "code"?'),
        ("record.consnt", 7, 'did you mean "consent"?'),
        ("record.terms.verson == null", 13, 'record.terms has no field "verson"; did you mean "version"?'),
        ('record.terms["verson"] == null', 13, 'did you mean "version"?'),
        ('request.path.startWith("/a")', 13, 'did you mean "startsWith"?'),
        ("sizeof(request.path)", 0, "no function named"),
        ("size()", 0, "takes 1 argument, not 0"),
        ('now.getHours("Europe/Berlin") > 1', 4, "takes 0 arguments, not 1"),
        ('request.ip.in_network("10.0.0.0/99")', 22, "not a network"),
        ('request.path.matches("(")', 21, "not a regular expression"),
        ('now > timestamp("yesterday")', 16, "not a timestamp"),
        ('duration("5 minutes") < duration("5m")', 9, "not a duration"),
        ("[1].exists(x, x > 1) && x", 24, 'no name "x"'),
        ("request.query.exists(request, true)", 21, "take another name"),
        ("has(x.y)", 4, 'no name "x"'),
        ("Message{a: 1}", 0, "cannot be made here"),
        (".request.path", 1, "without the dot"),
        ("true" + " " * 5000, 4096, "at most 4096"),
        ("request.method", 0, "gives text, where true or false is needed"),
        ("size(request.path)", 0, "gives a number, where true or false is needed"),
        ("now", 0, "gives a time, where true or false is needed"),
        ('true ? "yes" : "no"', 0, "gives text, where true or false is needed"),
    ],
)
def test_mistakes_are_found_with_their_place(source: str, offset: int, message: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        compile_expression(source, claims=CLAIMS, records=RECORDS, steps=STEPS)
    assert message in str(caught.value)
    assert caught.value.offset == offset


@pytest.mark.parametrize(
    ("source", "uses"),
    [
        (PAST_LIMIT, {"form"}),
        ("subject.claims.password_expired == true", {"subject"}),
        ("record.consent == null && pass.age < 5.0", {"record:consent", "pass"}),
        ('"request.form" == "x" // subject.id', set()),
        ("request.json[request.path] == now", {"json", "path", "now"}),
    ],
)
def test_it_knows_what_it_looks_at(source: str, uses: set[str]) -> None:
    assert compile_expression(source, claims=CLAIMS, records=RECORDS).uses == uses


@pytest.mark.parametrize(
    ("source", "value", "met"),
    [
        ('record.terms.version != "2026-11"', None, True),
        ('record.terms.version != "2026-11"', {"version": "2026-11"}, False),
        ('record["terms"]["version"] == "2026-11"', {"version": "2026-11"}, True),
        ("record.terms == null", None, True),
        ("record.terms == null", {"version": "1"}, False),
        ("has(record.terms.version)", None, False),
        ("has(record.terms.version)", {"version": "1"}, True),
        ("record.terms.at != null && now - record.terms.at < duration('24h')", {"at": datetime.fromtimestamp(NOW - 3600, UTC)}, True),
        ("record.terms.at != null && now - record.terms.at < duration('24h')", None, False),
    ],
)
def test_entries_of_a_record_read_as_null_where_there_is_none(source: str, value: Any, met: bool) -> None:
    assert outcome(source, facts=Facts(records={"terms": value})) == Met(met)


def test_a_record_that_cannot_be_read_is_an_error_unless_it_does_not_matter() -> None:
    away = Facts(records={"terms": RecordUnavailable("down")})
    found = outcome('record.terms.version == "1"', facts=away)
    assert isinstance(found, Broken)
    assert found.away
    assert outcome('subject.id == "x" && record.terms.version == "1"', facts=away) == Met(False)
