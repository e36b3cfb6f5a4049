from __future__ import annotations

import gc
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.policy.model import LoginPaths
from gateway.settings.load import Loaded, load
from gateway.settings.mistakes import Problems
from gateway.settings.yaml import parse
from tests.support.settings import REGISTRY, MailedConfig, QuizConfig, WatchedForm, loaded, mistakes
from tests.unit.test_settings_mistakes import GOOD


def good(folder: Path, text: str, environ: dict[str, str] | None = None) -> Loaded:
    found = loaded(folder, text, environ)
    assert isinstance(found, Loaded), str(found)
    return found


def test_everything_arrives_typed_and_compiled(tmp_path: Path) -> None:
    found = good(tmp_path, GOOD)
    assert found.spec.upstreams["bank"].url == ("http://127.0.0.1:8081",)
    assert [rule.name for rule in found.spec.rules] == ["one"]
    assert found.steps == {"quiz": QuizConfig(), "code": MailedConfig(to="abc")}
    assert found.step_kinds == {"quiz": "quiz", "code": "mailed"}
    ((origin, identity),) = found.identity
    assert origin == "watched_form"
    assert isinstance(identity, WatchedForm)
    assert identity.path == "/login"
    assert found.ruleset.logins == (LoginPaths("bank", frozenset({"/login"})),)
    assert found.ruleset.steps["code"].needs_subject
    assert not found.ruleset.steps["quiz"].needs_subject
    assert [rule.name for rule in found.ruleset.rules] == ["one"]
    assert found.ruleset.version == found.version
    assert found.base == tmp_path
    assert found.files == (tmp_path / "gateway.yaml",)


def test_key_file_and_stores_need_not_exist(tmp_path: Path) -> None:
    good(tmp_path, GOOD + "secrets: {key_file: none/yet.key}\nstores: {state: 'sqlite:///none/yet.db'}\n")
    assert [path.name for path in tmp_path.iterdir()] == ["gateway.yaml"]


def test_empty_sections_are_empty(tmp_path: Path) -> None:
    found = good(tmp_path, "upstreams: {a: {url: http://b}}\nrules:\nsteps:\nidentity:\nroutes:\n")
    assert found.ruleset.rules == ()
    assert found.spec.steps == {}


def test_claims_of_steps_are_declared_too(tmp_path: Path) -> None:
    text = GOOD.replace("to: abc", "to: abc, claims: {expired: false, moved: true}").replace(
        "require: [quiz]", "require: [quiz]\n    when: subject.claims.moved == true && subject.claims.expired == null"
    )
    good(tmp_path, text)


def test_rules_dir_follows_in_name_order_and_paths_start_at_the_file_that_names_them(tmp_path: Path) -> None:
    (tmp_path / "conf" / "rules.d").mkdir(parents=True)
    (tmp_path / "conf" / "rules.d" / "20.yaml").write_text("rules: [{name: three, require: quiz}]\n")
    (tmp_path / "conf" / "rules.d" / "10.yml").write_text("rules:\n  - {name: '${file:name}', require: quiz}\n")
    (tmp_path / "conf" / "rules.d" / "name").write_text("two\n")
    (tmp_path / "conf" / "rules.d" / "15.yaml").write_text("")
    found = good(tmp_path / "conf", GOOD + "rules_dir: rules.d\n")
    assert [rule.name for rule in found.ruleset.rules] == ["one", "two", "three"]
    assert [rule.name for rule in found.spec.rules] == ["one", "two", "three"]
    assert found.files == tuple(
        tmp_path / "conf" / name
        for name in ("gateway.yaml", "rules.d", "rules.d/10.yml", "rules.d/name", "rules.d/15.yaml", "rules.d/20.yaml")
    )


def test_files_that_settings_name_are_watched(tmp_path: Path) -> None:
    (tmp_path / "logo.svg").write_text("<svg/>")
    (tmp_path / "color").write_text("#00ff00")
    found = good(tmp_path, GOOD + "theme: {logo: logo.svg, color: '${file:color}'}\n")
    assert found.spec.theme.color == "#00ff00"
    assert set(found.files) == {tmp_path / "gateway.yaml", tmp_path / "logo.svg", tmp_path / "color"}


