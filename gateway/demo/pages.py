"""The HTML of the application. Everything that came from outside goes through `escape`; nothing here decides anything."""

from __future__ import annotations

from html import escape

from .state import MAX_RECIPIENT, MIN_PASSWORD, Session, User


def layout(title: str, body: str, user: User | None = None) -> str:
    """A whole page around `body`, which is HTML; `title` is text."""
    who = "<a href='/login'>Log in</a>"
    if user is not None:
        who = f"Logged in as <b>{escape(user.name)}</b> | <a href='/logout'>Log out</a>"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{escape(title)} - Harbour Ledger</title>
<link rel="stylesheet" href="/static/style.css">
</head>
<body>
<header><span class="brand">Harbour Ledger</span> <span class="release">Release 4.2</span> <span class="who">{who}</span></header>
<nav aria-label="Main"><a href="/">Start</a> <a href="/account">Account</a> <a href="/transfer">Transfer</a>
<a href="/account/password">Password</a> <a href="/upload">Documents</a> <a href="/admin">Administration</a></nav>
<main>
<h1>{escape(title)}</h1>
{body}
</main>
<footer>A demonstration application. Everything is kept in memory and forgotten at the end.</footer>
</body>
</html>
"""


def _error(message: str | None) -> str:
    return f'<p class="error" role="alert">{escape(message)}</p>' if message else ""


def _csrf(session: Session) -> str:
    return f'<input type="hidden" name="csrf" value="{escape(session.csrf)}">'


def start(user: User | None) -> str:
    """The public page: who can log in, and what to try."""
    return layout(
        "Welcome",
        """<p>This is a small bank's back office, as such programs were written twenty years ago.</p>
<h2>Who can log in</h2>
<table>
<tr><th scope="col">User</th><th scope="col">Password</th><th scope="col">Remarks</th></tr>
<tr><td>alice</td><td>wonderland</td><td>may open Administration</td></tr>
<tr><td>bob</td><td>builder</td><td>his password has expired</td></tr>
</table>
<h2>What to try</h2>
<ul>
<li><a href="/login">Log in</a>, look at the <a href="/account">account</a>, make a <a href="/transfer">transfer</a>:
each one that arrives here is one line in the ledger.</li>
<li>As bob, set a <a href="/account/password">new password</a>.</li>
<li>As alice, open the <a href="/admin">administration</a>.</li>
<li><a href="/upload">Upload</a> a document of any size; the answer is its SHA-256.</li>
</ul>
<h2>For programs</h2>
<table>
<tr><th scope="col">Address</th><th scope="col">What it does</th></tr>
<tr><td><a href="/api/balance">/api/balance</a></td><td>the balance as JSON; 401 without a session</td></tr>
<tr><td><a href="/echo">/echo</a></td><td>any method: the request as it arrived, as JSON</td></tr>
<tr><td>/events?count=5&amp;interval=1</td><td>server-sent events; endless without <code>count</code></td></tr>
<tr><td>/ws</td><td>WebSocket echo; knows the subprotocol <code>echo</code></td></tr>
<tr><td>/download?bytes=1000000</td><td>that many bytes, with ranges; byte <i>i</i> is <i>i</i> modulo 251</td></tr>
<tr><td><a href="/slow?seconds=2">/slow?seconds=2</a></td><td>an answer that takes its time</td></tr>
</table>""",
        user,
    )


def login(session: Session, error: str | None = None, username: str = "") -> str:
    """The login form of a session, which may be an anonymous one."""
    return layout(
        "Log in",
        f"""{_error(error)}
<form method="post" action="/login">{_csrf(session)}
<p><label for="username">User name</label>
<input id="username" name="username" value="{escape(username)}" autocomplete="username" required></p>
<p><label for="password">Password</label>
<input id="password" name="password" type="password" autocomplete="current-password" required></p>
<p><button>Log in</button></p>
</form>""",
        session.user,
    )


def account(user: User) -> str:
    """Balance and ledger. The text of a ledger line stands here once, so that a doubled transfer shows."""
    expired = (
        '<p class="error">Your password has expired. Please set a <a href="/account/password">new one</a>.</p>' if user.expired else ""
    )
    lines = "\n".join(
        f'<tr><td>{number}</td><td>{escape(line.to)}</td><td class="money">{line.amount:,.2f}</td></tr>'
        for number, line in enumerate(user.ledger, 1)
    )
    ledger = "<p>Nothing was transferred yet.</p>"
    if lines:
        ledger = f"""<table id="ledger">
<tr><th scope="col">No.</th><th scope="col">To</th><th scope="col">EUR</th></tr>
{lines}
</table>"""
    return layout(
        "Account",
        f"""{expired}<p>Balance: <b id="balance">{user.balance:,.2f}</b> EUR</p>
<h2>Ledger</h2>
{ledger}
<p><a class="button" href="/transfer">New transfer</a></p>""",
        user,
    )


def transfer(session: Session, error: str | None = None, to: str = "", amount: str = "") -> str:
    """The form of a payment."""
    return layout(
        "Transfer",
        f"""{_error(error)}
<form method="post" action="/transfer">{_csrf(session)}
<p><label for="to">To</label> <input id="to" name="to" value="{escape(to)}" maxlength="{MAX_RECIPIENT}" required></p>
<p><label for="amount">Amount (EUR)</label> <input id="amount" name="amount" value="{escape(amount)}" inputmode="decimal" required></p>
<p><button>Transfer</button></p>
</form>""",
        session.user,
    )


def password(session: Session, error: str | None = None) -> str:
    """The form that changes the password."""
    return layout(
        "Change password",
        f"""{_error(error)}
<form method="post" action="/account/password">{_csrf(session)}
<p><label for="current">Current password</label>
<input id="current" name="current_password" type="password" autocomplete="current-password" required></p>
<p><label for="new">New password</label>
<input id="new" name="new_password" type="password" autocomplete="new-password" minlength="{MIN_PASSWORD}" required></p>
<p><label for="confirm">New password again</label>
<input id="confirm" name="confirm_password" type="password" autocomplete="new-password" required></p>
<p><button>Change password</button></p>
</form>""",
        session.user,
    )


def admin(user: User, users: list[User], sessions: int) -> str:
    """The list of users, for administrators."""
    rows = "\n".join(
        f"<tr><td>{escape(each.name)}</td><td>{'expired' if each.expired else 'valid'}</td><td>{len(each.ledger)}</td></tr>"
        for each in users
    )
    return layout(
        "Administration",
        f"""<table>
<tr><th scope="col">User</th><th scope="col">Password</th><th scope="col">Transfers</th></tr>
{rows}
</table>
<p>Sessions in memory: {sessions}</p>""",
        user,
    )


def upload(user: User | None) -> str:
    """The form that takes a document."""
    return layout(
        "Documents",
        """<form method="post" action="/upload" enctype="multipart/form-data">
<p><label for="file">Document</label> <input id="file" name="file" type="file" required></p>
<p><button>Upload</button></p>
</form>
<p>The document is read, measured and thrown away.</p>""",
        user,
    )


def failure(status: int, reason: str, message: str, user: User | None) -> str:
    """The page of an HTTP error."""
    return layout(f"{status} {reason}", f'{_error(message)}<p><a href="/">Back to the start</a></p>', user)
