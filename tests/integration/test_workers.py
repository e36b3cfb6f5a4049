"""Several workers on one port: what each death, signal and reload does to the others. Real processes on loopback."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import ssl
import stat
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.integration.test_cli_run import REFUSED, accepts, change, denying, slow_app
from tests.support.certificates import Authority
from tests.support.gateway import NAVIGATION, demo_config
from tests.support.ports import free_port
from tests.support.process import Outside, eventually, is_alive, outside, run_gateway

FOUR = ("run", "--workers", "4")
DECIDED = re.compile(r'^stepup_decisions_total\{decision="(?:allow|deny)",upstream="bank"\} (\S+)$', re.MULTILINE)


async def fresh(base: str, path: str = "/", **headers: str) -> int:
    """The status of a GET on a connection of its own, which the kernel gives to any of the workers."""
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(connector=connector) as session, session.get(base + path, headers={**NAVIGATION, **headers}) as answer:
        await answer.read()
        return answer.status


async def metrics(there: Outside) -> str:
    async with aiohttp.ClientSession() as session, session.get(f"{there.admin}/metrics") as answer:
        assert answer.status == 200
        return await answer.text()


async def decided(there: Outside) -> float:
    return sum(float(value) for value in DECIDED.findall(await metrics(there)))


async def decided_is(there: Outside, count: int) -> bool:
    """A worker's counts may be a moment old; they never exceed what was asked."""
    found = await decided(there)
    assert found <= count
    return found == count


async def ready(there: Outside) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(f"{there.admin}/health/ready") as answer:
        return answer.status, (await answer.json())["checks"]["workers"]


class Load:
    """Visitors that ask again and again, each time by a connection of its own."""

    def __init__(self, base: str, visitors: int) -> None:
        self._base = base
        self._over = asyncio.Event()
        self._tasks = [asyncio.create_task(self._visit()) for _ in range(visitors)]
        self.answers: Counter[int] = Counter()
        self.failed = 0

    @property
    def good(self) -> int:
        return self.answers.total()

    async def _visit(self) -> None:
        while not self._over.is_set():
            try:
                self.answers[await fresh(self._base)] += 1
            except aiohttp.ClientError:
                self.failed += 1

    async def end(self) -> None:
        self._over.set()
        await asyncio.gather(*self._tasks)


@asynccontextmanager
async def load(base: str, visitors: int = 6) -> AsyncIterator[Load]:
    made = Load(base, visitors)
    try:
        yield made
    finally:
        await made.end()


async def replaced(there: Outside, before: dict[str, int], count: int = 4) -> dict[str, int]:
    """The workers, once there are that many and none of them is one of `before`'s dead."""

    def look() -> dict[str, int] | None:
        now = there.process.workers()
        return now if len(now) == count and now != before else None

    found: dict[str, int] = await eventually(look)
    return found


# -- deaths --------------------------------------------------------------------------------------------------------------


async def test_a_killed_worker_costs_its_own_requests_and_no_count_goes_back(tmp_path: Path) -> None:
    async with outside(tmp_path, command=FOUR) as there:
        workers = there.process.workers()
        assert sorted(workers) == ["1", "2", "3", "4"]
        for _ in range(40):
            assert await fresh(there.base) == 200
        await eventually(lambda: decided_is(there, 40))
        async with load(there.base) as visitors:
            await eventually(lambda: visitors.good > 50)
            before = await decided(there)
            os.kill(workers["2"], signal.SIGKILL)
            now = await replaced(there, workers)
            assert {name for name in now if now[name] != workers[name]} == {"2"}
            assert await decided(there) >= before >= 40
            enough = visitors.good + 50
            await eventually(lambda: visitors.good > enough)
        assert visitors.failed <= 6  # of each visitor the one request that was there
        assert set(visitors.answers) == {200}
        assert "stepup_worker_restarts_total 1.0" in await metrics(there)
        assert "stepup_workers 4.0" in await metrics(there)
        whole = [line for line in there.process.text.splitlines(keepends=True) if line.endswith("\n")]
        assert all(json.loads(line)["event"] for line in whole)  # no line is torn


async def test_a_worker_that_dies_again_and_again_waits_longer_and_swallows_no_connection(tmp_path: Path) -> None:
    async with outside(tmp_path, command=("run", "--workers", "2")) as there:
        for deaths in range(1, 4):
            pid = (await replaced(there, {}, 2))["1"]
            os.kill(pid, signal.SIGKILL)
            await eventually(lambda n=deaths: len(there.process.logged("a worker ended; it is started again")) == n)  # type: ignore[misc]
        # It is away for a second now, and its socket with it: all connections go to the other one.
        assert [line["seconds"] for line in there.process.logged("a worker ended; it is started again")] == [0.0, 0.5, 1.0]
        assert [await asyncio.wait_for(fresh(there.base), 0.9) for _ in range(20)] == [200] * 20
        await replaced(there, {}, 2)
        assert [await fresh(there.base) for _ in range(20)] == [200] * 20


