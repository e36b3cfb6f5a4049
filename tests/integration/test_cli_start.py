"""Starts that fail, and what they leave behind: one line that says what to do, exit code 1, and nothing open.

They run in this process, where a listener, task or thread that was forgotten can be found.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import shutil
import socket
import sqlite3
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
import yaml
from click.testing import CliRunner, Result

from gateway.app import GatewayApp
from gateway.cli.main import main
from gateway.errors import GatewayError
from tests.support.certificates import Authority
from tests.support.gateway import demo_config, read, running
from tests.support.ports import free_port
from tests.support.process import eventually


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """The commands configure the logs of their process."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration that would start, on ports of its own."""
    smtp = {"smtp": "smtp://127.0.0.1:25"}
    return demo_config(tmp_path / "etc", app_port=free_port(), port=free_port(), admin_port=free_port(), mail=smtp)


def settings(config: Path) -> dict[str, Any]:
    raw: dict[str, Any] = yaml.safe_load(config.read_text())
    return raw


def change(config: Path, **changes: Any) -> None:
    config.write_text(yaml.safe_dump({**settings(config), **changes}, sort_keys=False))


def gateway(*arguments: str) -> Result:
    result = CliRunner().invoke(main, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def content(path: str) -> str:
    return Path(path).read_text()


def free(address: str) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return probe.connect_ex(("127.0.0.1", int(address.rpartition(":")[2]))) != 0


def own_threads() -> set[threading.Thread]:
    """Without those of the loop's pool, which stay for the next one who needs them."""
    return {thread for thread in threading.enumerate() if not thread.name.startswith("asyncio_")}


def refused(config: Path, *arguments: str, command: str = "run") -> str:
    """What it says: one line. Whatever was opened before is closed."""
    threads = set(threading.enumerate())
    result = gateway(command, "-c", str(config), *arguments)
    assert (result.exit_code, result.stdout) == (1, ""), result.output
    (line,) = result.stderr.splitlines()
    gc.collect()  # a socket or task that nobody closed says so, and warnings are errors
    assert [t.name for t in set(threading.enumerate()) - threads if t.name.startswith("sqlite")] == []
    return line


# -- what is said --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["listen", "admin.listen"])
def test_a_port_in_use(config: Path, key: str) -> None:
    raw = settings(config)
    address, other = raw["listen"], raw["admin"]["listen"]
    if key == "admin.listen":
        address, other = other, address
    with socket.create_server(("127.0.0.1", int(address.rpartition(":")[2]))):
        assert refused(config) == f"gateway: {key}: cannot listen on {address}: Address already in use"
    assert free(other)


def test_an_address_that_is_not_of_this_host(config: Path) -> None:
    line = refused(config, "--listen", "192.0.2.1:8080")
    assert line == "gateway: listen: cannot listen on 192.0.2.1:8080: Cannot assign requested address"
    assert free(settings(config)["admin"]["listen"])


def test_mail_that_only_the_demo_has(config: Path) -> None:
    change(config, mail={"demo": True})
    line = refused(config)
    assert "mail.demo works in `gateway demo` only" in line
    assert "mail.smtp" in line
    assert not (config.parent / "var").exists()


@pytest.mark.parametrize("where", ["listen", "admin"])
def test_a_demo_beyond_loopback(config: Path, where: str) -> None:
    beyond: Any = "0.0.0.0:0" if where == "listen" else {"listen": "0.0.0.0:0", "token": "0123456789abcdef"}
    change(config, **{"mail": {"demo": True}, where: beyond})
    assert "demo mode listens on loopback only" in refused(config, command="demo")
    assert not (config.parent / "var").exists()


def test_a_demo_whose_app_has_no_port(config: Path) -> None:
    change(config, mail={"demo": True})
    address = settings(config)["upstreams"]["bank"]["url"].removeprefix("http://")
    with socket.create_server(("127.0.0.1", int(address.rpartition(":")[2]))):
        line = refused(config, command="demo")
    assert line == f"gateway: the legacy app cannot listen on {address}: Address already in use"


def test_the_app_alone_without_a_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = gateway("demo", "--app-only", "--port", str(port))
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"gateway: the legacy app cannot listen on 127.0.0.1:{port}: Address already in use\n"


def test_an_admin_listener_off_loopback_without_a_token_is_a_mistake(config: Path) -> None:
    change(config, admin={"listen": "0.0.0.0:0"})
    result = gateway("run", "-c", str(config))
    assert result.exit_code == 2
    assert "admin.listen: off loopback the admin listener needs `token`" in result.stderr


def test_a_key_file_that_others_can_read(config: Path) -> None:
    key = config.parent / "var" / "secret.key"
    key.parent.mkdir()
    key.write_text("{}")
    key.chmod(0o644)
    line = refused(config)
    assert line.startswith(f"gateway: {key}: the key file has mode 0644")
    assert f"chmod 600 {key}" in line


def test_a_key_file_that_is_none(config: Path) -> None:
    key = config.parent / "var" / "secret.key"
    key.parent.mkdir()
    key.write_text("not a key")
    key.chmod(0o600)
    assert refused(config).startswith(f"gateway: {key}: the key file is no JSON")


@pytest.mark.parametrize("store", ["state", "records"])
def test_a_store_that_cannot_be_made(config: Path, store: str) -> None:
    """A folder stands in its place: that stops root as well."""
    (config.parent / "var" / f"{store}.db").mkdir(parents=True)
    line = refused(config)
    assert f"var/{store}.db: " in line
    assert "unable to open database file" in line


def test_a_store_of_a_newer_gateway(config: Path) -> None:
    (config.parent / "var").mkdir(mode=0o700)
    database = sqlite3.connect(config.parent / "var" / "state.db")
    database.execute("PRAGMA user_version = 99")
    database.close()
    assert "newer" in refused(config)


def test_a_store_that_belongs_to_another_key(config: Path) -> None:
    async def once() -> None:
        app = await GatewayApp.start(read(config))
        await app.close()

    asyncio.run(once())
    (config.parent / "var" / "secret.key").unlink()
    assert "the state store was last used with the key" in refused(config)


def test_certificates_that_do_not_load(config: Path) -> None:
    for name in ("cert.pem", "key.pem"):
        (config.parent / name).write_text("no certificate")
    change(config, tls={"cert_file": "cert.pem", "key_file": "key.pem"})
    assert refused(config).startswith(f"gateway: tls: {config.parent}/cert.pem and {config.parent}/key.pem cannot be used: ")


def test_certificates_of_an_upstream_that_do_not_load(config: Path) -> None:
    (config.parent / "ca.pem").write_text("no certificate")
    change(config, upstreams={"bank": {"url": "https://127.0.0.1:1", "tls": {"ca_file": "ca.pem"}}})
    assert refused(config).startswith("gateway: upstreams.bank.tls: the certificates cannot be used: ")


# -- what is left --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fails", ["admin", "public"])
async def test_a_start_that_fails_halfway_leaves_no_listener_task_or_thread(config: Path, fails: str) -> None:
    raw = settings(config)
    taken, other = raw["admin"]["listen"], raw["listen"]
    if fails == "public":
        taken, other = other, taken
    threads, tasks = own_threads(), asyncio.all_tasks()
    with socket.create_server(("127.0.0.1", int(taken.rpartition(":")[2]))), pytest.raises(GatewayError):
        await GatewayApp.start(read(config))
    assert asyncio.all_tasks() == tasks
    assert free(other)
    await eventually(lambda: own_threads() <= threads)
    app = await GatewayApp.start(read(config))  # nothing holds ports or stores
    await app.close()


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 5, 8, 13, 21])
async def test_a_start_that_is_cancelled_leaves_nothing(config: Path, turns: int) -> None:
    """At whatever point: after so many turns of the event loop."""
    tasks = asyncio.all_tasks()
    start = asyncio.create_task(GatewayApp.start(read(config)))
    for _ in range(turns):
        await asyncio.sleep(0)
    if start.done():
        await (await start).close()
    else:
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start
    assert asyncio.all_tasks() == tasks
    assert free(settings(config)["listen"])
    assert free(settings(config)["admin"]["listen"])


