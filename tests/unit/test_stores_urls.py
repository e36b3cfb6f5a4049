"""Store URLs: what `gateway check` says about them, and what the backends are given."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.stores.factory import check_records_url, check_url, open_state, resolve_url
from gateway.stores.state_redis import RedisState
from gateway.stores.state_sqlite import SqliteState
from gateway.stores.urls import RedisUrl, redis_url, sqlite_path

GOOD = [
    "sqlite:///var/state.db",
    "sqlite:////srv/with space/state.db",
    "redis://localhost",
    "redis://user:p%40ss@redis.example.com:6380/4",
    "redis://[::1]:6379/0",
    "rediss://redis.example.com?ssl_ca_certs=/etc/ca.pem",
    "redis+sentinel://one:26379,two/mymaster",
    "redis+sentinel://:secret@one,two,three/mymaster/2",
    "redis+cluster://one:7000,two:7001",
]
BAD = [
    ("", "no URL"),
    ("var/state.db", "no URL"),
    ("sqlit:///var/state.db", 'unknown scheme "sqlit"; did you mean "sqlite"?'),
    ("Redis://localhost", 'did you mean "redis"?'),
    ("redis+sentinal://one/mymaster", 'did you mean "redis+sentinel"?'),
    ("mongodb://localhost", 'unknown scheme "mongodb"; known are sqlite://, redis://'),
    ("sqlite:var/state.db", "two slashes"),
    ("sqlite://var/state.db", "three slashes"),
    ("sqlite:///", "names no file"),
    ("sqlite:///var/", "names no file"),
    ("sqlite:///:memory:", "lost with the process"),
    ("sqlite:///var/state.db?mode=ro", "no options"),
    ("redis://", "name of a server is missing"),
    ("redis://:6379", "name of a server is missing"),
    ("redis://localhost:port", "the port is not a number from 1 to 65535"),
    ("redis://localhost:70000", "the port is not a number"),
    ("redis://localhost/one", "the database is not a number"),
    ("redis://localhost/1/2", "too many parts"),
    ("redis://one,two", "for several write redis+sentinel://"),
    ("redis://[::1", "IPv6"),
    ("redis://localhost?db=3", 'unknown option "db"'),
    ("redis://:p#ss@localhost", "%23"),
    ("redis+sentinel://one:26379", "name of the master is missing"),
    ("redis+cluster://one/3", "no databases"),
    ("redis+cluster://one?ssl_ca_certs=/ca", "belongs to a rediss://"),
]


@pytest.mark.parametrize("url", GOOD)
def test_a_good_url_is_no_mistake(url: str) -> None:
    assert check_url(url) is None


@pytest.mark.parametrize(("url", "said"), BAD)
async def test_a_bad_url_is_explained_and_opens_nothing(url: str, said: str) -> None:
    message = check_url(url)
    assert message is not None
    assert said in message
    with pytest.raises(ValueError, match="^" + message[:10].replace("?", r"\?").replace("[", r"\[")):
        await open_state(url, redis_deadline=1.0, sqlite_deadline=1.0)


@pytest.mark.parametrize("url", ["redis://user:hunter2@", "redis://:hunter2@host:x", "redis://:hunter2@a,b", "rediss://:hunter2@a?x=y"])
def test_no_message_repeats_a_password(url: str) -> None:
    message = check_url(url)
    assert message is not None
    assert "hunter2" not in message


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://localhost", "unknown scheme"),
        ("postgresql://localhost/records", "not supported by this version"),
        ("sqlte:///a.db", '"sqlite"'),
    ],
)
def test_records_live_in_sqlite(url: str, said: str) -> None:
    assert check_records_url("sqlite:///var/records.db") is None
    message = check_records_url(url)
    assert message is not None
    assert said in message


@pytest.mark.parametrize(
    ("url", "resolved"),
    [
        ("sqlite:///var/state.db", "sqlite:////srv/gateway/var/state.db"),
        ("sqlite:////var/state.db", "sqlite:////var/state.db"),
        ("redis://localhost/1", "redis://localhost/1"),
    ],
)
def test_a_relative_path_starts_at_the_folder_of_its_file(url: str, resolved: str) -> None:
    assert resolve_url(url, Path("/srv/gateway")) == resolved
    assert resolve_url(resolved, Path("/elsewhere")) == resolved


def test_a_path_may_hold_what_urls_would_escape() -> None:
    assert sqlite_path(resolve_url("sqlite:///a%20b/ü.db", Path("/srv"))) == Path("/srv/a%20b/ü.db")


def test_a_redis_url_is_taken_apart() -> None:
    assert redis_url("redis+sentinel://us%65r:p%3Aw@one,[::1]:7/my%2Fmaster/2") == RedisUrl(
        scheme="redis+sentinel",
        nodes=(("one", 26379), ("::1", 7)),
        username="user",
        password="p:w",
        db=2,
        master="my/master",
        ca_file=None,
    )
    assert redis_url("rediss://one?ssl_ca_certs=/a%20b.pem") == RedisUrl("rediss", (("one", 6379),), None, None, 0, "", "/a b.pem")


async def test_each_scheme_opens_its_backend(tmp_path: Path) -> None:
    for url, kind in [
        (f"sqlite:///{tmp_path}/a/state.db", SqliteState),
        ("redis://127.0.0.1:1", RedisState),
        ("redis+cluster://127.0.0.1:1", RedisState),
        ("redis+sentinel://127.0.0.1:1/mymaster", RedisState),
    ]:
        store = await open_state(url, redis_deadline=0.1, sqlite_deadline=0.1)
        assert isinstance(store, kind)
        await store.close()
    assert not (tmp_path / "a").exists(), "nothing is made before the first call"
