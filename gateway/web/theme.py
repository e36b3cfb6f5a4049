"""Colours that can be read. Whatever accent is configured, text on it and links in it keep WCAG 2.2 AA contrast, light and dark."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

from gateway.spec.sections import ThemeSpec
from gateway.web.page import safe_href

# Backgrounds that accent-coloured text and outlines stand on; the stylesheet has the same values.
LIGHT = ("#ffffff", "#f3f5f8")
DARK = ("#1a2029", "#10141a")
TEXT_CONTRAST = 4.5  # WCAG 2.2 §1.4.3
MAX_LOGO = 16 * 1024

_MARK = (
    "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 24 24'><path fill='{color}' d='M12 1 3 4.6v6.6c0 5.4 3.8 10.4 9 11.8"
    " 5.2-1.4 9-6.4 9-11.8V4.6z'/><path fill='none' stroke='{on}' stroke-width='2.2' stroke-linecap='round' stroke-linejoin='round'"
    " d='m7.8 12 3 3 5.4-5.8'/></svg>"
)


@dataclass(frozen=True, slots=True)
class Theme:
    """What templates see. logo, icon: `data:` URLs. css: custom properties, for a `<style>` with a nonce."""

    name: str
    logo: str
    icon: str
    support_url: str | None
    support_label: str
    css: str


def load_theme(spec: ThemeSpec) -> Theme:
    """Reads the logo where one is configured. Raises OSError, or ValueError when it is too large or no SVG or PNG."""
    on_accent = foreground(spec.color)
    mark = _data("image/svg+xml", _MARK.format(color=spec.color, on=on_accent).encode())
    return Theme(
        name=spec.name,
        logo=_logo(Path(spec.logo)) if spec.logo else mark,
        icon=mark,
        support_url=safe_href(spec.support_url) if spec.support_url else None,
        support_label=spec.support_label,
        css=(
            f":root{{--accent:{spec.color};--on-accent:{on_accent};--link:{readable(spec.color, LIGHT)}}}"
            f"@media(prefers-color-scheme:dark){{:root{{--link:{readable(spec.color, DARK)}}}}}"
        ),
    )


def contrast(one: str, other: str) -> float:
    """WCAG 2.2 contrast ratio of two `#rrggbb` colours, 1 to 21."""
    lighter, darker = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def foreground(background: str) -> str:
    """Black or white, whichever reads better on `background`; the better one always has at least 4.58:1."""
    return max(("#ffffff", "#000000"), key=lambda color: contrast(color, background))


def readable(color: str, backgrounds: tuple[str, ...]) -> str:
    """The nearest shade of `color` that has text contrast on all of `backgrounds`: darker on light ones, lighter on dark ones."""
    end = foreground(backgrounds[0])
    for percent in range(0, 101, 2):
        shade = _mix(color, end, percent)
        if all(contrast(shade, background) >= TEXT_CONTRAST for background in backgrounds):
            return shade
    return end


def _channels(color: str) -> tuple[int, int, int]:
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


def _mix(color: str, end: str, percent: int) -> str:
    return "#" + "".join(f"{round(a + (b - a) * percent / 100):02x}" for a, b in zip(_channels(color), _channels(end), strict=True))


def _luminance(color: str) -> float:
    """Relative luminance, WCAG 2.2 §"relative luminance" (sRGB)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in _channels(color))]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _logo(path: Path) -> str:
    body = path.read_bytes()
    if len(body) > MAX_LOGO:
        raise ValueError(f"the logo {path} has {len(body)} bytes; at most {MAX_LOGO} are inlined into every page")
    if body.startswith(b"\x89PNG\r\n\x1a\n"):
        return _data("image/png", body)
    if b"<svg" in body[:1024]:
        return _data("image/svg+xml", body)
    raise ValueError(f"the logo {path} is neither SVG nor PNG")


def _data(media_type: str, body: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(body).decode('ascii')}"
