"""Where the names of points go, so that none covers another name or a point."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from penstock.toolchain.report import svg
from penstock.toolchain.report.frame import Frame
from penstock.toolchain.report.wording import printable, shortened, text_width

_FONT = 11.0
_LONGEST = 30
_MARK = 6.0
_HALO: dict[str, Any] = {
    "stroke": "var(--paper, #ffffff)",
    "stroke_width": 3,
    "stroke_linejoin": "round",
    "paint_order": "stroke",
}
"""Lines that pass behind a label stop short of its letters."""


class Named(NamedTuple):
    """A name and the pixels of its point; `sure`: it is labelled even where that covers another point."""

    name: str
    x: float
    y: float
    sure: bool = False


class _Box(NamedTuple):
    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: _Box) -> bool:
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )


def placed(named: Sequence[Named], points: Sequence[tuple[float, float]], frame: Frame) -> list[str]:
    """The labels that find room, in this order: right, left, above or below the point. Others are left out.

    `points` are the pixels of every point. A label that is `sure` may cover other points, though no other label.
    """
    marks = [_Box(x - _MARK, y - _MARK, x + _MARK, y + _MARK) for x, y in points]
    taken: list[_Box] = []
    labels = []
    for name, x, y, sure in named:
        text = shortened(printable(name), _LONGEST)
        choices = [box for box in _choices(text, x, y) if _inside(box, frame) and not _meets(box, taken)]
        box = next((box for box in choices if not _meets(box, marks)), choices[0] if sure and choices else None)
        if box is not None:
            taken.append(box)
            labels.append(svg.label(text, box.left, box.bottom - 3, font_size=_FONT, **_HALO))
    return labels


def _choices(text: str, x: float, y: float) -> list[_Box]:
    width, height, gap = text_width(text, _FONT), _FONT + 3, _MARK + 3
    middle = y - height / 2
    corners = [
        (x + gap, middle),
        (x - gap - width, middle),
        (x - width / 2, y - gap - height),
        (x - width / 2, y + gap),
        (x + gap - 2, y - gap - height + 4),
        (x + gap - 2, y + gap - 4),
        (x - gap + 2 - width, y - gap - height + 4),
        (x - gap + 2 - width, y + gap - 4),
        (x - 4, y - gap - height),
        (x - 4, y + gap),
    ]
    return [_Box(left, top, left + width, top + height) for left, top in corners]


def _inside(box: _Box, frame: Frame) -> bool:
    return frame.x.start < box.left and box.right < frame.size.width and box.top > 0 and box.bottom < frame.y.start


def _meets(box: _Box, others: Sequence[_Box]) -> bool:
    return any(box.meets(other) for other in others)
