"""Running rule functions: order, one time limit, and what of each counts."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from functools import wraps
from typing import Any

import pytest

from gateway.errors import StoreUnavailable
from gateway.flow.functions import Context, Occasion, Unauthorized, User
from gateway.functions.house import House
from gateway.functions.metadata import TRIES, merged
from gateway.policy.facts import Body, BodyUnavailable, Nowhere, Ran, ToSteps, ToUrl
from gateway.spec.sections import FunctionsSpec
from gateway.tokens.passes import Pass
from gateway.wire.subject import NOBODY, Proof, Subject
from tests.support.functions import ALICE, Called
from tests.support.policy import NOW, form_post, request

QUICK = FunctionsSpec(timeout=0.3)


@pytest.fixture
async def called() -> AsyncIterator[Called]:
    house = House(threads=4)
    yield Called(house)
    house.close()


def nothing(user: User, context: Context) -> None: ...


def error(ran: Ran) -> str:
    assert ran.error is not None
    return ran.error


class TestWhatTheyAreGiven:
    async def test_the_user(self, called: Called) -> None:
        seen: list[Any] = []

        async def look(user: User, context: Context) -> None:
            seen.append(user)

        await called.run(look)
        [user] = seen
        assert (user.user_id, user["source"], user.email) == ("alice", "login_form", "alice@bank.example.com")
        assert (user.app_metadata, user.user_metadata) == ({}, {})
        assert len(user.jti) == 43

    async def test_the_request(self, called: Called) -> None:
        seen: list[Any] = []
        head = request("/a%20b?x=1&y=2&y=3", "POST", [("User-Agent", "Test"), ("Cookie", "a=1; __Host-stepup=secret; b=2"), ("X-A", "1")])
        await called.run(lambda _, context: seen.append(context), head=head, body=Body(form={"to": "bob"}))
        [context] = seen
        asked = context["request"]
        assert (asked.method, asked.host, asked.hostname, asked.path, asked.ip) == (
            "POST",
            "bank.example.com",
            "bank.example.com",
            "/a%20b",
            "192.0.2.7",
        )
        assert (asked.query, asked.body) == ({"x": "1", "y": ["2", "3"]}, {"to": "bob"})
        assert (asked.headers["x-a"], asked.headers["cookie"], asked.userAgent) == ("1", "a=1; b=2", "Test")
        assert (context.protocol, context.upstream, context.redirect, context.claims) == ("http", "bank", None, {})
        with pytest.raises(AttributeError, match="there is no 'nothing' here"):
            _ = context.nothing

    @pytest.mark.parametrize(
        ("body", "shown"),
        [(None, {}), (Body(), {}), (Body(json=[1, {"a": None}]), [1, {"a": None}]), (BodyUnavailable("too large"), None)],
    )
    async def test_the_body(self, called: Called, body: Any, shown: Any) -> None:
        seen: list[Any] = []
        await called.run(lambda _, context: seen.append(context.request.body), head=form_post("/x"), body=body)
        assert seen == [shown]

    async def test_at_continue_query_and_body_are_the_pages_answer(self, called: Called) -> None:
        seen: list[Any] = []
        occasion = Occasion("redirect-callback", "its-own", {"tier": 1}, {"state": "S"}, {"confirm": "yes"})
        found = await called.run(
            lambda user, context: seen.append((user.jti, context.protocol, context.request.query, context.request.body, context.claims)),
            head=form_post("/x?a=1"), body=Body(form={"amount": "5"}), occasion=occasion,
        )  # fmt: skip
        assert seen == [("its-own", "redirect-callback", {"state": "S"}, {"confirm": "yes"}, {"tier": 1})]
        assert (found.jti, found.claims, found.protocol) == ("its-own", {"tier": 1}, "redirect-callback")

    async def test_the_session_and_the_steps_passed(self, called: Called) -> None:
        seen: list[Any] = []
        holder = Pass("sid-1", "https://bank.example.com", NOW - 60, NOW, ALICE, {"code": Proof("code", NOW - 30, ("otp",))})
        granted = {"human": Proof("human", NOW - 1, ("user",)), "@r0": Proof("@r0", NOW)}
        await called.run(lambda _, context: seen.append(context.session), holder=holder, granted=granted)
        steps = {"code": {"at": NOW - 30, "amr": ["otp"]}, "human": {"at": NOW - 1, "amr": ["user"]}}
        assert seen == [{"id": "sid-1", "steps": steps}]

    async def test_logins_are_counted_by_pass(self, called: Called) -> None:
        seen: list[int] = []
        for sid in ("a", "a", "b", "a", "c", ""):
            holder = Pass(sid, "https://bank.example.com", NOW, NOW, ALICE) if sid else None
            await called.run(lambda _, context: seen.append(context.stats.loginsCount), holder=holder)
        assert seen == [1, 1, 2, 2, 3, 3]
        assert called.records.writes == 3


class TestOrder:
    async def test_they_run_one_after_the_other_on_one_user_and_one_context(self, called: Called) -> None:
        seen: list[Any] = []

        async def first(user: User, context: Context) -> None:
            await asyncio.sleep(0)
            user.app_metadata["by"] = ["first"]
            context.claims["a"] = 1
            context.note = "for the next"

        def second(user: User, context: Context) -> None:
            user.app_metadata["by"].append("second")
            seen.append((context.claims, context.note))

        found = await called.run(first, second)
        assert seen == [({"a": 1}, "for the next")]
        assert (await called.metadata.read(ALICE)).app == {"by": ["first", "second"]}
        assert found.claims == {"a": 1}

    async def test_all_that_are_async_share_one_loop_which_is_not_the_gateways(self, called: Called) -> None:
        seen: list[Any] = []

        async def look(user: User, context: Context) -> None:
            seen.append(asyncio.get_running_loop())

        await called.run(look, look)
        assert seen[0] is seen[1]
        assert seen[0] is not asyncio.get_running_loop()

    async def test_one_behind_a_decorator_is_awaited(self, called: Called) -> None:
        async def real(user: User, context: Context) -> None:
            await asyncio.sleep(0)
            context.redirect = "code"

        @wraps(nothing)
        def around(user: User, context: Context) -> Any:
            return real(user, context)

        assert (await called.run(around)).ran["r0"] == Ran(ToSteps(("code",)))

    async def test_a_refusal_ends_the_run(self, called: Called) -> None:
        def refuse(user: User, context: Context) -> None:
            user.app_metadata["tries"] = 1
            raise Unauthorized("Not   today.")

        found = await called.run(refuse, nothing)
        assert found.ran == {"r0": Ran(denied="Not today.")}
        assert (await called.metadata.read(ALICE)).app == {"tries": 1}

    async def test_a_refusal_without_words_has_some(self, called: Called) -> None:
        def refuse(user: User, context: Context) -> None:
            raise Unauthorized

        assert (await called.run(refuse)).ran["r0"].denied == "This request is not allowed."


class TestRedirect:
    @pytest.mark.parametrize(
        ("value", "redirect"),
        [
            ({"url": "https://page.example.com/a?b=c"}, ToUrl("https://page.example.com/a?b=c")),
            ({"url": "/verify?a=b"}, ToUrl("/verify?a=b")),
            ("code", ToSteps(("code",))),
            (["human", "code", "human"], ToSteps(("human", "code"))),
            (("human",), ToSteps(("human",))),
            (None, Nowhere()),
        ],
    )
    async def test_what_it_can_be(self, called: Called, value: Any, redirect: Any) -> None:
        def function(user: User, context: Context) -> None:
            context["redirect"] = value

        assert (await called.run(function)).ran["r0"] == Ran(redirect)

    @pytest.mark.parametrize(
        ("value", "words"),
        [
            ("cod", 'context.redirect names "cod", which is no step; there are code, human, terms'),
            ("https://page.example.com", 'write {"url": "https://…"}'),
            ([], "a value of type list"),
            (["code", 5], "a value of type int"),
            (5, "a value of type int"),
            (True, "a value of type bool"),
            ({}, "a value of type dict"),
            ({"url": "https://a.example", "more": 1}, "a value of type dict"),
            ({"url": None}, "a value of type dict"),
            ({"url": "javascript:alert(1)"}, "no http:// or https:// URL"),
            ({"url": "//a.example/"}, "no http:// or https:// URL"),
            ({"url": "relative"}, "no http:// or https:// URL"),
            ({"url": "/\\a.example"}, "no http:// or https:// URL"),
            ({"url": "https://[::1"}, "no http:// or https:// URL"),
            ({"url": "https://a.example:x/"}, "no http:// or https:// URL"),
            ({"url": "https://a.example/\r\nX: y"}, "percent-encoded"),
            ({"url": "https://a.example/ b"}, "percent-encoded"),
            ({"url": "https://a.example/ü"}, "percent-encoded"),
            ({"url": "https://a.example/" + "x" * 8000}, "longer than 8000 bytes"),
        ],
    )
    async def test_nonsense_is_an_error(self, called: Called, value: Any, words: str) -> None:
        def function(user: User, context: Context) -> None:
            context.redirect = value

        assert words in error((await called.run(function)).ran["r0"])

    async def test_the_one_that_set_it_last_is_told_also_where_it_set_the_same(self, called: Called) -> None:
        def send(user: User, context: Context) -> None:
            context.redirect = {"url": "https://a.example/"}

        def turn(user: User, context: Context) -> None:
            context.redirect["url"] += "b"

        found = await called.run(send, send, nothing, turn)
        assert [found.ran[f"r{n}"].redirect for n in range(4)] == [
            ToUrl("https://a.example/"),
            ToUrl("https://a.example/"),
            None,
            ToUrl("https://a.example/b"),
        ]


class TestFailure:
    @pytest.mark.parametrize("on_error", ["deny", "require"])
    async def test_an_exception_ends_the_run_where_it_refuses(self, called: Called, on_error: str) -> None:
        def broken(user: User, context: Context) -> None:
            raise KeyError("missing")

        found = await called.run(broken, nothing, rules=[{"on_error": on_error}])
        assert list(found.ran) == ["r0"]
        assert error(found.ran["r0"]).startswith("KeyError: 'missing' (test_rule_functions.py:")

    async def test_what_a_failed_one_did_is_forgotten(self, called: Called) -> None:
        async def broken(user: User, context: Context) -> None:
            user.app_metadata["a"] = 1
            user.jti = "mine"
            context.claims["b"] = 2
            context.redirect = "code"
            raise ValueError

        found = await called.run(broken, nothing, rules=[{"on_error": "skip"}])
        assert (error(found.ran["r0"]).partition(" (")[0], found.ran["r1"]) == ("ValueError", Ran())
        assert (found.claims, found.jti == "mine", called.records.documents.get(("user", "x", "y"))) == ({}, False, None)
        assert (await called.metadata.read(ALICE)).app == {}

    @pytest.mark.parametrize("what", [SystemExit(1), KeyboardInterrupt(), asyncio.CancelledError(), GeneratorExit()])
    async def test_whatever_is_raised_ends_nothing_else(self, called: Called, what: BaseException) -> None:
        def plain(user: User, context: Context) -> None:
            raise what

        async def asynchronous(user: User, context: Context) -> None:
            raise what

        lenient = [{"on_error": "skip"}] * 2
        found = await called.run(plain, asynchronous, nothing, rules=lenient)
        assert type(what).__name__ in error(found.ran["r0"])
        assert type(what).__name__ in error(found.ran["r1"])
        assert found.ran["r2"] == Ran()

    @pytest.mark.parametrize("value", [0, False, {"url": "x"}, "code", (1, 2)])
    async def test_a_function_returns_nothing(self, called: Called, value: Any) -> None:
        def function(user: User, context: Context) -> Any:
            return value

        assert "it returned a value of type" in error((await called.run(function)).ran["r0"])

    @pytest.mark.parametrize("on_error", ["deny", "allow"])
    async def test_what_cannot_be_copied_is_an_error_of_the_one_that_left_it(self, called: Called, on_error: str) -> None:
        ran: list[str] = []

        def leaves(user: User, context: Context) -> None:
            context.request.lock = threading.Lock()

        def looks(user: User, context: Context) -> None:
            ran.append(",".join(sorted(context.request.keys() & {"lock", "path"})))

        found = await called.run(leaves, looks, rules=[{"on_error": on_error}])
        assert "cannot be copied (TypeError" in error(found.ran["r0"])
        assert ran == ([] if on_error == "deny" else ["path"])

    async def test_an_object_that_raises_wherever_it_is_touched_is_one_too(self, called: Called) -> None:
        class Raises:
            def __eq__(self, other: object) -> bool:
                raise RuntimeError("not comparable")

            __hash__ = None  # type: ignore[assignment]

        def leaves(user: User, context: Context) -> None:
            user["app_metadata"] = Raises()

        assert "RuntimeError: not comparable" in error((await called.run(leaves)).ran["r0"])

    @pytest.mark.parametrize("jti", [None, 5, "", "x" * 201, "a\nb", "ü"])
    async def test_a_jti_is_text(self, called: Called, jti: Any) -> None:
        def function(user: User, context: Context) -> None:
            user.jti = jti

        assert "user.jti is" in error((await called.run(function)).ran["r0"])

    async def test_a_jti_that_was_set_is_kept(self, called: Called) -> None:
        def function(user: User, context: Context) -> None:
            user.jti = "mine"

        assert (await called.run(function, nothing)).jti == "mine"


class TestTime:
    async def test_one_that_waits_too_long_is_given_up_and_changes_nothing_later(self, called: Called) -> None:
        called.spec = QUICK
        given: list[Any] = []
        cancelled = threading.Event()

        async def hangs(user: User, context: Context) -> None:
            given.append(user)
            try:
                await asyncio.Event().wait()
            finally:
                user.app_metadata["late"] = True
                cancelled.set()

        found = await called.run(hangs, nothing, rules=[{"on_error": "skip"}])
        assert error(found.ran["r0"]) == "not done within 300ms for all functions (functions.timeout)"
        assert "took all of the 300ms" in error(found.ran["r1"])
        assert await asyncio.to_thread(cancelled.wait, 5)
        assert (await called.metadata.read(ALICE)).app == {}

    async def test_a_plain_one_that_blocks_holds_up_nobody_else(self, called: Called) -> None:
        called.spec = QUICK
        go_on, served = threading.Event(), []

        def blocks(user: User, context: Context) -> None:
            go_on.wait()

        running = asyncio.ensure_future(called.run(blocks))
        while not running.done():
            served.append(1)
            await asyncio.sleep(0.01)
        assert "not done within 300ms" in error(running.result().ran["r0"])
        assert len(served) > 5
        go_on.set()

    async def test_when_all_threads_are_taken_the_next_one_fails_in_time_and_later_ones_go_on(self, called: Called) -> None:
        called.spec = QUICK
        go_on = threading.Event()
        ended = threading.Semaphore(0)

        def blocks(user: User, context: Context) -> None:
            go_on.wait()
            ended.release()

        await asyncio.gather(*(called.run(blocks) for _ in range(4)))
        assert "all threads are taken" in error((await called.run(nothing)).ran["r0"])
        go_on.set()
        for _ in range(4):
            assert await asyncio.to_thread(ended.acquire, timeout=5)
        assert (await called.run(nothing)).ran["r0"] == Ran()

    async def test_an_async_one_that_blocks_its_loop_is_told_apart_and_the_next_gets_a_new_loop(self, called: Called) -> None:
        called.spec = QUICK
        go_on = threading.Event()

        async def blocks(user: User, context: Context) -> None:
            go_on.wait()

        async def well(user: User, context: Context) -> None:
            await asyncio.sleep(0)

        for _ in range(4):
            assert "it blocks the loop" in error((await called.run(blocks)).ran["r0"])
            assert _ == 3 or (await called.run(well)).ran["r0"] == Ran()
        assert "have taken every loop" in error((await called.run(well)).ran["r0"])
        go_on.set()
        for _ in range(500):
            if (await called.run(well)).ran["r0"] == Ran():
                break
            await asyncio.sleep(0.01)
        else:
            pytest.fail("the loops did not come back")


class TestClaims:
    @pytest.mark.parametrize(
        ("claims", "words"),
        [
            ({"sub": "bob"}, "sub is the gateway's own to say"),
            ({"iss": 1, "acr": 2}, "acr, iss are the gateway's own to say"),
            ({"": 1}, "no mapping with names"),
            ({5: 1}, "no mapping with names"),
            ([], "no mapping with names"),
            ({"a": object()}, "cannot be written as JSON (TypeError)"),
            ({"a": float("nan")}, "cannot be written as JSON (ValueError)"),
            ({"a": "x" * 5000}, "the limit is 4,096"),
        ],
    )
    async def test_what_cannot_be_one_is_an_error(self, called: Called, claims: Any, words: str) -> None:
        def function(user: User, context: Context) -> None:
            context.claims = claims

        found = await called.run(function)
        assert words in error(found.ran["r0"])
        assert found.claims == {}


class TestMetadata:
    async def test_what_is_written_is_there_at_the_next_run_and_nobody_elses(self, called: Called) -> None:
        seen: list[Any] = []

        def write(user: User, context: Context) -> None:
            user.app_metadata["terms"] = {"version": 3}
            user.user_metadata["theme"] = "dark"

        def look(user: User, context: Context) -> None:
            seen.append((user.app_metadata, user.user_metadata))

        await called.run(write)
        for subject in (ALICE, Subject("ALICE ", {}, "login_form"), Subject("alice", {}, "jwt"), Subject("bob", {}, "login_form")):
            await called.run(look, subject=subject)
        theirs = ({"terms": {"version": 3}}, {"theme": "dark"})
        assert seen == [theirs, theirs, ({}, {}), ({}, {})]

    async def test_a_run_that_changes_nothing_writes_nothing(self, called: Called) -> None:
        await called.run(nothing)
        assert called.records.writes == 1  # the first login was counted
        await called.run(nothing)
        assert called.records.writes == 1

    async def test_too_much_is_an_error_that_says_what_to_do(self, called: Called) -> None:
        def write(user: User, context: Context) -> None:
            user.app_metadata["all"] = "x" * 10_000
            user.user_metadata["more"] = "ü" * 4_000

        found = await called.run(write)
        assert error(found.ran["r0"]) == (
            "the metadata of this user would be 18,023 bytes; the limit is 16,384 (functions.metadata_limit). "
            "Keep a pointer here, and the data elsewhere"
        )
        assert (await called.metadata.read(ALICE)).app == {}

    @pytest.mark.parametrize(
        ("value", "words"),
        [({"at": object()}, "cannot be written as JSON"), ("text", "are mappings"), (None, "are mappings"), ({"a": {1}}, "TypeError")],
    )
    async def test_what_is_no_json_is_an_error(self, called: Called, value: Any, words: str) -> None:
        def write(user: User, context: Context) -> None:
            user.app_metadata = value

        assert words in error((await called.run(write)).ran["r0"])

    async def test_nobody_has_none_and_cannot_be_given_any(self, called: Called) -> None:
        def write(user: User, context: Context) -> None:
            assert user.user_id == ""
            assert user.app_metadata == {}
            user.app_metadata["a"] = 1

        assert "nobody is logged in" in error((await called.run(write, subject=NOBODY)).ran["r0"])
        assert (called.records.reads, called.records.writes) == (0, 0)

    async def test_two_runs_at_once_lose_nothing_of_each_other(self, called: Called) -> None:
        await called.run(nothing)

        async def write(user: User, context: Context) -> None:
            await asyncio.sleep(0.01)
            user.app_metadata[context.request.path] = True

        await asyncio.gather(*(called.run(write, head=request(f"/{n}")) for n in range(6)))
        assert sorted((await called.metadata.read(ALICE)).app) == [f"/{n}" for n in range(6)]

    async def test_a_page_of_many_requests_counts_its_login_once(self, called: Called) -> None:
        holder = Pass("sid", "https://bank.example.com", NOW, NOW, ALICE)
        await asyncio.gather(*(called.run(nothing, holder=holder) for _ in range(40)))
        assert ((await called.metadata.read(ALICE)).logins, called.records.writes) == (1, 1)

    async def test_too_many_at_once_refuse_the_request(self, called: Called) -> None:
        def write(user: User, context: Context) -> None:
            user.app_metadata["a"] = 1

        def disturb() -> None:
            key = ("user", "login_form/alice", "metadata")
            held = called.records.documents.get(key)
            value = b'metadata|user/login_form/alice|{"app": {}, "user": {}, "logins": 1, "seen": [""]}'
            called.records.documents[key] = type(held)(value, held.version + 1) if held else pytest.fail("no record")

        await called.run(nothing)
        called.records.meanwhile = [disturb] * TRIES
        with pytest.raises(StoreUnavailable, match="too many at once"):
            await called.run(write)

    async def test_records_that_are_away_refuse_the_request_unless_no_rule_minds(self, called: Called) -> None:
        called.records.away = True
        with pytest.raises(StoreUnavailable):
            await called.run(nothing)
        with pytest.raises(StoreUnavailable):
            await called.run(nothing, nothing, rules=[{"on_error": "allow"}])
        found = await called.run(nothing, nothing, rules=[{"on_error": "allow"}, {"mode": "shadow"}])
        assert all("the records are away" in error(ran) for ran in found.ran.values())

    @pytest.mark.parametrize(
        ("before", "mine", "theirs", "both"),
        [
            ({}, {"a": 1}, {"b": 2}, {"a": 1, "b": 2}),
            ({"a": 1}, {}, {"a": 1, "b": 2}, {"b": 2}),
            ({"a": 1}, {"a": 1}, {"a": 3}, {"a": 3}),
            ({"a": 1}, {"a": 2}, {"a": 3}, {"a": 2}),
            ({"a": {"x": 1, "y": 1}}, {"a": {"x": 2, "y": 1}}, {"a": {"x": 1, "y": 3}}, {"a": {"x": 2, "y": 3}}),
            ({"a": [1]}, {"a": [1, 2]}, {"a": [1, 3]}, {"a": [1, 2]}),
            ({"a": 1}, {"a": {"x": 1}}, {}, {"a": {"x": 1}}),
        ],
    )
    def test_changes_are_put_together_entry_by_entry(self, before: Any, mine: Any, theirs: Any, both: Any) -> None:
        assert merged(before, mine, theirs) == both


class TestShadow:
    async def test_it_sees_what_there_is_and_changes_nothing(self, called: Called) -> None:
        def write(user: User, context: Context) -> None:
            user.app_metadata["shadow"] = True
            context.claims["shadow"] = True
            context.redirect = "code"
            context.request.path = "/elsewhere"

        def look(user: User, context: Context) -> None:
            assert (user.app_metadata, context.claims, context.redirect, context.request.path) == ({}, {}, None, "/x")

        found = await called.run(write, look, rules=[{"mode": "shadow"}])
        assert found.ran == {"r0": Ran(ToSteps(("code",)), shadow=True), "r1": Ran()}
        assert (found.claims, (await called.metadata.read(ALICE)).app) == ({}, {})

    async def test_its_refusal_ends_nothing(self, called: Called) -> None:
        def refuse(user: User, context: Context) -> None:
            raise Unauthorized("No.")

        found = await called.run(refuse, nothing, rules=[{"mode": "shadow"}])
        assert found.ran == {"r0": Ran(denied="No.", shadow=True), "r1": Ran()}
