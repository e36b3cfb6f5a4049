"""A rule function's own redirect: its URL gets `state` and nothing else, who comes back has passed, and what they brought is kept."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
import yaml

from gateway.flow.repository import transaction_id
from gateway.flow.transaction import Task, Transaction
from tests.support.external import KYC, RULE
from tests.support.gateway import Clock, read
from tests.support.legacy import Client, Place, legacy

CROSS = {"Sec-Fetch-Site": "cross-site"}


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with legacy(tmp_path, clock=Clock(1_800_000_000.0), rules=[RULE], steps={"kyc": KYC}) as found:
        yield found


async def sent_by_a_rule(place: Place, *urls: str) -> tuple[Client, str]:
    """A transaction whose steps are redirects of rule functions, as the suspension makes them, and its own state. No rule asks any more."""
    client = place.client()
    await client.log_in()
    asked = await client.post("/vault/open", {"a": "1"})
    state = asked.location.rpartition("/")[2]
    transactions = place.gateway.app.transactions
    found = await transactions.load(transaction_id(state), 1_800_000_000.0)
    assert found is not None
    tasks = tuple(Task(f"@rule-{n}", "once", ("rule",), url=url) for n, url in enumerate(urls))
    await transactions.save(replace(found.transaction, tasks=tasks), found.version, 1_800_000_000.0)
    raw = yaml.safe_load(place.gateway.config.read_text())
    raw["rules"] = []
    place.gateway.config.write_text(yaml.safe_dump(raw))
    await place.gateway.app.reload(read(place.gateway.config))
    return client, state


async def now(place: Place, state: str) -> Transaction:
    found = await place.gateway.app.transactions.load(transaction_id(state), 1_800_000_000.0)
    assert found is not None
    return found.transaction


@pytest.mark.parametrize(
    ("url", "before", "after"),
    [
        ("https://mfa.example.com/start", "https://mfa.example.com/start?state=", ""),
        ("https://mfa.example.com", "https://mfa.example.com?state=", ""),
        ("https://mfa.example.com/?token=a%2Eb&x", "https://mfa.example.com/?token=a%2Eb&x&state=", ""),
        ("https://mfa.example.com/?", "https://mfa.example.com/?state=", ""),
        ("https://mfa.example.com/?a=1#/app?b", "https://mfa.example.com/?a=1&state=", "#/app?b"),
        ("/verify?a=1", "/verify?a=1&state=", ""),
        ("https://mfa.example.com/ü", "https://mfa.example.com/%C3%BC?state=", ""),
    ],
)
async def test_only_state_is_appended(place: Place, url: str, before: str, after: str) -> None:
    client, state = await sent_by_a_rule(place, url)
    there = (await client.get(f"/.stepup/t/{state}")).location
    assert there.startswith(before + "su_")
    assert there.endswith(after)
    given = dict(parse_qsl(urlsplit(there).query))["state"]
    assert there == before + given + after
    assert given != state


@pytest.mark.parametrize(
    "url",
    ["javascript:alert(1)", "JavaScript:alert(1)", "data:text/html,x", "//evil.example/", "/\\evil.example", "https:///x", "https://a b/",
     "https://x.example/\r\nSet-Cookie: a=b", "http://x.example:99999/", "file:///etc/passwd", "x"],
)  # fmt: skip
async def test_what_is_no_address_of_a_page_is_not_gone_to(place: Place, url: str) -> None:
    client, state = await sent_by_a_rule(place, url)
    shown = await client.get(f"/.stepup/t/{state}")
    assert shown.status == 200
    assert "not usable" in shown.text
    assert 'value="cancel"' in shown.text


async def test_who_comes_back_has_passed_and_what_they_brought_is_kept(place: Place) -> None:
    client, state = await sent_by_a_rule(place, "https://mfa.example.com/")
    there = dict(parse_qsl(urlsplit((await client.get(f"/.stepup/t/{state}")).location).query))["state"]
    done = await client.post(f"/continue?state={there}&q=1", {"confirm": "yes", "token": "whatever"})
    assert "stepup_resume=" in done.location
    (task,) = (await now(place, state)).tasks
    assert task.memory == {"query": {"q": "1"}, "body": {"confirm": "yes", "token": "whatever"}}
    assert (await now(place, state)).proofs == {}
    assert (await client.get(done.location)).status == 200
    assert (await client.proved())["steps"] == []
    assert [p[1] for p in place.app.posted] == ["/login", "/vault/open"]
    assert (await client.get(f"/continue?state={there}")).status == 410


async def test_a_post_from_another_site_is_kept_and_fetched_back(place: Place) -> None:
    client, state = await sent_by_a_rule(place, "https://mfa.example.com/")
    there = dict(parse_qsl(urlsplit((await client.get(f"/.stepup/t/{state}")).location).query))["state"]
    kept = await client.post("/continue", {"state": there, "confirm": "yes"}, cookie="", headers=CROSS)
    assert kept.location.startswith("/continue?h=pk_")
    assert (await now(place, state)).tasks[0].passed is None
    assert "stepup_resume=" in (await client.get(kept.location)).location
    assert (await now(place, state)).tasks[0].memory["body"] == {"confirm": "yes"}


async def test_two_of_them_have_a_state_each(place: Place) -> None:
    client, state = await sent_by_a_rule(place, "https://one.example.com/", "https://two.example.com/")
    page = f"/.stepup/t/{state}"
    one = dict(parse_qsl(urlsplit((await client.get(page)).location).query))["state"]
    assert (await client.get(f"/continue?state={one}")).location == page
    away = (await client.get(page)).location
    two = dict(parse_qsl(urlsplit(away).query))["state"]
    assert away.startswith("https://two.example.com/")
    assert one != two
    assert (await client.get(f"/continue?state={one}")).status == 410
    assert "stepup_resume=" in (await client.get(f"/continue?state={two}")).location


@pytest.mark.parametrize("body", [{"x": "y" * 17_000}, {f"n{i}": "y" * 200 for i in range(100)}])
async def test_more_than_is_kept_is_refused_and_the_step_stays_open(place: Place, body: dict[str, Any]) -> None:
    client, state = await sent_by_a_rule(place, "https://mfa.example.com/")
    there = dict(parse_qsl(urlsplit((await client.get(f"/.stepup/t/{state}")).location).query))["state"]
    assert (await client.post(f"/continue?state={there}", body)).status == 413
    assert (await now(place, state)).tasks[0].passed is None


async def test_a_forms_answer_may_lead_to_the_rules_page(place: Place) -> None:
    client, state = await sent_by_a_rule(place, "https://mfa.example.com/")
    transactions = place.gateway.app.transactions
    found = await transactions.load(transaction_id(state), 1_800_000_000.0)
    assert found is not None
    confirm = Task("confirm", "once", ("rule",))
    await transactions.save(replace(found.transaction, tasks=(confirm, *found.transaction.tasks)), found.version, 1_800_000_000.0)
    policy = (await client.get(f"/.stepup/t/{state}")).headers["Content-Security-Policy"]
    assert "form-action 'self' http://kyc.example.com https://mfa.example.com" in policy


async def test_what_the_suspended_request_holds_is_no_answer_of_the_page(tmp_path: Path) -> None:
    """A client that gives the state by JSON has brought nothing back, whatever it sent at first."""
    (tmp_path / "f.py").write_text(
        "from gateway.functions import Unauthorized\n"
        "def agree(user, context):\n"
        "    if context.protocol == 'redirect-callback' and context.request.body.get('confirm') != 'yes':\n"
        "        raise Unauthorized('You have to agree.')\n"
        "    context.redirect = {'url': 'https://mfa.example.com/'}\n"
    )
    rule = {"name": "agree", "match": {"path": "/vault/**"}, "python": "f.py:agree"}
    async with legacy(tmp_path, rules=[rule]) as place:
        client = place.client()
        await client.log_in()
        way = (await client.post("/vault/open", {"confirm": "yes"})).location
        there = dict(parse_qsl(urlsplit((await client.get(way)).location).query))["state"]
        passed = await client.post(way, json={"state": there}, headers={"Accept": "application/json"})
        refused = await client.get(passed.json["continue"])
        assert refused.status == 403
        assert "You have to agree." in refused.text
