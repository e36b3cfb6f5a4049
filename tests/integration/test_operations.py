"""What operators do to a gateway that runs: reload it, rotate its keys, read its logs. The gateway is a process of its own."""

from __future__ import annotations

import asyncio
import re
import signal
from pathlib import Path
from typing import Any

import yaml

from tests.support.gateway import DEMO, Browser, Reply, Running, decoded, read, running
from tests.support.process import eventually, outside, run_gateway


def change(gateway: Running, **changes: Any) -> None:
    """Write the configuration anew, as an editor does: whole, or not at all."""
    raw = yaml.safe_load(gateway.config.read_text()) | changes
    fresh = gateway.config.with_suffix(".new")
    fresh.write_text(yaml.safe_dump(raw, sort_keys=False))
    fresh.replace(gateway.config)


def settings(gateway: Running) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(gateway.config.read_text())
    return found


DENY = {"name": "closed", "match": {"path": "/api/balance"}, "deny": {"status": 403, "message": "Closed for today."}}


async def test_no_request_fails_while_the_rules_are_swapped(tmp_path: Path) -> None:
    async with outside(tmp_path) as gateway:
        rules = settings(gateway)["rules"]
        seen: list[int] = []
        over = asyncio.Event()

        async def ask(browser: Browser, path: str) -> None:
            while not over.is_set():
                seen.append((await browser.get(path)).status)

        async def post(browser: Browser) -> None:
            while not over.is_set():
                seen.append((await browser.post("/echo", b"x" * 10_000)).status)

        async def answers(path: str, status: int) -> bool:
            return (await gateway.browser().json("GET", path)).status == status

        browser = gateway.browser()
        work = (ask(browser, "/"), ask(browser, "/login"), post(browser), ask(gateway.browser(), "/"))
        busy = [asyncio.ensure_future(each) for each in work]
        # By SIGHUP, by a changed file alone, and with an upstream whose pool is replaced.
        change(gateway, rules=[DENY, *rules])
        gateway.process.signal(signal.SIGHUP)
        await eventually(lambda: answers("/api/balance", 403))
        change(gateway, rules=rules)
        await eventually(lambda: answers("/api/balance", 401))
        upstream = {"bank": {"url": gateway.upstream, "idle_timeout": "100s"}}
        change(gateway, rules=[DENY, *rules], upstreams=upstream)
        await eventually(lambda: answers("/api/balance", 403))
        over.set()
        await asyncio.gather(*busy)
        assert len(seen) > 20
        assert set(seen) == {200}
        assert len(gateway.process.logged("reloaded")) >= 3


async def test_a_mistake_keeps_the_old_rules_and_the_log_says_where(tmp_path: Path) -> None:
    async with outside(tmp_path) as gateway:
        rules = settings(gateway)["rules"]
        refused = "reload refused; the running configuration stays"
        change(gateway, rules=[DENY, *rules, {"name": "bad", "match": {"path": "/x"}, "require": "cod"}])
        gateway.process.signal(signal.SIGHUP)
        line, *_ = await eventually(lambda: gateway.process.logged(refused))
        assert re.search(r'gateway\.yaml:\d+:\d+: .*no step named "cod"; did you mean "code"', line["mistake"])
        browser = gateway.browser()
        assert (await browser.json("GET", "/api/balance")).status == 401  # the app's own: DENY is not in force
        assert (await browser.post("/login", {"username": "alice", "password": "wonderland"})).status == 303

        # What only shows when it is put to use: a certificate that is none.
        (tmp_path / "ca.pem").write_text("this is no certificate\n")
        upstreams = {"bank": {"url": gateway.upstream}, "other": {"url": "https://127.0.0.1:9", "tls": {"ca_file": "ca.pem"}}}
        change(gateway, rules=[DENY, *rules], upstreams=upstreams, routes=[{"upstream": "bank"}])
        gateway.process.signal(signal.SIGHUP)
        await eventually(lambda: [line for line in gateway.process.logged(refused) if "cod" not in line.get("mistake", "")])
        assert (await browser.json("GET", "/api/balance")).status == 401

        change(gateway, rules=[DENY, *rules], upstreams={"bank": {"url": gateway.upstream}})
        await eventually(lambda: gateway.process.logged("reloaded"))
        assert (await browser.json("GET", "/api/balance")).status == 403


async def reloaded(gateway: Running, **changes: Any) -> None:
    change(gateway, **changes)
    await gateway.app.reload(read(gateway.config))


