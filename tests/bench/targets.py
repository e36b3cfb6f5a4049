"""What is measured: the gateway with a given configuration, the peer, nginx; and the application behind them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import yaml

from tests.bench.processes import OTHER_CORE, PROXY_CORE, ROOT, Child, python
from tests.support.ports import free_port

NGINX = shutil.which("nginx", path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")

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


def config(folder: Path, name: str, *, port: int, upstream: int, rules: list[dict[str, Any]], state: str = "") -> Path:
    """A gateway.yaml in a folder of its own."""
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
        }, sort_keys=False)
    )  # fmt: skip
    return path


def gateway(folder: Path, name: str, *, upstream: int, rules: list[dict[str, Any]] | None = None, state: str = "") -> Child:
    """`gateway run`, its log written to a file."""
    port = free_port()
    path = config(folder, name, port=port, upstream=upstream, rules=RULES if rules is None else rules, state=state)
    return python(name, "gateway", "run", "-c", str(path), core=PROXY_CORE, folder=folder, port=port)


def peer(folder: Path, *, upstream: int, bare: bool = False) -> Child:
    """The aiohttp proxy."""
    name, port = "peer-bare" if bare else "peer", free_port()
    options = ["--bare"] if bare else []
    return python(name, "tests.bench.peer", str(port), f"http://127.0.0.1:{upstream}", *options, core=PROXY_CORE, folder=folder, port=port)


def application(folder: Path) -> Child:
    port = free_port()
    return python("upstream", "tests.bench.upstream", str(port), core=OTHER_CORE, folder=folder, port=port)


_NGINX = """
daemon off; master_process off; worker_processes 1; pid {home}/nginx.pid; error_log {home}/error.log;
events {{ worker_connections 4096; }}
http {{
  access_log {home}/access.log; keepalive_requests 1000000;
  client_body_temp_path {home}/body; proxy_temp_path {home}/proxy; fastcgi_temp_path {home}/fastcgi; uwsgi_temp_path {home}/uwsgi;
  scgi_temp_path {home}/scgi;
  upstream app {{ server 127.0.0.1:{upstream}; keepalive 64; keepalive_requests 1000000; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $http_host;
      proxy_set_header X-Forwarded-For $remote_addr; proxy_max_temp_file_size 0;
    }}
  }}
}}
"""


def nginx(folder: Path, *, upstream: int) -> Child | None:
    """nginx with proxy_pass and kept upstream connections, where it is installed."""
    if NGINX is None:
        return None
    home, port = folder / "nginx-home", free_port()
    home.mkdir()
    (home / "nginx.conf").write_text(_NGINX.format(home=home, port=port, upstream=upstream))
    command = [NGINX, "-p", str(home), "-c", str(home / "nginx.conf"), "-e", str(home / "error.log")]
    return Child("nginx", command, core=PROXY_CORE, folder=folder, port=port)


__all__ = ["NGINX", "ROOT", "application", "config", "gateway", "many_rules", "nginx", "peer"]
