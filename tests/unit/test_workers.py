"""The parts that `gateway run` is divided with: shares, sockets, what is told to a service manager, and pauses between starts."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from gateway.app import ADMIN, PUBLIC, Part, listeners, settled
from gateway.errors import StartRefused
from gateway.spec.sections import LimitsSpec
from gateway.tokens.keys import Keyring, generate_private_pem, new_keyring, overlap, rotate
from gateway.workers.notify import Notifier
from gateway.workers.seats import LONGEST_PAUSE, pause
from gateway.workers.sockets import Sockets, handed_over
from tests.support.gateway import demo_config, read
from tests.support.ports import free_port

ANY = ("127.0.0.1", 0)


# -- shares --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("whole", "workers"), [(10_000, 3), (7, 4), (2, 4), (10_000, 1), (10_001, 16)])
def test_the_shares_of_all_workers_are_the_whole(whole: int, workers: int) -> None:
    spec = LimitsSpec(max_connections=whole, max_connections_per_address=whole)
    shares = [Part(worker=index, workers=workers).limits(spec) for index in range(workers)]
    in_all = [share.max_connections for share in shares]
    assert sum(in_all) == max(whole, workers)
    assert max(in_all) - min(in_all) <= 1
    assert whole <= sum(share.max_connections_per_address for share in shares) < whole + workers


def test_one_worker_has_the_bounds_as_they_are() -> None:
    spec = LimitsSpec()
    assert Part().limits(spec) is spec


def test_a_late_worker_begins_with_the_settings_that_only_a_start_changes(tmp_path: Path) -> None:
    began = read(demo_config(tmp_path, app_port=1, port=2, admin_port=3, prefix="/one"))
    later = read(demo_config(tmp_path, app_port=1, port=2, admin_port=3, prefix="/two", rules=[], limits={"drain": "1s"}))
    found, differ = settled(began.spec, later)
    assert differ == ["prefix", "limits"]
    assert (found.spec.prefix, found.spec.limits) == ("/one", began.spec.limits)
    assert (found.ruleset, found.version) == (later.ruleset, later.version)
    assert settled(began.spec, began) == (began, [])


def test_every_listener_is_called_by_its_key(tmp_path: Path) -> None:
    spec = read(demo_config(tmp_path, app_port=1, port=2, admin_port=3)).spec
    assert listeners(spec) == {PUBLIC: ("127.0.0.1", 2), ADMIN: ("127.0.0.1", 3)}
    assert listeners(spec, "[::1]:4")[PUBLIC] == ("::1", 4)


# -- sockets -------------------------------------------------------------------------------------------------------------


def test_one_worker_only_is_at_a_port() -> None:
    with closing(Sockets({PUBLIC: ANY}, 3, {})) as sockets:
        port = sockets.port(PUBLIC)
        assert {sock.getsockname()[1] for index in range(3) for sock in sockets.of_worker(index)[PUBLIC]} == {port}
        with pytest.raises(StartRefused, match=f"listen: cannot listen on 127.0.0.1:{port}: Address already in use"):
            Sockets({PUBLIC: ("127.0.0.1", port)}, 2, {})


def taken(sockets: Sockets, index: int) -> int:
    """How many connections wait at a worker."""
    (sock,) = sockets.of_worker(index)[PUBLIC]
    if sock.fileno() < 0:
        return 0
    sock.setblocking(False)
    count = 0
    while True:
        try:
            sock.accept()[0].close()
        except BlockingIOError:
            return count
        count += 1


@contextmanager
def connected(port: int, count: int) -> Iterator[None]:
    made = [socket.create_connection(("127.0.0.1", port)) for _ in range(count)]
    yield
    for each in made:
        each.close()


def test_connections_are_spread_and_go_to_the_others_while_one_is_away() -> None:
    with closing(Sockets({PUBLIC: ANY}, 3, {})) as sockets:
        port = sockets.port(PUBLIC)
        with connected(port, 60):
            assert min(taken(sockets, index) for index in range(3)) > 0
        for away in (0, 1):  # the first was bound otherwise than the rest
            sockets.withdraw(away)
            with connected(port, 60):
                assert [taken(sockets, index) for index in range(3)][away] == 0
            sockets.restore(away)
            with connected(port, 60):
                assert taken(sockets, away) > 0


def test_the_last_one_keeps_the_port() -> None:
    with closing(Sockets({PUBLIC: ANY}, 2, {})) as sockets:
        port = sockets.port(PUBLIC)
        sockets.withdraw(0)
        sockets.withdraw(1)
        with connected(port, 5):
            assert taken(sockets, 1) == 5


def test_a_child_keeps_its_own() -> None:
    with closing(Sockets({PUBLIC: ANY, ADMIN: ANY}, 2, {})) as sockets:
        sockets.keep(sockets.of_worker(1))
        open_ = [sock.fileno() >= 0 for index in range(2) for sock in sockets.of_worker(index)[PUBLIC]]
        assert open_ == [False, True]
        assert [sock.fileno() for sock in sockets.of_admin()[ADMIN]] == [-1]


def test_what_was_bound_before_a_port_in_use_is_given_up() -> None:
    port = free_port()
    with socket.create_server(ANY) as used:
        with pytest.raises(StartRefused, match=r"^admin\.listen: cannot listen"):
            Sockets({PUBLIC: ("127.0.0.1", port), ADMIN: used.getsockname()}, 2, {})
        socket.create_server(("127.0.0.1", port)).close()


def test_sockets_for_somebody_else_are_not_ours() -> None:
    environ = {"LISTEN_FDS": "1", "LISTEN_PID": "1", "LISTEN_FDNAMES": "listen", "HOME": "/"}
    assert handed_over(environ, (PUBLIC, ADMIN), os.getpid()) == {}
    assert environ == {"HOME": "/"}


# -- a service manager ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("abstract", [False, True])
def test_what_a_service_manager_is_told(tmp_path: Path, abstract: bool) -> None:
    name = f"@stepup-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name[1:] if abstract else name)
        environ = {"NOTIFY_SOCKET": name}
        notifier = Notifier(environ)
        assert environ == {}
        notifier.ready("5 rules")
        assert manager.recv(4096).decode().split("\n") == ["READY=1", "STATUS=5 rules", f"MAINPID={os.getpid()}"]
        notifier.stopping()
        assert manager.recv(4096).startswith(b"STOPPING=1\n")


def test_no_service_manager_and_one_that_is_gone_are_no_fault(tmp_path: Path) -> None:
    Notifier({}).ready("")
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready("")


# -- odds ----------------------------------------------------------------------------------------------------------------


def test_the_pauses_between_starts_grow_to_a_bound() -> None:
    assert [pause(failures) for failures in range(5)] == [0.0, 0.0, 0.5, 1.0, 2.0]
    assert pause(50) == LONGEST_PAUSE


def ring(created: float = 1000.0) -> Keyring:
    return new_keyring(now=created, secret=os.urandom(32), private_pem=generate_private_pem("ES256"), algorithm="ES256")


def test_between_two_keys_the_old_ones_sign_and_both_verify() -> None:
    old = ring()
    new = rotate(old, now=2000.0, secret=os.urandom(32), private_pem=generate_private_pem("ES256"), algorithm="ES256", keep=60.0)
    both = overlap(old, new)
    assert (both.secrets[0].id, both.signing[0].kid) == (old.secrets[0].id, old.signing[0].kid)
    assert {key.kid for key in both.signing} == {key.kid for key in new.signing}
    assert {secret.id for secret in both.secrets} == {secret.id for secret in new.secrets}
    assert overlap(new, new) == new


def test_keys_that_are_not_in_the_new_file_are_not_used_for_a_moment_longer() -> None:
    new = ring(2000.0)
    assert overlap(ring(), new) is new
