"""What the documents show is what happens: examples are run, and what they name exists.

A block runs unless the line before it says otherwise. The marks, as HTML comments, of which a block may have several:

    not run: REASON          shown only
    run: demo                a script against a running `gateway demo`; an `output` block may follow
    output                   what the block before printed
    log                      lines that the demo's log held after the tutorial was followed
    append to gateway.yaml / replace the last rule of gateway.yaml    for the commands that follow in the document
    mistakes                 that YAML is wrong on purpose
    code: NAME               run by name in tests/integration/test_docs_auth0.py; JavaScript always is
    file: NAME               a file beside gateway.yaml, for the commands that follow in the document

In shown output `…` stands for anything, and as a line of its own for any lines.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, get_args
from urllib.error import HTTPError
from urllib.parse import unquote

import aiohttp
import jwt
import pytest
import yaml
from click.testing import CliRunner
from pydantic import BaseModel

from gateway.app import REGISTRY
from gateway.app.part import FIXED
from gateway.cli.main import main
from gateway.flow.transaction import diagram
from gateway.settings.load import Loaded, Problems, load
from gateway.settings.places import Expansion
from gateway.settings.yaml import parse
from gateway.spec.sections import GatewaySpec
from gateway.stores.keyfile import write_new
from gateway.tokens.keys import generate_private_pem, new_keyring
from tests.support.altcha_client import payload as documented_solve
from tests.support.gateway import NAVIGATION, Browser, demo_config
from tests.support.ports import free_port

T = TypeVar("T")

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *DOCS.rglob("*.md")])
NAMES = [str(path.relative_to(ROOT)) for path in DOCUMENTS]

_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_MARK = re.compile(r"<!-- (.*?) -->")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block. where: "docs/x.md:12". marks: the comments on the lines just before it."""

    where: str
    language: str
    text: str
    marks: tuple[str, ...]

    def marked(self, word: str) -> bool:
        return any(mark == word or mark.startswith(word + ":") for mark in self.marks)


@cache
def blocks(name: str) -> tuple[Block, ...]:
    text = (ROOT / name).read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        indent, language, body = match.groups()
        marks: list[str] = []
        for line in reversed(text[: match.start()].splitlines()):
            mark = _MARK.fullmatch(line.strip())
            if mark is None:
                break
            marks.insert(0, mark[1])
        plain = "".join(line.removeprefix(indent) for line in body.splitlines(keepends=True))
        found.append(Block(f"{name}:{text.count(chr(10), 0, match.start()) + 1}", language, plain, tuple(marks)))
    return tuple(found)


def all_blocks(*languages: str) -> list[Block]:
    return [block for name in NAMES for block in blocks(name) if block.language in languages]


def prose(name: str) -> str:
    """A document without its blocks."""
    return _FENCE.sub("", (ROOT / name).read_text(encoding="utf-8"))


def same(shown: str, got: str) -> bool:
    """Whether `got` is what is shown, `…` being anything."""
    pattern = ""
    for line in shown.rstrip("\n").split("\n"):
        pattern += r"(?:[^\n]*\n)*" if line == "…" else ".*".join(re.escape(part) for part in line.rstrip().split("…")) + r"[ \t]*\n"
    return re.fullmatch(pattern, got.rstrip("\n") + "\n") is not None


@pytest.mark.parametrize(
    ("shown", "got", "result"),
    [
        ("a\nb", "a\nb\n", True),
        ("a\n…\nd", "a\nb\nc\nd", True),
        ("a …", "a b", True),
        ("a", "a\nb", False),
        ("…\nx y", "a\nx z", False),
        ("a.c", "abc", False),
    ],
)
def test_the_comparison_of_outputs_tells_right_from_wrong(shown: str, got: str, result: bool) -> None:
    assert same(shown, got) is result


# -- every block is known ---------------------------------------------------------------------------------------------


def test_every_block_is_of_a_language_that_is_checked_here() -> None:
    odd = [
        b.where
        for b in all_blocks("", *_all_languages())
        if b.language not in {"yaml", "python", "console", "sh", "json", "text", "mermaid", "js"}
    ]
    assert odd == []