async def test_a_worker_comes_back_with_what_was_last_good(tmp_path: Path) -> None:
    async with outside(tmp_path, command=FOUR, rules=denying("/first")) as there:
        change(there.config, rules=denying("/second"))
        await eventually(lambda: there.process.logged("reloaded"))
        there.config.write_text("rules: [")
        await eventually(lambda: there.process.logged(REFUSED))
        there.config.unlink()
        workers = there.process.workers()
        for pid in workers.values():
            os.kill(pid, signal.SIGKILL)
        now = await replaced(there, workers)
        assert not set(now.values()) & set(workers.values())
        for _ in range(12):
            assert await fresh(there.base, "/first") == 404
            assert await fresh(there.base, "/second") == 403


async def test_what_the_dead_have_counted_stays(tmp_path: Path) -> None:
    async with outside(tmp_path, command=FOUR) as there:
        for _ in range(40):
            assert await fresh(there.base) == 200
        await eventually(lambda: decided_is(there, 40))
        workers = there.process.workers()
        for pid in workers.values():
            os.kill(pid, signal.SIGKILL)
        await eventually(lambda: len(there.process.workers()) == 4 and not set(workers.values()) & set(there.process.workers().values()))
        assert await decided(there) == 40
        for _ in range(20):
            assert await fresh(there.base) == 200
        await eventually(lambda: decided_is(there, 60))
        assert "stepup_worker_restarts_total 4.0" in await metrics(there)


async def test_the_admin_listener_comes_back_and_its_sums_with_it(tmp_path: Path) -> None:
    async with outside(tmp_path, command=FOUR) as there:
        for _ in range(10):
            await fresh(there.base)
        await eventually(lambda: decided_is(there, 10))
        others = set(there.process.workers().values())
        (admin,) = children(there.process.pid) - others
        os.kill(admin, signal.SIGKILL)

        async def back() -> bool:
            with suppress(aiohttp.ClientError):
                return is_alive(there.process.pid) and (await ready(there))[0] == 200
            return False

        await eventually(lambda: not is_alive(admin))
        await eventually(back)
        assert await decided(there) == 10
        assert set(there.process.workers().values()) == others
        change(there.config, rules=denying("/"))  # it is what watches the files
        await eventually(lambda: there.process.logged("reloaded"))
        assert await fresh(there.base) == 403


async def test_nobody_outlives_the_supervisor(tmp_path: Path) -> None:
    async with outside(tmp_path, command=FOUR) as there:
        everybody = children(there.process.pid)
        assert len(everybody) == 5
        there.process.kill()
        await eventually(lambda: not any(is_alive(pid) for pid in everybody))
        await eventually(lambda: not accepts(there.base) and not accepts(there.admin))  # other threads may end a moment later
        await there.process.start()
        assert await fresh(there.base) == 200


