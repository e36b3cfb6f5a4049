"""Rule functions in a running gateway: in front of a request, at /continue, at the ticket, and in the records.

The page of others that a function may send a user to is played here by writing what such a page leaves in the transaction.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from gateway.flow.repository import Found, transaction_id
from gateway.flow.transaction import Transaction, pass_task, with_task
from tests.support.front import CHROME, FETCH, Front, cookie_line, cookies, fronting
from tests.support.gateway import Clock, decoded, read, running
from tests.support.raw import OK, RawMessage, RawUpstream, answering, raw_client, raw_upstream

ALICE = b"X-Remote-User: alice\r\n"
BOB = b"X-Remote-User: bob\r\n"
FORM = b"Content-Type: application/x-www-form-urlencoded\r\n"

FILE = """
import asyncio
import itertools
import threading

from gateway.functions import Context, Unauthorized, User

SEEN = []
SAID = {}


async def note(user: User, context: Context) -> None:
    SEEN.append((context.protocol, user.jti, dict(context.request), dict(user.app_metadata)))


async def to_step(user, context):
    await note(user, context)
    context.redirect = "human"


def to_page(user, context):
    SEEN.append((context.protocol, user.jti, dict(context.request), dict(user.app_metadata)))
    user.jti = SAID.get("jti", user.jti)
    context.redirect = {"url": "https://page.example.com/start?session_token=T-" + user.jti}
    if context.protocol == "redirect-callback" and context.request.body.get("confirm") != "yes":
        raise Unauthorized("You have to agree.")


def say(user, context):
    context.claims.update(SAID["claims"])


def remember(user, context):
    user.app_metadata["paths"] = [*user.app_metadata.get("paths", []), context.request.path]


def refuse(user, context):
    raise Unauthorized("Not on <b>Sundays</b>.")


def broken(user, context):
    user.app_metadata["half"] = True
    return {"a": 1}["b"]


async def hangs(user, context):
    await asyncio.Event().wait()


def nonsense(user, context):
    context.redirect = "nowhere"


def watch(user, context):
    SEEN.append(context.protocol)
    context.redirect = "human"
    user.app_metadata["shadow"] = True


def large(user, context):
    SEEN.append((context.protocol, context.request.query["id"], (context.request.body or {}).get("amount")))
    if context.request.method == "POST" and float(context.request.body["amount"]) > 1000:
        raise Unauthorized("Too much.")
    context.redirect = "human"


GATES = [threading.Event(), threading.Event()]
ENTERED = [threading.Event(), threading.Event()]
TURNS = itertools.count()


def twice(user, context):
    if context.protocol != "redirect-callback":
        context.redirect = "human"
        return
    turn = next(TURNS)
    ENTERED[turn].set()
    GATES[turn].wait(10)
    if turn:
        raise Unauthorized("This answer was used before.")


def count(user, context):
    user.app_metadata["runs"] = user.app_metadata.get("runs", 0) + 1
    context.claims["runs"] = user.app_metadata["runs"]
    context.redirect = "human"
