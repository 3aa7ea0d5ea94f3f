"""SVG as text: every element and attribute is written here, and escaped."""

from __future__ import annotations

from html import escape

from penstock.toolchain.report.wording import printable

PALETTE = 8
"""Colours of series, `--series-0` and so on; further series repeat them with other shapes."""
_FALLBACK = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#6a8f00", "#7d4fb0", "#6b6b6b")
"""For a picture outside the page, which defines the colours for light and dark."""


def element(tag: str, *content: str, **attributes: object) -> str:
    """An element of markup; `content` is markup already. `stroke_width` is written `stroke-width`, `class_` `class`."""
    written = "".join(f' {name.rstrip("_").replace("_", "-")}="{_value(value)}"' for name, value in attributes.items())
    return f"<{tag}{written}>{''.join(content)}</{tag}>" if content else f"<{tag}{written}/>"


def plain(text: object) -> str:
    """Text as markup: on one line, printable, escaped."""
    return escape(printable(text), quote=True)


def _value(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else plain(value)


def colour(place: int) -> str:
    """The colour of a series."""
    return f"var(--series-{place % PALETTE}, {_FALLBACK[place % PALETTE]})"


def title(text: str) -> str:
    """What is shown while the pointer rests on the element that holds it."""
    return element("title", plain(text))


def label(text: str, x: float, y: float, *, anchor: str = "start", **attributes: object) -> str:
    """A line of text."""
    style = {"fill": "var(--ink, #1c2430)", **attributes}
    return element("text", plain(text), x=x, y=y, text_anchor=anchor, **style)


def line(x1: float, y1: float, x2: float, y2: float, stroke: str, **attributes: object) -> str:
    """A straight line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, stroke=stroke, **attributes)


def path(points: list[tuple[float, float]], stroke: str, **attributes: object) -> str:
    """A line through points."""
    steps = " ".join(f"{'L' if place else 'M'}{x:.1f},{y:.1f}" for place, (x, y) in enumerate(points))
    return element("path", d=steps, fill="none", stroke=stroke, **attributes)


def marker(place: int, x: float, y: float, size: float, *content: str, **attributes: object) -> str:
    """The shape of a series: series differ in shape and colour, for readers who see few colours."""
    style = {"fill": colour(place), "stroke": "var(--paper, #ffffff)", "stroke_width": 1, **attributes}
    if place % 5 == 0:
        return element("circle", *content, cx=x, cy=y, r=size, **style)
    corners = _SHAPES[place % 5 - 1]
    points = " ".join(f"{x + size * dx:.1f},{y + size * dy:.1f}" for dx, dy in corners)
    return element("polygon", *content, points=points, **style)


_SHAPES = (
    ((-0.95, -0.95), (0.95, -0.95), (0.95, 0.95), (-0.95, 0.95)),
    ((0, -1.2), (1.2, 0.9), (-1.2, 0.9)),
    ((0, -1.35), (1.35, 0), (0, 1.35), (-1.35, 0)),
    ((0, 1.2), (1.2, -0.9), (-1.2, -0.9)),
)
