"""Mail: what reaches a real SMTP server, and what never does."""

from __future__ import annotations

import email
import email.policy
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gateway.errors import MailFailed
from gateway.stores.mail import MemoryMailbox, SmtpMailer, parse_sender, parse_smtp_url

TEXT = "Hello,\n\nyour code is 123456.\n.\nA line with a dot above, and “quotes”.\n"


class Inbox:
    """An aiosmtpd handler that keeps what it gets."""

    def __init__(self) -> None:
        self.envelopes: list[Envelope] = []
        self.logged_in: list[bool] = []

    async def handle_RCPT(self, _server: Any, _session: Any, envelope: Envelope, address: str, _options: Any) -> str:  # noqa: N802 - aiosmtpd's name
        if address.startswith("unknown"):
            return "550 no such user"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _server: Any, session: Any, envelope: Envelope) -> str:  # noqa: N802 - aiosmtpd's name
        self.envelopes.append(envelope)
        self.logged_in.append(session.authenticated)
        return "250 OK"

    def message(self) -> EmailMessage:
        (envelope,) = self.envelopes
        assert isinstance(envelope.content, bytes)
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        assert isinstance(message, EmailMessage)
        return message


Serve = Callable[..., Awaitable[tuple[Inbox, int]]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    import asyncio

    servers: list[asyncio.Server] = []

    async def start(*, implicit: ssl.SSLContext | None = None, **options: Any) -> tuple[Inbox, int]:
        inbox, loop = Inbox(), asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: SMTP(inbox, hostname="localhost", loop=loop, enable_SMTPUTF8=True, **options), "127.0.0.1", 0, ssl=implicit
        )
        servers.append(server)
        return inbox, server.sockets[0].getsockname()[1]

    yield start
    for server in servers:
        server.close()
        await server.wait_closed()


