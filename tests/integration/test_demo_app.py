"""The bundled legacy application, by itself: what every other test of the gateway takes for granted about it."""

from __future__ import annotations

import ast
import asyncio
import hashlib
import io
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

import gateway.demo
from gateway.demo.app import start
from gateway.demo.state import Bank, FieldError

CSRF = re.compile(r'name="csrf" value="([^"]+)"')


class Browser:
    """A client with a cookie jar that follows no redirect."""

    def __init__(self, session: aiohttp.ClientSession, base: str) -> None:
        self.session = session
        self.base = base

    async def get(self, path: str, **options: Any) -> tuple[aiohttp.ClientResponse, str]:
        return await self.send("GET", path, **options)

    async def post(self, path: str, **fields: str) -> tuple[aiohttp.ClientResponse, str]:
        return await self.send("POST", path, data=fields)

    async def send(self, method: str, path: str, **options: Any) -> tuple[aiohttp.ClientResponse, str]:
        async with self.session.request(method, self.base + path, allow_redirects=False, **options) as response:
            return response, (await response.read()).decode("latin-1")

    async def login(self, username: str = "alice", password: str = "wonderland") -> aiohttp.ClientResponse:
        response, _ = await self.post("/login", username=username, password=password)
        assert response.status == 302
        return response

    async def csrf(self, path: str) -> str:
        _, page = await self.get(path)
        found = CSRF.search(page)
        assert found, page
        return found[1]

    async def submit(self, path: str, **fields: str) -> tuple[aiohttp.ClientResponse, str]:
        """Open the form at `path` and send it with its CSRF token."""
        return await self.post(path, csrf=await self.csrf(path), **fields)

    def cookie(self, name: str) -> str | None:
        for cookie in self.session.cookie_jar:
            if cookie.key == name:
                return cookie.value
        return None


@pytest.fixture
async def base() -> AsyncIterator[str]:
    runner = await start("127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.fixture
async def browser(base: str) -> AsyncIterator[Browser]:
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as session:
        yield Browser(session, base)


async def raw(base: str, request: bytes) -> bytes:
    """Send bytes, read until the other side closes."""
    host, port = base.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(request)
        return await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()


def test_it_imports_nothing_of_the_gateway() -> None:
    folder = Path(gateway.demo.__file__).parent
    for file in folder.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                assert not any(name.name.split(".")[0] == "gateway" for name in node.names), file
            elif isinstance(node, ast.ImportFrom):
                assert node.level <= 1, file
                assert (node.module or "").split(".")[0] != "gateway", file


async def test_the_start_page_says_who_can_log_in(browser: Browser) -> None:
    response, page = await browser.get("/")
    assert response.status == 200
    assert all(word in page for word in ("alice", "wonderland", "bob", "builder"))
    assert browser.cookie("JSESSIONID") is None


async def test_the_stylesheet_of_every_page_is_served(browser: Browser) -> None:
    _, page = await browser.get("/")
    assert 'href="/static/style.css"' in page
    response, _ = await browser.get("/static/style.css")
    assert response.content_type == "text/css"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/account"),
        ("GET", "/transfer"),
        ("POST", "/transfer"),
        ("GET", "/account/password"),
        ("POST", "/account/password"),
        ("GET", "/admin"),
    ],
)
async def test_without_a_login_every_private_page_leads_to_the_login(browser: Browser, method: str, path: str) -> None:
    response, _ = await browser.send(method, path)
    assert (response.status, response.headers["Location"]) == (302, "/login")


async def test_without_a_login_the_api_answers_401_in_json(browser: Browser) -> None:
    response, body = await browser.get("/api/balance")
    assert response.status == 401
    assert "error" in json.loads(body)


async def test_every_login_gives_another_session(browser: Browser) -> None:
    await browser.get("/login")
    anonymous = browser.cookie("JSESSIONID")
    response = await browser.login()
    first = browser.cookie("JSESSIONID")
    await browser.login()
    second = browser.cookie("JSESSIONID")
    assert response.headers["Location"] == "/account"
    assert len({anonymous, first, second} - {None}) == 3


async def test_a_session_that_was_replaced_or_left_is_dead(browser: Browser, base: str) -> None:
    await browser.login()
    old = browser.cookie("JSESSIONID")
    await browser.login()
    current = browser.cookie("JSESSIONID")
    await browser.get("/logout")
    assert browser.cookie("JSESSIONID") is None
    async with aiohttp.ClientSession() as plain:
        for dead in (old, current):
            async with plain.get(base + "/api/balance", headers={"Cookie": f"JSESSIONID={dead}"}) as response:
                assert response.status == 401


async def test_a_wrong_password_gets_the_form_again(browser: Browser) -> None:
    response, page = await browser.post("/login", username='a"<b>', password="wrong")
    assert response.status == 200
    assert 'role="alert"' in page
    assert "<b>" not in page.split("<form")[1]
    assert "a&quot;&lt;b&gt;" in page