def _all_languages() -> set[str]:
    return {block.language for name in NAMES for block in blocks(name)}


def test_what_is_not_run_says_why() -> None:
    silent = [b.where for name in NAMES for b in blocks(name) if any(re.fullmatch(r"not run:?\s*", mark) for mark in b.marks)]
    assert silent == []


def test_few_blocks_are_not_run() -> None:
    runnable = all_blocks("yaml", "python", "console", "sh")
    skipped = [b.where for b in runnable if b.marked("not run")]
    assert len(skipped) * 4 < len(runnable), skipped


def test_every_shell_script_runs_or_says_why_not() -> None:
    assert [b.where for b in all_blocks("sh") if not (b.marked("run") or b.marked("not run") or b.where.startswith("README.md"))] == []


def test_the_two_commands_of_the_readme_are_targets_of_the_makefile() -> None:
    [block] = [b for b in blocks("README.md") if b.language == "sh"]
    targets = re.findall(r"^make (\w+)", block.text, re.MULTILINE)
    assert targets == ["run", "test"]
    makefile = (ROOT / "Makefile").read_text()
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)


def test_json_is_json() -> None:
    """Several documents may follow each other."""
    for block in all_blocks("json"):
        decoder, rest = json.JSONDecoder(), block.text.strip()
        while rest:
            try:
                _, end = decoder.raw_decode(rest)
            except ValueError as error:
                pytest.fail(f"{block.where}: {error}")
            rest = rest[end:].strip()


# -- YAML -------------------------------------------------------------------------------------------------------------

_SECTION_OF = {"name": "rules", "from": "identity", "upstream": "routes"}


def read_yaml(text: str) -> Any:
    """As the gateway does (YAML 1.2: `off` is text), but `${…}` is left alone."""
    document = parse(text.encode(), lambda scalar: Expansion(scalar, (), (), ()))
    assert not document.mistakes, document.mistakes
    return document.value


def configuration(fragment: Any, folder: Path) -> dict[str, Any]:
    """A whole configuration around a fragment: the demo's, with the fragment's sections in place of its own (steps and upstreams added)."""
    raw: dict[str, Any] = read_yaml((ROOT / "gateway.yaml").read_text())
    if isinstance(fragment, list):
        section = next(section for key, section in _SECTION_OF.items() if key in fragment[0])
        fragment = {section: fragment}
    assert isinstance(fragment, dict)
    for key, value in fragment.items():
        raw[key] = {**raw.get(key, {}), **value} if key in ("steps", "upstreams") else value
    _make_files(fragment, folder)
    _make_files(raw["steps"], folder)
    return raw


def _make_files(value: Any, folder: Path) -> None:
    """Files that an example names, in the test's folder: empty ones, and documents with a heading."""
    if isinstance(value, dict):
        for key, entry in value.items():
            if key in ("cert_file", "key_file", "ca_file", "logo"):
                (folder / entry).parent.mkdir(parents=True, exist_ok=True)
                (folder / entry).touch()
            elif key == "python":
                file, _, name = entry.rpartition(":")
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                (folder / file).write_text(f"def {name}(user, context): ...\n")
            elif key == "document":
                (folder / entry).parent.mkdir(parents=True, exist_ok=True)
                (folder / entry).write_text("# Terms\n")
            elif key == "rules_dir":
                (folder / entry).mkdir()
            else:
                _make_files(entry, folder)
    elif isinstance(value, list):
        for entry in value:
            _make_files(entry, folder)


FRAGMENTS = [b for b in all_blocks("yaml") if not any(m.endswith("gateway.yaml") for m in b.marks) and not b.marked("not run")]


