"""Assets and colours."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import pytest

from gateway.spec.sections import ThemeSpec
from gateway.web.page import Page
from gateway.web.static import HERE, Static
from gateway.web.theme import DARK, LIGHT, MAX_LOGO, contrast, foreground, load_theme, readable

PREFIX = "/.stepup"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in {
        "captcha.js": "self",
        "worker.js": "work",
        "step.py": "secret = 1",
        "page.html": "<p>",
        "img/a.svg": "<svg/>",
    }.items():
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    return tmp_path


@pytest.fixture
def static(folder: Path) -> Static:
    return Static(PREFIX, {"captcha": folder})


def get(static: Static, name: str, if_none_match: str | None = None, version: str | None = None) -> Page:
    """Asks for an asset by the URL that pages name, or by another version's."""
    rest = static.url(name).removeprefix(static.root) if version is None else f"{version}/{name}"
    page = static.respond(rest, if_none_match)
    assert page is not None
    return page


def test_an_asset_is_found_under_the_url_that_pages_name(static: Static) -> None:
    page = get(static, "captcha/captcha.js")
    assert (page.status, page.body) == (200, b"self")
    assert page.header("content-type") == "text/javascript; charset=utf-8"
    assert page.header("cache-control") == "public, max-age=31536000, immutable"


def test_a_worker_is_its_scripts_neighbour(static: Static) -> None:
    assert static.url("captcha/captcha.js").rpartition("/")[0] == static.url("captcha/worker.js").rpartition("/")[0]


def test_the_url_changes_with_any_asset(static: Static, folder: Path) -> None:
    (folder / "worker.js").write_text("other work")
    assert Static(PREFIX, {"captcha": folder}).url("captcha/captcha.js") != static.url("captcha/captcha.js")


@pytest.mark.parametrize(
    "name",
    [
        "captcha/step.py",
        "captcha/page.html",
        "../pages.py",
        "captcha/../stepup.css",
        "captcha/%2e%2e/stepup.css",
        "",
        "captcha/",
        "captcha",
    ],
)
def test_nothing_but_assets_is_served(static: Static, name: str) -> None:
    assert static.respond(f"{static.version}/{name}") is None


def test_another_versions_hash_gets_our_asset_but_may_not_be_kept(static: Static) -> None:
    page = get(static, "captcha/captcha.js", version="0123456789ab")
    assert (page.status, page.body, page.header("cache-control")) == (200, b"self", "no-cache")


@pytest.mark.parametrize(("wanted", "status"), [("{etag}", 304), ('"x", W/{etag}', 304), ("*", 304), ('"x"', 200), ("", 200)])
def test_an_asset_that_the_browser_has_is_not_sent_again(static: Static, wanted: str, status: int) -> None:
    etag = get(static, "captcha/captcha.js").header("etag") or ""
    page = get(static, "captcha/captcha.js", wanted.format(etag=etag))
    assert (page.status, page.body) == (status, b"" if status == 304 else b"self")
    assert page.header("etag") == etag


def test_a_name_that_does_not_exist_is_a_mistake_in_a_template(static: Static) -> None:
    with pytest.raises(KeyError, match=r"captcha/captcha\.js"):
        static.url("captcha/captha.js")


def test_black_on_white_is_the_greatest_contrast_and_grey_is_known() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)  # WCAG's own borderline example
    assert contrast("#ffffff", "#777777") == contrast("#777777", "#ffffff")


COLOURS = [f"#{r:02x}{g:02x}{b:02x}" for r in range(0, 256, 51) for g in range(0, 256, 51) for b in range(0, 256, 51)]


def test_text_on_any_accent_can_be_read() -> None:
    assert min(contrast(foreground(color), color) for color in COLOURS) >= 4.5


@pytest.mark.parametrize("backgrounds", [LIGHT, DARK])
def test_links_in_any_accent_can_be_read_on_every_background(backgrounds: tuple[str, str]) -> None:
    assert min(contrast(readable(color, backgrounds), background) for color in COLOURS for background in backgrounds) >= 4.5


def test_an_accent_that_can_be_read_stays_as_it_is() -> None:
    assert readable("#1d4ed8", LIGHT) == "#1d4ed8"


def rules(css: str) -> list[dict[str, str]]:
    """Every `--name: value` of the stylesheet, light first, then dark."""
    light, dark = css.split("prefers-color-scheme: dark", 1)
    return [dict(re.findall(r"--([a-z-]+):\s*(#[0-9a-f]{3,6})", part)) for part in (light, dark)]


def full(color: str) -> str:
    return color if len(color) == 7 else "#" + "".join(c * 2 for c in color[1:])


@pytest.mark.parametrize(("index", "backgrounds"), [(0, LIGHT), (1, DARK)])
def test_the_stylesheets_own_colours_have_contrast_too(index: int, backgrounds: tuple[str, str]) -> None:
    colors = rules((HERE / "stepup.css").read_text(encoding="utf-8"))[index]
    assert (full(colors["card"]), full(colors["page"])) == backgrounds
    for name in ("text", "muted"):
        assert min(contrast(full(colors[name]), b) for b in (*backgrounds, full(colors["soft"]))) >= 4.5
    for name in ("bad", "good"):
        assert min(contrast(colors[name], b) for b in (backgrounds[0], colors[f"{name}-back"])) >= 4.5
    assert contrast(colors["edge"], backgrounds[0]) >= 3  # WCAG 2.2 §1.4.11: the edge of an input


def test_the_logo_is_inlined(tmp_path: Path) -> None:
    logo = tmp_path / "logo.svg"
    logo.write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    theme = load_theme(ThemeSpec(logo=str(logo)))
    kind, _, data = theme.logo.partition(",")
    assert kind == "data:image/svg+xml;base64"
    assert base64.b64decode(data) == logo.read_bytes()


@pytest.mark.parametrize(("body", "why"), [(b"GIF89a", "neither"), (b"<svg>" + b" " * MAX_LOGO, "at most")])
def test_a_logo_that_cannot_be_used_is_refused(tmp_path: Path, body: bytes, why: str) -> None:
    (tmp_path / "logo").write_bytes(body)
    with pytest.raises(ValueError, match=why):
        load_theme(ThemeSpec(logo=str(tmp_path / "logo")))


def test_a_support_link_cannot_be_a_script() -> None:
    assert load_theme(ThemeSpec(support_url="javascript:alert(1)")).support_url == "/"
