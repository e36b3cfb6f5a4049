"""What steps are tested with: stores, keys and randomness in memory that obey gateway.flow.ports, an application with a password form,
and somebody who can read questions."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import html
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from aiohttp import web
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.errors import Conflict, MailFailed, SealBroken, StoreUnavailable
from gateway.flow.ports import AuditEvent, Entry, Mailer, Records, Revocation, StateStore, Write
from gateway.flow.step import Context, Services
from gateway.stores.mail import MemoryMailbox
from gateway.wire.subject import NOBODY, Scalar, Subject


class MemoryState:
    """StateStore in memory, as far as steps use it."""

    def __init__(self) -> None:
        self.entries: dict[tuple[str, str], tuple[Entry, float]] = {}
        self.counters: dict[tuple[str, str], tuple[int, float]] = {}

    async def get(self, space: str, key: str, now: float) -> Entry | None:
        entry, expires = self.entries.get((space, key), (None, 0.0))
        return entry if entry and now < expires else None

    async def put(self, space: str, key: str, value: bytes, *, version: int, expires: float, now: float) -> int:
        live = await self.get(space, key, now)
        if (live.version if live else 0) != version:
            raise Conflict(space)
        self.entries[space, key] = (Entry(value, version + 1), expires)
        return version + 1

    async def delete(self, space: str, key: str) -> None:
        self.entries.pop((space, key), None)

    async def count(self, space: str, key: str, *, by: int, expires: float, now: float) -> int:
        value, until = self.counters.get((space, key), (0, 0.0))
        if now >= until:
            value, until = 0, expires
        self.counters[space, key] = (max(0, value + by), until)
        return max(0, value + by)

    async def join(self, space: str, group: str, member: str, *, cap: int, expires: float, now: float) -> bool:
        raise NotImplementedError("no step joins groups")

    async def leave(self, space: str, group: str, member: str) -> None:
        raise NotImplementedError("no step joins groups")

    async def together(self, writes: Sequence[Write], now: float) -> Sequence[Any]:
        raise NotImplementedError("no step writes together")

    async def revoke(self, sid: str, *, until: float, now: float) -> None:
        raise NotImplementedError("no step revokes")

    async def revocations(self, after: int, now: float) -> Sequence[Revocation]:
        raise NotImplementedError("no step revokes")

    async def close(self) -> None: ...


class Switched:
    """Another state store that can be switched off: then every call fails, as when a deadline has passed.

    Every call lets others run first, so that what is sent in parallel does interleave.
    """

    def __init__(self, inner: StateStore) -> None:
        self.inner = inner
        self.down = False

    async def _on(self) -> StateStore:
        await asyncio.sleep(0)
        if self.down:
            raise StoreUnavailable("down")
        return self.inner

    async def get(self, space: str, key: str, now: float) -> Entry | None:
        return await (await self._on()).get(space, key, now)

    async def put(self, space: str, key: str, value: bytes, *, version: int, expires: float, now: float) -> int:
        return await (await self._on()).put(space, key, value, version=version, expires=expires, now=now)

    async def delete(self, space: str, key: str) -> None:
        await (await self._on()).delete(space, key)

    async def count(self, space: str, key: str, *, by: int, expires: float, now: float) -> int:
        return await (await self._on()).count(space, key, by=by, expires=expires, now=now)

    async def join(self, space: str, group: str, member: str, *, cap: int, expires: float, now: float) -> bool:
        return await (await self._on()).join(space, group, member, cap=cap, expires=expires, now=now)

    async def leave(self, space: str, group: str, member: str) -> None:
        await (await self._on()).leave(space, group, member)

    async def together(self, writes: Sequence[Write], now: float) -> Sequence[Any]:
        return await (await self._on()).together(writes, now)

    async def revoke(self, sid: str, *, until: float, now: float) -> None:
        await (await self._on()).revoke(sid, until=until, now=now)

    async def revocations(self, after: int, now: float) -> Sequence[Revocation]:
        return await (await self._on()).revocations(after, now)

    async def close(self) -> None:
        await self.inner.close()


class MemoryRecords:
    def __init__(self) -> None:
        self.entries: dict[tuple[str, str, str], Entry] = {}

    async def get(self, kind: str, owner: str, name: str) -> Entry | None:
        await asyncio.sleep(0)
        return self.entries.get((kind, owner, name))

    async def put(self, kind: str, owner: str, name: str, value: bytes, *, version: int, now: float) -> int:
        live = await self.get(kind, owner, name)
        if (live.version if live else 0) != version:
            raise Conflict(kind)
        self.entries[kind, owner, name] = Entry(value, version + 1)
        return version + 1

    async def delete(self, kind: str, owner: str, name: str) -> None:
        self.entries.pop((kind, owner, name), None)

    async def audit(self, event: AuditEvent) -> None: ...

    async def ping(self) -> None: ...

    async def close(self) -> None: ...


class SwitchedRecords:
    """Other records that are away whenever the state store of `switch` is."""

    def __init__(self, inner: Records, switch: Switched) -> None:
        self.inner = inner
        self._switch = switch

    async def _on(self) -> Records:
        await asyncio.sleep(0)
        if self._switch.down:
            raise StoreUnavailable("down")
        return self.inner

    async def get(self, kind: str, owner: str, name: str) -> Entry | None:
        return await (await self._on()).get(kind, owner, name)

    async def put(self, kind: str, owner: str, name: str, value: bytes, *, version: int, now: float) -> int:
        return await (await self._on()).put(kind, owner, name, value, version=version, now=now)

    async def delete(self, kind: str, owner: str, name: str) -> None:
        await (await self._on()).delete(kind, owner, name)

    async def audit(self, event: AuditEvent) -> None:
        await (await self._on()).audit(event)

    async def ping(self) -> None:
        await (await self._on()).ping()

    async def close(self) -> None:
        await self.inner.close()


class MemoryVault:
    """Vault with keys in memory. `rotate` adds a new current key; old ones still verify and open."""

    def __init__(self, *keys: bytes) -> None:
        self._keys = list(keys or (b"first key",))

    def rotate(self, key: bytes) -> None:
        self._keys.insert(0, key)

    def _derive(self, key: bytes, purpose: str) -> bytes:
        return hmac.digest(key, purpose.encode(), "sha256")

    def seal(self, purpose: str, plain: bytes, *, place: str) -> bytes:
        nonce = hashlib.sha256(plain + place.encode() + str(time.perf_counter_ns()).encode()).digest()[:12]
        return nonce + AESGCM(self._derive(self._keys[0], purpose)).encrypt(nonce, plain, place.encode())

    def open(self, purpose: str, sealed: bytes, *, place: str) -> bytes:
        for key in self._keys:
            try:
                return AESGCM(self._derive(key, purpose)).decrypt(sealed[:12], sealed[12:], place.encode())
            except InvalidTag:
                continue
        raise SealBroken(purpose)

    def mac(self, purpose: str, data: bytes) -> bytes:
        return self.macs(purpose, data)[0]

    def macs(self, purpose: str, data: bytes) -> tuple[bytes, ...]:
        return tuple(hmac.digest(self._derive(key, purpose), data, "sha256") for key in self._keys)


class SeededEntropy:
    """The same randomness in every run."""

    def __init__(self, seed: bytes = b"seed") -> None:
        self._seed = seed
        self._drawn = 0

    def bytes(self, count: int) -> bytes:
        self._drawn += 1
        return hashlib.shake_256(self._seed + str(self._drawn).encode()).digest(count)

    def token(self) -> str:
        return self.bytes(32).hex()[:43]

    def digits(self, count: int) -> str:
        return str(int.from_bytes(self.bytes(16), "big") % 10**count).zfill(count)


class BrokenMailer:
    """A mail server that is away, or comes back."""

    def __init__(self, inner: Mailer) -> None:
        self.inner = inner
        self.down = True

    async def send(self, to: str, subject: str, text: str) -> None:
        if self.down:
            raise MailFailed("ConnectionRefusedError")
        await self.inner.send(to, subject, text)


@dataclass
class World:
    """Everything that a step is built with and looked at through, and a clock that only tests move.

    The clock begins at the real time: the altcha library looks at the machine's clock as well.
    """

    stored: StateStore = field(default_factory=MemoryState)
    records: Records = field(default_factory=MemoryRecords)
    vault: Any = field(default_factory=MemoryVault)
    mailbox: MemoryMailbox = field(default_factory=MemoryMailbox)
    mailer: Mailer | None = None
    now: float = field(default_factory=lambda: float(int(time.time())))
    state: Switched = field(init=False)

    def __post_init__(self) -> None:
        self.state = Switched(self.stored)

    @property
    def services(self) -> Services:
        records = SwitchedRecords(self.records, self.state)
        return Services(self.state, records, self.vault, SeededEntropy(), self.mailer or self.mailbox)

    def context(
        self, transaction: str = "t1", *, subject: str = "alice", claims: Mapping[str, Scalar] | None = None, **changes: Any
    ) -> Context:
        who = Subject(subject, claims or {}, "login") if subject else NOBODY
        base = Context(transaction, "step", who, {}, self.now, "192.0.2.7", "http://127.0.0.1:8080")
        return replace(base, **changes)

    def later(self, context: Context, memory: Mapping[str, Any], seconds: float = 0.0) -> Context:
        """The next look at the same transaction: memory has been through JSON, as in the store."""
        self.now += seconds
        return replace(context, memory=json.loads(json.dumps(dict(memory))), now=self.now)

    def mailed_code(self) -> str:
        """The code in the newest mail: the only run of six digits in it."""
        found = re.findall(r"\d{6,}", self.mailbox.messages[0]["text"])
        assert len(found) == 1, found
        return str(found[0])


NUMBERS = [
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
]
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
MONTHS = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"]
THINGS = {
    "a colour": "green yellow purple brown orange white",
    "an animal": "horse rabbit tiger goose donkey whale",
    "a part of the body": "elbow shoulder knee finger ankle chin",
    "something to eat": "bread cheese soup rice butter honey",
    "a piece of furniture": "chair table shelf sofa desk bed",
}


def reads(question: str) -> str:
    """The answer of somebody who reads the question (and of any program that was written to: that is its known weakness)."""
    text = question.rstrip("?")
    if found := re.fullmatch(r"What is (\w+) (plus|minus|times) (\w+)", text):
        a, b = NUMBERS.index(found[1]), NUMBERS.index(found[3])
        return str({"plus": a + b, "minus": a - b, "times": a * b}[found[2]])
    words = re.split(r", | or ", text.partition(": ")[2])
    if text.startswith("Which number is the"):
        pick = max if "largest" in text else min
        return NUMBERS[pick(NUMBERS.index(word) for word in words)]
    if text.startswith("Which word comes"):
        return sorted(words)[0 if "first" in text else -1]
    if found := re.match(r"Which of these is ([^:]+):", text):
        return next(word for word in words if word in THINGS[found[1]].split())
    if found := re.match(r"What is the (\w+) of these words", text):
        return words[["first", "second", "third", "fourth", "fifth"].index(found[1])]
    if text.startswith("How many words"):
        return NUMBERS[len(words)]
    found = re.fullmatch(r"Which (?:day of the week|month) comes (after|before) (\w+)", text)
    assert found, question
    row = DAYS if found[2] in DAYS else MONTHS
    return row[(row.index(found[2]) + (1 if found[1] == "after" else -1)) % len(row)]


class OldApp:
    """An application that knows nothing of the gateway: a password form with CSRF, a session cookie, and words of its own.

    A CSRF value counts once and goes with a cookie that the form sets. `posts` counts what reached it.
    """

    def __init__(self, password: str = "builder") -> None:
        self.password = password
        self.posts: list[dict[str, str]] = []
        self.headers: list[Mapping[str, str]] = []
        self.fault: str | None = None
        self._csrf = 0

    def app(self) -> web.Application:
        app = web.Application()
        app.add_routes([web.get("/account/password", self.form), web.post("/account/password/change", self.change)])
        return app

    async def form(self, request: web.Request) -> web.StreamResponse:
        if self.fault == "form":
            return web.Response(status=503)
        if request.cookies.get("JSESSIONID") != "s1":
            raise web.HTTPFound("/login")
        return self._page("")

    async def change(self, request: web.Request) -> web.StreamResponse:
        posted = {k: v for k, v in (await request.post()).items() if isinstance(v, str)}
        self.posts.append(posted)
        self.headers.append(dict(request.headers))
        if self.fault == "post" and request.transport is not None:
            request.transport.close()
            return web.Response()
        if request.cookies.get("JSESSIONID") != "s1":
            raise web.HTTPFound("/login")
        if posted.get("csrf") != str(self._csrf) or request.cookies.get("csrf") != str(self._csrf) or posted.get("go") != "save & exit":
            return web.Response(status=403, text="forged")
        if posted["pw_old"] != self.password:
            return self._page("Your old password is not correct.")
        if "forbidden" in posted["pw_new"]:
            return self._page("That word is not allowed.")
        self.password = posted["pw_new"]
        response = web.Response(status=302, headers={"Location": "/account?changed=1"})
        response.headers.add("Set-Cookie", "pw=; Max-Age=0; Path=/")
        response.headers.add("Set-Cookie", "JSESSIONID=s2; Path=/; HttpOnly")
        return response

    def _page(self, message: str) -> web.Response:
        self._csrf += 1
        response = web.Response(
            content_type="text/html",
            text=f"""<!doctype html><form action="/search"><input name="q"></form><p>{html.escape(message)}</p>
            <form method=POST action="password/change"><input type=hidden name=csrf value="{self._csrf}">
            <input type="password" name="pw_old" value=""><input type=password name=pw_new><input type=checkbox name=all value=1>
            <button name=go value="save &amp; exit">Save</button><button name=go value=other>Other</button></form>""",
        )
        response.set_cookie("csrf", str(self._csrf))
        return response

    @staticmethod
    def config(url: str, **changes: Any) -> dict[str, Any]:
        http: dict[str, Any] = {
            "url": f"{url}/account/password",
            "fields": {"current": "pw_old", "new": "pw_new", "confirm": None},
            "success": {"location": "/account"},
            "failure": {"wrong_current": "old password is not correct"},
            "timeout": "2s",
        }
        return {"backend": {"http": http}, "then": "continue", "claims": {"password_expired": False}, **changes}