@pytest.fixture
def certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """A server context for 127.0.0.1 that this process trusts, by OpenSSL's own variable."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mail")])
    today = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(today - timedelta(days=1))
        .not_valid_after(today + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    chain, secret = tmp_path / "cert.pem", tmp_path / "key.pem"
    chain.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    monkeypatch.setenv("SSL_CERT_FILE", str(chain))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, secret)
    return context


def mailer(port: int, scheme: str = "smtp", login: str = "", sender: str = "Bank <security@example.com>") -> SmtpMailer:
    return SmtpMailer(f"{scheme}://{login}127.0.0.1:{port}", sender, 5.0)


async def test_a_mail_arrives_as_it_was_written(serve: Serve) -> None:
    inbox, port = await serve()
    await mailer(port).send("alice@example.com", "Your code for bänk", TEXT)
    message = inbox.message()
    assert inbox.envelopes[0].rcpt_tos == ["alice@example.com"]
    assert inbox.envelopes[0].mail_from == "security@example.com"
    assert (message["From"], message["To"], message["Subject"]) == (
        "Bank <security@example.com>",
        "alice@example.com",
        "Your code for bänk",
    )
    assert message.get_content().replace("\r\n", "\n") == TEXT
    assert message.get_content_type() == "text/plain"
    assert message["Auto-Submitted"] == "auto-generated"
    assert re.fullmatch(r"<[a-p]{32}@example\.com>", message["Message-ID"])
    assert message["Date"]
    assert isinstance(inbox.envelopes[0].content, bytes)
    assert re.findall(rb"\d{6,}", inbox.envelopes[0].content) == [b"123456"]


@pytest.mark.parametrize(
    ("to", "subject"),
    [
        ("a@example.com\r\nBcc: b@example.com", "x"),
        ("a@example.com, b@example.com", "x"),
        ("a@example.com b@example.com", "x"),
        ("<a@example.com>", "x"),
        ("a@b@example.com", "x"),
        ("", "x"),
        ("a@example.com", "x\r\nBcc: b@example.com"),
        ("a@example.com", "x\nBcc: b@example.com"),
    ],
)
async def test_nothing_becomes_a_header_or_a_second_recipient(serve: Serve, to: str, subject: str) -> None:
    inbox, port = await serve()
    with pytest.raises(MailFailed):
        await mailer(port).send(to, subject, TEXT)
    assert inbox.envelopes == []


async def test_a_refused_recipient_is_a_failure_that_names_nobody(serve: Serve) -> None:
    _, port = await serve()
    with pytest.raises(MailFailed) as failed:
        await mailer(port).send("unknown@example.com", "x", TEXT)
    assert "550" in str(failed.value)
    assert "unknown" not in str(failed.value)


async def test_nobody_listening_is_a_failure(unused_tcp_port: int) -> None:
    with pytest.raises(MailFailed):
        await mailer(unused_tcp_port).send("a@example.com", "x", TEXT)


def accept(password: bytes) -> Callable[..., AuthResult]:
    def check(_server: Any, _session: Any, _envelope: Any, _mechanism: str, data: Any) -> AuthResult:
        right = isinstance(data, LoginPassword) and (data.login, data.password) == (b"us@er", password)
        return AuthResult(success=right, handled=right)

    return check


@pytest.mark.parametrize("scheme", ["smtps", "smtp+starttls"])
async def test_tls_and_login(serve: Serve, certificate: ssl.SSLContext, scheme: str) -> None:
    login: dict[str, Any] = {"authenticator": accept(b"p:w/d")}
    if scheme == "smtps":
        inbox, port = await serve(implicit=certificate, auth_require_tls=False, **login)
    else:
        inbox, port = await serve(tls_context=certificate, require_starttls=True, **login)
    await mailer(port, scheme, "us%40er:p%3Aw%2Fd@").send("a@example.com", "x", TEXT)
    assert inbox.logged_in == [True]
    with pytest.raises(MailFailed) as failed:
        await mailer(port, scheme, "us%40er:wrong-secret@").send("a@example.com", "x", TEXT)
    assert "535" in str(failed.value)
    assert "wrong-secret" not in str(failed.value)


async def test_starttls_is_never_skipped(serve: Serve) -> None:
    inbox, port = await serve()
    with pytest.raises(MailFailed):
        await mailer(port, "smtp+starttls").send("a@example.com", "x", TEXT)
    assert inbox.envelopes == []


async def test_a_certificate_that_nobody_vouches_for_is_refused(
    serve: Serve, certificate: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox, port = await serve(implicit=certificate)
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(MailFailed):
        await mailer(port, "smtps").send("a@example.com", "x", TEXT)
    assert inbox.envelopes == []


def test_urls_of_mail_servers() -> None:
    assert parse_smtp_url("smtp://mail.example.com").port == 25
    assert parse_smtp_url("smtps://mail.example.com").port == 465
    assert parse_smtp_url("smtp+starttls://mail.example.com").port == 587
    assert parse_smtp_url("smtp://[::1]:2525").host == "::1"
    for wrong in ("http://x", "smtp://", "smtp://x/y", "smtp://x:0x", "smtp://user@x", "x:25", "smtp://secret:secret@x:99999"):
        with pytest.raises(ValueError, match=r"^(is|has)") as error:
            parse_smtp_url(wrong)
        assert "secret" not in str(error.value)


def test_senders() -> None:
    assert str(parse_sender("a@example.com")) == "a@example.com"
    assert parse_sender("The Bank <a@example.com>").display_name == "The Bank"
    for wrong in ("", "a", "a@b, c@d", "x\r\nBcc: y <a@example.com>", "<a@b> <c@d>", "a b@c"):
        with pytest.raises(ValueError, match="mail address"):
            parse_sender(wrong)


async def test_the_demo_mailbox_is_bounded_and_newest_first() -> None:
    box = MemoryMailbox(keep=3)
    for number in range(5):
        await box.send("a@example.com", str(number), "text")
    assert [m["subject"] for m in box.messages] == ["4", "3", "2"]
    box.messages[0]["subject"] = "changed"
    assert box.messages[0] == {"to": "a@example.com", "subject": "4", "text": "text"}
