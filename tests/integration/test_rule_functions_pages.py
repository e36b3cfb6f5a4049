"""A rule function and its page of others, the whole way: there by the gateway's own 303, back by the page's own request to /continue."""

from __future__ import annotations

import json
from urllib.parse import parse_qsl, urlsplit

import pytest

from tests.integration.test_rule_functions import ALICE, FORM, Place, located, place
from tests.support.front import FETCH, cookie_line, cookies
from tests.support.raw import RawMessage

pytest.importorskip("gateway.flow.away", reason="pages of others are not served yet")

assert place  # the fixture


def state_in(url: str) -> str:
    return dict(parse_qsl(urlsplit(url).query))["state"]


async def sent_there(place: Place) -> tuple[str, bytes]:
    """Where the browser is sent, and its cookies."""
    asked = await place.ask("GET /page?b=c")
    browser = cookie_line(cookies(asked)) + ALICE
    return located(await place.ask(f"GET {located(asked)}", browser)), browser


async def back(place: Place, url: str, browser: bytes, answer: str) -> RawMessage:
    return await place.ask("POST /continue", browser, body=f"state={state_in(url)}&{answer}".encode())


async def test_it_reads_what_the_page_sent_and_the_request_goes_on(place: Place) -> None:
    url, browser = await sent_there(place)
    jti = place.seen[0][1]
    assert url == f"https://page.example.com/start?session_token=T-{jti}&state={state_in(url)}"
    ticket = located(await back(place, url, browser, "confirm=yes&token=x"))
    assert (await place.ask(f"GET {ticket}", browser)).status == 200
    protocol, again, request, _ = place.seen[1]
    assert (protocol, again, request["body"]) == ("redirect-callback", jti, {"confirm": "yes", "token": "x"})
    assert (len(place.seen), place.sent()) == (2, ["GET /page?b=c"])


async def test_it_refuses_by_what_the_page_sent(place: Place) -> None:
    url, browser = await sent_there(place)
    refused = await back(place, url, browser, "confirm=no")
    assert refused.status == 403
    assert b"You have to agree." in refused.body
    assert (await back(place, url, browser, "confirm=yes")).status == 410
    assert place.sent() == []


async def test_a_script_opens_the_page_and_repeats_its_request(place: Place) -> None:
    asked = await place.ask("GET /page", kind=FETCH)
    browser = cookie_line(cookies(asked)) + ALICE
    shown = await place.ask(f"GET /.stepup/t/{json.loads(asked.body)['state']}", browser, kind=FETCH)
    url = json.loads(shown.body)["step"]["data"]["url"]
    done = await place.front.ask("POST /continue", FETCH + FORM + browser, f"state={state_in(url)}&confirm=yes".encode())
    assert done.status == 204
    held = cookie_line([*cookies(asked), *cookies(done)]) + ALICE
    assert (await place.ask("GET /page", held, kind=FETCH)).status == 200


async def test_the_page_of_one_tab_is_not_the_others(place: Place) -> None:
    first, browser = await sent_there(place)
    asked = await place.ask("GET /page?tab=2", browser)
    second = located(await place.ask(f"GET {located(asked)}", browser))
    one, two = (each[1] for each in place.seen)
    assert one != two
    located(await back(place, second, browser, "confirm=yes"))
    located(await back(place, first, browser, "confirm=yes"))
    assert [each[1] for each in place.seen[2:]] == [two, one]