@pytest.mark.parametrize("block", FRAGMENTS, ids=lambda b: b.where)
def test_every_yaml_example_loads(block: Block, tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(json.dumps(configuration(read_yaml(block.text), tmp_path)))
    environ = {name: f"a-value-of-more-than-thirty-two-characters-for-{name}" for name in re.findall(r"\$\{([A-Z_]+)\}", block.text)}
    found = load(path, environ=environ, kinds=REGISTRY)
    assert isinstance(found, Loaded), [str(m) for m in found.mistakes] if isinstance(found, Problems) else found


def test_a_yaml_example_with_a_mistake_would_be_found(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(json.dumps(configuration([{"name": "x", "match": {"pth": "/"}, "require": ["code"]}], tmp_path)))
    assert isinstance(load(path, environ={}, kinds=REGISTRY), Problems)


PROXIES = {"nginx": "nginx.conf", "caddy": "Caddyfile", "traefik": "traefik.yaml", "envoy": "envoy.yaml"}


@pytest.mark.parametrize(("name", "file"), PROXIES.items())
def test_what_is_shown_of_a_proxys_configuration_stands_in_its_file(name: str, file: str) -> None:
    """And the files are what the proxies of tests/support/proxies.py run with."""
    lines = [line.strip() for line in (ROOT / "config" / file).read_text().splitlines()]
    shown = [line.strip() for block in blocks(f"docs/how-to/{name}.md") if block.language == "text" for line in block.text.splitlines()]
    assert shown
    assert [line for line in shown if line not in lines] == []


# -- commands ---------------------------------------------------------------------------------------------------------

_COMMAND = re.compile(r"^\$ (.*(?:\\\n.*)*)\n((?:(?!\$ ).*\n?)*)", re.MULTILINE)


def commands(block: Block) -> list[tuple[str, str]]:
    """(command, shown output) pairs."""
    found = [(c.replace("\\\n", " "), out) for c, out in _COMMAND.findall(block.text)]
    assert found, f"{block.where}: no line begins with `$ `"
    return found


def write_along(block: Block, path: Path) -> None:
    """Change gateway.yaml as the document tells its reader to, or write a file beside it."""
    for file in (path.parent / mark.removeprefix("file: ") for mark in block.marks if mark.startswith("file: ")):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(block.text)
    text = path.read_text()
    if block.marked("append to gateway.yaml"):
        path.write_text(text.rstrip("\n") + "\n\n" + block.text)
    elif block.marked("replace the last rule of gateway.yaml"):
        path.write_text(text[: text.rindex("\n  - name: ") + 1] + block.text)


WITH_COMMANDS = [name for name in NAMES if any(b.language == "console" for b in blocks(name))]


@pytest.mark.parametrize("name", WITH_COMMANDS)
def test_every_command_prints_what_is_shown(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of one document, in order, in a folder of their own that holds the demo's configuration."""
    (tmp_path / "gateway.yaml").write_bytes((ROOT / "gateway.yaml").read_bytes())
    (tmp_path / "config").mkdir()
    (tmp_path / "config/terms.md").write_bytes((ROOT / "config/terms.md").read_bytes())
    keys = new_keyring(now=time.time(), secret=os.urandom(32), private_pem=generate_private_pem("ES256"), algorithm="ES256")
    write_new(tmp_path / "var/secret.key", keys.to_text())  # as the first start does
    monkeypatch.chdir(tmp_path)
    for block in blocks(name):
        write_along(block, tmp_path / "gateway.yaml")
        if block.language != "console" or block.marked("not run"):
            continue
        for command, shown in commands(block):
            got, status = _run(command)
            assert same(shown, got), f"{block.where}: {command}\n--- shown\n{shown}\n--- got (exit {status})\n{got}"
            assert status == (2 if "rules[" in shown else 0), f"{block.where}: {command}: exit {status}"


def _run(command: str) -> tuple[str, int]:
    programme, *arguments = shlex.split(command)
    if programme == "gateway":
        result = CliRunner().invoke(main, arguments, prog_name="gateway")
        return result.output, result.exit_code
    assert programme == "make", f"{command}: mark it as not run, and say why"
    alone = {name: value for name, value in os.environ.items() if not name.startswith("MAKE") and name != "MFLAGS"}
    done = subprocess.run([programme, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60, env=alone)
    return done.stdout + done.stderr, done.returncode


# -- with the demo running --------------------------------------------------------------------------------------------

# A rule for the test of tokens: what reaches the application behind it is shown by /echo.
INTROSPECTION_SECRET = "secret+of/the=bank" * 2
ECHO = {"name": "echo", "match": {"path": "/echo"}, "require": "code"}


@dataclass(frozen=True, slots=True)
class Demo:
    """`gateway demo` as a process of its own, on free ports. folder: where scripts run, with the captcha how-to's solve.py."""

    folder: Path
    config: Path
    base: str
    admin: str
    log: Path

    def here(self, text: str) -> str:
        """An example's text, for these ports."""
        return text.replace("http://127.0.0.1:8080", self.base).replace("http://127.0.0.1:8090", self.admin)

    def written(self, pattern: str) -> bool:
        """Whether the log holds such a line by now, or within ten seconds."""
        wanted = re.compile(pattern)
        return _within(10, lambda: any(wanted.fullmatch(line) for line in self.log.read_text().splitlines()))

    def get(self, url: str) -> str:
        return asyncio.run(_get(url))


async def _get(url: str) -> str:
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return await answer.text()


def _within(seconds: float, happened: Callable[[], bool]) -> bool:
    due = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > due:
            return False
        time.sleep(0.05)  # between two looks
    return True


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    folder = tmp_path_factory.mktemp("demo")
    app_port, port, admin_port = free_port(), free_port(), free_port()
    config = demo_config(folder, app_port=app_port, port=port, admin_port=admin_port, terms=True)
    raw = yaml.safe_load(config.read_text())
    raw["rules"].insert(0, ECHO)
    raw["introspection"] = {"clients": {"bank": {"secret": INTROSPECTION_SECRET, "audience": "bank"}}}
    config.write_text(_with_rules_in_lines(raw))
    [solve] = [b for b in blocks("docs/how-to/captcha.md") if b.language == "python"]
    (folder / "solve.py").write_text(solve.text)
    log = folder / "log"
    with log.open("w") as err, (folder / "out").open("w") as out:
        process = subprocess.Popen([sys.executable, "-m", "gateway", "demo", "-c", str(config)], cwd=ROOT, stdout=out, stderr=err)
    try:
        assert _within(30, lambda: "Ctrl-C" in (folder / "out").read_text() or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        yield Demo(folder, config, f"http://127.0.0.1:{port}", f"http://127.0.0.1:{admin_port}", log)
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0, log.read_text()


def _with_rules_in_lines(raw: Mapping[str, Any]) -> str:
    """Rules last and two blanks in, as in the repository's file: the tutorial adds to its end."""
    rest = {k: v for k, v in raw.items() if k != "rules"}
    rules = "".join(f"  - {json.dumps(rule)}\n" for rule in raw["rules"])
    return yaml.safe_dump(rest, sort_keys=False) + "rules:\n" + rules


def _script(block: Block, demo: Demo) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = {"python": [sys.executable, "-W", "error", "-"], "sh": ["sh", "-eu"]}[block.language]
    done = subprocess.run(
        command, input=demo.here(block.text), cwd=demo.folder, capture_output=True, text=True, timeout=60, env={**os.environ, "PATH": path}
    )
    assert done.returncode == 0, f"{block.where}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


SCRIPTS = [b for b in all_blocks("python", "sh") if b.marked("run")]


@pytest.mark.parametrize("block", SCRIPTS, ids=lambda b: b.where)
def test_every_script_does_what_it_shows(block: Block, demo: Demo) -> None:
    following = blocks(block.where.rpartition(":")[0])
    shown = following[following.index(block) + 1]
    assert shown.marked("output")
    got = _script(block, demo)
    assert same(shown.text, got), got


def test_there_is_a_script_in_python_and_one_for_the_shell() -> None:
    assert {b.language for b in SCRIPTS} == {"python", "sh"}


@pytest.mark.parametrize("block", [b for b in all_blocks("python") if not b.marked("run")], ids=lambda b: b.where)
def test_every_other_python_example_defines_what_it_says(block: Block) -> None:
    names: dict[str, Any] = {"__name__": "example"}
    exec(block.text, names)
    assert [n for n, value in names.items() if callable(value) and n != "jwt"]


async def _followed(demo: Demo, way: Callable[[Browser], Awaitable[T]]) -> T:
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True), auto_decompress=False) as session:
        return await way(Browser(session, demo.base, NAVIGATION))


async def _captcha(browser: Browser, page: str) -> None:
    shown = await browser.json("GET", page)
    html = await browser.get(page)
    form = {"altcha": documented_solve(shown.json["step"]["data"]), "stepup_token": html.hidden("stepup_token")}
    passed = await browser.post(page, form, follow=True)
    assert passed.status == 200, passed.text


async def _log_in(browser: Browser) -> None:
    asked = await browser.post("/login", {"username": "alice", "password": "wonderland"})
    await _captcha(browser, asked.location)


async def _code(browser: Browser, demo: Demo, page: str, wrong: bool) -> None:
    html = await browser.get(page)
    assert html.status == 200, html.text
    async with browser.session.get(f"{demo.admin}/dev/mailbox") as answer:
        mails = await answer.json()
    right = re.findall(r"\b\d{6}\b", mails[0]["text"])[0]
    if wrong:
        refused = await browser.post(page, {"code": f"{(int(right) + 1) % 10**6:06}", "stepup_token": html.hidden("stepup_token")})
        assert refused.status == 422
    done = await browser.post(page, {"code": right, "stepup_token": html.hidden("stepup_token")}, follow=True)
    assert done.status == 200, done.text


async def _transfer(browser: Browser, demo: Demo, amount: str) -> None:
    form = await browser.get("/transfer")
    asked = await browser.post("/transfer", {"to": "carol", "amount": amount, "csrf": form.hidden("csrf")})
    if asked.status == 303:
        await _code(browser, demo, asked.location, wrong=True)


def test_the_log_lines_of_the_documents_are_written(demo: Demo) -> None:
    """Follow the tutorial against a running demo, and look for every line that some document shows."""
    steps = [b for b in blocks("docs/tutorial.md") if any(m.endswith("gateway.yaml") for m in b.marks)]
    shadowed, enforced, broken, mended = steps
    assert broken.marked("mistakes")
    assert mended.text == enforced.text

    async def first(browser: Browser) -> None:
        await _log_in(browser)
        await _transfer(browser, demo, "25")

    async def large(browser: Browser) -> None:
        await _log_in(browser)
        await _transfer(browser, demo, "2000")

    asyncio.run(_followed(demo, first))
    write_along(shadowed, demo.config)
    assert demo.written(".* reloaded .*")
    asyncio.run(_followed(demo, large))
    # The demo of this test has one rule more than the repository's.
    missing = []
    demo.config.write_text(demo.config.read_text().replace(shadowed.text, broken.text))
    assert demo.written(".* reload refused.*")
    for block in all_blocks("text"):
        if block.marked("log"):
            for line in block.text.splitlines():
                pattern = ".*".join(re.escape(p) for p in line.replace("rules=7", "rules=8").replace("rules[6]", "rules[7]").split("…"))
                if not demo.written(pattern):
                    missing.append(f"{block.where}: {line}")
    assert missing == []
    demo.config.write_text(demo.config.read_text().replace(broken.text, ""))
    assert demo.written(r".* reloaded .* rules=7")


def test_the_examples_verify_what_the_application_gets_and_nothing_else(demo: Demo) -> None:
    names: dict[str, Any] = {}
    for block in blocks("docs/tokens.md"):
        if block.language == "python":
            exec(demo.here(block.text), names)
    proved: Callable[[str], dict[str, Any]] = names["proved"]
    said: Callable[[str, str, str], dict[str, Any]] = names["said"]

    async def way(browser: Browser) -> tuple[str, str]:
        await _log_in(browser)
        asked = await browser.json("GET", "/echo")
        page = asked.json["step_up_url"]
        await browser.json("GET", page)
        async with browser.session.get(f"{demo.admin}/dev/mailbox") as answer:
            code = re.findall(r"\b\d{6}\b", (await answer.json())[0]["text"])[0]
        passed = await browser.json("POST", page, {"code": code})
        await browser.json("GET", passed.json["continue"])
        echoed = await browser.json("GET", "/echo")
        [token] = [value for name, value in echoed.json["headers"] if name == "X-Stepup-Token"]
        return token, passed.json["token"]

    upstream, evidence = asyncio.run(_followed(demo, way))
    claims = proved(upstream)
    assert (claims["sub"], claims["acr"], claims["amr"], claims["aud"]) == ("alice", "code", ["otp"], "bank")
    documented = set(re.findall(r"`(\w+)`", (ROOT / "docs/tokens.md").read_text()))
    assert set(claims) | set(jwt.decode(evidence, options={"verify_signature": False})) <= documented | {"iat"}
    assert said(upstream, "bank", INTROSPECTION_SECRET) == {"active": True, "typ": "stepup-upstream+jwt", **claims}
    assert said(evidence, "bank", INTROSPECTION_SECRET) == {"active": False}  # its transaction was resumed
    with pytest.raises(HTTPError, match="401"):
        said(upstream, "bank", "another")
    with pytest.raises(jwt.PyJWTError):
        proved(evidence)
    head, _, tail = upstream.rpartition(".")
    with pytest.raises(jwt.PyJWTError):
        proved(f"{head}.{tail[::-1]}")


def test_every_metric_and_no_other_is_documented(demo: Demo) -> None:
    exposed = set(
        re.findall(r"^# TYPE (stepup_\w+?(?<!_created)) (?:counter|gauge|histogram)$", demo.get(f"{demo.admin}/metrics"), re.MULTILINE)
    )
    rows = re.findall(r"^\| `(stepup_\w+)` \|", prose("docs/how-to/logs-and-metrics.md"), re.MULTILINE)
    assert set(rows) == exposed


def test_the_sql_of_the_documents_fits_the_tables(demo: Demo) -> None:
    shown = [c for b in all_blocks("console") for c, _ in commands(b) if c.startswith("sqlite3 ") and ".backup" not in c]
    assert len(shown) == 4
    with closing(sqlite3.connect(f"file:{demo.folder}/var/records.db?mode=ro", uri=True)) as records:
        for command in shown:
            assert records.execute("EXPLAIN " + shlex.split(command)[-1]).fetchall()


def test_the_columns_of_the_audit_trail_are_documented(demo: Demo) -> None:
    with closing(sqlite3.connect(f"file:{demo.folder}/var/records.db?mode=ro", uri=True)) as records:
        columns = [name for (name,) in records.execute("SELECT name FROM pragma_table_info('audit')")]
    text = prose("docs/how-to/logs-and-metrics.md")
    assert len(columns) > 5
    assert [name for name in columns if name != "id" and f"`{name}`" not in text] == []


# -- what is named exists ---------------------------------------------------------------------------------------------

_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def _anchors(path: Path) -> set[str]:
    """Headings as GitHub names them."""
    text = _FENCE.sub("", path.read_text(encoding="utf-8"))
    return {
        re.sub(r"[^\w\- ]", "", re.sub(r"`", "", heading).strip().lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    }


@pytest.mark.parametrize("name", NAMES)
def test_every_link_and_image_leads_somewhere(name: str) -> None:
    broken = []
    for target in _LINK.findall(prose(name)):
        if target.startswith(("https://", "http://", "mailto:")):
            continue
        file, _, anchor = unquote(target).partition("#")
        path = (ROOT / name).parent / file if file else ROOT / name
        if not path.exists() or (anchor and anchor not in _anchors(path)):
            broken.append(target)
    assert broken == []


def test_the_index_leads_to_every_document() -> None:
    linked = {(DOCS / target.partition("#")[0]).resolve() for target in _LINK.findall(prose("docs/README.md"))}
    assert [str(p.relative_to(ROOT)) for p in DOCS.rglob("*.md") if p not in linked and p != DOCS / "README.md"] == []


@pytest.mark.parametrize("name", NAMES)
def test_every_path_of_the_repository_that_is_named_exists(name: str) -> None:
    named = re.findall(r"`((?:gateway|tests|docs|config|tools)/[\w./-]*)`", prose(name))
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_every_room_is_in_the_architecture() -> None:
    rooms = {f"gateway/{p.name}/" for p in (ROOT / "gateway").iterdir() if p.is_dir() and not p.name.startswith("_")}
    assert rooms == set(re.findall(r"^\| `(gateway/\w+/)`", prose("docs/architecture.md"), re.MULTILINE))


def test_the_picture_of_the_state_machine_is_the_machine() -> None:
    [picture] = [b for b in blocks("docs/architecture.md") if b.language == "mermaid"]
    assert picture.text == diagram() + "\n"


_KEY = re.compile(r"`([a-z_]+(?:\.[A-Za-z_]+)+)`")


def _known(key: str) -> bool:
    """Whether gateway.yaml has such a key. Names that the operator chooses are written in capitals."""
    model: Any = GatewaySpec
    for word in key.split("."):
        if word.isupper():
            continue
        fields = (
            {f.alias or n: f for n, f in model.model_fields.items()} if isinstance(model, type) and issubclass(model, BaseModel) else {}
        )
        if word not in fields:
            return False
        model = _model(fields[word].annotation)
    return True


def _model(annotation: Any) -> Any:
    """The model within `X | None`, a list of X, or names to X; None where there is none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for a in get_args(annotation) if (found := _model(a)) is not None), None)


def test_every_settings_key_that_is_named_exists() -> None:
    sections = set(GatewaySpec.model_fields)
    found = {(name, key) for name in NAMES if name != "docs/settings.md" for key in _KEY.findall(prose(name))}
    keys = {(name, key) for name, key in found if key.partition(".")[0] in sections and not key.endswith((".py", ".md", ".yaml"))}
    assert len(keys) > 30
    assert [f"{name}: {key}" for name, key in sorted(keys) if not _known(key)] == []


def test_an_unknown_settings_key_would_be_found() -> None:
    assert _known("limits.drain")
    assert _known("upstreams.NAME.connect_timeout")
    assert not _known("limits.drian")
    assert not _known("upstreams.NAME.conect")


_HOW_TO = {"redirect": "external-page"}


@pytest.mark.parametrize("kind", sorted(REGISTRY.steps))
def test_the_how_to_of_a_step_names_settings_that_exist(kind: str) -> None:
    page = _HOW_TO.get(kind, kind.replace("_", "-"))
    table = re.search(r"^\| setting .*?\n\n", prose(f"docs/how-to/{page}.md"), re.MULTILINE | re.DOTALL)
    assert table
    first = [line.split("|")[1] for line in table[0].splitlines()[2:] if line]
    named = [key for cell in first for key in re.findall(r"`([\w.]+)`", cell)]
    config = REGISTRY.steps[kind].config
    assert [
        k for k in named if not _within_model(config, k) and not any(_within_model(config, f"{p.rpartition('.')[0]}.{k}") for p in named)
    ] == []


def _within_model(model: Any, key: str) -> bool:
    for word in key.split("."):
        fields = model.model_fields if isinstance(model, type) and issubclass(model, BaseModel) else {}
        if word not in fields:
            return False
        model = _model(fields[word].annotation)
    return True


def test_every_exit_code_and_signal_of_the_help_is_in_the_operations() -> None:
    text = prose("docs/operations.md")
    assert all(f"| {code} |" in text for code in (0, 1, 2))
    assert all(name in text for name in ("SIGHUP", "SIGTERM", "SIGINT"))


def test_the_how_to_of_a_reload_names_what_changes_at_once_and_what_waits() -> None:
    at_once, waits = (
        set(re.findall(r"`([a-z_]+)`", line.partition(":")[2]))
        for line in re.findall(
            r"^(?:At once|At the next start):.*?\n\n", (ROOT / "docs/how-to/reload.md").read_text(), re.DOTALL | re.MULTILINE
        )
    )
    assert waits == set(FIXED)
    assert at_once == GatewaySpec.model_fields.keys() - set(FIXED)


def test_every_bound_of_clients_is_in_the_operations() -> None:
    text = prose("docs/operations.md")
    silent = {"limits.keepalive", "transactions.tombstone", "transactions.loop_window", "guessing.window"}  # answer nobody by themselves
    bounds = {
        f"{section}.{key}"
        for section in ("limits", "transactions", "guessing")
        for key in _model(GatewaySpec.model_fields[section].annotation).model_fields
    }
    assert silent < bounds
    assert [bound for bound in sorted(bounds - silent) if f"`{bound}`" not in text] == []
