"""What the bank remembers, in memory: users, sessions, ledgers. One `Bank` is one process's truth, gone with it.

Passwords are kept as they are: they are printed on the start page.
"""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation

OPENING_BALANCE = Decimal("5000.00")
MAX_TRANSFER = Decimal("1000000.00")
MAX_RECIPIENT = 140  # characters
MIN_PASSWORD = 8  # characters
MAX_SESSIONS = 50_000  # the oldest goes first


@dataclass(frozen=True, slots=True)
class Line:
    """One transfer: who was paid, and how much in euros (positive)."""

    to: str
    amount: Decimal


@dataclass(slots=True, eq=False)
class User:
    """An account holder."""

    name: str
    password: str
    admin: bool = False
    expired: bool = False
    balance: Decimal = OPENING_BALANCE
    ledger: list[Line] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Session:
    """What a JSESSIONID stands for. `user` is None for a visitor who has only seen the login form."""

    id: str
    csrf: str
    user: User | None = None

    def accepts(self, csrf: str) -> bool:
        """Whether `csrf` is the token that this session's forms carry."""
        return same(csrf, self.csrf)


class FieldError(Exception):
    """What the user typed cannot be done; `str(error)` is for the page."""


def same(one: str, other: str) -> bool:
    """Compare two secrets in constant time."""
    return hmac.compare_digest(one.encode("utf-8", "surrogatepass"), other.encode("utf-8", "surrogatepass"))


class Bank:
    """Users, their ledgers and their sessions."""

    def __init__(self) -> None:
        self.users = {
            "alice": User("alice", "wonderland", admin=True),
            "bob": User("bob", "builder", expired=True),
        }
        self.sessions: dict[str, Session] = {}  # oldest first

    def session(self, session_id: str | None) -> Session | None:
        """The living session of that id."""
        return self.sessions.get(session_id) if session_id else None

    def open_session(self, user: User | None = None) -> Session:
        """A new session, under an id that was never used before."""
        session = Session(secrets.token_hex(16).upper(), secrets.token_urlsafe(18), user)
        self.sessions[session.id] = session
        while len(self.sessions) > MAX_SESSIONS:
            del self.sessions[next(iter(self.sessions))]
        return session

    def close_session(self, session: Session | None) -> None:
        """Forget a session; nothing happens if it is gone already."""
        if session is not None:
            self.sessions.pop(session.id, None)

    def authenticate(self, name: str, password: str) -> User | None:
        """The user of that name and password."""
        user = self.users.get(name)
        return user if user is not None and same(password, user.password) else None

    def transfer(self, user: User, to: str, amount: str) -> None:
        """Write one ledger line. Raises FieldError, and writes nothing, if the fields are not a payment.

        There is an overdraft without end: a demonstration should not run out of money.
        """
        if not to.strip():
            raise FieldError("Please say whom to pay.")
        if len(to) > MAX_RECIPIENT:
            raise FieldError(f"The recipient has more than {MAX_RECIPIENT} characters.")
        euros = _euros(amount)
        user.ledger.append(Line(to.strip(), euros))
        user.balance -= euros

    def change_password(self, user: User, current: str, new: str, confirm: str) -> None:
        """Set a new password, which is then not expired. Raises FieldError, and changes nothing, if it may not be."""
        if not same(current, user.password):
            raise FieldError("The current password is wrong.")
        if new != confirm:
            raise FieldError("The two new passwords differ.")
        if len(new) < MIN_PASSWORD:
            raise FieldError(f"The new password needs at least {MIN_PASSWORD} characters.")
        if new == current:
            raise FieldError("The new password is the old one.")
        user.password = new
        user.expired = False


def _euros(text: str) -> Decimal:
    if not text.isascii():
        raise FieldError("The amount is not a number.")
    try:
        amount = Decimal(text.strip())
    except InvalidOperation:
        raise FieldError("The amount is not a number.") from None
    if not amount.is_finite() or not 0 < amount <= MAX_TRANSFER:
        raise FieldError(f"The amount must be more than 0 and at most {MAX_TRANSFER}.")
    cents = amount.quantize(Decimal("0.01"))
    if cents != amount:
        raise FieldError("The amount has more than two decimals.")
    return cents
