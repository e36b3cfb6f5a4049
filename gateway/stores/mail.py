"""Mail leaves here: by SMTP, or into a bounded list for the demo. One plain-text message to one address.

Nothing that a subject brings along can become a header or a second recipient: addresses are addr-specs without white space and
specials (RFC 5321 §4.1.2), and the email package refuses line breaks in headers.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from email.errors import MessageError
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP as SMTP_POLICY
from email.utils import format_datetime, localtime
from urllib.parse import unquote, urlsplit
from uuid import uuid4

import aiosmtplib

from gateway.errors import MailFailed

_ADDRESS = re.compile(r"[^\s<>()\[\],;:\\\"@\x00-\x1f\x7f]+@[A-Za-z0-9.\-]+")
_PORTS = {"smtp": 25, "smtps": 465, "smtp+starttls": 587}
_LETTERS = str.maketrans("0123456789", "ghijklmnop")


@dataclass(frozen=True, slots=True)
class SmtpServer:
    """Where mail is handed over. tls: "none", "implicit" (RFC 8314) or "starttls" (required, never skipped)."""

    host: str
    port: int
    tls: str
    username: str | None
    password: str | None


def parse_smtp_url(url: str) -> SmtpServer:
    """`smtp://`, `smtps://` or `smtp+starttls://`, then `[user:password@]host[:port]`, percent-encoded.

    Raises ValueError, whose text does not repeat the url: there is a password in it.
    """
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        raise ValueError("has a port that is no number from 1 to 65535") from None
    if parts.scheme not in _PORTS:
        raise ValueError("is not a mail server; write smtp://host:port, smtps://host:port or smtp+starttls://host:port")
    if not parts.hostname or parts.path not in {"", "/"} or parts.query or parts.fragment:
        raise ValueError("is not a mail server; write nothing but host and port behind the scheme")
    if (parts.username is None) != (parts.password is None):
        raise ValueError("has a user without a password, or the other way round")
    return SmtpServer(
        host=parts.hostname,
        port=port or _PORTS[parts.scheme],
        tls={"smtp": "none", "smtps": "implicit", "smtp+starttls": "starttls"}[parts.scheme],
        username=None if parts.username is None else unquote(parts.username),
        password=None if parts.password is None else unquote(parts.password),
    )


class SmtpMailer:
    """A connection per message: mails are rare here, and a kept connection is closed by the server when it is needed."""

    def __init__(self, url: str, sender: str, timeout: float) -> None:
        """url: see `parse_smtp_url`. sender: an address, or `Name <address>`. timeout: seconds for a whole delivery's each step.

        Raises ValueError for a url or a sender that is none.
        """
        self._server = parse_smtp_url(url)
        self._sender = parse_sender(sender)
        self._timeout = timeout

    async def send(self, to: str, subject: str, text: str) -> None:
        """Raises MailFailed, whose text names neither the message nor the password."""
        message = compose(self._sender, to, subject, text)
        server = self._server
        try:
            await aiosmtplib.send(
                message,
                sender=self._sender.addr_spec,
                recipients=[to],
                hostname=server.host,
                port=server.port,
                local_hostname=self._sender.domain,  # else the library asks DNS for this host's own name
                username=server.username,
                password=server.password,
                timeout=self._timeout,
                use_tls=server.tls == "implicit",
                start_tls=server.tls == "starttls",
            )
        except aiosmtplib.SMTPRecipientsRefused as error:
            codes = ", ".join(str(refused.code) for refused in error.recipients)
            raise MailFailed(f"recipient refused: {codes}") from error
        except aiosmtplib.SMTPResponseException as error:
            raise MailFailed(f"{type(error).__name__}: {error.code}") from error
        except (aiosmtplib.SMTPException, OSError, TimeoutError, ValueError) as error:
            raise MailFailed(type(error).__name__) from error


def parse_sender(sender: str) -> Address:
    """`a@b.example` or `Name <a@b.example>`. Raises ValueError."""
    found = re.fullmatch(r"(?:\s*\"?([^<>\"\r\n]*?)\"?\s*<([^<>]+)>)|([^<>\s]+)", sender)
    spec = (found[2] or found[3]) if found else ""
    if not found or not _ADDRESS.fullmatch(spec) or not spec.isascii():
        raise ValueError("is not a mail address; write a@b.example or Name <a@b.example>")
    return Address(display_name=found[1] or "", addr_spec=spec)


def compose(sender: Address, to: str, subject: str, text: str) -> EmailMessage:
    """The message, to exactly one address. Raises MailFailed for an address or a subject that could be more than that."""
    if not _ADDRESS.fullmatch(to) or not to.isascii():
        raise MailFailed("recipient is not one address")
    message = EmailMessage(policy=SMTP_POLICY)
    try:
        message["From"] = sender
        message["To"] = Address(addr_spec=to)
        message["Subject"] = subject
        message["Date"] = format_datetime(localtime())
        # Letters only: the code must be the only run of digits of its length in the whole mail.
        message["Message-ID"] = f"<{uuid4().hex.translate(_LETTERS)}@{sender.domain}>"
        message["Auto-Submitted"] = "auto-generated"  # RFC 3834 §5: vacation responders keep quiet
        message.set_content(text)
    except (ValueError, MessageError) as error:
        raise MailFailed(f"message not composed: {type(error).__name__}") from error
    return message


class MemoryMailbox:
    """What would have been sent, newest first; the demo's mailbox page and the tests read it. Bounded: the oldest goes."""

    def __init__(self, keep: int = 100) -> None:
        self._messages: deque[dict[str, str]] = deque(maxlen=keep)

    @property
    def messages(self) -> Sequence[dict[str, str]]:
        """`{"to", "subject", "text"}` each, newest first."""
        return tuple(dict(message) for message in self._messages)

    async def send(self, to: str, subject: str, text: str) -> None:
        self._messages.appendleft({"to": to, "subject": subject, "text": text})
