"""What is measured: the gateway with a given configuration, its peers, and the upstream behind them. One worker or thread each.

Each does what its own default does about an access log: nginx and the aiohttp application write one, as the gateway logs each decision;
HAProxy and Caddy do not.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.bench.processes import OTHER_CORE, PROXY_CORE, ROOT, Child, python
from tests.support.ports import free_port

_DEBIAN = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
BULK = 100_000_000
"""Bytes of the one large answer."""

RULES: list[dict[str, Any]] = [
    {"name": "gated", "match": {"path": "/gated/**"}, "require": "human"},
    {"name": "pay", "match": {"path": "/pay", "method": "POST"}, "require": "human", "max_age": "once"},
    *({"name": f"area-{n}", "match": {"path": f"/area-{n}/**"}, "require": "human"} for n in range(8)),
]
"""Ten rules. None of them is about what the pass-through requests ask for."""


def many_rules(count: int) -> list[dict[str, Any]]:
    """`count` rules of a large installation: hosts and paths of many applications, one in a hundred with a condition."""
    made = [
        {"name": f"rule-{n}", "match": {"host": f"app{n % 100}.example.com", "path": f"/team-{n % 500}/service-{n}/**"}, "require": "human"}
        for n in range(count - len(RULES))
    ]
    for rule in made[::100]:
        rule["when"] = 'request.method == "POST" && request.query["amount"] != "0"'
    return [*RULES, *made]


@dataclass(frozen=True, slots=True)
class Abilities:
    """What this gateway can be asked for. fast_lane: `lane:` exists, and its default is the fast one."""

    fast_lane: bool
    forward_auth: bool
    workers: bool


@cache
def abilities() -> Abilities:
    """Asked of its command line, so that a measurement of an older version leaves out what it lacks."""

    def ask(*words: str) -> str:
        return subprocess.run([sys.executable, "-m", "gateway", *words], check=True, capture_output=True, text=True, cwd=ROOT).stdout

    settings = json.loads(ask("schema"))["properties"]
    return Abilities(fast_lane="lane" in settings, forward_auth="forward_auth" in settings, workers="--workers" in ask("run", "--help"))


def config(
    folder: Path,
    name: str,
    *,
    port: int,
    upstream: int,
    rules: list[dict[str, Any]],
    state: str = "",
    lane: str = "auto",
    forward_auth: int = 0,
) -> Path:
    """A gateway.yaml in a folder of its own. forward_auth: the port that answers nginx, 0 for none."""
    home = folder / name
    home.mkdir()
    path = home / "gateway.yaml"
    path.write_text(
        yaml.safe_dump({
            "listen": f"127.0.0.1:{port}",
            "public_url": f"http://127.0.0.1:{port}",
            "admin": {"listen": f"127.0.0.1:{free_port()}"},
            "stores": {"state": state or "sqlite:///var/state.db", "records": "sqlite:///var/records.db",
                       "redis_deadline": "5s", "sqlite_deadline": "10s"},  # a machine that is busy otherwise slows down; it does not fail
            "secrets": {"key_file": "var/secret.key"},
            "upstreams": {"app": {"url": f"http://127.0.0.1:{upstream}"}},
            "identity": [
                {"from": "login_form", "upstream": "app", "path": "/login", "username": "username", "cookie": "JSESSIONID",
                 "success": {"status": 302, "location_not": "/login*"}}
            ],
            "limits": {"max_connections_per_address": 5000},
            "log": {"format": "json"},
            "steps": {"human": {"kind": "captcha", "provider": "altcha", "cost": 1, "max_number": 1}},
            "rules": rules,
            **({"lane": lane} if abilities().fast_lane else {}),
            **({"forward_auth": {"edge": {"dialect": "nginx", "listen": f"127.0.0.1:{forward_auth}"}}} if forward_auth else {}),
        }, sort_keys=False)
    )  # fmt: skip
    return path


def gateway(
    folder: Path,
    name: str,
    *,
    upstream: int,
    rules: list[dict[str, Any]] | None = None,
    workers: int = 1,
    cores: Iterable[int] = (PROXY_CORE,),
    command: Iterable[str] = (),
    **options: Any,
) -> Child:
    """`gateway run`, its log written to a file. command: what to run it under; options: those of `config`."""
    port = free_port()
    path = config(folder, name, port=port, upstream=upstream, rules=RULES if rules is None else rules, **options)
    several = ["--workers", str(workers)] if abilities().workers else []
    run = [*command, sys.executable, "-m", "gateway", "run", "-c", str(path), *several]
    return Child(name, run, cores=cores, folder=folder, port=port)


def peer(folder: Path, *, upstream: int, bare: bool = False) -> Child:
    """The aiohttp proxy."""
    name, port = "peer-bare" if bare else "peer", free_port()
    options = ["--bare"] if bare else []
    return python(
        name, "tests.bench.peer", str(port), f"http://127.0.0.1:{upstream}", *options, cores=[PROXY_CORE], folder=folder, port=port
    )


def _program(name: str) -> str:
    found = shutil.which(name, path=_DEBIAN)
    if found is None:
        raise RuntimeError(f"{name} is not installed; `make bench` installs it (or: tools/setup.sh bench)")
    return found


def _home(folder: Path, name: str, file: str, text: str) -> Path:
    home = folder / f"{name}-home"
    home.mkdir()
    (home / file).write_text(text)
    return home


# What nginx would keep in folders of Debian's.
_NGINX_FOLDERS = "".join(f"  {name}_temp_path {{home}}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
_NGINX = (
    """
