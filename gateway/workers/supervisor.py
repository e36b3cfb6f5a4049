"""The process that the operator started. It forks, watches and ends the others, and serves nothing itself.

It has no event loop, no thread and no open store: so it can fork at any moment, and what it forks begins with the last good configuration,
whatever the file on disk says by then. Whoever of the others dies, it stays; when it dies, they all die with it.
"""

from __future__ import annotations

import gc
import os
import selectors
import signal
import socket
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import structlog

from gateway.app import ADMIN, PUBLIC, REGISTRY, Part, settled
from gateway.errors import StartRefused
from gateway.lanes.listening import renew_certificate, tls_context
from gateway.settings.load import Loaded, Problems, load
from gateway.spec.sections import GatewaySpec
from gateway.telemetry.shared import SharedMetrics
from gateway.workers.channel import Message, ParentEnd
from gateway.workers.child import Birth, die_with, live
from gateway.workers.notify import Notifier
from gateway.workers.seats import Child, Seat, how, pause
from gateway.workers.sockets import Sockets

log = structlog.get_logger(__name__)

STEADY = 10.0  # seconds after which a worker's death is no sign of a worker that cannot live
PREPARE = 60.0  # seconds for all to prepare a reload; one that hangs must not hold up the others for ever
GRACE = 5.0  # seconds beyond its own bounds before a child that does not end is killed
KEEPS = "reload refused; the running configuration stays"

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


@dataclass(slots=True)
class Reload:
    """A reload under way. waiting: pids that have not answered yet; to `prepare`, or once it is committed, to `commit`."""

    number: int
    loaded: Loaded
    deadline: float
    waiting: set[int] = field(default_factory=set)
    committed: bool = False


