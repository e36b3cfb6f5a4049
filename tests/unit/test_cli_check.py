"""`gateway check`, `gateway schema`, and the mistakes that a user makes before any command begins: each is words, never a traceback."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gateway.cli.main import main

REPOSITORY = Path(__file__).parents[2]

UPSTREAM = "upstreams: {bank: {url: http://127.0.0.1:8081}}\n"
STEPS = """\
steps:
  human: {kind: captcha, provider: altcha}
  code: {kind: otp, methods: [totp]}
"""
SOURCE = "identity: [{from: header, name: X-User}]\n"


def gateway(*arguments: str) -> Result:
    """Run a command; whatever is raised but an exit code is a traceback that a user would have seen."""
    result = CliRunner().invoke(main, arguments, prog_name="gateway")
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def checked(folder: Path, text: str) -> Result:
    path = folder / "gateway.yaml"
    path.write_text(text)
    return gateway("check", "-c", str(path))


def mistakes(folder: Path, text: str) -> list[str]:
    """The lines about a configuration that has mistakes, without the folder's name."""
    result = checked(folder, text)
    assert (result.exit_code, result.stdout) == (2, "")
    *lines, count = result.stderr.replace(f"{folder}/", "").splitlines()
    assert count.startswith(f"{len(lines)} mistake")
    return lines


def test_the_demos_configuration_has_no_mistakes() -> None:
    result = gateway("check", "-c", str(REPOSITORY / "gateway.yaml"))
    assert (result.exit_code, result.stderr) == (0, "")
    assert "no mistakes" in result.stdout


def test_a_good_configuration_is_counted(tmp_path: Path) -> None:
    rules = "rules:\n  - {name: a, allow: true}\n"
    assert "no mistakes; 1 rule (0 in shadow mode, 0 off), 0 steps, 1 upstream" in checked(tmp_path, UPSTREAM + rules).stdout


def test_a_login_form_behind_a_proxy_that_only_asks_is_a_warning(tmp_path: Path) -> None:
    form = "identity:\n  - {from: login_form, upstream: bank, path: /login, cookie: SID}\n"
    proxy = "forward_auth: {edge: {dialect: nginx, listen: 127.0.0.1:8091}}\n"
    result = checked(tmp_path, UPSTREAM + form + proxy)
    assert result.exit_code == 0
    assert "no mistakes" in result.stdout
    (warning,) = result.stderr.replace(f"{tmp_path}/", "").splitlines()
    assert warning.startswith("gateway.yaml:3:5: identity[0]: warning: login_form learns from the application's answers")
    assert checked(tmp_path, UPSTREAM + form).stderr == ""
    assert checked(tmp_path, UPSTREAM + proxy).stderr == ""


def test_a_listener_for_a_proxy_off_loopback_is_a_warning(tmp_path: Path) -> None:
    for host, warned in (("10.0.0.5", True), ("0.0.0.0", True), ("127.0.0.1", False), ("[::1]", False), ("localhost", False)):
        result = checked(tmp_path, UPSTREAM + f'forward_auth: {{edge: {{dialect: nginx, listen: "{host}:8091"}}}}\n')
        assert result.exit_code == 0, host
        place = "gateway.yaml:2:47: forward_auth.edge.listen: warning: is off loopback: whoever reaches it is believed to be the proxy\n"
        assert result.stderr.replace(f"{tmp_path}/", "") == (place if warned else ""), host


def test_check_makes_neither_key_file_nor_stores(tmp_path: Path) -> None:
    assert checked(tmp_path, UPSTREAM).exit_code == 0
    assert [p.name for p in tmp_path.iterdir()] == ["gateway.yaml"]


def test_a_misspelt_step_is_told_with_line_column_and_the_nearest_name(tmp_path: Path) -> None:
    rules = "rules:\n  - name: pay\n    match: {path: /pay}\n    require: [cod]\n"
    text = UPSTREAM + SOURCE + STEPS + rules
    line = text.splitlines().index("    require: [cod]") + 1
    assert mistakes(tmp_path, text) == [f'gateway.yaml:{line}:15: rules[0].require[0]: no step named "cod"; did you mean "code"?']


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = (
        UPSTREAM
        + SOURCE
        + STEPS
        + """\
lisen: 127.0.0.1:1
passes: {idle: tomorrow}
theme: {name: "${STEPUP_NO_SUCH_NAME}"}
rules:
  - {name: one, match: {path: /a}, require: [human]}
  - {name: one, match: {path: /b}, require: [human]}
  - {name: cel, match: {path: /c}, when: request.pth == "/", require: [human]}
  - {name: all, match: {path: /d/**}, deny: {}}
  - {name: never, match: {path: /d/**}, require: [human]}
"""
    )
    found = mistakes(tmp_path, text)
    lines = [int(line.split(":")[1]) for line in found]
    assert lines == sorted(lines)
    for words in (
        "lisen: unknown key; did you mean",
        "passes.idle: is not a duration",
        "environment variable STEPUP_NO_SUCH_NAME is not set",
        'a rule named "one" stands at',
        "pth",
        "rules[4]",
    ):
        assert sum(words in line for line in found) == 1, (words, found)
    assert len(found) == 6


