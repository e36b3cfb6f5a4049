"""Codes from an authenticator app: TOTP (RFC 6238) with SHA-1 and a drift of one step either way.

One enrolment per user, whatever the spelling of the name, sealed in the records. A time step is used up by the first code that
passes in it, also by one that arrives in parallel (RFC 6238 §5.2).
"""

from __future__ import annotations

import base64
import json
import math
from dataclasses import dataclass
from urllib.parse import urlsplit

import pyotp
import segno

from gateway.errors import Conflict, SealBroken
from gateway.flow.ports import Entropy, Records, StateStore, Vault
from gateway.flow.step import Context
from gateway.steps.forms import raw
from gateway.steps.otp.config import OtpConfig

PURPOSE = "totp"
KIND = "totp"
NAME = "authenticator"
DRIFT = 1
PENDING_SPACE = "otp-enrol"
HOUR = 3600
LONGEST_NAME = 64
"""Of the account name in a QR code; longer ones make codes that phones cannot read."""


@dataclass(frozen=True, slots=True)
class Enrolled:
    """An authenticator that was set up. version: of its record."""

    secret: str
    digits: int
    period: int
    version: int


@dataclass(frozen=True, slots=True)
class Unreadable:
    """There is a record that no key opens. It is neither a way in nor a reason to enrol freely."""

    version: int


@dataclass(frozen=True, slots=True)
class Right:
    pass


@dataclass(frozen=True, slots=True)
class WrongCode:
    pass


@dataclass(frozen=True, slots=True)
class UsedCode:
    """A right code whose time step is used up. retry_after: seconds until the next one."""

    retry_after: int


class Authenticators:
    def __init__(self, config: OtpConfig, state: StateStore, records: Records, vault: Vault, entropy: Entropy) -> None:
        self._config = config
        self._state = state
        self._records = records
        self._vault = vault
        self._entropy = entropy

    async def load(self, context: Context) -> Enrolled | Unreadable | None:
        owner = context.subject.counter
        entry = await self._records.get(KIND, owner, NAME)
        if entry is None:
            return None
        try:
            stored = json.loads(self._vault.open(PURPOSE, entry.value, place=f"{KIND}/{owner}"))
        except SealBroken:
            return Unreadable(entry.version)
        return Enrolled(stored["secret"], stored["digits"], stored["period"], entry.version)

    async def check(self, context: Context, enrolled: Enrolled, code: str) -> Right | WrongCode | UsedCode:
        """Judge a code and, where it is right, use it up."""
        totp = pyotp.TOTP(enrolled.secret, digits=enrolled.digits, interval=enrolled.period)
        try:
            step = totp.verify_and_get_timecode(code, for_time=int(context.now), valid_window=DRIFT)
        except pyotp.OTPVerificationError:
            return WrongCode()
        owner = self._vault.mac("otp-subject", raw(context.subject.counter)).hex()
        # Remembered until the step is out of the window, and one step more for clocks that were set back.
        expires = float((step + DRIFT + 2) * enrolled.period)
        try:
            await self._state.put("used", f"totp:{owner}:{enrolled.period}:{step}", b"", version=0, expires=expires, now=context.now)
        except Conflict:
            return UsedCode(max(1, math.ceil((int(context.now // enrolled.period) + 1) * enrolled.period - context.now)))
        return Right()

    async def pending(self, context: Context) -> Enrolled:
        """The secret that this transaction is about to enrol: made once, the same for parallel loads."""
        place = f"{context.transaction}:{context.step}"
        entry = await self._state.get(PENDING_SPACE, place, context.now)
        if entry is None:
            sealed = self._vault.seal(PURPOSE, self._entropy.bytes(20), place=place)  # 160 bits: RFC 4226 §4 R6
            try:
                await self._state.put(PENDING_SPACE, place, sealed, version=0, expires=context.now + HOUR, now=context.now)
            except Conflict:
                entry = await self._state.get(PENDING_SPACE, place, context.now)
        opened = self._vault.open(PURPOSE, sealed if entry is None else entry.value, place=place)
        return Enrolled(base64.b32encode(opened).decode(), self._config.digits, self._config.period, 0)

    async def enrol(self, context: Context, pending: Enrolled, version: int) -> bool:
        """Keep what was pending. version: of the record that it replaces, 0 for none. False when another enrolment was first."""
        owner = context.subject.counter
        stored = {"secret": pending.secret, "digits": pending.digits, "period": pending.period, "at": context.now}
        sealed = self._vault.seal(PURPOSE, json.dumps(stored).encode(), place=f"{KIND}/{owner}")
        try:
            await self._records.put(KIND, owner, NAME, sealed, version=version, now=context.now)
        except Conflict:
            return False
        await self._state.delete(PENDING_SPACE, f"{context.transaction}:{context.step}")
        return True

    def uri(self, context: Context, pending: Enrolled) -> str:
        """The otpauth:// URI that authenticator apps read."""
        issuer = self._config.issuer or urlsplit(context.origin).hostname or "gateway"
        totp = pyotp.TOTP(pending.secret, digits=pending.digits, interval=pending.period)
        # A colon separates issuer and account in the label; within either it confuses apps.
        name = context.subject.id[:LONGEST_NAME].replace(":", " ")
        return totp.provisioning_uri(name=name, issuer_name=issuer.replace(":", " "))


def qr(uri: str) -> str:
    """The URI as inline SVG, black on white in dark mode too: scanners want it so."""
    code = segno.make(uri, error="m", micro=False)
    return code.svg_inline(scale=4, svgclass=None, lineclass=None, dark="#000", light="#fff")


def typed(secret: str) -> str:
    """The secret as people type it: groups of four."""
    return " ".join(secret[i : i + 4] for i in range(0, len(secret), 4))
