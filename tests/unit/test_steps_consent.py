"""consent: what a document may hold, what is kept of an answer, and whom it spares being asked."""

from __future__ import annotations

import asyncio
import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from gateway.errors import Conflict, StoreUnavailable
from gateway.flow.step import Declined, Passed, Refused
from gateway.spec.base import TextMistake
from gateway.steps.consent import Consent, ConsentConfig
from gateway.steps.consent.document import Document
from gateway.steps.consent.render import LARGEST, render
from gateway.wire.subject import NOBODY, Subject
from tests.support.fakes_steps import MemoryRecords, World

TERMS = b"# Terms of use\n\nBe *kind*, and read the [rest](https://example.com/a?b=1&c=2).\n"


def config(text: bytes = TERMS, **changes: Any) -> ConsentConfig:
    made = ConsentConfig.model_validate({"document": "terms.md", "version": "2026-11", **changes}).with_document(text)
    assert isinstance(made, ConsentConfig), made
    return made


def step(world: World, text: bytes = TERMS, **changes: Any) -> Consent:
    return Consent.build("terms", config(text, **changes), world.services)


async def accepted(world: World, consent: Consent, transaction: str = "t1", **context: Any) -> Passed:
    look = world.context(transaction, **context)
    view = await consent.begin(look)
    outcome = await consent.answer(world.later(look, view.memory), {"accept": "yes"})
    assert isinstance(outcome, Passed)
    return outcome


def rendered(text: str) -> Document:
    made = render(text.encode())
    assert isinstance(made, Document), made
    return made


class TestDocuments:
    def test_the_heading_at_the_top_is_the_pages_and_not_shown_twice(self) -> None:
        made = rendered("# Terms *of* `use`\n\nBe kind.\n\n## More\n")
        assert (made.title, made.html) == ("Terms of use", "<p>Be kind.</p>\n<h2>More</h2>\n")

    def test_there_is_one_h1_on_a_page(self) -> None:
        assert rendered("# One\n\n# Two\n\n## Three\n").html == "<h2>Two</h2>\n<h3>Three</h3>\n"
        assert rendered("Be kind.\n\n# Two\n\n###### Six\n").html == "<p>Be kind.</p>\n<h2>Two</h2>\n<h6>Six</h6>\n"

    def test_the_hash_is_that_of_the_file(self) -> None:
        assert rendered("\ufeffx\r\ny").sha256 == hashlib.sha256("\ufeffx\r\ny".encode()).hexdigest()

    def test_tables_are_tables(self) -> None:
        assert "<td>1</td>" in rendered("|a|\n|-|\n|1|\n").html

    def test_text_that_looks_like_markup_stays_text(self) -> None:
        assert rendered("a \\<b> & `<script>`\n").html == "<p>a &lt;b&gt; &amp; <code>&lt;script&gt;</code></p>\n"

    @pytest.mark.parametrize(
        "target", ["https://a.example/x", "http://a.example", "mailto:a@b.example", "tel:+44", "/privacy", "HTTPS://a.example"]
    )
    def test_links_lead_where_links_may_lead(self, target: str) -> None:
        assert f'<a href="{target}">x</a>' in rendered(f"[x]({target})").html

    @pytest.mark.parametrize(
        "target",
        [
            "javascript:alert(1)", "JaVaScRiPt:alert(1)", "&#106;avascript:alert(1)", "javascript&colon;alert(1)", "data:text/html,x",
            "vbscript:x", "file:///etc/passwd", "//evil.example", "other.md", "#part", "", "https:///x",
            "<java\tscript:x>", "\x01javascript:x",
        ],
    )  # fmt: skip
    def test_other_links_are_mistakes(self, target: str) -> None:
        made = render(f"one\n\ntwo [x]({target})".encode())
        if isinstance(made, Document):  # no link to Markdown either
            assert "<a" not in made.html
        else:
            assert made[0].line == 3

    @pytest.mark.parametrize(
        ("text", "line", "column", "words"),
        [
            (b"", 1, 1, "empty"),
            (b" \n\n", 1, 1, "empty"),
            (b"a\nb\xff", 2, 2, "UTF-8"),
            (b"a\n\n<script>alert(1)</script>\n", 3, 1, "HTML"),
            (b"a\nb <b onclick=x>c</b>\n", 2, 1, "HTML"),
            (b"a\n\n<!-- x -->\n", 3, 1, "HTML"),
            (b"- a\n- ![x](https://a.example/x.png)\n", 2, 1, "pictures"),
            (b"a\n\nb\x07c", 3, 2, "U+0007"),
            ("a\n\u0085".encode(), 2, 1, "U+0085"),
            (b"<javascript:alert(1)>", 1, 1, "a link leads to"),
            (b"[x]\n\n[x]: javascript:alert(1)\n", 1, 1, "a link leads to"),
            (b"|a|\n|-|\n|[x](data:,x)|\n", 3, 1, "a link leads to"),
        ],
    )
    def test_what_cannot_be_shown_is_a_mistake_with_its_line(self, text: bytes, line: int, column: int, words: str) -> None:
        made = render(text)
        assert not isinstance(made, Document)
        assert (made[0].line, made[0].column) == (line, column)
        assert words in made[0].message

    def test_all_mistakes_are_told_at_once(self) -> None:
        made = render(b"<b>x</b>\n\n[x](y)\n\n![a](b)\n")
        assert not isinstance(made, Document)
        assert [m.line for m in made] == [1, 3, 5]

    def test_a_huge_file_is_one(self) -> None:
        assert isinstance(render(b"a" * LARGEST), Document)
        assert render(b"a" * (LARGEST + 1)) == (TextMistake(1, 1, "the document is larger than 256 KiB"),)