daemon off; master_process off; worker_processes 1; pid {home}/nginx.pid; error_log {home}/error.log;
events {{ worker_connections 8192; }}
http {{
"""
    + _NGINX_FOLDERS
    + """
  keepalive_requests 1000000000; keepalive_timeout 300s;
  {http}
}}
"""
)
_NGINX_PROXY = """
  access_log {home}/access.log;
  upstream app {{ server 127.0.0.1:{upstream}; keepalive 64; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $http_host;
      proxy_set_header X-Forwarded-For $remote_addr; proxy_max_temp_file_size 0;
    }}
  }}
"""
# The application: a session at login, one large file, and 1 kB for anything else, from memory.
_NGINX_UPSTREAM = """
  access_log off; sendfile on; tcp_nopush on; server_tokens off; default_type "text/html; charset=utf-8";
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    add_header Cache-Control no-cache; add_header ETag '"0123456789abcdef"'; add_header Vary Accept-Encoding;
    add_header X-Content-Type-Options nosniff;
    location / {{ return 200 "{body}"; }}
    location = /login {{ add_header Set-Cookie "JSESSIONID=$request_id; Path=/; HttpOnly"; return 302 /account; }}
    location = /bulk {{ alias {home}/bulk; }}
  }}
"""
SMALL = 1024


def _nginx(folder: Path, name: str, http: str, *, cores: Iterable[int], **values: Any) -> Child:
    binary, port = _program("nginx"), free_port()
    home = _home(folder, name, "nginx.conf", "")
    http = http.format(home=home, port=port, **values)
    (home / "nginx.conf").write_text(_NGINX.format(home=home, http=http))
    with (home / "bulk").open("wb") as bulk:
        bulk.truncate(BULK)
    command = [binary, "-p", str(home), "-c", str(home / "nginx.conf"), "-e", str(home / "error.log")]
    return Child(name, command, cores=cores, folder=folder, port=port)


def nginx(folder: Path, *, upstream: int) -> Child:
    """Debian's nginx with proxy_pass and kept upstream connections."""
    return _nginx(folder, "nginx", _NGINX_PROXY, cores=[PROXY_CORE], upstream=upstream)


def application(folder: Path, name: str = "upstream", cores: Iterable[int] = (OTHER_CORE,)) -> Child:
    """The upstream of all: nginx, answering from memory."""
    return _nginx(folder, name, _NGINX_UPSTREAM, cores=cores, body="x" * SMALL)


_HAPROXY = """
global
  nbthread 1
  maxconn 8192
defaults
  mode http
  timeout connect 5s
  timeout client 300s
  timeout server 60s
  option forwardfor
frontend in
  bind 127.0.0.1:{port}
  default_backend app
backend app
  server app 127.0.0.1:{upstream}
"""


def haproxy(folder: Path, *, upstream: int) -> Child:
    """Debian's HAProxy. It keeps upstream connections by itself (`http-reuse safe`)."""
    port = free_port()
    home = _home(folder, "haproxy", "haproxy.cfg", _HAPROXY.format(port=port, upstream=upstream))
    command = [_program("haproxy"), "-db", "-f", str(home / "haproxy.cfg")]
    return Child("haproxy", command, cores=[PROXY_CORE], folder=folder, port=port)


_CADDY = """
{{
  admin off
  auto_https off
}}
http://127.0.0.1:{port} {{
  bind 127.0.0.1
  reverse_proxy 127.0.0.1:{upstream}
}}
"""


def caddy(folder: Path, *, upstream: int) -> Child:
    """Debian's Caddy. It keeps upstream connections by itself."""
    port = free_port()
    home = _home(folder, "caddy", "Caddyfile", _CADDY.format(port=port, upstream=upstream))
    command = [_program("caddy"), "run", "--config", str(home / "Caddyfile"), "--adapter", "caddyfile"]
    environment = {"GOMAXPROCS": "1", "HOME": str(home), "XDG_DATA_HOME": str(home), "XDG_CONFIG_HOME": str(home)}
    return Child("caddy", command, cores=[PROXY_CORE], folder=folder, port=port, environment=environment)


def versions() -> dict[str, str]:
    """What the compared programs say of themselves."""

    def ask(*words: str) -> str:
        said = subprocess.run([_program(words[0]), *words[1:]], check=False, capture_output=True, text=True)
        return (said.stdout + said.stderr).splitlines()[0]

    return {
        "nginx": ask("nginx", "-v").rpartition("/")[2],
        "HAProxy": ask("haproxy", "-v").split()[2],
        "Caddy": ask("caddy", "version").split()[0],
        "wrk": ask("wrk", "-v").split()[1],
    }