def children(pid: int) -> set[int]:
    return {int(found) for found in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


# -- ends ----------------------------------------------------------------------------------------------------------------


async def test_sigterm_lets_requests_of_all_workers_end(tmp_path: Path) -> None:
    async with slow_app() as (slow, url), outside(tmp_path, command=FOUR, upstreams={"bank": {"url": url}}) as there:
        asked = [asyncio.create_task(fresh(there.base, "/slow")) for _ in range(16)]
        await eventually(lambda: len(there.process.logged("decision")) == 16)
        assert len({line["worker"] for line in there.process.logged("decision")}) > 1
        there.process.signal(signal.SIGTERM)
        await eventually(lambda: not accepts(there.base))
        assert await ready(there) == (503, "draining")
        slow.release.set()
        assert await asyncio.gather(*asked) == [200] * 16
        assert await there.process.ended() == 0
        assert not accepts(there.admin)
        assert "Traceback" not in there.process.text


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_ends_it_at_once(tmp_path: Path, second: signal.Signals) -> None:
    async with slow_app() as (_, url), outside(tmp_path, command=FOUR, upstreams={"bank": {"url": url}}, limits={"drain": "1h"}) as there:
        everybody = children(there.process.pid)
        asked = asyncio.create_task(fresh(there.base, "/slow"))
        await eventually(lambda: there.process.logged("decision"))
        there.process.signal(signal.SIGTERM)
        await eventually(lambda: there.process.logged("stopping"))
        there.process.signal(second)
        assert await there.process.ended() == 0
        with pytest.raises(aiohttp.ClientError):
            await asked
        assert not any(is_alive(pid) for pid in everybody)


async def test_a_worker_that_is_asked_to_end_is_replaced_while_its_request_ends(tmp_path: Path) -> None:
    async with slow_app() as (slow, url), outside(tmp_path, command=("run", "--workers", "1"), upstreams={"bank": {"url": url}}) as there:
        asked = asyncio.create_task(fresh(there.base, "/slow"))
        await slow.arrived.wait()
        (old,) = there.process.workers().values()
        os.kill(old, signal.SIGTERM)
        await eventually(lambda: len(there.process.logged("worker started")) == 2)
        assert await fresh(there.base, "/.stepup/jwks.json") == 200
        assert is_alive(old)
        slow.release.set()
        assert await asked == 200
        await eventually(lambda: not is_alive(old))
        assert await decided(there) == 1


# -- reloads -------------------------------------------------------------------------------------------------------------


async def test_sighup_reloads_all_workers_and_no_request_fails_meanwhile(tmp_path: Path) -> None:
    async with outside(tmp_path, command=FOUR, rules=[]) as there:
        async with load(there.base) as visitors:
            for rules in (denying("/closed"), [], denying("/closed")):
                change(there.config, rules=rules)
                there.process.signal(signal.SIGHUP)
                count = len(rules)
                await eventually(lambda n=count: [line["rules"] for line in there.process.logged("reloaded")][-1:] == [n])  # type: ignore[misc]
                assert {await fresh(there.base, "/closed") for _ in range(12)} == {403 if rules else 404}
        assert visitors.failed == 0
        assert set(visitors.answers) == {200}
        assert len({line["worker"] for line in there.process.logged("decision")}) == 4


async def test_a_certificate_is_renewed_in_all_workers_and_a_broken_one_in_none_nor_in_later_ones(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    held = authority.issue("127.0.0.1")
    tls = {"cert_file": held.cert_file, "key_file": held.key_file}
    async with outside(tmp_path / "gateway", command=FOUR, tls=tls, public_url="https://127.0.0.1:1") as there:
        address = ("127.0.0.1", int(there.base.rpartition(":")[2]))

        async def shown() -> set[str]:
            return {await asyncio.to_thread(ssl.get_server_certificate, address) for _ in range(16)}

        certificate = Path(held.cert_file)
        one = await asyncio.to_thread(certificate.read_text)
        assert await shown() == {one}
        authority.issue("127.0.0.1")  # into the same files
        two = await asyncio.to_thread(certificate.read_text)
        there.process.signal(signal.SIGHUP)
        await eventually(lambda: there.process.logged("reloaded"))
        assert await shown() == {two} != {one}
        await asyncio.to_thread(certificate.write_text, "none")
        there.process.signal(signal.SIGHUP)
        await eventually(lambda: [line for line in there.process.logged(REFUSED) if "tls:" in str(line)])
        for pid in (workers := there.process.workers()).values():
            os.kill(pid, signal.SIGKILL)
        await eventually(lambda: len(there.process.workers()) == 4 and not set(workers.values()) & set(there.process.workers().values()))
        assert await shown() == {two}


# -- counts and bounds ---------------------------------------------------------------------------------------------------


async def test_the_admin_listener_sums_what_all_workers_count(tmp_path: Path) -> None:
    async with outside(tmp_path, command=FOUR) as there:
        for _ in range(60):
            assert await fresh(there.base) == 200
        await eventually(lambda: decided_is(there, 60))
        lines = await eventually(lambda: len(found) >= 60 and found if (found := there.process.logged("decision")) else None)
        assert len({line["worker"] for line in lines}) == 4
        assert len({line["request_id"] for line in lines}) == 60  # they do not share their randomness
        text = await metrics(there)
        assert len(re.findall(r"^# TYPE stepup_decisions_total counter$", text, re.MULTILINE)) == 1
        async with aiohttp.ClientSession() as session:
            async with asyncio.TaskGroup() as group:
                for _ in range(9):
                    group.create_task(held(session, there.base))

            async def nine() -> bool:
                return await unused(there) == 9

            await eventually(nine)

            async def none() -> bool:
                return await unused(there) == 0

        await eventually(none)


async def unused(there: Outside) -> float:
    found = re.search(r'^stepup_client_connections\{state="idle"\} (\S+)$', await metrics(there), re.MULTILINE)
    assert found
    return float(found[1])


async def held(session: aiohttp.ClientSession, base: str) -> None:
    async with session.get(base + "/.stepup/jwks.json") as answer:
        await answer.read()
        await asyncio.sleep(0.2)  # so that each gets a connection of its own; they stay open, unused


async def test_what_the_lanes_count_on_the_side_is_summed_too_and_stays(tmp_path: Path) -> None:
    async with outside(tmp_path, command=FOUR, lane="slow") as there:
        for _ in range(20):
            assert await fresh(there.base) == 200
        workers = there.process.workers()

        async def sums() -> bool:
            text = await metrics(there)
            buckets = [
                float(n) for n in re.findall(r'^stepup_upstream_seconds_bucket\{le="[^"]+",upstream="bank"\} (\S+)$', text, re.MULTILINE)
            ]
            assert buckets == sorted(buckets)
            answers = 'stepup_upstream_responses_total{status="2xx",upstream="bank"} 20.0' in text
            return answers and buckets[-1] == 20 and 'stepup_upstream_seconds_count{upstream="bank"} 20.0' in text

        await eventually(sums)
        for pid in workers.values():
            os.kill(pid, signal.SIGKILL)
        await eventually(lambda: len(there.process.workers()) == 4 and not set(workers.values()) & set(there.process.workers().values()))
        assert await sums()


async def test_the_workers_share_the_bound_on_connections(tmp_path: Path) -> None:
    async with outside(tmp_path, command=FOUR, limits={"max_connections": 8}) as there:
        opened = [await asyncio.open_connection("127.0.0.1", int(there.base.rpartition(":")[2])) for _ in range(64)]
        for _, writer in opened:
            writer.write(b"GET /.stepup/jwks.json HTTP/1.1\r\nHost: %s\r\n\r\n" % there.base.removeprefix("http://").encode())

        async def answer(reader: asyncio.StreamReader) -> bytes:
            with suppress(ConnectionError):
                return await reader.readline()
            return b""

        answers = Counter(await asyncio.gather(*(answer(reader) for reader, _ in opened)))
        assert {line[:12] for line in answers} <= {b"HTTP/1.1 200", b"HTTP/1.1 503", b""}
        assert answers[b"HTTP/1.1 200 OK\r\n"] == 8
        for _, writer in opened:
            writer.close()


# -- starts --------------------------------------------------------------------------------------------------------------


async def test_four_workers_begin_on_an_empty_folder(tmp_path: Path) -> None:
    async with outside(tmp_path, command=FOUR) as there:
        (line,) = there.process.logged("listening")
        assert {"workers": 4, "loop": "uvloop"}.items() <= line.items()
        assert line["lane"] in ("slow", "fast")
        assert await ready(there) == (200, "ok")
        assert not [line for line in there.process.lines if line["level"] in ("warning", "error")]
        var = tmp_path / "var"
        assert {path.name for path in var.glob("secret*")} == {"secret.key", "secret.key.lock"}
        assert stat.S_IMODE((var / "secret.key").stat().st_mode) == 0o600
        kids = set()
        browser = there.browser()
        for _ in range(12):
            kids.add((await browser.get("/.stepup/jwks.json", headers={"Connection": "close"})).text)
        assert len(kids) == 1


async def test_two_gateways_never_share_a_port(tmp_path: Path) -> None:
    async with outside(tmp_path / "one", command=FOUR) as there:
        port = int(there.base.rpartition(":")[2])
        other = demo_config(tmp_path / "two", app_port=free_port(), port=port, admin_port=free_port(), mail={"smtp": "smtp://127.0.0.1:25"})
        ended = await asyncio.to_thread(run_gateway, "run", "--workers", "2", "-c", str(other), cwd=tmp_path)
        assert (ended.returncode, ended.stdout) == (1, "")
        assert ended.stderr == f"gateway: listen: cannot listen on 127.0.0.1:{port}: Address already in use\n"
        assert not (tmp_path / "two" / "var").exists()
        assert await fresh(there.base) == 200


@pytest.mark.parametrize("host", ["[::1]", "localhost"])
async def test_workers_listen_on_other_addresses(tmp_path: Path, host: str) -> None:
    with suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        port = free_port()
        public = [f"http://{host}:{port}"]
        async with outside(tmp_path, command=("run", "--workers", "2"), listen=f"{host}:{port}", public_url=public) as there:
            assert {await fresh(public[0]) for _ in range(8)} == {200}
            assert there.process.logged("listening")[0]["port"] == port
        return
    pytest.skip("no IPv6 on loopback")


# -- systemd -------------------------------------------------------------------------------------------------------------

LAUNCHER = """
import os, socket, sys
names, notify, *command = sys.argv[1:]
for offset, address in enumerate(part.partition("=")[2] for part in names.split(",")):
    host, _, port = address.rpartition(":")
    made = socket.create_server((host, int(port)))
    os.dup2(made.fileno(), 30 + offset)
count = len(names.split(","))
for offset in range(count):
    os.dup2(30 + offset, 3 + offset)
    os.close(30 + offset)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(count), "NOTIFY_SOCKET": notify}
os.environ["LISTEN_FDNAMES"] = ":".join(part.partition("=")[0] for part in names.split(","))
os.execv(command[0], command)
"""


class Manager:
    """A service manager's end of NOTIFY_SOCKET."""

    def __init__(self, path: Path) -> None:
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind(str(path))
        self._sock.setblocking(False)
        self.told: list[dict[str, str]] = []

    def heard(self) -> list[dict[str, str]]:
        with suppress(BlockingIOError):
            while True:
                text = self._sock.recv(4096).decode()
                self.told.append(dict(line.split("=", 1) for line in text.splitlines()))
        return self.told

    def said(self, word: str) -> list[dict[str, str]]:
        return [told for told in self.heard() if word in told]

    def close(self) -> None:
        self._sock.close()


async def test_sockets_come_from_a_service_manager_that_is_told_what_happens(tmp_path: Path) -> None:
    launcher = tmp_path / "launch.py"
    launcher.write_text(LAUNCHER)
    manager = Manager(tmp_path / "notify")
    port, admin_port = free_port(), free_port()
    names = f"admin.listen=127.0.0.1:{admin_port},listen=127.0.0.1:{port}"
    before = (sys.executable, str(launcher), names, str(tmp_path / "notify"))
    base, admin = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{admin_port}"
    changes: dict[str, Any] = {"listen": f"127.0.0.1:{port}", "public_url": base, "admin": {"listen": f"127.0.0.1:{admin_port}"}}
    try:
        async with outside(tmp_path / "gateway", command=FOUR, before=before, start=False, **changes) as there:
            there.process.admin = there.admin = admin
            await there.process.start()
            assert [told["READY"] for told in manager.said("READY")] == ["1"]
            assert manager.told[0]["MAINPID"] == str(there.process.pid)
            assert {await fresh(base) for _ in range(20)} == {200}
            (worker, *_) = there.process.workers().values()
            os.kill(worker, signal.SIGKILL)  # one queue for all: nothing waits for the dead
            assert {await asyncio.wait_for(fresh(base), 5.0) for _ in range(20)} == {200}
            there.process.signal(signal.SIGHUP)
            await eventually(lambda: len(manager.said("READY")) == 2)
            (reloading,) = manager.said("RELOADING")
            assert reloading["MONOTONIC_USEC"].isdigit()
            assert await there.process.stop() == 0
            assert [told["STOPPING"] for told in manager.said("STOPPING")] == ["1"]
            assert list(manager.told[-1]) == ["STOPPING", "STATUS"]
    finally:
        manager.close()


def launched(folder: Path, names: str, **changes: Any) -> subprocess.CompletedProcess[str]:
    """`gateway run` with sockets handed over, where it does not start."""
    folder.mkdir(exist_ok=True)
    config = demo_config(
        folder, app_port=free_port(), port=free_port(), admin_port=free_port(), mail={"smtp": "smtp://127.0.0.1:25"}, **changes
    )
    launcher = folder / "launch.py"
    launcher.write_text(LAUNCHER)
    command = [sys.executable, str(launcher), names, "", sys.executable, "-m", "gateway", "run", "-c", str(config)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=20)


def test_a_socket_handed_over_without_a_name_we_know_stops_the_start(tmp_path: Path) -> None:
    ended = launched(tmp_path, "one=127.0.0.1:0,listen=127.0.0.1:0")
    assert ended.returncode == 1
    assert ended.stderr == (
        'gateway: a socket was handed over by the name "one"; give it FileDescriptorName= and one of: listen, admin.listen\n'
    )


def test_an_admin_socket_off_loopback_needs_a_token_whoever_opened_it(tmp_path: Path) -> None:
    port = free_port()
    ended = launched(tmp_path, f"listen=127.0.0.1:0,admin.listen=0.0.0.0:{port}")
    assert ended.returncode == 1
    assert ended.stderr == (
        f"gateway: the socket handed over for admin.listen is off loopback (0.0.0.0 port {port}): the admin listener needs `admin.token`\n"
    )