class TestSettings:
    @pytest.mark.parametrize("to", ["/goodbye", "/a?b=c", "https://example.com/bye", "http://example.com"])
    def test_refusing_leads_to_a_path_or_a_url(self, to: str) -> None:
        assert config(decline={"to": to}).decline is not None

    @pytest.mark.parametrize(
        "to", ["goodbye", "//evil.example", "/\\evil.example", "javascript:x", "https://", "mailto:a@b.example", "/a\nb", ""]
    )
    def test_and_to_nothing_else(self, to: str) -> None:
        with pytest.raises(ValidationError):
            config(decline={"to": to})

    def test_a_step_without_its_document_is_not_built(self) -> None:
        bare = ConsentConfig.model_validate({"document": "terms.md", "version": "1"})
        with pytest.raises(ValueError, match="not read"):
            Consent.build("terms", bare, World().services)

    def test_the_edition_is_the_versions_and_not_the_texts(self) -> None:
        assert config().edition == config(b"other").edition != config(version="2026-12").edition


async def test_the_page_says_what_it_is_about() -> None:
    view = await step(World()).begin(World().context())
    assert view.title == "Terms of use"
    assert view.data["version"] == "2026-11"
    assert view.data["text"] == TERMS.decode()
    assert view.data["sha256"] == hashlib.sha256(TERMS).hexdigest()
    assert '<a href="https://example.com/a?b=1&amp;c=2">rest</a>' in view.data["html"]
    assert [c.value for c in view.fields[0].choices or ()] == ["yes", "no"]
    assert (await step(World(), title="Please agree").begin(World().context())).title == "Please agree"
    assert (await step(World(), b"no heading").begin(World().context())).title == "Please read and accept this"


async def test_what_was_accepted_is_kept_whole_and_readable_without_keys() -> None:
    world = World()
    outcome = await accepted(world, step(world, claims={"terms": "version", "terms_hash": "sha256", "terms_at": "at"}))
    digest = hashlib.sha256(TERMS).hexdigest()
    assert outcome.claims == {"terms": "2026-11", "terms_hash": digest, "terms_at": world.now}
    assert outcome.private == f"consent: accepted version 2026-11, sha256 {digest}"
    assert isinstance(world.records, MemoryRecords)
    [(place, entry)] = world.records.entries.items()
    assert place == ("consent", "alice", "login/terms")
    assert json.loads(entry.value) == {
        "accepted": [
            {
                "version": "2026-11", "sha256": digest, "at": world.now, "address": "192.0.2.7", "subject": "alice", "source": "login",
                "transaction": "t1",
            }
        ]
    }  # fmt: skip


async def test_a_new_version_asks_again_and_earlier_ones_stay_as_evidence() -> None:
    world = World()
    before, after = step(world), step(world, b"# Terms\n\nBe kinder.\n", version="2026-12")
    await accepted(world, before)
    alice = world.context().subject
    assert await after.already(alice, world.now) is None
    world.now += 60
    await accepted(world, after, "t2")
    for consent, at in ((after, world.now), (before, world.now - 60)):  # a version that comes back was accepted once
        found = await consent.already(alice, world.now + 1000)
        assert found is not None
        assert found.at == at
    record = await before.record(alice)
    assert record is not None
    assert record["version"] == "2026-12"
    assert record["at"] == datetime.fromtimestamp(world.now, UTC)
    assert isinstance(world.records, MemoryRecords)
    [entry] = world.records.entries.values()
    assert [e["version"] for e in json.loads(entry.value)["accepted"]] == ["2026-11", "2026-12"]