def test_a_logo_that_is_too_large_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "logo.png").write_bytes(b"x" * 16_385)
    assert mistakes(tmp_path, GOOD + "theme: {logo: logo.png}\n") == ["gateway.yaml:13:15: theme.logo: is larger than 16 KiB"]


def test_numbers_and_booleans_may_come_from_variables(tmp_path: Path) -> None:
    text = GOOD + "transactions: {max_total: '${N}', ttl: '${T}'}\n"
    found = good(tmp_path, text.replace("require: [quiz]", "require: [quiz]\n    enabled: ${B}"), {"N": "7", "T": "5m", "B": "false"})
    assert found.spec.transactions.max_total == 7
    assert found.spec.transactions.ttl == 300.0
    assert not found.spec.rules[0].enabled


def test_several_origins_of_mixed_schemes_are_fine(tmp_path: Path) -> None:
    good(tmp_path, GOOD + "public_url: [https://bank.example, http://localhost:8080]\n")


def test_a_token_lets_the_admin_listener_off_loopback(tmp_path: Path) -> None:
    good(tmp_path, GOOD + "admin: {listen: 0.0.0.0:8090, token: 0123456789abcdef}\n")


@pytest.mark.parametrize("address", ["localhost:8090", "127.9.9.9:8090", "[::1]:8090"])
def test_loopback_needs_no_token(tmp_path: Path, address: str) -> None:
    good(tmp_path, f"{GOOD}admin: {{listen: '{address}'}}\n")


@pytest.mark.parametrize("address", [":8090", "[::]:8090", "10.0.0.1:8090", "admin.example:8090"])
def test_other_addresses_need_one(tmp_path: Path, address: str) -> None:
    assert [m.split(": ", 1)[1] for m in mistakes(tmp_path, f"{GOOD}admin: {{listen: '{address}'}}\n")] == [
        "admin.listen: off loopback the admin listener needs `token`"
    ]


def test_the_version_follows_the_text_and_not_the_secrets(tmp_path: Path) -> None:
    text = GOOD + "theme: {name: '${NAME}'}\n"
    first = good(tmp_path, text, {"NAME": "a"}).version
    assert good(tmp_path, text, {"NAME": "b"}).version == first
    assert good(tmp_path, text + "# more\n", {"NAME": "a"}).version != first


def test_a_file_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = load(Path("none.yaml"), environ={}, kinds=REGISTRY)
    assert isinstance(found, Problems)
    assert str(found) == "none.yaml:1:1: cannot be read: No such file or directory"


def test_files_are_named_as_the_operator_named_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "conf" / "more").mkdir(parents=True)
    (tmp_path / "conf" / "g.yaml").write_text("upstreams: {a: {url: http://b}}\nrules_dir: more\nx: 1\n")
    (tmp_path / "conf" / "more" / "a.yaml").write_text("y: 1\n")
    monkeypatch.chdir(tmp_path)
    found = load(Path("conf/g.yaml"), environ={}, kinds=REGISTRY)
    assert isinstance(found, Problems)
    assert str(found).splitlines() == [
        "conf/g.yaml:3:1: x: unknown key",
        "conf/more/a.yaml:1:1: y: unknown key; a file of rules holds `rules` only",
    ]
    assert found.files == (Path("conf/g.yaml"), Path("conf/more"), Path("conf/more/a.yaml"))


def test_the_collector_is_on_again_afterwards(tmp_path: Path) -> None:
    assert gc.isenabled()
    good(tmp_path, GOOD)
    assert gc.isenabled()


def test_merge_keys_and_anchors_work_in_rules(tmp_path: Path) -> None:
    text = GOOD + "  - &base {name: two, match: {path: /b}, require: quiz}\n  - {<<: *base, name: three, match: {path: /c}}\n"
    assert [rule.name for rule in good(tmp_path, text).ruleset.rules] == ["one", "two", "three"]


def test_a_mistake_in_a_merged_value_is_at_its_source(tmp_path: Path) -> None:
    text = GOOD + "  - &base {name: two, match: {pth: /b}, require: quiz}\n  - {<<: *base, name: three}\n"
    assert [m.split(": ")[:2] for m in mistakes(tmp_path, text)] == [
        ["gateway.yaml:13:31", "rules[1].match.pth"],
        ["gateway.yaml:13:31", "rules[2].match.pth"],
    ]