"""


def rule(path: str, function: str, **more: Any) -> dict[str, Any]:
    return {"name": path.strip("/*"), "match": {"path": path}, "python": f"f.py:{function}", **more}


RULES = [
    rule("/step", "to_step"),
    rule("/often", "to_step", max_age="once"),
    rule("/page", "to_page"),
    rule("/both", "to_page"),
    {"name": "both-too", "match": {"path": "/both"}, "require": "human"},
    rule("/say", "say"),
    rule("/remember/**", "remember"),
    rule("/look", "note"),
    rule("/refuse", "refuse"),
    rule("/broken", "broken"),
    rule("/broken-skipped", "broken", on_error="skip"),
    rule("/hangs", "hangs"),
    rule("/nonsense", "nonsense"),
    rule("/watch", "watch", mode="shadow"),
    rule("/count", "count"),
    rule("/twice", "twice"),
    rule("/large", "large"),
    rule("/large-once", "large", max_age="once"),
]
CAPTCHA = {"kind": "captcha", "cost": 1, "max_number": 5}
CONFIG: dict[str, Any] = {
    "rules": RULES,
    "identity": [{"from": "header", "name": "X-Remote-User"}],
    "trusted_proxies": ["127.0.0.1"],
    "steps": {"human": CAPTCHA, "again": CAPTCHA},
    "functions": {"timeout": "300ms"},
    "forward_auth": {"edge": {"dialect": "traefik", "listen": "127.0.0.1:0"}},
}


@dataclass(frozen=True, slots=True)
class Place:
    front: Front
    upstream: RawUpstream
    clock: Clock
    folder: Path

    def of_file(self, name: str) -> Any:
        """A value in the file that is in force."""
        return next(iter(self.front.app.live.ruleset.functions.values())).__globals__[name]

    @property
    def seen(self) -> list[Any]:
        return list(self.of_file("SEEN"))

    @property
    def protocols(self) -> list[str]:
        return [each[0] for each in self.seen]

    def audit(self, event: str = "function") -> list[tuple[str, str, str, str]]:
        with closing(sqlite3.connect(self.folder / "var/records.db")) as records:
            lines = "SELECT subject, rule, outcome, detail FROM audit WHERE event = ? ORDER BY id"
            return [
                (subject, rule, outcome, json.loads(detail)["reason"])
                for subject, rule, outcome, detail in records.execute(lines, (event,))
            ]

    async def ask(self, line: str, who: bytes = ALICE, *, kind: bytes = CHROME, body: bytes | None = None) -> RawMessage:
        return await self.front.ask(line, kind + who + (FORM if body is not None else b""), body)

    async def found(self, answer: RawMessage) -> tuple[str, Found]:
        """The state and transaction that an answer leads to."""
        state = json.loads(answer.body)["state"] if answer.status == 401 else located(answer).rpartition("/")[2]
        found = await self.front.app.transactions.load(transaction_id(state), self.clock())
        assert found is not None
        return state, found

    async def transaction(self, answer: RawMessage) -> Transaction:
        return (await self.found(answer))[1].transaction

    async def back_from_page(
        self, answer: RawMessage, *, query: Mapping[str, Any] | None = None, body: Mapping[str, Any] | None = None
    ) -> str:
        """What the page of others leaves: its step passed, and its answer raw. The way on."""
        state, found = await self.found(answer)
        task = found.transaction.current
        assert task is not None
        assert task.step.startswith("@")
        done = pass_task(found.transaction, task.step, at=self.clock(), amr=())
        passed = next(each for each in done.tasks if each.step == task.step)
        done = with_task(done, replace(passed, memory={"query": dict(query or {}), "body": dict(body or {})}))
        await self.front.app.transactions.save(done, found.version, self.clock())
        return f"/continue?state={state}"

    def sent(self) -> list[str]:
        """What reached the upstream, as `METHOD target`."""
        return [request.head.line.decode().rpartition(" ")[0] for request in self.upstream.requests]

    def token(self) -> dict[str, Any]:
        """The claims of the upstream token that came with the last request there."""
        value = self.upstream.requests[-1].head.get(b"x-stepup-token")
        assert value is not None
        return dict(decoded(value.decode().split(".")[1]))


def located(answer: RawMessage) -> str:
    assert answer.status == 303, answer
    return (answer.head.get(b"location") or b"").decode()


@pytest.fixture(params=["auto", "slow"])
async def place(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    clock = Clock(time.time())
    (tmp_path / "f.py").write_text(FILE)
    config = {**CONFIG, "lane": request.param}
    async with raw_upstream(answering(OK)) as upstream, fronting(tmp_path, upstream.url, clock=clock, **config) as front:
        yield Place(front, upstream, clock, tmp_path)


async def test_at_continue_the_rules_run_again_as_redirect_callback(place: Place) -> None:
    asked = await place.ask("GET /step")
    ready, binding = await place.front.solve(asked, ALICE)
    back = await place.ask(f"GET {ready['continue']}", binding + ALICE)
    assert located(back) == "/step"
    held = cookie_line([*cookies(asked), *cookies(back)])
    assert (await place.ask("GET /step", held + ALICE)).status == 200
    assert place.protocols == ["http", "redirect-callback", "http"]
    assert place.sent() == ["GET /step"]
    assert place.token()["acr"] == "human"


async def test_the_user_and_the_jti_are_the_transactions(place: Place) -> None:
    asked = await place.ask("GET /step")
    ready, binding = await place.front.solve(asked, ALICE)
    transaction = await place.transaction(asked)
    await place.ask(f"GET {ready['continue']}", binding + ALICE)
    first, second = (each[1] for each in place.seen)
    assert first == second == transaction.jti
    assert decoded(ready["token"].split(".")[1])["jti"] == first


@pytest.mark.parametrize("path", ["/step", "/often"])
async def test_a_post_is_sent_once_and_the_function_runs_once_for_continue_and_ticket(place: Place, path: str) -> None:
    asked = await place.ask(f"POST {path}", body=b"a=1&a=2&b=3")
    ready, binding = await place.front.solve(asked, ALICE)
    ticket = located(await place.ask(f"GET {ready['continue']}", binding + ALICE))
    assert "stepup_resume=" in ticket
    assert located(await place.ask(f"GET {ready['continue']}", binding + ALICE)) == ticket  # reloaded
    assert (await place.ask(f"GET {ticket}", binding + ALICE)).status == 200
    assert place.protocols == ["http", "redirect-callback"]
    assert place.seen[0][2]["body"] == {"a": ["1", "2"], "b": "3"}
    assert place.sent() == [f"POST {path}"]
    assert place.token()["acr"] == "human"


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_without_a_page_of_others_it_reads_its_own_request_at_continue(place: Place, method: str) -> None:
    body = b"amount=5" if method == "POST" else None
    asked = await place.ask(f"{method} /large?id=7", body=body)
    ready, binding = await place.front.solve(asked, ALICE)
    back = await place.ask(f"GET {ready['continue']}", binding + ALICE)
    held = cookie_line([*cookies(asked), *cookies(back)])
    assert (await place.ask(f"GET {located(back)}", held + ALICE)).status == 200
    amount = "5" if method == "POST" else None
    assert place.seen[:2] == [("http", "7", amount), ("redirect-callback", "7", amount)]
    assert place.sent() == [f"{method} /large?id=7"]


@pytest.mark.parametrize("path", ["/large?id=7", "/large-once?id=7"])
async def test_a_script_is_judged_by_the_body_that_it_sends_in_the_end(place: Place, path: str) -> None:
    """Its /continue has no body to look at, and resumes nothing."""
    asked = await place.ask(f"POST {path}", kind=FETCH, body=b"amount=5")
    ready, binding = await place.front.solve(asked, ALICE)
    done = await place.ask(f"GET {ready['continue']}", binding + ALICE, kind=FETCH)
    assert done.status == 204
    held = cookie_line([*cookies(asked), *cookies(done)]) + ALICE
    assert (await place.ask(f"POST {path}", held, kind=FETCH, body=b"amount=5000")).status == 403
    assert (await place.ask(f"POST {path}", held, kind=FETCH, body=b"amount=5")).status == 200
    assert [each[0] for each in place.seen] == ["http"] * 3
    assert place.sent() == [f"POST {path}"]


async def test_a_ticket_that_is_used_later_runs_it_anew(place: Place) -> None:
    asked = await place.ask("POST /step", body=b"a=1")
    ready, binding = await place.front.solve(asked, ALICE)
    ticket = located(await place.ask(f"GET {ready['continue']}", binding + ALICE))
    place.clock.advance(61)
    await place.front.app.feed.refresh()
    assert (await place.ask(f"GET {ticket}", binding + ALICE)).status == 200
    assert place.protocols == ["http", "redirect-callback", "redirect-callback"]


async def test_a_page_of_others_is_one_step_with_its_url(place: Place) -> None:
    asked = await place.ask("GET /page?b=c")
    transaction = await place.transaction(asked)
    [task] = transaction.tasks
    assert (task.step, task.max_age, task.rules) == ("@page", "once", ("page",))
    assert task.url == f"https://page.example.com/start?session_token=T-{transaction.jti}"


async def test_a_redirect_happens_once_per_flow(place: Place) -> None:
    asked = await place.ask("GET /page?b=c")
    onward = await place.back_from_page(asked, query={"state": "S"}, body={"confirm": "yes"})
    binding = cookie_line(cookies(asked))
    ticket = located(await place.ask(f"GET {onward}", binding + ALICE))
    assert ticket.startswith("/page?b=c&stepup_resume=")
    assert (await place.ask(f"GET {ticket}", binding + ALICE)).status == 200
    assert place.sent() == ["GET /page?b=c"]
    protocol, jti, request, _ = place.seen[1]
    assert (protocol, jti) == ("redirect-callback", place.seen[0][1])
    assert (request["query"], request["body"], request["path"]) == ({"state": "S"}, {"confirm": "yes"}, "/page")
    assert len(place.seen) == 2


async def test_of_two_continues_at_once_the_first_run_holds_for_both(tmp_path: Path) -> None:
    """A function that takes an answer once refuses it the second time."""
    clock = Clock(time.time())
    (tmp_path / "f.py").write_text(FILE)
    config = {**CONFIG, "functions": {}}
    async with raw_upstream(answering(OK)) as upstream, fronting(tmp_path, upstream.url, clock=clock, **config) as front:
        place = Place(front, upstream, clock, tmp_path)
        asked = await place.ask("POST /twice", body=b"a=1")
        ready, binding = await place.front.solve(asked, ALICE)
        gates, entered = place.of_file("GATES"), place.of_file("ENTERED")
        both = []
        for run in range(2):
            both.append(asyncio.ensure_future(place.ask(f"GET {ready['continue']}", binding + ALICE)))
            await asyncio.to_thread(entered[run].wait, 10)
        gates[0].set()
        ticket = located(await both[0])
        gates[1].set()
        assert located(await both[1]).startswith("/.stepup/t/su_")  # which leads on to /continue
        assert located(await place.ask(f"GET {ready['continue']}", binding + ALICE)) == ticket
        assert (await place.ask(f"GET {ticket}", binding + ALICE)).status == 200
        assert place.sent() == ["POST /twice"]


async def test_a_refusal_at_continue_ends_the_transaction(place: Place) -> None:
    asked = await place.ask("GET /page")
    onward = await place.back_from_page(asked, body={"confirm": "no"})
    binding = cookie_line(cookies(asked))
    refused = await place.ask(f"GET {onward}", binding + ALICE)
    assert refused.status == 403
    assert b"You have to agree." in refused.body
    assert (await place.ask(f"GET {onward}", binding + ALICE)).status == 410
    assert place.sent() == []
    assert place.audit() == [("alice", "page", "denied", "You have to agree.")]


async def test_a_script_repeats_its_request_after_the_page(place: Place) -> None:
    asked = await place.ask("GET /page", kind=FETCH)
    assert asked.status == 401
    assert json.loads(asked.body)["steps"] == ["@page"]
    assert b"@" not in (asked.head.get(b"www-authenticate") or b"").partition(b"acr_values")[2]
    onward = await place.back_from_page(asked, body={"confirm": "yes"})
    done = await place.ask(f"GET {onward}", cookie_line(cookies(asked)) + ALICE, kind=FETCH)
    assert done.status == 204
    held = cookie_line([*cookies(asked), *cookies(done)])
    assert (await place.ask("GET /page", held + ALICE, kind=FETCH)).status == 200
    assert (await place.ask("GET /page", held + ALICE, kind=FETCH)).status == 401  # this very request, and no other


async def test_a_redirect_leads_to_its_url_after_all_rules_have_run(place: Place) -> None:
    asked = await place.ask("GET /both")
    transaction = await place.transaction(asked)
    assert transaction.remaining == ("human", "@both")
    assert transaction.tasks[1].url.startswith("https://page.example.com/start?")
    state, found = await place.found(asked)
    done = pass_task(transaction, "human", at=place.clock(), amr=("user",))
    await place.front.app.transactions.save(done, found.version, place.clock())
    onward = await place.back_from_page(asked, body={"confirm": "yes"})
    assert onward == f"/continue?state={state}"
    binding = cookie_line(cookies(asked))
    ticket = located(await place.ask(f"GET {onward}", binding + ALICE))
    assert (await place.ask(f"GET {ticket}", binding + ALICE)).status == 200
    assert place.token()["acr"] == "human"


async def test_two_tabs_do_not_mix(place: Place) -> None:
    first = await place.ask("GET /page?tab=1")
    browser = cookie_line(cookies(first))
    second = await place.ask("GET /page?tab=2", browser + ALICE)
    one, two = await place.transaction(first), await place.transaction(second)
    assert one.jti != two.jti
    assert (one.tasks[0].url[-43:], two.tasks[0].url[-43:]) == (one.jti, two.jti)
    for asked, transaction in ((second, two), (first, one)):
        onward = await place.back_from_page(asked, body={"confirm": "yes"})
        await place.ask(f"GET {onward}", browser + ALICE)
        assert place.seen[-1][:2] == ("redirect-callback", transaction.jti)


async def test_a_page_that_is_asked_for_again_has_a_url_of_its_own(place: Place) -> None:
    """The one before may have been left for an hour; and it is still good."""
    first = await place.ask("GET /page")
    second = await place.ask("GET /page", cookie_line(cookies(first)) + ALICE)
    one, two = await place.transaction(first), await place.transaction(second)
    assert one.id != two.id
    assert one.tasks[0].url != two.tasks[0].url


async def test_a_jti_that_a_rule_sets_is_kept(place: Place) -> None:
    place.of_file("SAID")["jti"] = "a-jti-of-its-own"
    asked = await place.ask("GET /page")
    assert (await place.transaction(asked)).jti == "a-jti-of-its-own"
    place.of_file("SAID").clear()
    onward = await place.back_from_page(asked, body={"confirm": "yes"})
    await place.ask(f"GET {onward}", cookie_line(cookies(asked)) + ALICE)
    assert place.seen[-1][:2] == ("redirect-callback", "a-jti-of-its-own")


async def test_changes_made_elsewhere_are_seen_at_continue(place: Place) -> None:
    asked = await place.ask("GET /step")
    assert (await place.ask("GET /remember/this")).status == 200
    assert (await place.ask("GET /remember/bob", BOB)).status == 200
    ready, binding = await place.front.solve(asked, ALICE)
    await place.ask(f"GET {ready['continue']}", binding + ALICE)
    assert [each[3] for each in place.seen] == [{}, {"paths": ["/remember/this"]}]


async def test_metadata_is_sealed_in_the_records_and_survives_a_restart(place: Place) -> None:
    await place.ask("GET /remember/me")
    with closing(sqlite3.connect(place.folder / "var/records.db")) as records:
        [(kind, owner, value)] = records.execute("SELECT kind, owner, value FROM documents").fetchall()
    assert (kind, owner) == ("user", "header/alice")
    assert b"remember" not in value
    await place.front.app.reload(read(place.folder / "gateway.yaml"))
    await place.ask("GET /look")
    assert place.seen[0][3] == {"paths": ["/remember/me"]}


async def test_too_much_metadata_is_an_error_that_says_what_to_do(place: Place) -> None:
    assert (await place.ask("GET /remember/" + "x" * 6000)).status == 200
    assert (await place.ask("GET /remember/" + "y" * 6000)).status == 200
    assert (await place.ask("GET /remember/" + "z" * 6000)).status == 403
    [(_, _, outcome, reason)] = place.audit()
    assert outcome == "failed"
    assert "the limit is 16,384 (functions.metadata_limit). Keep a pointer here, and the data elsewhere" in reason
    assert (await place.ask("GET /remember/z")).status == 200  # nothing is lost


async def test_claims_go_into_the_upstream_token_and_change_with_it(place: Place) -> None:
    said = place.of_file("SAID")
    said["claims"] = {"https://bank.example.com/tier": "gold"}
    held = await place.front.passed("GET /step", ALICE)
    assert (await place.ask("GET /say", held + ALICE)).status == 200
    assert place.token()["https://bank.example.com/tier"] == "gold"
    assert place.token()["sub"] == "alice"
    said["claims"] = {"https://bank.example.com/tier": "lead", "n": [1, {"a": None}]}
    assert (await place.ask("GET /say", held + ALICE)).status == 200
    assert (place.token()["https://bank.example.com/tier"], place.token()["n"]) == ("lead", [1, {"a": None}])
    said["claims"] = {"sub": "bob"}
    assert (await place.ask("GET /say", held + ALICE)).status == 403


async def test_claims_go_into_the_continue_token_and_are_those_of_continue_afterwards(place: Place) -> None:
    asked = await place.ask("POST /count", body=b"a=1")
    ready, binding = await place.front.solve(asked, ALICE)
    assert decoded(ready["token"].split(".")[1])["runs"] == 1
    ticket = located(await place.ask(f"GET {ready['continue']}", binding + ALICE))
    assert (await place.ask(f"GET {ticket}", binding + ALICE)).status == 200
    assert place.token()["runs"] == 2


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/broken", "KeyError: 'b' (f.py:"),
        ("/hangs", "not done within 300ms for all functions (functions.timeout)"),
        ("/nonsense", 'context.redirect names "nowhere", which is no step; there are again, human'),
    ],
)
async def test_one_that_fails_refuses_with_an_audit_line_and_without_its_reason(place: Place, path: str, reason: str) -> None:
    page = await place.ask(f"GET {path}")
    assert page.status == 403
    assert b"This request could not be checked" in page.body
    assert (await place.ask(f"POST {path}", kind=FETCH, body=b"a=1")).status == 403
    assert reason.encode() not in page.body
    assert place.sent() == []
    lines = place.audit()
    assert [line[:3] for line in lines] == [("alice", path.strip("/"), "failed")] * 2
    assert lines[0][3].startswith(reason)
    await place.ask("GET /look")
    assert place.seen[-1][3] == {}


async def test_one_that_hangs_holds_up_nobody_else(place: Place) -> None:
    hanging = asyncio.ensure_future(place.ask("GET /hangs"))
    while not hanging.done():
        assert (await place.ask("GET /free")).status == 200
    assert (await hanging).status == 403
    assert len(place.sent()) > 3


async def test_one_that_fails_is_passed_over_where_its_rule_says_so(place: Place) -> None:
    assert (await place.ask("GET /broken-skipped")).status == 200
    assert [line[:3] for line in place.audit()] == [("alice", "broken-skipped", "failed")]


async def test_unauthorized_denies_with_its_message(place: Place) -> None:
    page = await place.ask("GET /refuse")
    assert page.status == 403
    assert b"Not on &lt;b&gt;Sundays&lt;/b&gt;." in page.body
    told = json.loads((await place.ask("GET /refuse", kind=FETCH)).body)
    assert (told["status"], told["detail"]) == (403, "Not on <b>Sundays</b>.")
    assert place.audit() == [("alice", "refuse", "denied", "Not on <b>Sundays</b>.")] * 2


async def test_a_preflight_runs_none(place: Place) -> None:
    fields = b"Origin: https://a.example\r\nAccess-Control-Request-Method: PUT\r\n"
    assert (await place.front.ask("OPTIONS /refuse", fields)).status == 200


async def test_in_shadow_mode_it_runs_and_changes_nothing(place: Place) -> None:
    assert (await place.ask("GET /watch")).status == 200
    assert place.seen == ["http"]
    await place.ask("GET /look")
    assert place.seen[-1][3] == {}


async def test_for_nobody_it_runs_too(place: Place) -> None:
    assert (await place.ask("GET /look", b"")).status == 200
    assert (await place.ask("GET /remember/x", b"")).status == 403
    assert "nobody is logged in" in place.audit()[0][3]


async def test_where_the_records_are_away_nothing_runs_and_the_request_may_be_sent_again(place: Place) -> None:
    asked = await place.ask("POST /step", body=b"a=1")
    ready, binding = await place.front.solve(asked, ALICE)
    with closing(sqlite3.connect(place.folder / "var/records.db")) as records:
        records.execute("ALTER TABLE documents RENAME TO elsewhere")
    assert (await place.ask("GET /look")).status == 503
    assert (await place.ask(f"GET {ready['continue']}", binding + ALICE)).status == 503
    assert place.protocols == ["http"]
    with closing(sqlite3.connect(place.folder / "var/records.db")) as records:
        records.execute("ALTER TABLE elsewhere RENAME TO documents")
    ticket = located(await place.ask(f"GET {ready['continue']}", binding + ALICE))
    assert (await place.ask(f"GET {ticket}", binding + ALICE)).status == 200
    assert place.sent() == ["POST /step"]


async def test_a_reload_has_what_stands_in_the_file_by_then(place: Place) -> None:
    assert (await place.ask("GET /refuse")).status == 403
    (place.folder / "f.py").write_text(FILE.replace("Not on <b>", "Only on"))
    await place.front.app.reload(read(place.folder / "gateway.yaml"))
    assert b"Only onSundays" in (await place.ask("GET /refuse")).body


async def test_forward_auth_runs_it_too(place: Place) -> None:
    async def decide(path: str) -> RawMessage:
        told = {"Method": b"GET", "Uri": path.encode(), "Host": place.front.host, "Proto": b"http", "For": b"203.0.113.7"}
        fields = b"".join(b"X-Forwarded-%b: %b\r\n" % (name.encode(), value) for name, value in told.items())
        async with raw_client(place.front.app.forward_auth_listeners["edge"].port) as client:
            await client.send(place.front.head("GET /decision", fields + CHROME + ALICE))
            return await client.response(method="GET")

    place.of_file("SAID")["claims"] = {"tier": "gold"}
    said = await decide("/say")
    assert said.status == 200
    assert decoded((said.head.get(b"x-stepup-token") or b"").decode().split(".")[1])["tier"] == "gold"
    assert (await decide("/refuse")).status == 403
    assert (await decide("/step")).status in (302, 303, 401)
    assert (await decide("/look")).status == 200
    assert [each[0] for each in place.seen] == ["http", "http"]


LATE = """
SEEN = []