async def test_a_step_that_was_removed_under_an_open_transaction_ends_in_a_page_with_a_way_on(tmp_path: Path) -> None:
    async with running(tmp_path) as gateway:
        browser = gateway.browser()
        await gateway.log_in(browser)
        both = await browser.get("/admin")
        second = await gateway.pass_captcha(browser, both.location)  # human is passed, code is open
        assert "Step 2 of 2" in second.text
        pending = await gateway.transfer(browser, "Removed-Unique")
        found = settings(gateway)
        steps = {name: step for name, step in found["steps"].items() if name != "code"}
        rules = [rule for rule in found["rules"] if "code" not in rule.get("require", ())]
        await reloaded(gateway, steps=steps, rules=rules)
        for state in (both.location, pending.location):
            page = await browser.get(state)
            assert page.status == 410, page.text
            assert "was not sent" in page.text
            answer = await browser.json("POST", state, {"code": "123456"})
            assert answer.status == 410
            cancelled = await browser.json("POST", state, {"action": "cancel"})
            assert cancelled.json["error"]["code"] == "cancelled"
        assert await gateway.ledger(browser, "Removed-Unique") == 0


async def test_a_step_that_was_passed_and_then_removed_does_not_stop_the_others(tmp_path: Path) -> None:
    async with running(tmp_path) as gateway:
        browser = gateway.browser()
        await gateway.log_in(browser)
        both = await browser.get("/admin")
        await gateway.pass_captcha(browser, both.location)
        found = settings(gateway)
        steps = {name: step for name, step in found["steps"].items() if name != "human"}
        rules = [rule for rule in found["rules"] if rule["name"] not in ("login-needs-human", "admin-needs-both")]
        rules.append({"name": "admin-needs-code", "match": {"path": "/admin/**"}, "require": "code"})
        await reloaded(gateway, steps=steps, rules=rules)
        done = await gateway.pass_code(browser, both.location)
        assert (done.status, done.url.path) == (200, "/admin")


async def test_a_step_that_became_another_kind_is_asked_as_that_kind(tmp_path: Path) -> None:
    async with running(tmp_path) as gateway:
        browser = gateway.browser()
        await gateway.log_in(browser)
        asked = await gateway.transfer(browser, "Changed-Unique")
        assert (await browser.json("GET", asked.location)).json["step"]["kind"] == "otp"
        found = settings(gateway)
        await reloaded(gateway, steps=found["steps"] | {"code": found["steps"]["human"]})
        done = await gateway.pass_captcha(browser, asked.location)
        assert (done.status, done.url.path) == (200, "/account")
        assert await gateway.ledger(browser, "Changed-Unique") == 1


async def test_keys_are_rotated_while_transactions_and_passes_are_out(tmp_path: Path) -> None:
    rules = yaml.safe_load(DEMO.read_text())["rules"]
    rules.append({"name": "shown", "match": {"path": "/echo"}, "require": "human"})
    async with outside(tmp_path, rules=rules) as gateway:
        browser = gateway.browser()
        await gateway.log_in(browser)

        def kid_of_token(echo: Reply) -> str:
            (token,) = [value for name, value in echo.json["headers"] if name.lower() == "x-stepup-token"]
            return str(decoded(token.split(".")[0])["kid"])

        asked = await browser.get("/echo")
        kid = kid_of_token(await gateway.pass_captcha(browser, asked.location))
        form = await browser.get("/transfer")
        data = {"to": "Rotated-Unique", "amount": "10", "csrf": form.hidden("csrf")}
        asked = await browser.post("/transfer", data)
        page = await browser.get(asked.location)
        (old,) = (await browser.json("GET", "/.stepup/jwks.json")).json["keys"]
        assert old["kid"] == kid
        rotated = run_gateway("keys", "rotate", "-c", str(gateway.config), cwd=tmp_path)
        assert rotated.returncode == 0, rotated.stderr
        workers = gateway.process.workers()
        adopted = await eventually(
            lambda: len(found) == len(workers) and found if (found := gateway.process.logged("key file adopted")) else None
        )
        new_kid = adopted[0]["signing_kid"]
        assert new_kid != old["kid"]
        assert [key["kid"] for key in (await browser.json("GET", "/.stepup/jwks.json")).json["keys"]] == [new_kid, old["kid"]]
        assert kid_of_token(await browser.get("/echo")) == new_kid
        # The pass and its session count, the open form's hidden token too, and the transaction is finished.
        assert (await browser.json("GET", "/.stepup/pass")).json["subject"] == "alice"
        assert "alice" in (await browser.get("/account")).text
        passed = await browser.post(asked.location, {"code": gateway.code(), "stepup_token": page.hidden("stepup_token")})
        state = await browser.json("GET", asked.location)
        assert decoded(state.json["token"].split(".")[0])["kid"] == new_kid
        done = await browser.get(passed.location, follow=True)
        assert (done.status, done.url.path) == (200, "/account")
        assert await gateway.ledger(browser, "Rotated-Unique") == 1
        # Started again, it has nothing but the file.
        gateway.process.kill()
        await gateway.process.start()
        assert (await gateway.transfer(browser, "Second-Unique")).status == 302


