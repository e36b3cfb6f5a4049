"""docs/how-to/rule-functions.md: Auth0's rule and ours, side by side, do the same; and the file in `config/` is what is shown."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jwt
import pytest
from click.testing import CliRunner

from gateway.cli.main import main
from gateway.flow.functions import Context, Fields, Unauthorized, User
from tests.integration.test_docs import ROOT, blocks

SECRET = "a secret that the page knows too"
PAGE = "docs/how-to/rule-functions.md"
OLD, YOUNG = 91, 89  # days


def ago(days: int) -> int:
    return int(time.time()) - days * 86_400


# As Auth0 ran a rule: `jwt` (jsonwebtoken), `configuration` and `UnauthorizedError` were there.
HARNESS = """
const { createHmac } = require("crypto");
const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
const jwt = { sign: (claims, secret) => {
  const text = part({ alg: "HS256", typ: "JWT" }) + "." + part(claims);
  return text + "." + createHmac("sha256", secret).update(text).digest("base64url");
} };
class UnauthorizedError extends Error {}
const configuration = { PASSWORD_PAGE_SECRET: %(secret)s };
%(rule)s
mustChangePassword(%(user)s, %(context)s, (error, user, context) => {
  console.log(JSON.stringify({ refused: error ? error.message : null, url: context && context.redirect ? context.redirect.url : null }));
});
"""


def marked(mark: str) -> str:
    [block] = [b for b in blocks(PAGE) if f"code: {mark}" in b.marks]
    return block.text


def auth0(user: Mapping[str, Any], context: Mapping[str, Any]) -> dict[str, Any]:
    node = shutil.which("node")
    assert node, "Node.js is missing; on Debian: apt-get install nodejs"
    values = {"secret": json.dumps(SECRET), "rule": marked("Auth0"), "user": json.dumps(user), "context": json.dumps(context)}
    done = subprocess.run([node, "-"], input=HARNESS % values, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def ours(user: Mapping[str, Any], context: Mapping[str, Any]) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(marked("ours"), names)
    its_context = Context(context, redirect=None, request=Fields())
    try:
        assert names["must_change_password"](User(user), its_context) is None
    except Unauthorized as refused:
        return {"refused": str(refused), "url": None}
    return {"refused": None, "url": its_context.redirect and its_context.redirect["url"]}


@pytest.mark.parametrize("ran", [auth0, ours])
@pytest.mark.parametrize(
    ("changed", "protocol", "outcome"),
    [
        (YOUNG, "http", "content"),
        (OLD, "http", "sent"),
        (None, "http", "sent"),
        (OLD, "redirect-callback", "refused"),
        (YOUNG, "redirect-callback", "content"),
    ],
)
def test_both_rules_do_the_same(
    ran: Callable[..., dict[str, Any]], changed: int | None, protocol: str, outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PASSWORD_PAGE_SECRET", SECRET)
    user = {"user_id": "alice", "jti": "j-1", **({"password_changed_at": ago(changed)} if changed else {})}
    found = ran(user, {"protocol": protocol})
    match outcome:
        case "content":
            assert found == {"refused": None, "url": None}
        case "refused":
            assert found == {"refused": "Please change your password, then log in with the new one.", "url": None}
        case _:
            url, _, token = found["url"].partition("?session_token=")
            assert url == "https://passwords.example.com/change"
            claims = jwt.decode(token, SECRET, ["HS256"], issuer="password-age", audience="password-page")
            assert (claims["sub"], claims["jti"], claims["authorize_again"]) == ("alice", "j-1", "https://bank.example.com/login")
            assert claims["exp"] - claims["iat"] == 300


def test_the_file_in_config_is_what_is_shown() -> None:
    text = (ROOT / "config/rules/password_age.py").read_text()
    assert re.sub(r'^""".*?"""\n\n', "", text, count=1, flags=re.DOTALL) == marked("ours")


def test_it_is_loaded_and_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PASSWORD_PAGE_SECRET", SECRET)
    monkeypatch.chdir(tmp_path)
    [shown] = [b.text for b in blocks(PAGE) if b.language == "yaml" and "password_age" in b.text]
    folder = tmp_path / "rules"
    folder.mkdir()
    (folder / "password_age.py").write_bytes((ROOT / "config/rules/password_age.py").read_bytes())
    (tmp_path / "gateway.yaml").write_text("upstreams: {bank: {url: http://127.0.0.1:8081}}\n" + shown)
    for more, said in (
        ([], r"its function ran: nothing.*decision +allow"),
        (["--user", "alice", "--claim", f"password_changed_at={ago(YOUNG)}"], r"its function ran: nothing.*decision +allow"),
        (
            ["--user", "alice", "--claim", f"password_changed_at={ago(OLD)}"],
            r"redirect to https://passwords.example.com/change\n.*decision +step-up: https://passwords.example.com/change \(for this very",
        ),
    ):
        result = CliRunner().invoke(main, ["explain", *more, "GET", "/account"])
        assert re.search(said, result.output, re.DOTALL), result.output
        assert "session_token" not in result.output
