"""No spelling of a path hides it: whatever is done to a plain path, the plain path is among the readings, or the target is refused."""

from __future__ import annotations

import re
import string

from hypothesis import example, given
from hypothesis import strategies as st

from gateway.errors import BadTarget
from gateway.wire.target import MAX_READINGS, parse_target, query_pairs, with_parameter, without_parameter

PLAIN = string.ascii_letters + string.digits + "_~-"
segments = st.lists(st.text(PLAIN, min_size=1, max_size=8), min_size=1, max_size=4)
target_bytes = st.text("/.%;\\#?&=+2eEfFcC5abu0", max_size=40).map(lambda text: b"/" + text.encode())


def readings(raw: bytes) -> tuple[str, ...]:
    return parse_target(raw).readings


@given(segments)
def test_a_plain_path_has_one_reading(parts: list[str]) -> None:
    path = "/" + "/".join(parts)
    assert readings(path.encode()) == (path,)


@given(segments, st.data())
def test_any_single_or_double_encoding_of_characters_keeps_the_plain_reading(parts: list[str], data: st.DataObject) -> None:
    plain = "/" + "/".join(parts)
    depths = data.draw(st.lists(st.integers(0, 2), min_size=len(plain) - 1, max_size=len(plain) - 1))
    upper = data.draw(st.booleans())

    def spelled(character: str, depth: int) -> str:
        encoded = f"%{ord(character):02X}" if upper else f"%{ord(character):02x}"
        return (character, encoded, encoded.replace("%", "%25"))[depth]

    raw = "/" + "".join(spelled(c, d) for c, d in zip(plain[1:], depths, strict=True))
    assert plain in readings(raw.encode())


DETOURS = ("/.", "//", "/x/..", "/%2e", "/x/%2e%2e", "/x/%252e%252e", "/x;p/..", "/x\\..", "/;p", "/.;p", "/x/..;p", "%2f", "%5c")


@given(segments, st.lists(st.tuples(st.integers(0, 3), st.sampled_from(DETOURS)), max_size=3))
@example(["admin"], [(0, "/x/%2e%2e"), (0, "/x;p/.."), (0, "//")])
def test_detours_keep_the_plain_reading(parts: list[str], detours: list[tuple[int, str]]) -> None:
    spelled = [f"/{part}" for part in parts]
    for where, detour in detours:
        at = where % len(spelled)
        first = "/" if at == 0 and detour.startswith("%") else ""  # a target begins with a slash
        spelled.insert(at, first + detour)
    assert "/" + "/".join(parts) in readings("".join(spelled).encode())


@given(segments, st.data())
def test_parameters_on_any_segments_and_a_fragment_keep_the_plain_reading(parts: list[str], data: st.DataObject) -> None:
    parameters = data.draw(
        st.lists(st.sampled_from(["", ";", ";p", ";a=1;b=2", "%3bp", ";x%2fy"]), min_size=len(parts), max_size=len(parts))
    )
    tail = data.draw(st.sampled_from(["", "#", "#/x", "%23x", "%2523"]))
    raw = "/" + "/".join(p + q for p, q in zip(parts, parameters, strict=True)) + tail
    assert "/" + "/".join(parts) in readings(raw.encode())


@given(target_bytes | st.binary(max_size=60))
def test_reading_gives_a_bounded_set_or_refuses(raw: bytes) -> None:
    try:
        target = parse_target(raw)
    except BadTarget:
        return
    assert target.raw == raw
    assert target.path + (b"" if target.query is None else b"?" + target.query) == raw
    assert target.readings[0] == target.path.decode("ascii")
    assert len(set(target.readings)) == len(target.readings) <= MAX_READINGS
    assert all(reading.startswith("/") or "%" in raw.decode() or "#" in raw.decode() for reading in target.readings)
    query_pairs(target)


@given(target_bytes)
def test_every_reading_is_resolved_decoded_and_merged_as_well(raw: bytes) -> None:
    """Closed: a server behind a server reads nothing that is not in the set (but for a third decoding)."""
    try:
        found = readings(raw)
    except BadTarget:
        return
    for reading in found:
        if "//" in reading:
            assert re.sub("//+", "/", reading) in found
        if "\\" in reading:
            assert reading.replace("\\", "/") in found
        if "#" in reading:
            assert reading.split("#", maxsplit=1)[0] in found


@given(target_bytes, st.text(PLAIN, min_size=1, max_size=10), st.text(max_size=10))
def test_a_parameter_that_was_added_is_removed_without_a_trace(raw: bytes, name: str, value: str) -> None:
    try:
        before = parse_target(raw)
    except BadTarget:
        return
    if any(n == name for n, _ in query_pairs(before)):
        return
    with_it = with_parameter(raw, name, value)
    assert (name, value.encode("utf-8", "surrogatepass").decode("utf-8", "replace")) in query_pairs(parse_target(with_it))
    assert without_parameter(with_it, name) == raw


@given(target_bytes, st.sampled_from("abcef"))
def test_a_removed_parameter_is_gone_in_every_spelling(raw: bytes, name: str) -> None:
    try:
        left = parse_target(without_parameter(raw, name))
    except BadTarget:
        return
    assert all(n != name for n, _ in query_pairs(left))
