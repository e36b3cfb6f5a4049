"""Codes by mail. A code follows from the vault, the transaction and a serial number, so none is ever stored.

A new code has a new serial, which ends the old one. The first to write a serial's entry into the state store sends its mail:
parallel loads and reloads send one. What a subject gets within an hour is bounded, whoever asks.
"""

from __future__ import annotations

import hmac
import json
import math
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from gateway.errors import Conflict, MailFailed
from gateway.flow.ports import Mailer, StateStore, Vault
from gateway.flow.step import Context
from gateway.spec.base import format_duration
from gateway.steps.forms import raw
from gateway.steps.otp.config import OtpConfig

HOUR = 3600
LONGEST_WAIT = 300.0
SPACE = "otp-mail"


@dataclass(frozen=True, slots=True)
class Sent:
    """at: when the code that counts now was sent (seconds since the epoch)."""

    at: float


@dataclass(frozen=True, slots=True)
class Throttled:
    """The subject got enough mail for now. retry_after: seconds."""

    retry_after: int


@dataclass(frozen=True, slots=True)
class Undelivered:
    private: str


Delivery = Sent | Throttled | Undelivered


class MailedCodes:
    def __init__(self, config: OtpConfig, state: StateStore, vault: Vault, mailer: Mailer) -> None:
        self._config = config
        self._state = state
        self._vault = vault
        self._mailer = mailer

    async def deliver(self, context: Context, serial: int, to: str) -> Delivery:
        """Send the code of a serial unless that was done; then say when it was."""
        key, now = _key(context, serial), context.now
        entry = json.dumps({"at": now}).encode()
        try:
            await self._state.put(SPACE, key, entry, version=0, expires=now + max(HOUR, self._config.code_ttl), now=now)
        except Conflict:
            at = await self.sent_at(context, serial)
            return Sent(now if at is None else at)
        delivery = await self._send(context, serial, to)
        if not isinstance(delivery, Sent):
            await self._state.delete(SPACE, key)
        return delivery

    async def sent_at(self, context: Context, serial: int) -> float | None:
        """When the code of a serial was sent; None where it was not, or long ago."""
        entry = await self._state.get(SPACE, _key(context, serial), context.now)
        return None if entry is None else float(json.loads(entry.value)["at"])

    def resend_in(self, serial: int, at: float, now: float) -> int:
        """Seconds until the next code may be asked for."""
        wait = min(LONGEST_WAIT, self._config.resend_after * 2.0 ** min(serial - 1, 16))
        return max(0, math.ceil(at + wait - now))

    def right(self, context: Context, serial: int, code: str) -> bool:
        """Whether a code is that of a serial, by any key that still verifies."""
        macs = self._vault.macs("otp-mail", _key(context, serial).encode())
        return any(hmac.compare_digest(self._digits(mac).encode(), raw(code)) for mac in macs)

    def _digits(self, mac: bytes) -> str:
        # 256 bits over at most 10^8: the bias is below 2^-229.
        return str(int.from_bytes(mac, "big") % 10**self._config.digits).zfill(self._config.digits)

    async def _send(self, context: Context, serial: int, to: str) -> Delivery:
        window = int(context.now // HOUR)
        end = (window + 1) * HOUR
        owner = self._vault.mac("otp-subject", raw(context.subject.counter)).hex()
        sent = await self._state.count("otp-mails", f"{owner} {window}", by=1, expires=end, now=context.now)
        if sent > self._config.max_mails:
            return Throttled(max(1, math.ceil(end - context.now)))
        code = self._digits(self._vault.mac("otp-mail", _key(context, serial).encode()))
        site = _site(context.origin)
        try:
            await self._mailer.send(to, f"Your code for {site}", _text(site, code, self._config.code_ttl))
        except MailFailed as error:
            return Undelivered(f"mail failed: {error}")
        return Sent(context.now)


def _key(context: Context, serial: int) -> str:
    return f"{context.transaction}:{context.step}:{serial}"


def _site(origin: str) -> str:
    """The site as people know it. Long runs of digits are cut, so that the code is the only one in the mail."""
    return re.sub(r"\d{6,}", "…", urlsplit(origin).netloc)


def _text(site: str, code: str, ttl: float) -> str:
    return f"""Hello,

your code for {site} is

    {code}

Type it into the page that asked for it. It confirms that it is you
who wants to go on there. It works once, for {_minutes(ttl)}.

Nobody who works for {site} will ever ask you for it.

If this wasn't you, do not give the code to anyone: somebody may know
your password. Change it, and tell the people who run {site}.
"""


def _minutes(seconds: float) -> str:
    minutes = seconds / 60
    if minutes.is_integer():
        return "1 minute" if minutes == 1 else f"{int(minutes)} minutes"
    return format_duration(seconds)
