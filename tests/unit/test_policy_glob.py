from __future__ import annotations

import pytest

from gateway.policy.glob import GlobError, host_glob, path_glob, value_glob


@pytest.mark.parametrize(
    ("pattern", "hits", "misses"),
    [
        ("/login", ["/login"], ["/login/", "/Login", "/", "/login/x"]),
        ("/a/*", ["/a/b", "/a/"], ["/a", "/a/b/c"]),
        ("/a*/x", ["/a/x", "/abc/x"], ["/a/b/x"]),
        ("/x/**", ["/x", "/x/", "/x/a/b"], ["/xy", "/"]),
        ("/x/**/y", ["/x/y", "/x/a/y", "/x/a/b/y"], ["/xy", "/x/ay", "/x/y/z"]),
        ("/x/**/**/y", ["/x/y", "/x/a/y"], ["/x"]),
        ("/**/y", ["/y", "/a/b/y"], ["/ay"]),
        ("/**", ["/", "/a/b"], []),
        ("**.php", ["/x.php", "/a/b.php"], ["/x.phps"]),
        ("/a/*/c/**", ["/a/b/c", "/a/b/c/d"], ["/a/b/d/c"]),
        ("/a.b", ["/a.b"], ["/axb"]),
        ("re:/v[0-9]+/.*", ["/v2/a", "/v10/"], ["/v/a", "x/v2/a"]),
        ("/é/*", ["/é/x"], ["/e/x"]),
    ],
)
def test_path_globs(pattern: str, hits: list[str], misses: list[str]) -> None:
    glob = path_glob(pattern)
    assert [text for text in hits if not glob.matches(text)] == []
    assert [text for text in misses if glob.matches(text)] == []


@pytest.mark.parametrize(
    ("pattern", "hits", "misses"),
    [
        ("bank.example.com", ["bank.example.com"], ["a.bank.example.com", "example.com"]),
        ("BANK.example.com", ["bank.example.com"], []),
        ("*.example.com", ["a.example.com"], ["example.com", "a.b.example.com"]),
        ("**.example.com", ["a.example.com", "a.b.example.com"], ["example.com"]),
        ("app-*.example.com", ["app-1.example.com"], ["app-1.x.example.com"]),
        ("re:(a|B)\\.example\\.com", ["a.example.com", "b.example.com"], ["c.example.com"]),
        ("[::1]", ["[::1]"], ["::1"]),
    ],
)
def test_host_globs_are_about_labels_and_have_no_case(pattern: str, hits: list[str], misses: list[str]) -> None:
    glob = host_glob(pattern)
    assert [text for text in hits if not glob.matches(text)] == []
    assert [text for text in misses if glob.matches(text)] == []


def test_a_star_in_a_value_matches_any_run_also_over_line_breaks() -> None:
    assert value_glob("application/*").matches("application/json")
    assert value_glob("*evil*").matches("a\nevil/b\n")
    assert value_glob("re:.*evil.*").matches("a\nevil")
    assert value_glob("*").matches("")
    assert not value_glob("a*").matches("ba")


@pytest.mark.parametrize(
    ("pattern", "text"), [("/Admin/**", "/ADMIN/x"), ("/Admin/*/x", "/aDMIN/q/X"), ("/Straße", "/STRASSE"), ("re:/A.*", "/abc")]
)
def test_the_folded_form_ignores_case(pattern: str, text: str) -> None:
    glob = path_glob(pattern)
    assert glob.matches_folded(text.casefold())
    assert not glob.matches(text)


def test_bytes_that_are_no_utf8_count_as_characters() -> None:
    assert path_glob("/a/*").matches("/a/\udcff")
    assert path_glob("re:/a/.*").matches("/a/\udcff")


@pytest.mark.parametrize(
    ("compile_glob", "pattern", "message", "offset"),
    [
        (path_glob, "login", "begins with `/`", 0),
        (path_glob, "/a/***", "`***` means nothing", 3),
        (path_glob, "/a?b=c", "key `query`", 2),
        (path_glob, "re:/[a", "missing ]", 3),
        (path_glob, "re:(?=x)", "invalid perl operator", 3),
        (host_glob, "https://bank.example.com", "without scheme, port or path", 6),
        (host_glob, "bank.example.com:443", "without scheme, port or path", 16),
        (host_glob, "", "matches nothing", None),
    ],
)
def test_bad_patterns_say_what_is_wrong_and_where(compile_glob: object, pattern: str, message: str, offset: int | None) -> None:
    assert callable(compile_glob)
    with pytest.raises(GlobError, match=message.replace("*", r"\*")) as caught:
        compile_glob(pattern)
    assert caught.value.offset == offset


@pytest.mark.timeout(5)
def test_hostile_texts_cost_linear_time() -> None:
    assert not path_glob("/**/a/**/a/**/a/**/a/**/b").matches("/a" * 20_000)
    assert not path_glob("re:(/a+)+b").matches("/" + "a" * 50_000)