async def test_a_corrected_text_of_the_same_version_asks_nobody_again() -> None:
    world = World()
    await accepted(world, step(world))
    corrected = step(world, TERMS.replace(b"kind", b"kind!"))
    assert await corrected.already(world.context().subject, world.now) is not None


async def test_only_what_was_shown_can_be_accepted() -> None:
    world = World()
    look = world.context()
    unseen = await step(world).answer(look, {"accept": "yes"})
    assert isinstance(unseen, Refused)
    assert unseen.code == "changed"
    view = await step(world).begin(look)
    changed = await step(world, b"# Other").answer(world.later(look, view.memory), {"accept": "yes"})
    assert isinstance(changed, Refused)
    assert changed.code == "changed"
    # Another tab was shown the newer text; this one still shows the older.
    newer = step(world, b"# Other")
    later = await newer.begin(look)
    older_tab = await newer.answer(world.later(look, later.memory), {"accept": "yes", "sha256": str(view.data["sha256"])})
    assert isinstance(older_tab, Refused)
    assert older_tab.code == "changed"
    assert await step(world).already(look.subject, world.now) is None
    form = {"accept": "yes", "sha256": str(later.data["sha256"])}
    assert isinstance(await newer.answer(world.later(look, later.memory), form), Passed)


@pytest.mark.parametrize("to", ["", "/goodbye", "https://example.com/bye"])
async def test_who_refuses_is_sent_where_the_settings_say_and_nothing_is_kept(to: str) -> None:
    world = World()
    consent = step(world, decline={"to": to} if to else None)
    look = world.context()
    view = await consent.begin(look)
    assert view.next_origins == (("https://example.com",) if to.startswith("https") else ())
    outcome = await consent.answer(world.later(look, view.memory), {"accept": "no"})
    assert outcome == Declined(f"consent: refused version 2026-11, sha256 {hashlib.sha256(TERMS).hexdigest()}", to)
    assert isinstance(world.records, MemoryRecords)
    assert world.records.entries == {}


async def test_nobody_in_particular_has_no_record() -> None:
    world = World()
    consent = step(world, needs_subject=False)
    assert not consent.needs_subject
    outcome = await accepted(world, consent, subject="")
    assert outcome.at == world.now
    assert isinstance(world.records, MemoryRecords)
    assert world.records.entries == {}
    look = replace(world.context(), subject=NOBODY)
    view = await step(world).begin(look)
    refused = await step(world).answer(world.later(look, view.memory), {"accept": "yes"})
    assert isinstance(refused, Refused)
    assert refused.code == "no_subject"


async def test_the_same_text_accepted_in_two_tabs_is_one_entry() -> None:
    world = World()
    consent = step(world)
    look = world.context()
    view = await consent.begin(look)
    outcomes = await asyncio.gather(
        *(consent.answer(replace(world.later(look, view.memory), transaction=f"t{i}"), {"accept": "yes"}) for i in range(8))
    )
    assert all(isinstance(o, Passed) for o in outcomes)
    assert isinstance(world.records, MemoryRecords)
    [entry] = world.records.entries.values()
    assert len(json.loads(entry.value)["accepted"]) == 1


async def test_a_record_that_never_holds_still_passes_nobody() -> None:
    class Restless(MemoryRecords):
        async def put(self, kind: str, owner: str, name: str, value: bytes, *, version: int, now: float) -> int:
            raise Conflict(kind)

    world = World(records=Restless())
    consent = step(world)
    look = world.context()
    view = await consent.begin(look)
    with pytest.raises(StoreUnavailable):
        await consent.answer(world.later(look, view.memory), {"accept": "yes"})


async def test_people_are_told_apart_by_source_and_by_the_spelling_of_their_names() -> None:
    world = World()
    consent = step(world)
    await accepted(world, consent)
    for other in (Subject("ALICE", {}, "login"), Subject("alice", {}, "jwt:2"), Subject("alice", {}, "")):
        assert await consent.already(other, world.now) is None
        assert await consent.record(other) is None


async def test_of_one_that_is_accepted_again_the_first_and_the_latest_time_are_kept() -> None:
    world = World()
    consent = step(world)
    started = world.now
    await accepted(world, consent)
    for days in (31, 62):
        world.now = started + days * 86_400
        outcome = await accepted(world, consent, f"t{days}")
        assert outcome.at == world.now
        known = await consent.already(world.context().subject, world.now + 1000)
        assert known is not None
        assert known.at == world.now
    assert isinstance(world.records, MemoryRecords)
    [entry] = world.records.entries.values()
    [kept] = json.loads(entry.value)["accepted"]
    assert (kept["at"], kept["again"]["at"], kept["again"]["transaction"]) == (started, world.now, "t62")