class Supervisor:
    """Call `run` once."""

    def __init__(
        self, *, config: Path, loaded: Loaded, listen: str | None, workers: int, sockets: Sockets, notifier: Notifier,
    ) -> None:  # fmt: skip
        self._config = config
        self._loaded = loaded
        self._began: GatewaySpec = loaded.spec
        self._listen = listen
        self._sockets = sockets
        self._notifier = notifier
        # One context for all: a session ticket of one worker is good at the others too.
        self._tls = None if loaded.spec.tls is None else tls_context(loaded.spec.tls)
        self._metrics = SharedMetrics()
        self._seats = [Seat(None), *(Seat(index) for index in range(workers))]
        self._children: dict[int, Child] = {}
        self._selector = selectors.DefaultSelector()
        self._caught: deque[int] = deque()
        self._wakeup: tuple[socket.socket, ...] = ()
        self._restarts = 0
        self._started = False
        self._said: dict[str, str] = {}
        self._reload: Reload | None = None
        self._reloads = 0
        self._reload_wanted = False
        self._stopping: float | None = None  # until when
        self._refused: str | None = None  # why the start has failed

    # -- the loop -------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Returns when a signal has ended it. Raises StartRefused where a worker cannot start."""
        awake, alarm = socket.socketpair()
        awake.setblocking(False)
        alarm.setblocking(False)
        before = {number: signal.signal(number, self._catch) for number in _SIGNALS}
        wakeup = signal.set_wakeup_fd(alarm.fileno(), warn_on_full_buffer=False)
        self._selector.register(awake, selectors.EVENT_READ)
        self._wakeup = (awake, alarm)
        try:
            while True:
                self._step()
                if self._stopping is not None and not self._children:
                    break
                for key, _ in self._selector.select(self._pause()):
                    if key.fileobj is awake:
                        with suppress(BlockingIOError):
                            awake.recv(4096)
                    elif (child := self._children.get(key.data)) is not None:
                        self._hear(child)
        finally:
            for child in self._children.values():
                with suppress(ProcessLookupError):
                    os.kill(child.pid, signal.SIGKILL)
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
            self._selector.close()
            self._close_ends()
            self._sockets.close()
            self._metrics.remove()
        if self._refused is not None:
            raise StartRefused(self._refused)

    def _catch(self, number: int, _frame: FrameType | None) -> None:
        self._caught.append(number)

    def _pause(self) -> float | None:
        """Seconds until something is due."""
        due = [seat.due for seat in self._seats if seat.due is not None and self._stopping is None]
        due += [self._reload.deadline] if self._reload is not None else []
        due += [self._stopping] if self._stopping is not None else []
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _step(self) -> None:
        while self._caught:
            match self._caught.popleft():
                case signal.SIGTERM | signal.SIGINT:
                    self._stop()
                case signal.SIGHUP:
                    self._reload_wanted = True
                case _:
                    pass
        self._reap()
        now = time.monotonic()
        if self._stopping is not None:
            self._end(now)
            return
        for seat in self._seats:
            if seat.due is not None and seat.due <= now:
                self._fork(seat)
        if self._reload is not None and now >= self._reload.deadline:
            self._reload_late()
        if self._reload_wanted and self._reload is None and self._started:
            self._reload_wanted = False
            self._begin_reload()

    # -- children -------------------------------------------------------------------------------------------------------

    def _fork(self, seat: Seat) -> None:
        if seat.index is not None:
            try:
                self._sockets.restore(seat.index)
            except OSError as error:
                log.warning("a worker's sockets cannot be bound again", worker=seat.name, reason=str(error))
                seat.failures += 1
                seat.due = time.monotonic() + pause(seat.failures)
                return
        ours, theirs = socket.socketpair()
        workers = len(self._seats) - 1
        if seat.index is None:
            mine = self._sockets.of_admin()
            part = Part(public=False, sockets=mine)
        else:
            mine = self._sockets.of_worker(seat.index)
            part = Part(admin=False, sockets=mine, worker=seat.index, workers=workers, tls=self._tls)
        birth = Birth(
            name=seat.name, counts=self._free_name(seat), config=self._config, loaded=self._loaded, part=part, listen=self._listen,
            channel=theirs, metrics=self._metrics, parent=os.getpid(),
        )  # fmt: skip
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # what is meant for the child must not meet our handlers in it
        pid = os.fork()
        if pid == 0:
            try:
                die_with(birth.parent)
                self._sockets.keep(mine)
                self._selector.close()
                self._close_ends(ours)
            except BaseException:  # noqa: BLE001 -- nothing of the parent's stack may run on in the child
                os._exit(1)
            live(birth)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        theirs.close()
        child = Child(pid, seat.index, birth.counts, ParentEnd(ours), time.monotonic())
        seat.child, seat.due = child, None
        self._children[pid] = child
        self._selector.register(ours, selectors.EVENT_READ, pid)
        if seat.index is None:
            self._tell_state()
        if self._reload is not None and not self._reload.committed:  # it has begun with what the others are about to leave
            self._reload.waiting.add(pid)
            child.channel.say("prepare", reload=self._reload.number, version=self._reload.loaded.version)

    def _close_ends(self, *more: socket.socket) -> None:
        for end in (*self._wakeup, *more, *(child.channel.sock for child in self._children.values())):
            end.close()

    def _free_name(self, seat: Seat) -> str:
        """Two living processes must not count under one name: while a predecessor drains, its successor takes another."""
        taken = {child.counts for child in self._children.values()}
        names = [seat.name, *(f"{seat.name}-{n}" for n in range(2, len(self._children) + 3))]
        return next(name for name in names if name not in taken)

    def _hear(self, child: Child) -> None:
        said = child.channel.heard()
        if said is None:
            with suppress(KeyError):
                self._selector.unregister(child.channel.sock)
            return
        for message in said:
            self._take(child, message)

    def _take(self, child: Child, message: Message) -> None:
        reload = self._reload
        match message["say"]:
            case "ready":
                self._ready(child, message)
            case "failed":
                if self._started:
                    log.error("a worker could not start", worker=self._seat(child).name, reason=message["why"])
                else:
                    self._give_up(message["why"])
            case "draining":
                child.leaving, child.ready = True, False
                self._tell_state()
                if self._stopping is None:  # somebody else ended it: its place must not stay empty while its requests end
                    self._vacate(child, 0.0)
            case "changed":
                self._reload_wanted = True
            case "prepared" if reload is not None and message["reload"] == reload.number:
                self._answered(reload, child)
            case "refused" if reload is not None and message["reload"] == reload.number and not reload.committed:
                self._abort(message["why"])
                self._reload_wanted = self._reload_wanted or message["again"]
            case "adopted" if reload is not None and message["reload"] == reload.number:
                if message["fault"]:
                    log.error("a worker could not adopt the new configuration; it is replaced", reason=message["fault"])
                    os.kill(child.pid, signal.SIGTERM)
                self._answered(reload, child)
            case _:
                pass

    def _ready(self, child: Child, message: Message) -> None:
        child.ready = True
        if child.seat is not None:
            self._said = {"loop": message["loop"], "lane": message["lane"]}
            log.info("worker started", worker=self._seat(child).name, pid=child.pid)
        everybody = all(seat.child is not None and seat.child.ready for seat in self._seats)
        if everybody and not self._started:
            self._started = True
            log.info(
                "listening",
                port=self._sockets.port(PUBLIC),
                admin_port=self._sockets.port(ADMIN),
                rules=len(self._loaded.ruleset.rules),
                public_url=", ".join(self._loaded.spec.public_url),
                workers=len(self._seats) - 1,
                **self._said,
            )
            self._notifier.ready(self._status())
        self._tell_state()

    def _seat(self, child: Child) -> Seat:
        return next(seat for seat in self._seats if seat.index == child.seat)

    def _vacate(self, child: Child, delay: float) -> None:
        seat = self._seat(child)
        if seat.child is child:
            seat.child, seat.due = None, time.monotonic() + delay

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            child = self._children.get(pid)
            if child is not None:
                self._hear_last(child)
                self._bury(child, os.waitstatus_to_exitcode(status))

    def _hear_last(self, child: Child) -> None:
        """What it said before it ended, such as why."""
        for message in child.channel.heard() or ():
            self._take(child, message)

    def _bury(self, child: Child, code: int) -> None:
        with suppress(KeyError):
            self._selector.unregister(child.channel.sock)
        child.channel.close()
        del self._children[child.pid]
        self._metrics.left(child.counts)
        seat = self._seat(child)
        if self._reload is not None and child.pid in self._reload.waiting:
            self._answered(self._reload, child)
        if self._stopping is not None:
            return
        if seat.child is child:
            if not self._started:
                self._give_up(f"a worker ended at its start ({how(code)})")
                return
            steady = child.ready and time.monotonic() - child.born >= STEADY
            seat.failures = 0 if steady else seat.failures + 1
            delay = pause(seat.failures)
            self._restarts += 1
            self._vacate(child, delay)
            log.error("a worker ended; it is started again", worker=seat.name, pid=child.pid, how=how(code), seconds=round(delay, 1))
            if delay and seat.index is not None:
                self._sockets.withdraw(seat.index)
        self._tell_state()

    def _tell_state(self) -> None:
        accepting = sum(child.ready and child.seat is not None for child in self._children.values())
        for child in self._children.values():
            if child.seat is None:
                child.channel.say(
                    "state", accepting=accepting, workers=len(self._seats) - 1, started=self._started,
                    draining=self._stopping is not None, restarts=self._restarts,
                )  # fmt: skip

    def _status(self) -> str:
        return f"{len(self._loaded.ruleset.rules)} rules, {len(self._seats) - 1} workers"

    # -- the end --------------------------------------------------------------------------------------------------------

    def _give_up(self, why: str) -> None:
        self._refused = self._refused or why
        self._stopping = time.monotonic() + GRACE
        self._kill(lambda _: True)

    def _stop(self) -> None:
        if self._stopping is not None:
            log.warning("stopped at once", connections="cut off")
            self._kill(lambda _: True)
            return
        drain = self._began.limits.drain
        log.info("stopping", drain=drain)
        self._notifier.stopping()
        self._reload = None  # whoever has not changed over by now need not
        # A request that is being resumed is waited for beyond `drain`, until its outcome counts as unknown anyhow.
        self._stopping = time.monotonic() + drain + self._began.transactions.sending_timeout + GRACE
        self._sockets.close()  # a listener ends with its last copy
        self._tell_state()
        for child in self._children.values():
            if child.seat is not None:
                os.kill(child.pid, signal.SIGTERM)

    def _end(self, now: float) -> None:
        """The workers first; the admin listener tells about them to the last."""
        if self._stopping is not None and now >= self._stopping:
            log.error("workers that did not end are killed", count=len(self._children))
            self._stopping = now + GRACE
            self._kill(lambda _: True)
        if all(child.seat is None for child in self._children.values()):
            self._kill(lambda child: not child.leaving, signal.SIGTERM)

    def _kill(self, which: Callable[[Child], bool], number: signal.Signals = signal.SIGKILL) -> None:
        for child in self._children.values():
            if which(child):
                child.leaving = True
                os.kill(child.pid, number)

    # -- reloads --------------------------------------------------------------------------------------------------------

    def _begin_reload(self) -> None:
        """All prepare, and only when all have, all change over. Read here too, for those that are forked later."""
        self._notifier.reloading()
        try:
            found = load(self._config, environ=os.environ, kinds=REGISTRY)
            if not isinstance(found, Problems) and self._began.tls is not None:
                tls_context(self._began.tls)
        except Exception:  # whatever it is, the next reload may be a good one
            log.exception(KEEPS)
            self._refuse()
            return
        if isinstance(found, Problems):
            for mistake in found.mistakes:
                log.error(KEEPS, mistake=str(mistake))
            self._refuse()
            return
        self._reloads += 1
        self._reload = Reload(self._reloads, found, time.monotonic() + PREPARE)
        for child in self._children.values():
            if not child.leaving:
                self._reload.waiting.add(child.pid)
                child.channel.say("prepare", reload=self._reload.number, version=found.version)

    def _answered(self, reload: Reload, child: Child) -> None:
        reload.waiting.discard(child.pid)
        if reload.waiting:
            return
        if not reload.committed:
            self._commit(reload)
        else:
            self._reload = None
            self._count("done")
            log.info("reloaded", version=reload.loaded.version, rules=len(reload.loaded.ruleset.rules))
            differ = settled(self._began, reload.loaded)[1]
            if differ:
                log.warning("these settings take effect at the next start", settings=", ".join(differ))
            self._notifier.ready(self._status())

    def _commit(self, reload: Reload) -> None:
        if self._tls is not None and self._began.tls is not None:
            try:
                renew_certificate(self._tls, self._began.tls)
            except StartRefused as error:
                self._abort(str(error))
                return
        gc.unfreeze()
        self._loaded, _ = settled(self._began, reload.loaded)
        gc.collect()
        gc.freeze()
        reload.committed = True
        reload.deadline = time.monotonic() + PREPARE
        for child in self._children.values():
            if not child.leaving:
                reload.waiting.add(child.pid)
                child.channel.say("commit", reload=reload.number)
        if not reload.waiting:
            self._reload = None

    def _abort(self, why: str) -> None:
        if self._reload is None:
            return
        number, self._reload = self._reload.number, None
        for child in self._children.values():
            child.channel.say("abort", reload=number)
        log.error(KEEPS, reason=why)
        self._refuse()

    def _refuse(self) -> None:
        self._count("refused")
        self._notifier.ready(self._status())

    def _reload_late(self) -> None:
        """Somebody hangs. Before the change nothing has happened; after it, whoever has not changed over is replaced."""
        reload = self._reload
        if reload is None:
            return
        if not reload.committed:
            self._abort(f"not every worker was ready for it within {PREPARE:g} s")
            return
        self._reload = None
        for pid in reload.waiting:
            log.error("a worker did not adopt the new configuration; it is killed", pid=pid)
            os.kill(pid, signal.SIGKILL)

    def _count(self, outcome: str) -> None:
        for child in self._children.values():
            if child.seat is None:
                child.channel.say("reloaded", outcome=outcome)
