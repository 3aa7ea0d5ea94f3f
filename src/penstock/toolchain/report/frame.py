"""What every plot has around its marks: axes with their labels, a grid, a legend, and a text for who cannot see it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from penstock.toolchain.report import svg
from penstock.toolchain.report.scale import Axis, Scale, scale
from penstock.toolchain.report.wording import shortened, text_width

FONT = 12.0
_LEGEND_ROW = 20.0
_LEGEND_TEXT = 44
_TOP = 14.0
_BOTTOM = 48.0
_RIGHT = 22.0
_INK, _GRID, _AXIS = "var(--muted, #5b6675)", "var(--grid, #e3e7ec)", "var(--axis, #9aa4b1)"


class Size(NamedTuple):
    """Pixels of the plot without its legend."""

    width: float = 720.0
    height: float = 360.0


class Entry(NamedTuple):
    """A line of the legend: the place of the series, which gives colour and shape, and its name."""

    place: int
    name: str
    line: bool = False


class Frame(NamedTuple):
    """The two scales of a plot, and its size; `x` and `y` of a place are pixels."""

    x: Scale
    y: Scale
    x_axis: Axis
    y_axis: Axis
    size: Size

    def at(self, x: float, y: float) -> tuple[float, float]:
        """The pixels of a point."""
        return self.x.at(x), self.y.at(y)


def frame(xs: Iterable[object], ys: Iterable[object], x: Axis, y: Axis, size: Size = Size()) -> Frame:  # noqa: B008
    """The frame that holds these values."""
    vertical = scale(ys, y, size.height - _BOTTOM, _TOP)
    left = 34 + max((text_width(text, FONT) for text in vertical.labels()), default=0.0)
    return Frame(scale(xs, x, left, size.width - _RIGHT), vertical, x, y, size)


def drawn(frame: Frame, marks: Iterable[str], legend: Sequence[Entry], title: str, description: str) -> str:
    """The whole picture. `title` names it and `description` says what it shows, for readers who cannot see it."""
    entries, rows = _legend(frame, legend)
    height = frame.size.height + rows * _LEGEND_ROW
    return svg.element(
        "svg",
        svg.title(title),
        svg.element("desc", svg.plain(description)),
        *_grid(frame),
        *_titles(frame),
        *marks,
        *entries,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {frame.size.width:g} {height:g}",
        width=frame.size.width,
        height=height,
        role="img",
        aria_label=f"{title}. {description}",
        font_family="system-ui, sans-serif",
        font_size=FONT,
    )


def empty(title: str, size: Size = Size(width=720.0, height=120.0)) -> str:  # noqa: B008
    """The picture of a plot without data."""
    text = svg.label("no data to plot", size.width / 2, size.height / 2, anchor="middle", fill=_INK)
    border = svg.element(
        "rect", x=1, y=1, width=size.width - 2, height=size.height - 2, rx=6, fill="none", stroke=_GRID
    )
    return svg.element(
        "svg",
        svg.title(title),
        border,
        text,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {size.width:g} {size.height:g}",
        width=size.width,
        height=size.height,
        role="img",
        aria_label=f"{title}: no data to plot",
        font_family="system-ui, sans-serif",
        font_size=FONT,
    )


def _grid(frame: Frame) -> Iterator[str]:
    x, y = frame.x, frame.y
    for tick, text in zip(y.ticks, y.labels(), strict=True):
        yield svg.line(x.start, y.at(tick), x.end, y.at(tick), _GRID)
        yield svg.label(text, x.start - 7, y.at(tick) + 4, anchor="end", fill=_INK)
    for tick, text in _roomy(x):
        yield svg.line(x.at(tick), y.start, x.at(tick), y.end, _GRID)
        yield svg.label(text, x.at(tick), y.start + 17, anchor="middle", fill=_INK)
    yield svg.line(x.start, y.start, x.end, y.start, _AXIS)
    yield svg.line(x.start, y.start, x.start, y.end, _AXIS)


def _roomy(x: Scale) -> Iterator[tuple[float, str]]:
    """The ticks of the horizontal axis whose labels do not run into the one before."""
    taken = float("-inf")
    for tick, text in zip(x.ticks, x.labels(), strict=True):
        half = text_width(text, FONT) / 2
        if x.at(tick) - half > taken + 6:
            taken = x.at(tick) + half
            yield tick, text


def _titles(frame: Frame) -> Iterator[str]:
    x, y = frame.x, frame.y
    note_x, note_y = (", log scale" if one.log else "" for one in (x, y))
    middle = (y.start + y.end) / 2
    yield svg.label(f"{frame.x_axis.title}{note_x}", (x.start + x.end) / 2, y.start + 38, anchor="middle")
    yield svg.label(
        f"{frame.y_axis.title}{note_y}", 14, middle, anchor="middle", transform=f"rotate(-90 14 {middle:g})"
    )


def _legend(frame: Frame, entries: Sequence[Entry]) -> tuple[list[str], int]:
    """The entries in as many rows as they need, and the number of rows."""
    if not entries:
        return [], 0
    marks: list[str] = []
    x, row = frame.x.start, 0
    for entry in entries:
        text = shortened(entry.name, _LEGEND_TEXT)
        width = 36 + text_width(text, FONT)
        if x > frame.x.start and x + width > frame.size.width:
            x, row = frame.x.start, row + 1
        marks.append(_entry(entry, text, x + 6, frame.size.height + row * _LEGEND_ROW + 6))
        x += width
    return marks, row + 1


def _entry(entry: Entry, text: str, x: float, y: float) -> str:
    stroke = svg.line(x - 6, y, x + 14, y, svg.colour(entry.place), stroke_width=2) if entry.line else ""
    shape = svg.marker(entry.place, x + 4, y, 5)
    return svg.element("g", svg.title(entry.name), stroke, shape, svg.label(text, x + 18, y + 4))