# -- what a reload may do ------------------------------------------------------------------------------------------------


async def test_a_reload_names_what_waits_for_the_next_start_as_often_as_it_is_asked(tmp_path: Path) -> None:
    async with running(tmp_path) as there:
        assert await there.app.reload(read(there.config)) == []
        change(there.config, transactions={"ttl": "5m"}, limits={"drain": "1s"}, rules=[])
        assert await there.app.reload(read(there.config)) == ["transactions", "limits"]
        assert await there.app.reload(read(there.config)) == ["transactions", "limits"]


async def test_a_reload_that_cannot_be_put_to_use_changes_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as there:
        before = there.app.live
        (there.config.parent / "ca.pem").write_text("no certificate")
        bank = settings(there.config)["upstreams"]["bank"]
        good = {"url": "http://127.0.0.1:1", "health": {"path": "/health"}}
        bad = {"url": "https://127.0.0.1:1", "tls": {"ca_file": "ca.pem"}}
        routes = [{"path": "/a/**", "upstream": "good"}, {"path": "/b/**", "upstream": "bad"}, {"upstream": "bank"}]
        tasks = asyncio.all_tasks()
        change(there.config, upstreams={"bank": bank, "good": good, "bad": bad}, routes=routes)
        with pytest.raises(GatewayError, match=r"upstreams\.bad\.tls"):
            await there.app.reload(read(there.config))
        assert there.app.live is before
        assert asyncio.all_tasks() == tasks
        assert (await there.browser().get("/")).status == 200


async def test_a_rotated_key_file_is_adopted(tmp_path: Path) -> None:
    async with running(tmp_path) as there:
        old = there.app.keyring
        result = gateway("keys", "rotate", "-c", str(there.config))
        assert result.exit_code == 0
        await eventually(lambda: there.app.keyring.signing[0] != old.signing[0])
        kids = [key["kid"] for key in (await there.browser().get("/.stepup/jwks.json")).json["keys"]]
        assert kids == [there.app.keyring.signing[0].kid, old.signing[0].kid]
        assert kids[0] in result.stdout


async def test_a_renewed_certificate_is_taken_over_by_a_reload_and_one_that_does_not_fit_is_not(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    first = authority.issue("127.0.0.1")
    async with running(tmp_path, tls={"cert_file": first.cert_file, "key_file": first.key_file}) as there:

        async def shown() -> str:
            return await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", there.app.public.port))

        async def reload() -> None:
            await there.app.reload(read(there.config))

        one = content(first.cert_file)
        assert await shown() == one
        authority.issue("127.0.0.1")  # into the same files
        two = content(first.cert_file)
        assert await shown() == one != two
        await reload()
        assert await shown() == two
        shutil.copy(authority.issue("localhost").key_file, first.key_file)
        with pytest.raises(GatewayError, match="cannot be used"):
            await reload()
        assert await shown() == two