def test_a_condition_is_told_with_the_place_of_the_mistake_in_it(tmp_path: Path) -> None:
    rules = "rules:\n  - name: pay\n    when: request.method == && true\n    deny: {}\n"
    text = UPSTREAM + rules
    line, source = next((n, s) for n, s in enumerate(text.splitlines(), 1) if "&&" in s)
    (found,) = mistakes(tmp_path, text)
    assert found.startswith(f"gateway.yaml:{line}:{source.index('&&') + 1}: rules[0].when: ")


@pytest.mark.parametrize("command", ["check", "run", "demo", "keys list", "keys rotate", "explain GET /"])
class TestConfigurationsThatCannotBeRead:
    def test_a_missing_file(self, tmp_path: Path, command: str) -> None:
        result = gateway(*command.split(), "-c", str(tmp_path / "nope.yaml"))
        assert result.exit_code == 2
        assert "nope.yaml:1:1: cannot be read: No such file or directory" in result.stderr

    def test_a_folder(self, tmp_path: Path, command: str) -> None:
        result = gateway(*command.split(), "-c", str(tmp_path))
        assert result.exit_code == 2
        assert "is a directory" in result.stderr

    def test_a_binary_file(self, tmp_path: Path, command: str) -> None:
        path = tmp_path / "gateway.yaml"
        path.write_bytes(bytes(range(256)) * 20)
        result = gateway(*command.split(), "-c", str(path))
        assert result.exit_code == 2
        assert re.search(r"gateway\.yaml:\d+:\d+: .*(UTF-8|character)", result.stderr), result.stderr

    def test_a_file_with_mistakes(self, tmp_path: Path, command: str) -> None:
        path = tmp_path / "gateway.yaml"
        path.write_text("upstream: {}\n")
        result = gateway(*command.split(), "-c", str(path))
        assert result.exit_code == 2
        assert 'upstream: unknown key; did you mean "upstreams"?' in result.stderr
        assert [p.name for p in tmp_path.iterdir()] == ["gateway.yaml"]


def test_a_file_without_permission_to_read_is_told(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(UPSTREAM)
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    result = gateway("check", "-c", str(path))
    assert result.exit_code == 2
    assert "is not readable" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["chek"], "No such command"),
        (["check", "--lisen", "x"], "No such option"),
        (["run", "--listen", "8080"], "write host:port"),
        (["run", "--listen", "127.0.0.1:port"], "write host:port"),
        (["explain", "GET"], "Missing argument 'URL'"),
        (["demo", "--port", "9000"], "--port goes with --app-only"),
        (["demo", "--app-only", "--port", "70000"], "--port"),
        (["keys", "forget"], "No such command"),
    ],
)
def test_mistakes_on_the_command_line_exit_with_2(arguments: list[str], words: str) -> None:
    result = gateway(*arguments)
    assert result.exit_code == 2
    assert words in result.stderr


COMMANDS = ["check", "run", "demo", "explain", "keys list", "keys rotate", "schema"]


@pytest.mark.parametrize("command", ["", *COMMANDS, "keys"])
def test_help_tells_what_a_command_does_and_its_exit_codes(command: str) -> None:
    result = gateway(*command.split(), "--help")
    assert result.exit_code == 0
    assert "Exit code" in result.stdout


def test_help_names_every_command() -> None:
    listed = gateway("--help").stdout.partition("Commands:")[2]
    assert [line.split()[0] for line in listed.splitlines() if line.strip()] == sorted({c.split()[0] for c in COMMANDS})


def test_schema_prints_a_json_schema_that_takes_editors_to_every_section() -> None:
    schema = json.loads(gateway("schema").stdout)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["required"] == ["upstreams"]
    assert {"listen", "public_url", "stores", "identity", "steps", "rules"} <= schema["properties"].keys()
    assert schema["additionalProperties"] is False
    known = set(schema["$defs"])
    references = {line.split('"')[3] for line in json.dumps(schema, indent=0).splitlines() if line.startswith('"$ref"')}
    assert references
    assert {reference.removeprefix("#/$defs/") for reference in references} <= known


def test_the_settings_reference_in_the_docs_is_what_the_gateway_prints() -> None:
    result = gateway("schema", "--reference")
    assert result.exit_code == 0
    wanted = (REPOSITORY / "docs" / "settings.md").read_text()
    assert result.stdout == wanted, "docs/settings.md is old: gateway schema --reference > docs/settings.md"