async def test_a_visitor_keeps_one_anonymous_session_whose_token_the_login_accepts(browser: Browser) -> None:
    token = await browser.csrf("/login")
    first = browser.cookie("JSESSIONID")
    assert await browser.csrf("/login") == token
    assert browser.cookie("JSESSIONID") == first
    response, _ = await browser.post("/login", username="alice", password="wonderland", csrf=token)
    assert response.status == 302


async def test_a_login_form_of_another_session_is_not_accepted(browser: Browser) -> None:
    await browser.get("/login")
    response, page = await browser.post("/login", username="alice", password="wonderland", csrf="forged")
    assert response.status == 200
    assert "too old" in page


async def test_each_transfer_is_one_line_and_shown_once(browser: Browser) -> None:
    await browser.login()
    _, page = await browser.get("/account")
    assert "Nothing was transferred yet" in page
    for to in ("Payee & Sons", "Payee Two", "Payee Two"):
        response, _ = await browser.submit("/transfer", to=to, amount="12.50")
        assert (response.status, response.headers["Location"]) == (302, "/account")
    _, page = await browser.get("/account")
    assert page.count("Payee &amp; Sons") == 1
    assert page.count("Payee Two") == 2
    _, body = await browser.get("/api/balance")
    assert json.loads(body) == {"user": "alice", "balance": "4962.50", "currency": "EUR", "transfers": 3}


async def test_a_ledger_belongs_to_its_user(browser: Browser) -> None:
    await browser.login()
    await browser.submit("/transfer", to="Payee One", amount="1")
    await browser.login("bob", "builder")
    _, page = await browser.get("/account")
    assert "Payee One" not in page


@pytest.mark.parametrize("csrf", [None, "", "wrong", "größe"])
@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/transfer", {"to": "Payee One", "amount": "5"}),
        ("/account/password", {"current_password": "wonderland", "new_password": "looking-glass", "confirm_password": "looking-glass"}),
    ],
)
async def test_a_form_without_the_token_of_its_session_changes_nothing(
    browser: Browser, path: str, fields: dict[str, str], csrf: str | None
) -> None:
    await browser.login()
    token = {} if csrf is None else {"csrf": csrf}
    response, _ = await browser.post(path, **fields, **token)
    assert response.status == 403
    _, page = await browser.get("/account")
    assert "Payee One" not in page
    await browser.login()


@pytest.mark.parametrize("amount", ["", "abc", "0", "-1", "1.001", "NaN", "Infinity", "1e9", "١", "1000000.01"])
async def test_an_amount_that_is_none_writes_no_line(browser: Browser, amount: str) -> None:
    await browser.login()
    response, page = await browser.submit("/transfer", to="Payee One", amount=amount)
    assert response.status == 400
    assert 'role="alert"' in page
    assert 'value="Payee One"' in page
    _, page = await browser.get("/account")
    assert "Payee One" not in page


@pytest.mark.parametrize("to", ["", " ", "x" * 141])
def test_a_recipient_must_be_named_shortly(to: str) -> None:
    bank = Bank()
    with pytest.raises(FieldError):
        bank.transfer(bank.users["alice"], to, "1")
    assert bank.users["alice"].ledger == []


async def test_bobs_password_is_expired_until_he_changes_it(browser: Browser) -> None:
    response = await browser.login("bob", "builder")
    assert response.cookies["pw"].value == "expired"
    response, _ = await browser.submit(
        "/account/password", current_password="builder", new_password="can-we-fix-it", confirm_password="can-we-fix-it"
    )
    assert (response.status, response.headers["Location"]) == (302, "/account")
    assert browser.cookie("pw") is None
    response, _ = await browser.post("/login", username="bob", password="builder")
    assert response.status == 200
    response = await browser.login("bob", "can-we-fix-it")
    assert "pw" not in response.cookies


async def test_the_next_user_of_a_browser_does_not_inherit_the_mark(browser: Browser) -> None:
    await browser.login("bob", "builder")
    assert browser.cookie("pw") == "expired"
    await browser.login()
    assert browser.cookie("pw") is None


@pytest.mark.parametrize(
    ("current", "new", "confirm"),
    [
        ("wrong", "looking-glass", "looking-glass"),
        ("wonderland", "looking-glass", "looking-class"),
        ("wonderland", "short", "short"),
        ("wonderland", "wonderland", "wonderland"),
        ("wonderland", "", ""),
    ],
)
async def test_a_password_that_may_not_be_set_is_refused_with_a_reason(browser: Browser, current: str, new: str, confirm: str) -> None:
    await browser.login()
    response, page = await browser.submit("/account/password", current_password=current, new_password=new, confirm_password=confirm)
    assert response.status == 200
    assert 'role="alert"' in page
    await browser.login()