def test_ten_thousand_rules(tmp_path: Path) -> None:
    lines = []
    for number in range(10_000):
        when = f"when: 'subject.claims.expired == true && request.query.q{number % 40} == null', " if number % 100 == 0 else ""
        lines.append(f"  - {{name: rule-{number}, match: {{host: h{number % 7}.example, path: /app{number}/**}}, {when}require: [quiz]}}\n")
    found = good(tmp_path, GOOD + "".join(lines))
    assert len(found.ruleset.rules) == 10_001
    assert found.ruleset.rules[-1].position == 10_000


def test_thousands_of_mistakes(tmp_path: Path) -> None:
    lines = [f"  - {{name: rule-{number}, match: {{pth: /x}}, require: [quz]}}\n" for number in range(2_000)]
    assert len(mistakes(tmp_path, GOOD + "".join(lines))) == 4_000


# Whatever stands in the file

KEYS = st.sampled_from(
    [
        "listen",
        "tls",
        "admin",
        "token",
        "public_url",
        "stores",
        "state",
        "upstreams",
        "bank",
        "url",
        "health",
        "routes",
        "upstream",
        "identity",
        "from",
        "path",
        "steps",
        "quiz",
        "kind",
        "level",
        "rules",
        "name",
        "match",
        "except",
        "header",
        "query",
        "require",
        "deny",
        "allow",
        "when",
        "max_age",
        "rules_dir",
        "theme",
        "logo",
        "secrets",
        "key_file",
        "mail",
        "smtp",
        "limits",
        "log",
        "<<",
        "x",
    ]
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(
        [
            "${A}",
            "${B}",
            "${",
            "$${A}",
            "${file:gateway.yaml}",
            "bank",
            "quiz",
            "http://a:1",
            "re:(",
            "5m",
            "1MiB",
            "/x/**",
            "a" * 300,
            "\0",
            ".",
        ]
    ),
    st.sampled_from(
        ["subject.id == 'x'", "request.form.a", "watched_form", "mailed", "127.0.0.1:1", "[::", "http://[", "http://a:b", "../"]
    ),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(KEYS | st.text(max_size=5), inner, max_size=5)),
    max_leaves=25,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=st.dictionaries(KEYS, VALUES, max_size=8))
def test_any_values_are_loaded_or_told_of(tmp_path: Path, value: object) -> None:
    _loads_or_tells(tmp_path, yaml.dump(value, allow_unicode=True).encode())


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.one_of(st.binary(max_size=60), st.text(alphabet="ab:{}[]&*!|>'\"#%@`-?<$\n\t ,~01", max_size=80).map(str.encode)))
def test_any_bytes_are_loaded_or_told_of(tmp_path: Path, text: bytes) -> None:
    _loads_or_tells(tmp_path, text)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_good_file_with_some_characters_changed(tmp_path: Path, data: st.DataObject) -> None:
    text = list(GOOD)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(text) - 1))
        text[place] = data.draw(st.sampled_from(["", " ", "\n", ":", "[", "}", "'", "x", "9", "&a ", "*a", "${A}", "- "]))
    _loads_or_tells(tmp_path, "".join(text).encode())


def _loads_or_tells(folder: Path, text: bytes) -> None:
    path = folder / "gateway.yaml"
    path.write_bytes(text)
    found = load(path, environ={"A": "swordfish"}, kinds=REGISTRY)
    if isinstance(found, Problems):
        assert found.mistakes
        lines = text.decode("utf-8", "replace").count("\n") + text.decode("utf-8", "replace").count("\r") + 2
        for mistake in found.mistakes:
            assert "swordfish" not in mistake.message.lower()
            assert mistake.column >= 1
            if mistake.file == str(path):
                assert 1 <= mistake.line <= lines + text.count(b"\x85") + text.count(b"\xa8") + text.count(b"\xa9")


@given(text=st.text(max_size=40))
def test_any_text_in_quotes_is_read_back(text: str) -> None:
    document = parse(yaml.dump({"a": text}, default_style='"').encode())
    assert document.mistakes == []
    assert document.value == {"a": text}
