"""The application: sessions, forms, addresses. Plain aiohttp, its own state, no other module of this distribution.

Start it with `start(host, port)`, or take `make_app()` where a test wants several.
"""

from __future__ import annotations

from http import HTTPStatus
from pathlib import Path

from aiohttp import web

from . import pages, streams
from .state import Bank, FieldError, Session, User

COOKIE = "JSESSIONID"
EXPIRED_COOKIE = "pw"
MAX_FORM = 4 << 20  # bytes
SHUTDOWN = 2.0  # seconds that open answers get when the application stops
STYLE = (Path(__file__).parent / "style.css").read_text(encoding="utf-8")
BANK = web.AppKey("bank", Bank)


def _page(html: str, status: int = 200) -> web.Response:
    return web.Response(text=html, status=status, content_type="text/html")


def _redirect(location: str) -> web.Response:
    return web.Response(status=302, headers={"Location": location})


def _session(request: web.Request) -> Session | None:
    return request.app[BANK].session(request.cookies.get(COOKIE))


def _user(request: web.Request) -> User | None:
    session = _session(request)
    return session.user if session else None


def _logged_in(request: web.Request) -> tuple[Session, User] | None:
    session = _session(request)
    return (session, session.user) if session and session.user else None


async def _form(request: web.Request, *names: str) -> list[str]:
    """The values of those fields, "" where one is missing. 400 if the body is no form that can be read."""
    try:
        form = await request.post()
    except (ValueError, LookupError) as error:  # LookupError: a charset that nobody knows
        raise web.HTTPBadRequest(text="The form cannot be read.") from error
    values = [form.get(name, "") for name in names]
    return [value if isinstance(value, str) else "" for value in values]


def _check_csrf(session: Session, csrf: str) -> None:
    if not session.accepts(csrf):
        raise web.HTTPForbidden(text="This form does not belong to your session. Please open it again.")


async def start_page(request: web.Request) -> web.Response:
    return _page(pages.start(_user(request)))


async def style(_request: web.Request) -> web.Response:
    return web.Response(text=STYLE, content_type="text/css", headers={"Cache-Control": "max-age=3600"})


def _login_page(request: web.Request, error: str | None = None, username: str = "") -> web.Response:
    """The form. A visitor without a session gets one here, because its CSRF token lives there."""
    session = _session(request)
    known = session is not None
    if session is None:
        session = request.app[BANK].open_session()
    response = _page(pages.login(session, error, username))
    if not known:
        response.set_cookie(COOKIE, session.id, path="/", httponly=True)
    return response


async def login_form(request: web.Request) -> web.Response:
    return _login_page(request)


async def login(request: web.Request) -> web.Response:
    bank, session = request.app[BANK], _session(request)
    username, password, csrf = await _form(request, "username", "password", "csrf")
    # Programs log in without a token; a browser that sends one must send the right one.
    if csrf and not (session and session.accepts(csrf)):
        return _login_page(request, "The form was too old. Please try again.", username)
    user = bank.authenticate(username, password)
    if user is None:
        return _login_page(request, "The user name or the password is wrong.", username)
    bank.close_session(session)
    response = _redirect("/account")
    response.set_cookie(COOKIE, bank.open_session(user).id, path="/", httponly=True)
    if user.expired:
        response.set_cookie(EXPIRED_COOKIE, "expired", path="/")
    elif EXPIRED_COOKIE in request.cookies:  # left by the one who sat here before
        response.del_cookie(EXPIRED_COOKIE, path="/")
    return response


async def logout(request: web.Request) -> web.Response:
    request.app[BANK].close_session(_session(request))
    response = _redirect("/")
    response.del_cookie(COOKIE, path="/")
    return response


async def account(request: web.Request) -> web.Response:
    user = _user(request)
    return _page(pages.account(user)) if user else _redirect("/login")


async def transfer_form(request: web.Request) -> web.Response:
    found = _logged_in(request)
    return _page(pages.transfer(found[0])) if found else _redirect("/login")


async def transfer(request: web.Request) -> web.Response:
    found = _logged_in(request)
    if not found:
        return _redirect("/login")
    session, user = found
    to, amount, csrf = await _form(request, "to", "amount", "csrf")
    _check_csrf(session, csrf)
    try:
        request.app[BANK].transfer(user, to, amount)
    except FieldError as error:
        return _page(pages.transfer(session, str(error), to, amount), 400)
    return _redirect("/account")


async def password_form(request: web.Request) -> web.Response:
    found = _logged_in(request)
    return _page(pages.password(found[0])) if found else _redirect("/login")


async def password(request: web.Request) -> web.Response:
    found = _logged_in(request)
    if not found:
        return _redirect("/login")
    session, user = found
    current, new, confirm, csrf = await _form(request, "current_password", "new_password", "confirm_password", "csrf")
    _check_csrf(session, csrf)
    try:
        request.app[BANK].change_password(user, current, new, confirm)
    except FieldError as error:
        return _page(pages.password(session, str(error)))
    response = _redirect("/account")
    response.del_cookie(EXPIRED_COOKIE, path="/")
    return response


async def admin(request: web.Request) -> web.Response:
    user, bank = _user(request), request.app[BANK]
    if user is None:
        return _redirect("/login")
    if not user.admin:
        raise web.HTTPForbidden(text="Only administrators may open this page.")
    return _page(pages.admin(user, list(bank.users.values()), len(bank.sessions)))


async def balance(request: web.Request) -> web.Response:
    user = _user(request)
    if user is None:
        return web.json_response({"error": "not logged in"}, status=401)
    return web.json_response({"user": user.name, "balance": f"{user.balance:.2f}", "currency": "EUR", "transfers": len(user.ledger)})


async def upload_form(request: web.Request) -> web.Response:
    return _page(pages.upload(_user(request)))


@web.middleware
async def _errors(request: web.Request, handler: streams.Handler) -> web.StreamResponse:
    """Errors as a page for browsers, as one line of text for programs."""
    try:
        return await handler(request)
    except ConnectionError:  # the client left before it had sent all; nobody reads this
        return web.Response(status=400)
    except web.HTTPError as error:
        if "text/html" in request.headers.get("Accept", ""):
            message = error.text or ""
            if message.startswith(f"{error.status}:"):  # aiohttp's own text says no more than the title
                message = HTTPStatus(error.status).description or error.reason
            error.text = pages.failure(error.status, error.reason, message, _user(request))
            error.content_type = "text/html"
        raise


def make_app() -> web.Application:
    """A new application with a state of its own. It holds open streams only until its runner is cleaned up."""
    app = web.Application(middlewares=[_errors], client_max_size=MAX_FORM)
    app[BANK] = Bank()
    app.add_routes(
        [
            web.get("/", start_page),
            web.get("/static/style.css", style),
            web.get("/login", login_form),
            web.post("/login", login),
            web.get("/logout", logout),
            web.post("/logout", logout),
            web.get("/account", account),
            web.get("/transfer", transfer_form),
            web.post("/transfer", transfer),
            web.get("/account/password", password_form),
            web.post("/account/password", password),
            web.get("/admin", admin),
            web.get("/api/balance", balance),
            web.get("/upload", upload_form),
        ]
    )
    streams.add(app)
    return app


async def start(host: str, port: int) -> web.AppRunner:
    """Serve a new application. The caller must `await runner.cleanup()` when done.

    With port 0 the system picks one: `runner.addresses[0][1]`. Raises OSError if the address cannot be had.
    """
    runner = web.AppRunner(make_app(), access_log=None, shutdown_timeout=SHUTDOWN)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError:
        await runner.cleanup()
        raise
    return runner