async def test_the_logs_name_every_decision_and_no_secret(tmp_path: Path) -> None:
    async with outside(tmp_path) as gateway:
        change(gateway, rules=[DENY, *settings(gateway)["rules"]])
        await eventually(lambda: gateway.process.logged("reloaded"))
        browser = gateway.browser()
        replies: list[Reply] = []
        secrets = {"wonderland", "builder", "open-sesame-9-herons"}

        def noted(reply: Reply) -> Reply:
            replies.append(reply)
            for cookie in browser.session.cookie_jar:
                secrets.add(cookie.value)
            return reply

        noted(await browser.get("/login"))
        asked = noted(await browser.post("/login?debug=open-sesame-9-herons", {"username": "alice", "password": "wonderland"}))
        noted(await gateway.pass_captcha(browser, asked.location))
        asked = noted(await gateway.transfer(browser, "Logged-Unique"))
        noted(await browser.get(asked.location))
        code = gateway.code()
        wrong = "000000" if code != "000000" else "111111"
        noted(await browser.json("POST", asked.location, {"code": wrong}))
        noted(await browser.json("POST", asked.location, {"code": code, "action": ""}))
        ready = noted(await browser.json("GET", asked.location))
        token = ready.json["token"]
        noted(await browser.get("/continue?state=su_" + "A" * 43 + "&token=" + token))
        noted(await browser.get(ready.json["continue"] + "&token=" + token[:-2]))
        going = noted(await browser.get(ready.json["continue"] + "&token=" + token))
        noted(await browser.get(going.location))
        again = noted(await browser.get(going.location))
        assert again.status == 410
        noted(await browser.get("/admin"))
        noted(await browser.get("/echo", headers={"Authorization": "Bearer open-sesame-9-herons"}))
        denied = noted(await browser.get("/api/balance"))
        problem = noted(await browser.json("GET", "/api/balance"))
        assert (denied.status, problem.status) == (403, 403)
        unknown = noted(await browser.get("/.stepup/t/su_" + "B" * 43))
        assert unknown.status == 404
        assert await gateway.process.stop() == 0

        text = re.sub(r'"timestamp": ?"[^"]+"', "", gateway.process.text)  # its microseconds may be anybody's code
        secrets |= {code, wrong, token, asked.location.rpartition("/")[2], going.location.rpartition("=")[2]}
        assert all(secret for secret in secrets)
        for secret in secrets:
            assert secret not in text, secret
        assert not re.search(r"su_[A-Za-z0-9_-]{8}|rt_[A-Za-z0-9_-]{8}|eyJ[A-Za-z0-9_-]{8}|stepup_resume|\?", text)
        assert len(gateway.process.lines) == len(text.splitlines()), "every line is JSON"

        decisions = gateway.process.logged("decision")
        assert all({"request_id", "rules", "decision", "reason", "method", "path"} <= line.keys() for line in decisions)
        assert len({line["request_id"] for line in decisions}) == len(decisions)
        transfers = [line for line in decisions if (line["method"], line["path"]) == ("POST", "/transfer")]
        assert [line["decision"] for line in transfers] == ["step-up", "resume", "allow"]
        assert {line["rules"] for line in transfers} == {"transfer-needs-code"}
        audit = [(line["audit"], line["step"], line["outcome"]) for line in gateway.process.logged("audit", subject="alice")]
        steps = [("step", "code", "refused"), ("step", "code", "passed")]
        assert audit == [*steps, ("transaction", "-", "refused"), ("resume", "-", "resumed")], "a spoilt token is noted, and stops nothing"
        # The number on an error page, or in a problem, is the one in the log.
        assert gateway.process.logged("refused", request_id=number_on(unknown), kind="unknown")
        assert gateway.process.logged("decision", request_id=number_on(denied), decision="deny", rules="closed")
        assert gateway.process.logged("decision", request_id=problem.json["request_id"], decision="deny", rules="closed")


def number_on(page: Reply) -> str:
    found = re.search(r'Request <span class="id">([^<]+)</span>', page.text)
    assert found, page.text
    return found[1]
