"""The pages for teams that come from elsewhere: what they show runs, on both sides, and every row of the table names a test that exists.

Auth0's side is played: a rule is called as Auth0 called it, an Action by tests/node/tenant.mjs.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import aiohttp
import jwt
import pytest

from tests.integration.test_docs import ROOT, Block, blocks, read_yaml
from tests.support import node
from tests.support.gateway import Browser, Reply, Running, running

RULES, ACTIONS, KEYCLOAK = (f"docs/how-to/{name}.md" for name in ("from-auth0-rules", "from-auth0-actions", "keycloak"))
SECRET = "shared with one page, and long enough"

FEATURES = {
    "start redirect", "state", "resume", "once per flow", "rerun with redirect-callback", "profile changes visible", "token out",
    "token back by POST", "token back by query", "jti match", "jti denylist", "prompt=none", "password grant", "refresh token",
    "resource owner", "password change with authorize_again", "JWKS", "introspection", '"Unauthorized"', "context.protocol values",
    "metadata limit", "several redirects", "custom page parameters",
}  # fmt: skip


# -- the table ----------------------------------------------------------------------------------------------------------


def rows() -> list[list[str]]:
    lines = (ROOT / "docs/auth0.md").read_text().partition("| feature |")[2].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("|")]


def test_every_feature_has_its_row() -> None:
    assert {row[0] for row in rows()} >= FEATURES
    assert all(len(row) == 4 for row in rows())
    assert not re.search("not supported|unsupported|todo|later", " ".join(" ".join(row) for row in rows()), re.IGNORECASE)


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_every_row_names_a_test_that_exists(row: list[str]) -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row[3])
    assert named
    for file, test in named:
        assert (ROOT / file).is_file(), f"{row[0]}: no file {file}"
        assert re.search(rf"^\s*(?:async )?def {test}\(", (ROOT / file).read_text(), re.MULTILINE), f"{row[0]}: no {test} in {file}"


# -- what the pages show ------------------------------------------------------------------------------------------------


def marked(name: str, mark: str) -> Block:
    [found] = [block for block in blocks(name) if f"code: {mark}" in block.marks]
    return found


def fragment(name: str, key: str, **names: str) -> dict[str, Any]:
    """The YAML of a page that holds this, with other addresses in place of those shown."""
    [text] = [b.text for b in blocks(name) if b.language == "yaml" and re.search(rf"^\s*(?:- )?{re.escape(key)}", b.text, re.MULTILINE)]
    for shown, here in names.items():
        text = text.replace(SHOWN[shown], here)
    found: dict[str, Any] = read_yaml(re.sub(r"\$\{\w+\}", SECRET, text))
    return found


SHOWN = {
    "kyc": "https://kyc.example.com",
    "identity": "https://identity.example.com",
    "bank": "https://bank.example.com",
    "sso": "https://sso.example.com",
    "tenant": "https://acme.eu.auth0.com",
    "issuer": "acme.eu.auth0.com",
    "module": "rules/identity.py",
}


def run_js(script: str, *arguments: str) -> Any:
    """What a script prints, as JSON. It may use the packages of tests/node."""
    done = subprocess.run(
        [node.node(), "-", *arguments], input=script, capture_output=True, text=True, timeout=30, cwd=node.FOLDER,
        env={**os.environ, "NODE_PATH": str(node.MODULES)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def query_of(url: str) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(url).query))


@pytest.mark.parametrize("name", [RULES, ACTIONS, KEYCLOAK])
def test_every_javascript_of_these_pages_is_run_by_name(name: str) -> None:
    named = set(re.findall(r'marked\(\w+, "([^"]+)"\)', Path(__file__).read_text()))
    shown = [mark.removeprefix("code: ") for block in blocks(name) if block.language == "js" for mark in block.marks or ["no mark"]]
    assert set(shown) <= named


# -- rules --------------------------------------------------------------------------------------------------------------

HARNESS = """
class UnauthorizedError extends Error {}
const configuration = { PAGE_SECRET: %(secret)s };
%(rule)s
identityCheck(%(user)s, %(context)s, (error, user, context) => {
  console.log(JSON.stringify({ error: error && error.message, user, context }));
});
"""


def auth0_ran(user: Mapping[str, Any], context: Mapping[str, Any]) -> Any:
    """The rule as Auth0 called it."""
    values = {"secret": SECRET, "user": dict(user), "context": dict(context)}
    return run_js(HARNESS % {"rule": marked(RULES, "the rule").text, **{k: json.dumps(v) for k, v in values.items()}})


def ours_ran(user: Mapping[str, Any], context: Mapping[str, Any]) -> Any:
    """The rule function, called with plain stand-ins."""
    names: dict[str, Any] = {}
    exec(marked(RULES, "the rule function").text, names)
    given = SimpleNamespace(**user), SimpleNamespace(redirect=None, **{**context, "request": SimpleNamespace(**context["request"])})
    try:
        names["identity_check"](*given)
    except names["Unauthorized"] as error:
        return {"error": str(error)}
    return {"error": None, "user": vars(given[0]), "context": {"redirect": given[1].redirect}}


@pytest.mark.parametrize("ran", [auth0_ran, ours_ran])
def test_the_rule_and_the_rule_function_do_the_same(ran: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAGE_SECRET", SECRET)
    user = {"user_id": "alice", "jti": "j-1", "app_metadata": {}}
    first = ran(user, {"protocol": "oidc-basic-profile", "request": {"body": {}}})
    url = first["context"]["redirect"]["url"]
    assert url.startswith("https://identity.example.com/check?token=")
    claims = jwt.decode(query_of(url)["token"], SECRET, ["HS256"], audience="identity-page", issuer="identity-rule")
    assert (claims["sub"], claims["jti"]) == ("alice", first["user"]["jti"])
    assert claims["exp"] - claims["iat"] == 300
    user = {**first["user"], "app_metadata": {}}

    def answer(**changed: Any) -> Any:
        told = {"iss": "identity-page", "aud": "identity-rule", "sub": "alice", "jti": user["jti"], "exp": int(time.time()) + 60, **changed}
        body = {"token": jwt.encode(told, SECRET)}
        return ran({**user, "app_metadata": {}}, {"protocol": "redirect-callback", "request": {"body": body}})

    assert answer()["error"] is None
    assert answer()["user"]["app_metadata"] == {"checked": True}
    for changed in ({"sub": "bob"}, {"jti": "other"}, {"aud": "another"}, {"iss": "another"}, {"exp": 1}):
        assert answer(**changed)["error"] == "The identity check was not finished."
    done = ran({**user, "app_metadata": {"checked": True}}, {"protocol": "oidc-basic-profile", "request": {"body": {}}})
    assert done["context"].get("redirect") is None
    # A captcha that another rule asked for leads to /continue as well, and no page has answered.
    beside = ran({**user, "app_metadata": {"checked": True}}, {"protocol": "redirect-callback", "request": {"body": {}}})
    assert beside["error"] is None


async def test_the_rule_function_sends_to_its_page_and_takes_the_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAGE_SECRET", SECRET)
    (tmp_path / "identity.py").write_text(marked(RULES, "the rule function").text)
    rules = fragment(RULES, "python:", module=str(tmp_path / "identity.py"))["rules"]
    async with running(tmp_path, rules=rules) as demo:
        browser = await _logged_in(demo)
        url = await _sent_away(browser, "/account")
        sent = query_of(url)
        assert sent.keys() == {"token", "state"}
        asked = jwt.decode(sent["token"], SECRET, ["HS256"], audience="identity-page")
        told = {"iss": "identity-page", "aud": "identity-rule", "sub": asked["sub"], "jti": asked["jti"], "exp": int(time.time()) + 60}
        back = await browser.post("/continue", {"state": sent["state"], "token": jwt.encode(told, SECRET)}, follow=True)
        assert (back.status, back.url.path) == (200, "/account"), back.text
        assert (await browser.get("/account")).status == 200  # it is remembered


# -- actions ------------------------------------------------------------------------------------------------------------


async def test_a_page_that_was_written_for_an_action_serves_both(tmp_path: Path) -> None:
    """The same page code answers the tenant that runs the Action, and the gateway with the step beside it."""
    page = marked(ACTIONS, "the page's answer").text

    def answered(url: str) -> dict[str, str]:
        sent = query_of(url)
        call = f"{page}\nconst [, , ...given] = process.argv; console.log(JSON.stringify(exports.answer(...given)));"
        return {"state": sent["state"], "token": run_js(call, sent["session_token"], sent["state"], SECRET, "full")}

    action = marked(ACTIONS, "the Action of the page that stays").text
    async with _tenant(tmp_path, action, KYC_SECRET=SECRET) as tenant, aiohttp.ClientSession() as session:
        async with session.get(tenant.url + "/login", allow_redirects=False) as left:
            form = answered(left.headers["Location"])
        async with session.post(tenant.url + "/continue", data=form) as done:
            assert (await done.json())["metadata"] == {"kyc_level": "full"}
    settings = fragment(ACTIONS, "kyc:")
    rules = [{**settings["rules"][0], "match": {"path": "/account"}}]
    async with running(tmp_path, rules=rules, steps=settings["steps"]) as demo:
        browser = await _logged_in(demo)
        url = await _sent_away(browser, "/account")
        assert url.startswith("https://kyc.example.com/verify?")
        back = await browser.post("/continue", answered(url), follow=True)
        assert (back.status, back.url.path) == (200, "/account"), back.text


async def test_an_action_sends_its_users_here_and_takes_the_answer(tmp_path: Path) -> None:
    async with running(tmp_path) as gateway:  # for its origin only: the tenant must know it first
        origin = gateway.base
    action = marked(ACTIONS, "the Action that sends to the gateway").text.replace(SHOWN["bank"], origin)
    async with _tenant(tmp_path, action, STEPUP_SECRET=SECRET) as tenant, aiohttp.ClientSession() as session:
        port = urlsplit(origin).port
        begin = fragment(ACTIONS, "auth0:", tenant=tenant.url, issuer=urlsplit(tenant.url).netloc)["begin"]
        steps = {"code": {"kind": "otp", "methods": ["email"], "email": "{subject.claims.email}"}}
        async with running(tmp_path / "b", begin=begin, steps=steps, rules=[], listen=f"127.0.0.1:{port}", public_url=[origin]) as demo:
            demo.base = origin
            async with session.get(tenant.url + "/login", allow_redirects=False) as left:
                form = await _stepped_up(demo, left.headers["Location"])
            assert form.action == tenant.url + "/continue"
            async with session.post(form.action, data=form.fields) as done:
                assert (done.status, await done.json()) == (
                    200,
                    {"user": {"user_id": "auth0|alice", "email": "alice@example.test"}, "metadata": {"stepped_up_by": "code"}},
                )


# -- keycloak -----------------------------------------------------------------------------------------------------------


async def test_a_provider_sends_its_users_here_and_takes_the_answer(tmp_path: Path) -> None:
    names: dict[str, Any] = {}
    [block] = [b for b in blocks(KEYCLOAK) if b.language == "python"]
    exec(block.text, names)
    begin = fragment(KEYCLOAK, "keycloak:")["begin"]
    steps = {"code": {"kind": "otp", "methods": ["email"], "email": "{subject.claims.email}"}}
    async with running(tmp_path, begin=begin, steps=steps, rules=[]) as demo:
        token = names["session_token"]("f:1:alice", "alice@example.test", "j-1", SECRET)
        form = await _stepped_up(demo, f"{demo.base}/.stepup/begin/keycloak?state=theirs&session_token={token}")
        assert form.action == "https://sso.example.com/realms/bank/step-up/continue"
        assert form.fields["state"] == "theirs"
        known = {"user": "f:1:alice", "jti": "j-1", "state": "theirs", "secret": SECRET}
        claims = names["proved"](form.fields["token"], **known)
        assert (claims["acr"], claims["amr"]) == ("code", ["otp"])
        described = set(re.findall(r"`(\w+)`", (ROOT / KEYCLOAK).read_text().partition("## What comes back")[2]))
        assert set(claims) <= described
        for changed in ({"user": "bob"}, {"jti": "j-2"}, {"state": "ours"}, {"secret": "x" * 40}):
            with pytest.raises(jwt.PyJWTError):
                names["proved"](form.fields["token"], **{**known, **changed})


# -- helpers ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Form:
    action: str
    fields: dict[str, str]


def _form(page: Reply) -> Form:
    """The form that sends itself."""
    action = re.search(r'<form[^>]*action="([^"]*)"', page.text)
    assert action, page.text
    fields = {m[1]: unescape(m[2]) for m in re.finditer(r'<input[^>]*name="([^"]*)"[^>]*value="([^"]*)"', page.text)}
    return Form(unescape(action[1]), fields)


async def _logged_in(demo: Running) -> Browser:
    browser = demo.browser()
    await browser.get("/login")
    answer = await browser.post("/login", {"username": "alice", "password": "wonderland"})
    assert answer.status in (302, 303), answer.text
    return browser


async def _sent_away(browser: Browser, path: str) -> str:
    """Where the browser is sent for what it asks, through our own pages."""
    answer = await browser.get(path)
    for _ in range(3):
        assert answer.status == 303, answer.text
        if "://" in answer.location:
            return answer.location
        answer = await browser.get(answer.location)
    raise AssertionError(answer.location)


async def _stepped_up(demo: Running, url: str) -> Form:
    """Come with a state and a token, pass the mailed code, and take the form that leads back."""
    browser = demo.browser()
    answer = await browser.get(url)
    assert answer.status == 303, answer.text
    page = answer.location
    answer = await demo.pass_code(browser, page)
    return _form(answer)


def _tenant(folder: Path, action: str, **secrets: str) -> Any:
    (folder / "action.js").write_text(action)
    return node.node_module_server("tenant.mjs", str(folder / "action.js"), json.dumps(secrets))
