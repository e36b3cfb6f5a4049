"""Pages and addresses of any kind are read to an end, and a form that stands between them is seen."""

from __future__ import annotations

from html import escape

from hypothesis import given
from hypothesis import strategies as st

from gateway.flow.oauth.page import in_page
from gateway.flow.oauth.response import Response, error_address, error_fields, in_address

OWN = "https://idp.example.com"
PAGE = OWN + "/login"
CB = "https://app.example.com/cb"
PIECES = st.lists(
    st.one_of(
        st.sampled_from(["<", ">", "<!", "<![", "<!--", "-->", "<?", "</", "<form ", "action=", '"', "'", "<script>", "</script>",
                         "<base href=",
                         "http://[", "\\u00", "\\x3", "code=", "?", "#", "&#", "&amp", "<textarea name=a>", "srcdoc='", "]]>", "<p>", "x"]),
        st.text(max_size=8),
    ),
    max_size=30,
).map("".join)  # fmt: skip
WORDS = st.text(alphabet=st.characters(exclude_characters="<>&\"'"), max_size=40)


@given(PIECES)
def test_no_page_stops_the_reader(text: str) -> None:
    in_page(text, OWN, PAGE)


@given(WORDS, WORDS, st.text(min_size=1, max_size=20).filter(lambda value: value.strip() != ""))
def test_a_form_is_seen_whatever_stands_around_it_and_its_state_comes_back(before: str, behind: str, state: str) -> None:
    form = f'<form action="{CB}"><input type=hidden name=code value=x><input type=hidden name=state value="{escape(state)}"></form>'
    found = in_page(f"<p>{before}</p>{form}<p>{behind}</p>", OWN, PAGE)
    assert found is not None
    assert (found.mode, found.uri) == ("form_post", CB)
    if state.isprintable():
        assert found.state == state


@given(st.text(max_size=60))
def test_no_address_stops_the_reader(text: str) -> None:
    in_address(text, OWN)
    in_address(f"{CB}?{text}", OWN)


@given(st.text(max_size=20), st.sampled_from(["query", "fragment"]))
def test_an_error_is_never_taken_for_a_code(state: str, mode: str) -> None:
    response = Response(mode, CB, state, OWN)  # type: ignore[arg-type]
    assert in_address(error_address(response, error_fields(response, "interaction_required", "d")), OWN) is None