def watch(user, context):
    SEEN.append((context.protocol, user.user_id, context.request.body.get("to")))
    context.redirect = "human" if user.user_id else {"url": "https://page.example.com/for-nobody"}
"""


async def test_whoever_logs_in_on_the_way_is_asked_what_they_would_have_been_asked(tmp_path: Path) -> None:
    (tmp_path / "f.py").write_text(LATE)
    transfer = {"path": "/transfer", "method": "POST"}
    rules = [{"name": "late", "match": transfer, "python": "f.py:watch"}, {"name": "code", "match": transfer, "require": "code"}]
    async with running(tmp_path, rules=rules) as demo:
        browser = demo.browser()
        asked = await browser.post("/transfer", {"to": "Late-Unique", "amount": "10"})
        login = await browser.get(asked.location)
        assert login.location == "/login"
        back = await browser.post("/login", {"username": "alice", "password": "wonderland"})
        assert back.location == asked.location  # the code, and no page that was made for nobody
        shown = await demo.pass_code(browser, asked.location)
        assert "stepup_token" in shown.text  # it came from somebody who was not logged in: look at it first
        again = await browser.post(asked.location, {"action": "send", "stepup_token": shown.hidden("stepup_token")}, follow=True)
        assert again.status == 200, again.text
        seen = next(iter(demo.app.live.ruleset.functions.values())).__globals__["SEEN"]
        assert seen == [("http", "", "Late-Unique"), ("http", "alice", "Late-Unique")]
        done = await demo.pass_captcha(browser, asked.location)
        assert seen[2:] == [("redirect-callback", "alice", "Late-Unique")]
        assert done.url.path in {"/transfer", "/account"}


async def test_steps_and_a_page_follow_each_other_in_a_flow_that_began_with_nobody(tmp_path: Path) -> None:
    """The function's page is made for whoever logged in, and added once."""
    (tmp_path / "f.py").write_text(LATE.replace('"human" if user.user_id else ', "").replace("for-nobody", 'for-" + user.user_id + "'))
    transfer = {"path": "/transfer", "method": "POST"}
    rules = [{"name": "code", "match": transfer, "require": "code"}, {"name": "late", "match": transfer, "python": "f.py:watch"}]
    async with running(tmp_path, rules=rules) as demo:
        browser = demo.browser()
        asked = await browser.post("/transfer", {"to": "Late-Unique", "amount": "10"})
        await browser.get(asked.location)
        await browser.post("/login", {"username": "alice", "password": "wonderland"})
        shown = await demo.pass_code(browser, asked.location)
        onward = await browser.post(asked.location, {"action": "send", "stepup_token": shown.hidden("stepup_token")})
        assert (await browser.get(onward.location)).location == asked.location
        found = await demo.app.transactions.load(transaction_id(asked.location.rpartition("/")[2]), time.time())
        assert found is not None
        [task] = [each for each in found.transaction.tasks if each.passed is None]
        assert (task.step, task.url) == ("@late", "https://page.example.com/for-alice")
        assert found.transaction.extended
