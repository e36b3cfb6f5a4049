"""A single-page application in Chromium that holds our script tag and knows nothing else: its requests wait for a dialog and go through."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from playwright.async_api import Browser, expect

from tests.browser.demo import Visitor, says
from tests.browser.till import Till, entered
from tests.support.chromium import axe
from tests.support.legacy import Habits
from tests.support.spa import POLICY, Spa, spa

OUTPUT = Path(__file__).parents[1] / "output"

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]


async def test_a_fetch_with_json_waits_for_its_code_and_goes_through_once(till: Till) -> None:
    await till.press("Pay")
    await expect(till.dialog).to_have_accessible_name("Please confirm that it is you")
    await expect(till.dialog.get_by_text("a•••e@bank.example")).to_be_visible()
    await till.enter_code()
    await expect(till.output("pay")).to_have_text("200 done for alice")
    await expect(till.dialog).to_have_count(0)
    assert [body.encode("latin-1").decode() for body in till.app.arrived("/api/pay")] == ['{"to":"Marlene & Söhne","amount":25}']
    assert ("X-Till", "7") in till.app.heads[-1]
    assert till.page.url == till.visitor.base + "/"


async def test_an_xhr_with_a_form_sees_one_answer_and_its_events_in_order(till: Till) -> None:
    await till.press("Order")
    await till.enter_code()
    await expect(till.output("order")).to_have_text("200 done for alice [1,loadstart,2,3,4,load]")
    assert [parse_qs(body) for body in till.app.arrived("/api/order")] == [{"what": ["tea"], "much": ["2"]}]
    assert ("X-Till", "7") in till.app.heads[-1]


async def test_an_upload_is_sent_whole_after_the_step(till: Till) -> None:
    data = bytes(range(256)) * 4000
    await till.page.get_by_label("Document").set_input_files({"name": "scan.bin", "mimeType": "application/octet-stream", "buffer": data})
    await till.press("Upload")
    await till.enter_code()
    await expect(till.output("upload")).to_have_text(f"200 für dich scan.bin {hashlib.sha256(data).hexdigest()[:16]}")


async def test_two_requests_at_once_share_one_dialog(till: Till) -> None:
    await till.press("Pay twice")
    await till.enter_code()
    await expect(till.output("both")).to_have_text("200 done for alice / 200 done for alice")
    assert (till.app.arrived("/api/pay/1"), till.app.arrived("/api/pay/2")) == (['{"amount":1}'], ['{"amount":2}'])
    assert len(till.place.gateway.mails) == 1


async def test_a_wrong_code_is_said_at_its_field_and_the_right_one_still_works(till: Till) -> None:
    await till.press("Pay")
    await expect(till.dialog).to_be_visible()
    code = f"{(int(till.place.gateway.code()) + 1) % 10**6:06}"
    await till.enter_code(code)
    await expect(till.dialog.get_by_role("alert")).to_have_text("The code is not right. Only the code from the newest mail counts.")
    field = till.dialog.get_by_label("Code from the mail")
    await expect(field).to_have_attribute("aria-invalid", "true")
    await expect(field).to_have_accessible_description(re.compile("The code is not right"))
    await expect(field).to_be_focused()
    await till.enter_code()
    await expect(till.output("pay")).to_have_text("200 done for alice")


async def test_who_cancels_sends_nothing_and_the_application_gets_the_401(till: Till) -> None:
    for button, leave in (("pay", "click"), ("order", "Escape")):
        await till.press(button.capitalize())
        await expect(till.dialog).to_be_visible()
        if leave == "click":
            await till.dialog.get_by_role("button", name="Cancel").click()
        else:
            await till.page.keyboard.press(leave)
        await expect(till.dialog).to_have_count(0)
        await expect(till.output(button)).to_contain_text('401 {"type": "tag:step-up-gateway,2026:step_up_required"')
        await expect(till.page.get_by_role("button", name=button.capitalize(), exact=True)).to_be_focused()
    await expect(till.output("order")).to_contain_text("[1,loadstart,4,load]")
    assert till.app.posted[1:] == [], "but for the login nothing arrived"


async def test_everything_works_by_keyboard_alone(till: Till) -> None:
    await till.page.get_by_role("button", name="Pay", exact=True).focus()
    await till.page.keyboard.press("Enter")
    await expect(till.dialog.get_by_label("Code from the mail")).to_be_focused()
    await till.page.keyboard.press("Tab")
    await expect(till.dialog.get_by_role("button", name="Continue")).to_be_focused()
    await till.page.keyboard.press("Shift+Tab")
    await till.page.keyboard.type(till.place.gateway.code())
    await till.page.keyboard.press("Enter")
    await expect(till.output("pay")).to_have_text("200 done for alice")
    await expect(till.page.get_by_role("button", name="Pay", exact=True)).to_be_focused()


async def test_a_new_code_can_be_asked_for(till: Till) -> None:
    await till.press("Pay")
    await expect(till.dialog).to_be_visible()
    assert till.place.gateway.clock is not None
    await till.place.gateway.advance(61)
    await till.dialog.get_by_role("button", name="Send a new code").click()
    await expect(till.dialog.get_by_role("status")).to_have_text("We sent a new code to a•••e@bank.example.")
    await till.enter_code()
    await expect(till.output("pay")).to_have_text("200 done for alice")


async def test_an_embedded_login_form_solves_its_captcha_by_itself_every_time(chromium: Browser, tmp_path: Path) -> None:
    async with spa(tmp_path) as (place, app), Visitor.entering(chromium, place.gateway) as visitor:
        till = await entered(place, app, visitor)
        for _ in range(2):
            await till.press("Log in")
            await expect(till.output("login")).to_have_text("200 home of alice")
            await expect(till.dialog).to_have_count(0)
        assert app.arrived("/login") == ["username=alice&password=right"] * 2
        assert till.page.url == visitor.base + "/"
        await till.press("Pay")
        await till.enter_code()
        await expect(till.output("pay")).to_have_text("200 done for alice")


async def test_where_the_dialog_cannot_do_a_step_a_window_does_and_the_request_goes_on(chromium: Browser, tmp_path: Path) -> None:
    """The policy lets no worker run, so the captcha is for its own page."""
    app = Spa(Habits(), policy=POLICY + "; worker-src 'none'")
    async with spa(tmp_path, app=app) as (place, _):
        visitor = await Visitor.enter(chromium, place.gateway)
        till = await entered(place, app, visitor)
        await till.press("Check")
        async with visitor.context.expect_page() as opened:
            await till.dialog.get_by_role("link", name="Use a window").click()
        window = await opened.value
        await says(window, "Confirmed – you can go back now")
        await expect(window.get_by_text("Close this window and go back to the application")).to_be_visible()
        await expect(till.output("check")).to_have_text("200 done for")
        assert app.arrived("/api/check") == ["x"]
        assert all("worker" in complaint for complaint in visitor.complaints), visitor.complaints
        await visitor.context.close()


async def test_a_step_that_was_begun_in_the_dialog_can_be_ended_in_a_window(till: Till) -> None:
    await till.press("Pay")
    async with till.visitor.context.expect_page() as opened:
        await till.dialog.get_by_role("link", name="Use a window").click()
    window = await opened.value
    await till.visitor.enter_code(window)
    await says(window, "Confirmed – you can go back now")
    await expect(till.output("pay")).to_have_text("200 done for alice")


async def test_without_the_tag_nothing_changes(chromium: Browser, tmp_path: Path) -> None:
    async with spa(tmp_path, app=Spa(Habits(), tag="")) as (place, app), Visitor.entering(chromium, place.gateway) as visitor:
        till = await entered(place, app, visitor)
        await till.log_in()
        await till.press("Pay")
        await expect(till.output("pay")).to_contain_text('"error": "interaction_required"')
        await till.press("Order")
        await expect(till.output("order")).to_contain_text("[1,loadstart,2,3,4,load]")
        await expect(till.output("order")).to_contain_text("401 {")
        await expect(till.dialog).to_have_count(0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_the_dialog_is_accessible_in_both_colours(chromium: Browser, tmp_path: Path, scheme: str) -> None:
    app = Spa(Habits(), policy=POLICY + "; style-src-elem 'self' 'unsafe-inline'")  # axe makes a style element
    async with spa(tmp_path, app=app) as (place, _), Visitor.entering(chromium, place.gateway, color_scheme=scheme) as visitor:
        till = await entered(place, app, visitor)
        await till.log_in()
        await till.press("Pay")
        await till.enter_code("000000")
        await expect(till.dialog.get_by_role("alert")).not_to_be_empty()
        assert await axe(till.page) == []


@pytest.mark.parametrize(("name", "width", "scheme"), [("light", 900, "light"), ("dark", 900, "dark"), ("narrow", 320, "light")])
async def test_the_dialog_fits_its_window(chromium: Browser, tmp_path: Path, name: str, width: int, scheme: str) -> None:
    size = {"width": width, "height": 620}
    async with spa(tmp_path) as (place, app), Visitor.entering(chromium, place.gateway, color_scheme=scheme, viewport=size) as visitor:
        till = await entered(place, app, visitor)
        await till.log_in()
        await till.press("Pay")
        await till.enter_code("000000")
        await expect(till.dialog.get_by_role("alert")).not_to_be_empty()
        box = await till.dialog.bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
        assert await till.dialog.evaluate("dialog => dialog.scrollWidth <= dialog.clientWidth")
        await till.page.screenshot(path=OUTPUT / f"spa-{name}.png")