async def test_only_alice_may_open_the_administration(browser: Browser) -> None:
    await browser.login("bob", "builder")
    response, page = await browser.get("/admin", headers={"Accept": "text/html"})
    assert response.status == 403
    assert "Only administrators" in page
    await browser.login()
    response, page = await browser.get("/admin")
    assert response.status == 200
    assert "bob" in page


async def test_a_form_that_cannot_be_read_is_the_clients_fault(browser: Browser) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded; charset=nonsense"}
    response, _ = await browser.send("POST", "/login", data=b"username=alice", headers=headers)
    assert response.status == 400


async def test_errors_are_pages_for_browsers_and_text_for_programs(browser: Browser) -> None:
    response, page = await browser.get("/no/such/page", headers={"Accept": "text/html"})
    assert (response.status, response.content_type) == (404, "text/html")
    assert "Back to the start" in page
    response, _ = await browser.get("/no/such/page")
    assert (response.status, response.content_type) == (404, "text/plain")
    response, _ = await browser.send("DELETE", "/login", headers={"Accept": "text/html"})
    assert response.status == 405
    assert "POST" in response.headers["Allow"]


async def test_a_multipart_upload_is_measured_in_any_size_of_part(browser: Browser) -> None:
    content = bytes(range(256)) * 20_000 + b"\r\n--not the boundary"
    form = aiohttp.FormData()
    form.add_field("note", "before")
    form.add_field("file", io.BytesIO(content), filename="dökument.bin")
    form.add_field("after", "x")
    response, body = await browser.send("POST", "/upload", data=form)
    assert response.status == 200
    answer = json.loads(body)
    assert (answer["bytes"], answer["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())


async def test_a_plain_body_is_measured_too(browser: Browser) -> None:
    _, body = await browser.send("PUT", "/upload", data=b"abc")
    assert json.loads(body)["sha256"] == hashlib.sha256(b"abc").hexdigest()


@pytest.mark.parametrize(
    ("content_type", "data"),
    [
        ("multipart/form-data", b"x"),
        ("multipart/form-data; boundary=x", b"no boundary at all"),
        ("multipart/form-data; boundary=x", b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\nv\r\n--x--\r\n'),
    ],
)
async def test_an_upload_without_a_file_is_refused(browser: Browser, content_type: str, data: bytes) -> None:
    response, _ = await browser.send("POST", "/upload", data=data, headers={"Content-Type": content_type})
    assert response.status == 400


async def test_echo_shows_what_was_on_the_wire(base: str) -> None:
    answer = await raw(
        base,
        b"PURGE /echo/%2e%2e/.././a//%2Fb;x=1?q=%61&&+? HTTP/1.1\r\nhOsT: app\r\nX-Twice: 1\r\nx_odd: \xe9\r\nX-Twice: 2\r\n"
        b"Content-Length: 3\r\nConnection: close\r\n\r\nabc",
    )
    arrived = json.loads(answer.split(b"\r\n\r\n", 1)[1])
    assert arrived["method"] == "PURGE"
    assert arrived["target"] == "/echo/%2e%2e/.././a//%2Fb;x=1?q=%61&&+?"
    assert arrived["headers"] == [
        ["hOsT", "app"],
        ["X-Twice", "1"],
        ["x_odd", "\xe9"],
        ["X-Twice", "2"],
        ["Content-Length", "3"],
        ["Connection", "close"],
    ]
    assert (arrived["bytes"], arrived["sha256"]) == (3, hashlib.sha256(b"abc").hexdigest())


@pytest.mark.parametrize("target", [b"/echo?", b"/echo#part", b"http://other/echo?x"])
async def test_echo_shows_targets_that_clients_rewrite(base: str, target: bytes) -> None:
    answer = await raw(base, b"GET " + target + b" HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n")
    assert json.loads(answer.split(b"\r\n\r\n", 1)[1])["target"] == target.decode()


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "M-SEARCH"])
async def test_echo_takes_any_method(browser: Browser, method: str) -> None:
    _, body = await browser.send(method, "/echo")
    assert json.loads(body)["method"] == method


def expected(begin: int, end: int) -> bytes:
    return bytes(i % 251 for i in range(begin, end))


async def test_a_download_has_its_length_and_its_bytes(browser: Browser) -> None:
    response, body = await browser.get("/download?bytes=200003")
    assert response.headers["Content-Length"] == "200003"
    assert body.encode("latin-1") == expected(0, 200_003)


@pytest.mark.parametrize(
    ("asked", "begin", "end"),
    [("0-0", 0, 1), ("998-", 998, 1000), ("-3", 997, 1000), ("10-5000", 10, 1000), ("-5000", 0, 1000), ("251-501", 251, 502)],
)
async def test_one_range_is_answered_with_206(browser: Browser, asked: str, begin: int, end: int) -> None:
    response, body = await browser.get("/download?bytes=1000", headers={"Range": f"bytes={asked}"})
    assert response.status == 206
    assert response.headers["Content-Range"] == f"bytes {begin}-{end - 1}/1000"
    assert body.encode("latin-1") == expected(begin, end)


@pytest.mark.parametrize("asked", ["bytes=1000-", "bytes=-0", "bytes=5000-6000"])
async def test_a_range_outside_is_answered_with_416(browser: Browser, asked: str) -> None:
    response, _ = await browser.get("/download?bytes=1000", headers={"Range": asked})
    assert response.status == 416
    assert response.headers["Content-Range"] == "bytes */1000"


@pytest.mark.parametrize("headers", [{"Range": "bytes=5-2"}, {"Range": "bytes=-"}, {"Range": "bytes=0-1,4-5"}, {"Range": "lines=1-2"}])
async def test_a_range_that_cannot_be_read_is_ignored(browser: Browser, headers: dict[str, str]) -> None:
    response, _ = await browser.get("/download?bytes=1000", headers=headers)
    assert (response.status, response.headers["Content-Length"]) == (200, "1000")


async def test_if_range_with_another_tag_gets_everything(browser: Browser) -> None:
    response, _ = await browser.get("/download?bytes=1000", headers={"Range": "bytes=0-1", "If-Range": '"other"'})
    assert response.status == 200
    tag = response.headers["ETag"]
    response, _ = await browser.get("/download?bytes=1000", headers={"Range": "bytes=0-1", "If-Range": tag})
    assert response.status == 206


async def test_head_of_a_download_has_the_length_and_no_byte(base: str) -> None:
    answer = await raw(base, b"HEAD /download?bytes=5000 HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n")
    head, body = answer.split(b"\r\n\r\n", 1)
    assert b"Content-Length: 5000" in head
    assert body == b""


@pytest.mark.parametrize("size", ["-1", "x", "1.5", "2147483649", ""])
async def test_a_download_is_bounded(browser: Browser, size: str) -> None:
    response, _ = await browser.get(f"/download?bytes={size}")
    assert response.status == 400


async def test_events_come_one_by_one_and_end_when_counted(browser: Browser) -> None:
    response, body = await browser.get("/events?count=3&interval=0.01")
    assert response.content_type == "text/event-stream"
    blocks = [block.splitlines() for block in body.removesuffix("\n\n").split("\n\n")]
    assert [block[0] for block in blocks] == ["id: 1", "id: 2", "id: 3"]
    assert json.loads(blocks[2][2].removeprefix("data: "))["number"] == 3


@pytest.mark.parametrize("query", ["count=-1", "count=x", "interval=61", "interval=nan"])
async def test_events_refuse_numbers_that_are_none(browser: Browser, query: str) -> None:
    response, _ = await browser.get(f"/events?{query}")
    assert response.status == 400


async def test_websocket_sends_text_and_bytes_back_under_its_subprotocol(browser: Browser) -> None:
    async with browser.session.ws_connect(browser.base + "/ws", protocols=("other", "echo")) as socket:
        assert socket.protocol == "echo"
        await socket.send_str("größe")
        assert await socket.receive_str() == "größe"
        await socket.send_bytes(b"\x00" * 100_000)
        assert await socket.receive_bytes() == b"\x00" * 100_000


async def test_a_plain_request_to_the_websocket_is_refused(browser: Browser) -> None:
    response, _ = await browser.get("/ws")
    assert response.status == 400


async def test_slow_answers_and_is_bounded(browser: Browser) -> None:
    response, _ = await browser.get("/slow?seconds=0.01")
    assert response.status == 200
    response, _ = await browser.get("/slow?seconds=3600")
    assert response.status == 400


async def test_open_streams_end_when_the_application_stops() -> None:
    runner = await start("127.0.0.1", 0)
    base = f"http://127.0.0.1:{runner.addresses[0][1]}"
    async with aiohttp.ClientSession() as session, session.get(base + "/events") as events, session.ws_connect(base + "/ws") as socket:
        assert await events.content.readline() == b"id: 1\n"
        async with asyncio.timeout(10):
            _, message = await asyncio.gather(runner.cleanup(), socket.receive())
            await events.content.read()
        assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1001)


async def test_two_applications_share_nothing(browser: Browser) -> None:
    await browser.login()
    other = await start("127.0.0.1", 0)
    try:
        stranger = Browser(browser.session, f"http://127.0.0.1:{other.addresses[0][1]}")
        response, _ = await stranger.get("/account")
        assert response.status == 302
    finally:
        await other.cleanup()


async def test_a_port_in_use_is_reported(base: str) -> None:
    with pytest.raises(OSError, match="address already in use"):
        await start("127.0.0.1", int(base.rsplit(":", 1)[1]))
