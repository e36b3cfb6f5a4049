from __future__ import annotations

from typing import Any

import pytest

from tests.support.policy import problems, ruleset

CODE = {"require": ["code"]}


def told(*rules: dict[str, Any], **more: Any) -> list[tuple[tuple[str | int, ...], str, int | None]]:
    return [(each.loc, each.message, each.offset) for each in problems(*rules, **more)]


@pytest.mark.parametrize(
    ("rule", "loc", "message", "offset"),
    [
        ({"require": ["human", "cod"]}, ("rules", 0, "require", 1), 'no step named "cod"; did you mean "code"?', None),
        (
            {"match": {"upstream": "bnk"}, **CODE},
            ("rules", 0, "match", "upstream", 0),
            'no upstream named "bnk"; did you mean "bank"?',
            None,
        ),
        ({"match": {"path": ["/a", "b"]}, **CODE}, ("rules", 0, "match", "path", 1), "begins with `/`", 0),
        ({"except": {"path": "re:/["}, **CODE}, ("rules", 0, "except", "path", 0), "missing ]", 3),
        ({"match": {"host": "a/b"}, **CODE}, ("rules", 0, "match", "host", 0), "without scheme, port or path", 1),
        ({"match": {"header": {"x-a": [None, "a***"]}}, **CODE}, ("rules", 0, "match", "header", "x-a", 1), "means nothing", 1),
        ({"match": {"header": {"x a": "b"}}, **CODE}, ("rules", 0, "match", "header", "x a"), "not the name of a header", None),
        ({"match": {"header": {}}, **CODE}, ("rules", 0, "match", "header"), "names no header", None),
        ({"match": {"path": []}, **CODE}, ("rules", 0, "match", "path"), "an empty list matches nothing", None),
        ({"match": {"method": ["GET", "PSOT"]}, **CODE}, ("rules", 0, "match", "method", 1), 'did you mean "POST"?', None),
        ({"except": {}, **CODE}, ("rules", 0, "except"), "excuses nothing", None),
        ({"when": "request.pth == 1", **CODE}, ("rules", 0, "when"), 'did you mean "path"?', 8),
        ({"when": "true &&", **CODE}, ("rules", 0, "when"), "ends too early", 7),
        ({}, ("rules", 0), "exactly one of require, deny, allow and python; it has none", None),
        ({"deny": {}, **CODE}, ("rules", 0), "it has require and deny", None),
        ({"allow": False}, ("rules", 0, "allow"), "only `allow: true` says something", None),
        ({"allow": True, "when": "true", "on_error": "require"}, ("rules", 0, "on_error"), "asks for no steps", None),
    ],
)
def test_a_mistake_is_told_with_its_place(rule: dict[str, Any], loc: tuple[str | int, ...], message: str, offset: int | None) -> None:
    [(found_loc, found_message, found_offset)] = told(rule)
    assert (found_loc, found_offset) == (loc, offset)
    assert message in found_message


def test_a_network_is_checked_here_too() -> None:
    """The shape of a spec refuses it first; compiled specs may come from elsewhere."""
    from gateway.policy.compile import Problem, compile_rules
    from gateway.spec.rules import MatchSpec, RuleSpec
    from tests.support.policy import STEPS

    spec = RuleSpec(name="a", require=("code",)).model_copy(
        update={"match": MatchSpec.model_construct(**{**dict(MatchSpec()), "network": ("10.0.0.0/99",)})}
    )
    found = compile_rules([spec], [], upstreams={"bank": True}, steps=STEPS)
    assert isinstance(found, tuple)
    [problem] = found
    assert isinstance(problem, Problem)
    assert problem.loc == ("rules", 0, "match", "network", 0)
    assert "not a network" in problem.message


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file() -> None:
    found = told(
        {"name": "a", "match": {"path": "x"}, "require": ["cod"]},
        {"name": "a", "match": {"path": "/x"}, "when": "nw", "require": ["human"]},
        routes=[{"upstream": "bnk"}],
    )
    assert [loc for loc, _, _ in found] == [
        ("routes", 0, "upstream"),
        ("rules", 0, "match", "path", 0),
        ("rules", 0, "require", 0),
        ("rules", 1, "when"),
        ("rules", 1, "name"),
    ]


def test_two_rules_of_one_name_are_told_at_the_second() -> None:
    [(loc, message, _)] = told({"name": "a", **CODE}, {"name": "b", **CODE}, {"name": "a", **CODE})
    assert loc == ("rules", 2, "name")
    assert 'rules[0] is named "a" already' in message


class TestRulesThatCanNeverMatch:
    @pytest.mark.parametrize("end", [{"deny": {}}, {"allow": True}])
    def test_behind_the_same_match(self, end: dict[str, Any]) -> None:
        first = {"match": {"path": ["/a", "/b"], "method": "post", "header": {"X-A": ["1", None]}}, **end}
        second = {"match": {"header": {"x-a": [None, "1"]}, "method": ["POST"], "path": ["/b", "/a"]}, **CODE, "when": "true"}
        [(loc, message, _)] = told(first, second)
        assert loc == ("rules", 1)
        assert "can never match" in message
        assert '"r0"' in message

    def test_behind_a_match_of_everything(self) -> None:
        assert [loc for loc, _, _ in told({"match": {"path": "/**"}, "deny": {}}, {"match": {"path": "/x"}, **CODE}, CODE)] == [
            ("rules", 1),
            ("rules", 2),
        ]

    @pytest.mark.parametrize(
        "first",
        [
            {"deny": {}, "when": "request.path == '/x'"},
            {"deny": {}, "except": {"path": "/x"}},
            {"deny": {}, "who": "anonymous"},
            {"deny": {}, "mode": "shadow"},
            {"deny": {}, "enabled": False},
            {"deny": {}, "match": {"path": "/b"}},
            {"require": ["human"]},
        ],
    )
    def test_not_behind_what_does_not_always_end_the_run(self, first: dict[str, Any]) -> None:
        assert len(ruleset({"match": {"path": "/a"}, **first}, {"match": {"path": "/a"}, **CODE}).rules) == 2

    def test_a_rule_that_is_off_is_not_told(self) -> None:
        assert len(ruleset({"deny": {}}, {**CODE, "enabled": False}).rules) == 2


def test_several_upstreams_need_routes() -> None:
    [(loc, message, _)] = told(upstreams={"bank": True, "shop": True})
    assert loc == ("routes",)
    assert "routes must say" in message


def test_a_rule_that_is_off_is_still_checked() -> None:
    assert [loc for loc, _, _ in told({"require": ["cod"], "enabled": False})] == [("rules", 0, "require", 0)]
