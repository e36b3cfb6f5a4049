"""The picture: groups of horizontal bars from zero, as SVG. Pure.

It brings its own ground and follows the reader's colour scheme, so that it can be read on any page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, LABELS, VALUES, MARGIN = 760, 170, 90, 16
"""Of the whole, of the names on the left, of the figures on the right, and around."""
SPAN = WIDTH - 2 * MARGIN - LABELS - VALUES
_TITLE, _BAR, _STEP, _GAP = 24, 18, 26, 18

_STYLE = """
text { font: 13px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #1f2328 }
.paper { fill: #fff } .title { font-weight: 600 } .bar { fill: #8c959f } .ours { fill: #0969da } .end { text-anchor: end }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc } .paper { fill: #0d1117 } .bar { fill: #6e7681 } .ours { fill: #58a6ff }
}
"""


@dataclass(frozen=True, slots=True)
class Bar:
    """value: its length, in the unit of its group; text: the figure as it is shown."""

    name: str
    value: float
    text: str
    ours: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    """Bars with one scale, the longest across the whole span."""

    title: str
    bars: Sequence[Bar]


def length(value: float, most: float) -> float:
    """Of a bar, in pixels; two at least, so that it can be seen."""
    return max(2.0, round(SPAN * value / most, 1))


def height(groups: Sequence[Group]) -> int:
    return 2 * MARGIN + sum(_TITLE + _STEP * len(group.bars) for group in groups) + _GAP * (len(groups) - 1)


def draw(groups: Sequence[Group], *, described: str) -> str:
    """The SVG. described: the same in words, for who cannot see it."""
    tall = height(groups)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {tall}" width="{WIDTH}" height="{tall}" role="img">',
        f"<title>{escape(described)}</title>",
        f"<style>{_STYLE}</style>",
        f'<rect class="paper" width="{WIDTH}" height="{tall}" rx="6"/>',
    ]
    top = MARGIN
    for group in groups:
        out.append(f'<text class="title" x="{MARGIN}" y="{top + 14}">{escape(group.title)}</text>')
        top += _TITLE
        most = max(bar.value for bar in group.bars)
        for bar in group.bars:
            long, left, line = length(bar.value, most), MARGIN + LABELS, top + 14
            kind = "ours" if bar.ours else "bar"
            out += [
                f'<text class="end" x="{left - 10}" y="{line}">{escape(bar.name)}</text>',
                f'<rect class="{kind}" x="{left}" y="{top}" width="{long:g}" height="{_BAR}" rx="2"/>',
                f'<text x="{left + long + 8:g}" y="{line}">{escape(bar.text)}</text>',
            ]
            top += _STEP
        top += _GAP
    return "\n".join([*out, "</svg>", ""])
