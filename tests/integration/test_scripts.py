"""What scripts of a page meet: a cookie to be known by, a window that ends well in either order, and preflights of friends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from gateway.web.static import LASTING
from tests.support.altcha_client import payload
from tests.support.gateway import SCRIPT
from tests.support.legacy import Client, Place, legacy

pytestmark = pytest.mark.asyncio(loop_scope="module")

FRIEND = "https://app.example"
RULES: list[dict[str, Any]] = [
    {"name": "read", "match": {"path": "/read/**"}, "require": "human", "max_age": "5m"},
    {"name": "once", "match": {"path": "/once"}, "require": "human", "max_age": "once"},
]
BEARER = {"Authorization": "Bearer abc"}
API = {**BEARER, "Accept": "application/json", "Sec-Fetch-Mode": "", "Sec-Fetch-Dest": "", "Sec-Fetch-Site": ""}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    routes = [{"upstream": "bank", "cors": [FRIEND]}]
    async with legacy(tmp_path_factory.mktemp("scripts"), rules=RULES, routes=routes) as found:
        yield found


async def solve(client: Client, url: str, **headers: str) -> Any:
    page = url[url.index("/.stepup") :]
    shown = await client.get(page, headers={**SCRIPT, **headers})
    assert shown.status == 200, shown.text
    assert shown.json["step"]["lead"]
    given = {"altcha": payload(shown.json["step"]["data"])}
    return (await client.post(page, json=given, headers={**SCRIPT, **headers})).json


async def test_a_script_of_this_origin_is_known_by_a_cookie_whatever_else_it_sends(place: Place) -> None:
    """A window that opens the step has the cookie, and no Authorization."""
    client = place.client()
    asked = await client.get("/read/x", headers={**SCRIPT, **BEARER})
    assert asked.status == 401
    assert "stepup-browser" in " ".join(asked.headers.getall("Set-Cookie"))
    assert (await client.get(asked.json["step_up_url"].removeprefix(place.gateway.base))).status == 200


async def test_a_client_that_is_no_browser_is_known_by_its_authorization(place: Place) -> None:
    client = place.client()
    asked = await client.get("/read/x", headers=API)
    assert (asked.status, asked.headers.getall("Set-Cookie", [])) == (401, [])
    page = asked.json["step_up_url"].removeprefix(place.gateway.base)
    assert (await client.get(page, headers=API)).status == 200
    assert (await client.get(page, headers={**API, "Authorization": "Bearer abd"})).status == 403


@pytest.mark.parametrize("path", ["/read/x", "/once"])
async def test_a_window_says_that_one_can_go_back_and_the_script_hears_of_it(place: Place, path: str) -> None:
    client = place.client()
    asked = await client.get(path, headers=SCRIPT)
    passed = await solve(client, asked.json["step_up_url"])
    window = await client.get(passed["continue"])
    assert window.status == 200
    assert "Close this window and go back" in window.text
    page = asked.json["step_up_url"].removeprefix(place.gateway.base)
    heard = (await client.get(page, headers=SCRIPT)).json
    assert heard["status"] == "passed" if path == "/once" else heard["error"]["code"] == "used"
    assert (await client.get(path, headers=SCRIPT)).status == 200


async def test_a_window_that_comes_second_says_so_too(place: Place) -> None:
    client = place.client()
    asked = await client.get("/read/x", headers=SCRIPT)
    passed = await solve(client, asked.json["step_up_url"])
    assert (await client.get(passed["continue"], headers=SCRIPT)).status == 204
    for page in (passed["continue"], asked.json["step_up_url"].removeprefix(place.gateway.base)):
        window = await client.get(page)
        assert window.status == 410
        assert "Close this window and go back" in window.text


@pytest.mark.parametrize(("origin", "allowed"), [(FRIEND, FRIEND), ("https://evil.example", None)])
async def test_a_friends_script_may_send_its_authorization_to_continue(place: Place, origin: str, allowed: str | None) -> None:
    headers = {"Origin": origin, "Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "authorization"}
    for path in ("/continue?state=su_x", "/.stepup/t/su_x"):
        answer = await place.client().request("OPTIONS", path, headers=headers)
        assert answer.headers.get("Access-Control-Allow-Origin") == allowed
        assert ("Authorization" in answer.headers.get("Access-Control-Allow-Headers", "")) is (allowed is not None)


@pytest.mark.parametrize("name", sorted(LASTING))
async def test_the_tag_has_one_address_for_good(place: Place, name: str) -> None:
    client = place.client()
    answer = await client.get(f"/.stepup/static/{name}", headers={"Sec-Fetch-Dest": "script", "Sec-Fetch-Mode": "no-cors"})
    assert (answer.status, answer.headers["Cache-Control"]) == (200, "private, no-cache")
    again = await client.get(f"/.stepup/static/{name}", headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status, again.body) == (304, b"")


async def test_the_tag_brings_the_cookie_so_that_requests_at_once_are_one_browsers(place: Place) -> None:
    client = place.client()
    tag = await client.get("/.stepup/static/stepup.js", headers={"Sec-Fetch-Dest": "script", "Sec-Fetch-Mode": "no-cors"})
    assert len(tag.headers.getall("Set-Cookie")) == 1
    again = await client.get("/.stepup/static/stepup.js", headers={"Sec-Fetch-Dest": "script", "Sec-Fetch-Mode": "no-cors"})
    assert again.headers.getall("Set-Cookie", []) == []
    foreign = await place.client().get("/.stepup/static/stepup.js", headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "script"})
    assert foreign.headers.getall("Set-Cookie", []) == []
    first, second = [await client.get(f"/read/{n}", headers=SCRIPT) for n in (1, 2)]
    assert first.json["state"] == second.json["state"], "what lasts is asked for once, for everything that the page wants"
    assert first.headers.getall("Set-Cookie", []) == []
    once = [(await client.get(path, headers=SCRIPT)).json["state"] for path in ("/once", "/once?2")]
    assert once[0] != once[1]


async def test_clients_without_cookies_do_not_share(place: Place) -> None:
    """One Authorization value may speak for many users."""
    client = place.client()
    states = [(await client.get(f"/read/{n}", headers=API)).json["state"] for n in (1, 2)]
    assert states[0] != states[1]
