"""The index never loses a rule that looking at all of them would find."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import BadTarget
from gateway.policy.condition import condition
from gateway.policy.glob import host_glob, path_glob
from gateway.policy.index import RuleIndex
from gateway.policy.view import View
from tests.support.policy import request

SEGMENTS = st.sampled_from(["a", "b", "A", "ab", "*", "a*", "**", "", "ß", "%61", "..", "a;b"])
PATTERNS = st.one_of(
    st.lists(SEGMENTS, min_size=1, max_size=4).map(lambda parts: "/" + "/".join(parts)),
    st.sampled_from(["/**", "**", "**a", "re:/a.*", "/", "/a/**/b"]),
).filter(lambda pattern: "***" not in pattern)
HOSTS = st.sampled_from(["a.b.c", "b.c", "*.b.c", "*.c", "**.c", "**", "*", "x*.c", "re:.*", "A.B.C"])
TARGETS = st.lists(st.sampled_from(["a", "b", "A", "ab", "", "..", ".", "%61", "%2f", "a;b", "%2561", "%C3%9F", "\\"]), max_size=6).map(
    lambda parts: "/" + "/".join(parts)
)
CONDITIONS = st.builds(
    lambda upstreams, hosts, paths: condition(
        upstreams=upstreams,
        hosts=None if hosts is None else [host_glob(each) for each in hosts],
        paths=None if paths is None else [path_glob(each) for each in paths],
    ),
    st.none() | st.lists(st.sampled_from(["bank", "shop"]), min_size=1, max_size=2),
    st.none() | st.lists(HOSTS, min_size=1, max_size=2),
    st.none() | st.lists(PATTERNS, min_size=1, max_size=3),
)


@given(st.lists(CONDITIONS, max_size=8), TARGETS, st.sampled_from(["a.b.c", "b.c", "x.c", "c", "a.a.b.c", "d"]), st.booleans())
def test_the_index_names_every_rule_that_matches_in_file_order(conditions: list, target: str, host: str, folds: bool) -> None:  # type: ignore[type-arg]
    try:
        head = request(target, host=host)
    except BadTarget:
        return
    view = View(head, None, "bank", folds=folds)
    found = RuleIndex.build(enumerate(conditions)).candidates(host, head.target.readings, "bank")
    matching = [
        position for position, each in enumerate(conditions) if each.missed_by_any(view) is None or each.missed_by_all(view) is None
    ]
    assert list(found) == sorted(set(found))
    assert set(matching) <= set(found)


def test_ten_thousand_rules_are_not_scanned() -> None:
    index = RuleIndex.build((position, condition(paths=[path_glob(f"/app{position}/**")])) for position in range(10_000))
    assert list(index.candidates("a.b", ("/app77/x/y",), "bank")) == [77]
    hosts = RuleIndex.build((position, condition(hosts=[host_glob(f"*.h{position}.example.com")])) for position in range(10_000))
    assert list(hosts.candidates("a.h77.example.com", ("/",), "bank")) == [77]


def test_a_path_of_many_segments_costs_no_more_than_the_deepest_rule() -> None:
    index = RuleIndex.build([(0, condition(paths=[path_glob("/a/b/**")]))])
    assert len(index._beginnings(("/a" * 4000,))) <= 4
