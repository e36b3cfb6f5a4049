"""The life of a child: a worker, or the process of the admin listener. It begins right after the fork and ends the process.

A child ends when it is told to (SIGTERM: running requests end first), and at once when the supervisor is gone: somebody starts it again
and wants the port.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import socket
import sys
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any, NoReturn

import structlog

from gateway.app import REGISTRY, GatewayApp, Live, Part
from gateway.errors import GatewayError
from gateway.settings.load import Loaded, Problems, load
from gateway.settings.watch import changes
from gateway.telemetry.logs import configure
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.shared import Mirror, SharedMetrics
from gateway.web.admin import Check
from gateway.workers.channel import ChildEnd, Message
from gateway.workers.loop import run

log = structlog.get_logger(__name__)

SETTLE_EVERY = 0.25  # seconds: how old a worker's counts may be for who reads the metrics, and what of them kill -9 can lose
GAUGES_EVERY = 8  # of these: to look at ten thousand connections takes milliseconds
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Birth:
    """What a child is given. name: "admin", or the worker's number from 1; counts: the name that it counts under."""

    name: str
    counts: str
    config: Path
    loaded: Loaded
    part: Part
    listen: str | None
    channel: socket.socket
    metrics: SharedMetrics
    parent: int

    @property
    def admin(self) -> bool:
        return self.part.admin

    def part_with(self, check: Check) -> Part:
        """The part, with what only the child itself can say."""
        if self.admin:
            return replace(self.part, checks={"workers": check}, metrics_text=self.metrics.text)
        mirrors: list[Mirror] = []

        def settled(metrics: Metrics) -> None:
            if not mirrors:
                mirrors.append(Mirror(metrics.on_the_side))
            mirrors[0].copy()

        return replace(self.part, settled=settled)


def die_with(parent: int) -> None:
    """The system kills this process when `parent`, which has just forked it, ends in whatever way. Linux only; elsewhere the end of the
    channel has to do."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before we could ask for that
        os._exit(1)


def live(birth: Birth) -> NoReturn:
    """To be called in the new process, which has closed all that is not its own. Does not return: what lies above on the stack belongs to
    the supervisor."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for number in (signal.SIGINT, signal.SIGHUP):  # a terminal sends them to all of us; the supervisor says what is to be done
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        birth.metrics.join(birth.counts)
        configure(birth.loaded.spec.log, worker=None if birth.admin else birth.name)
        code = run(_live(birth), tls=birth.loaded.spec.tls is not None)
    except BaseException:
        log.exception("unhandled fault")
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


async def _live(birth: Birth) -> int:
    stop = asyncio.Event()
    channel = await ChildEnd.open(birth.channel)
    child = _Child(birth, channel)
    try:
        await child.start()
    except (GatewayError, OSError, ValueError) as error:
        channel.say("failed", why=str(error))
        await channel.close()
        return 1
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    tasks = [asyncio.create_task(work) for work in child.work()]
    channel.say("ready", loop=type(asyncio.get_running_loop()).__module__, lane=child.app.lane_name)
    await stop.wait()
    channel.say("draining")
    await child.app.close(drain=birth.loaded.spec.limits.drain)
    child.app.settle_counts()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await channel.close()
    return 0


class _Child:
    def __init__(self, birth: Birth, channel: ChildEnd) -> None:
        self._birth = birth
        self._channel = channel
        self._prepared: dict[int, Live] = {}
        self._preparing: dict[int, asyncio.Task[None]] = {}
        self._state: Message = {}
        self.app: GatewayApp

    async def start(self) -> None:
        """Raises as GatewayApp.start does."""
        self.app = await GatewayApp.start(self._birth.loaded, listen=self._birth.listen, part=self._birth.part_with(self._check))

    def work(self) -> list[Coroutine[Any, Any, None]]:
        return [self._obey(), self._watch() if self._birth.admin else self._settle()]

    async def _check(self) -> None:
        """Part of `/health/ready`. Raises GatewayError."""
        accepting, workers = self._state.get("accepting", 0), self._state.get("workers", 0)
        if self._state.get("draining"):
            raise GatewayError("draining")
        if not self._state.get("started"):
            raise GatewayError(f"{accepting} of {workers} have started")
        if not accepting:
            raise GatewayError("none accepts connections")

    async def _obey(self) -> None:
        async for told in self._channel.heard():
            match told["say"]:
                case "prepare":
                    self._preparing[told["reload"]] = asyncio.create_task(self._prepare(told["reload"], told["version"]))
                case "commit":
                    await self._commit(told["reload"])
                case "abort":
                    self._forget(told["reload"])
                case "state":
                    self._take_in(told)
                case "reloaded":
                    self.app.metrics.reloads.labels(told["outcome"]).inc()
                case _:
                    pass
        # The supervisor is gone, whatever became of it.
        if self._birth.admin:
            self._birth.metrics.remove()
        os._exit(1)

    async def _prepare(self, number: int, version: str) -> None:
        """First half of a reload: everything that can fail."""
        try:
            found = await asyncio.to_thread(load, self._birth.config, environ=os.environ, kinds=REGISTRY)
            if isinstance(found, Problems) or found.version != version:
                why = "the files changed while they were read"
                self._channel.say("refused", reload=number, why=why, again=True)
                return
            self._prepared[number] = self.app.prepare(found)
        except Exception as error:  # whatever it is, the running configuration stays
            expected = isinstance(error, GatewayError | OSError | ValueError)
            if not expected:
                log.exception("unhandled fault")
            self._channel.say("refused", reload=number, why=str(error), again=False)
        else:
            self._channel.say("prepared", reload=number)
        finally:
            self._preparing.pop(number, None)

    async def _commit(self, number: int) -> None:
        """Second half: one assignment."""
        fault = None
        try:
            await self.app.adopt(self._prepared.pop(number))
        except Exception as error:  # noqa: BLE001 -- the supervisor hears of it, says so, and replaces us
            fault = str(error)
        self._channel.say("adopted", reload=number, fault=fault)

    def _forget(self, number: int) -> None:
        self._prepared.pop(number, None)
        task = self._preparing.pop(number, None)
        if task is not None:
            task.cancel()

    def _take_in(self, state: Message) -> None:
        self._state = state
        counted = self.app.metrics.registry.get_sample_value("stepup_worker_restarts_total") or 0.0
        if state["restarts"] > counted:
            self.app.metrics.restarts.inc(state["restarts"] - counted)

    async def _settle(self) -> None:
        for turn in count():
            if turn % GAUGES_EVERY:
                self.app.settle_counts()
            else:
                self.app.settle()
            await asyncio.sleep(SETTLE_EVERY)

    async def _watch(self) -> None:
        """Every change of a file that the configuration was read from asks for a reload."""
        try:
            async for _ in changes(lambda: (self._birth.config, *self.app.live.loaded.files)):
                self._channel.say("changed")
        except Exception:  # the system may have no watches left; that must neither end the gateway nor be kept secret
            log.exception("files are not watched any more; send SIGHUP to reload")
