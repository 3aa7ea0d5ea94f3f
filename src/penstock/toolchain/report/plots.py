"""Plots of plain data as SVG: a scatter with its Pareto front, curves, histograms and percentiles of latency.

Every function returns a `Plot`: the picture, and its data as a table for readers who cannot see it. Values that are
None, NaN or infinite are left out of the picture, and `note` names them.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from penstock.toolchain.report import svg
from penstock.toolchain.report.frame import Entry, Frame, Size, drawn, empty, frame
from penstock.toolchain.report.labels import Named, placed
from penstock.toolchain.report.scale import Axis
from penstock.toolchain.report.wording import finite, number, printable, tamed

__all__ = ["Axis", "Plot", "Point", "Series", "bins", "histogram", "lines", "percentiles", "scatter"]

MOST_COLOURED = 8
"""More series than these are drawn in grey, except for those that are emphasized."""
_QUIET = "var(--quiet, #b3bcc8)"
_NAMED = 5
_LOG_BINS_FROM = 100.0


class Plot(NamedTuple):
    """A picture, its data as a table, and what it does not show."""

    svg: str
    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    note: str = ""


class Point(NamedTuple):
    """One point of a scatter. Points of one group share colour and shape; a point with emphasis is labelled first."""

    name: str
    x: float | None
    y: float | None
    group: str = ""
    emphasis: bool = False
    note: str = ""


class Series(NamedTuple):
    """One curve: its points from left to right."""

    name: str
    points: Sequence[tuple[float | None, float | None]]
    emphasis: bool = False


def scatter(title: str, points: Sequence[Point], x: Axis, y: Axis, *, front: Sequence[int] = ()) -> Plot:
    """Points with their names; a line joins those at the places `front`, in this order."""
    columns, rows = ("name", x.title, y.title, "group"), [(p.name, p.x, p.y, p.group) for p in points]
    known = {place: (p.x, p.y) for place, p in enumerate(points) if finite(p.x) and finite(p.y)}
    note = _left_out([point.name for place, point in enumerate(points) if place not in known])
    if not known:
        return Plot(empty(title), columns, rows, note)
    around = frame([x for x, _ in known.values()], [y for _, y in known.values()], x, y)
    groups = list(dict.fromkeys(point.group for point in points))  # of all, so that plots of the same points agree
    shown = {points[place].group for place in known}
    spots = {
        place: _Spot(points[place], groups.index(points[place].group), *around.at(*known[place])) for place in known
    }
    line = [spots[place] for place in front if place in spots]
    marks = [*_front(line), *_dots(around, spots.values()), *_names(around, list(spots.values()))]
    legend = [Entry(place, group) for place, group in enumerate(groups) if group in shown and group]
    best = _listed([spot.point.name for spot in line]) or "none"
    text = f"{len(spots)} points: {y.title} by {x.title}. On the front: {best}."
    return Plot(drawn(around, marks, legend, title, text), columns, rows, note)


def lines(title: str, series: Sequence[Series], x: Axis, y: Axis, *, size: Size = Size()) -> Plot:  # noqa: B008
    """A curve for each series; of more than eight, those without emphasis are grey and have no entry in the legend.

    The colour of a series follows from its place, so that plots of the same series agree, also where one has no points.
    """
    columns = ("series", x.title, y.title)
    rows = [(one.name, *point) for one in series for point in one.points]
    known = [(place, one, _known(one)) for place, one in zip(_coloured(series), series, strict=True)]
    note = _left_out([one.name for _, one, points in known if len(points) < len(one.points)])
    curves = sorted((drawn for drawn in known if drawn[2]), key=lambda drawn: drawn[0] is not None)
    if not curves:
        return Plot(empty(title), columns, rows, note)
    every = [point for *_, points in curves for point in points]
    around = frame([point[0] for point in every], [point[1] for point in every], x, y, size)
    marks = [_curve(around, one.name, points, place) for place, one, points in curves]
    legend = [Entry(place, one.name, line=True) for place, one, _ in curves if place is not None]
    picture = drawn(around, marks, legend, title, f"{len(curves)} series: {y.title} by {x.title}.")
    return Plot(picture, columns, rows, "; ".join(filter(None, [note, _grey(curves)])))


def histogram(
    title: str, edges: Sequence[float], counts: Sequence[float], x: Axis, *, size: Size = Size()  # noqa: B008
) -> Plot:
    """Bars between `edges`, one more than `counts`."""
    columns, axis = ("from", "to", "count"), Axis("count", zero=True, log=False)
    if len(edges) != len(counts) + bool(counts):
        raise ValueError(f"a histogram of {len(counts)} counts has {len(counts) + 1} edges, not {len(edges)}")
    bars = list(zip(edges, edges[1:], counts, strict=False))
    shown = [bar for bar in bars if all(map(finite, bar))]
    note = "" if len(shown) == len(bars) else f"not shown: {len(bars) - len(shown)} bins without finite edges"
    if not shown or not any(count for *_, count in shown):
        return Plot(empty(title), columns, list(bars), note)
    spread = [edge for low, high, _ in shown for edge in (low, high)]
    around = frame(spread, [count for *_, count in shown], x, axis, size)
    marks = [_bar(around, *bar) for bar in shown]
    text = f"{number(sum(count for *_, count in shown))} values of {x.title} in {len(shown)} bins."
    return Plot(drawn(around, marks, [], title, text), columns, list(bars), note)


def bins(values: Iterable[float | None], most: int = 20) -> dict[str, Any]:
    """The histogram of positive values such as absolute errors: `edges`, `counts`, and what no bar can hold.

    Bins have equal widths, on a logarithmic scale where the values span more than a factor of 100. `zeros` and
    `not_finite` count the values that are zero or negative, and those that are NaN, infinite or None.
    """
    every = list(values)
    known = [float(value) for value in every if finite(value)]
    positive = [value for value in map(tamed, known) if value > 0]
    left_out = {"zeros": len(known) - len(positive), "not_finite": len(every) - len(known)}
    if not positive:
        return {"edges": [], "counts": [], **left_out}
    edges = _edges(min(positive), max(positive), most)
    counts = [0] * (len(edges) - 1)
    for value in positive:
        counts[min(bisect.bisect_right(edges, value), len(counts)) - 1] += 1
    return {"edges": edges, "counts": counts, **left_out}


def _edges(low: float, high: float, most: int) -> list[float]:
    """The edges of bins of equal width; exactly `low` and `high` at the ends."""
    if high / low < 1 + 1e-9:
        return [0.9 * low, 1.1 * high]
    if high / low > _LOG_BINS_FROM:
        first, span = math.log10(low), math.log10(high) - math.log10(low)
        inner = [10 ** (first + span * place / most) for place in range(1, most)]
    else:
        inner = [low + (high - low) * place / most for place in range(1, most)]
    return [low, *inner, high]


def percentiles(title: str, series: Sequence[Series], y: Axis) -> Plot:
    """Latency by percentile: points are (percentile, value); the axis gives each further nine the same room."""
    reached = [p for one in series for p, value in one.points if finite(p) and finite(value) and 0 <= p < 100]
    most = max(1, min(6, math.ceil(_nines(max(reached, default=90.0)) - 1e-9)))
    ticks = (50.0, *(100 - 100 / 10.0**count for count in range(1, most + 1)))
    named = tuple((_nines(tick), f"{tick:g}") for tick in ticks)
    axis = Axis("percentile", "%", log=False, ticks=named, say=lambda nines: f"{100 - 100 / 10**nines:.6g} %")
    spread = [
        Series(one.name, [(_nines(p) if finite(p) else None, value) for p, value in one.points], one.emphasis)
        for one in series
    ]
    plot = lines(title, spread, axis, y)
    rows = [(one.name, p, value) for one in series for p, value in one.points]
    return plot._replace(columns=("series", axis.title, y.title), rows=rows)


def _nines(percentile: float) -> float:
    """How many nines a percentile has: 1 for 90, 2 for 99; 100 is drawn as six."""
    return min(6.0, -math.log10(max(1 - percentile / 100, 1e-6))) if percentile > 0 else 0.0


def _known(series: Series) -> list[tuple[float, float]]:
    return [(x, y) for x, y in series.points if finite(x) and finite(y)]


def _left_out(names: Sequence[str]) -> str:
    """The sentence about what is not in the picture."""
    return f"not shown, for lack of a finite value: {_listed(list(map(printable, names)))}" if names else ""


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _coloured(series: Sequence[Series]) -> list[int | None]:
    """The place of each series in the palette; None for those that are drawn in grey."""
    if len(series) <= MOST_COLOURED:
        return list(range(len(series)))
    places = iter(range(MOST_COLOURED))
    return [next(places, None) if one.emphasis else None for one in series]


def _grey(curves: Sequence[tuple[int | None, Series, object]]) -> str:
    count = sum(place is None for place, *_ in curves)
    return f"in grey: {count} more series, named where the pointer rests on them and in the table" if count else ""


def _curve(around: Frame, name: str, points: Sequence[tuple[float, float]], place: int | None) -> str:
    pixels = [around.at(x, y) for x, y in points]
    stroke = _QUIET if place is None else svg.colour(place)
    drawn_line = svg.path(pixels, stroke, stroke_width=1.2 if place is None else 2, stroke_linejoin="round")
    shapes = (
        svg.marker(place or 0, *pixel, 2.5 if place is None else 4, svg.title(_says(around, name, *point)), fill=stroke)
        for pixel, point in zip(pixels, points, strict=True)
    )
    return svg.element("g", svg.title(name), drawn_line, *shapes)


def _says(around: Frame, name: str, x: float | None, y: float | None) -> str:
    """What the pointer shows at a point."""
    return f"{name}: {_measure(around.y_axis, y)} at {_measure(around.x_axis, x)}"


def _measure(axis: Axis, value: float | None) -> str:
    if value is None:
        return axis.label
    unit = f" {axis.unit}" if axis.unit and axis.say is number else ""
    return f"{axis.label} {axis.say(value)}{unit}"


class _Spot(NamedTuple):
    """A point, the place of its group, and its pixels."""

    point: Point
    group: int
    x: float
    y: float


def _front(line: Sequence[_Spot]) -> Iterator[str]:
    """The steps of the front: to the next point's x at the level of the one before."""
    steps = [step for one, other in itertools.pairwise(line) for step in ((one.x, one.y), (other.x, one.y))]
    if steps:
        end = (line[-1].x, line[-1].y)
        yield svg.path([*steps, end], "var(--front, #7a8696)", stroke_width=1.5, stroke_dasharray="5 4")


def _dots(around: Frame, spots: Iterable[_Spot]) -> Iterator[str]:
    for spot in sorted(spots, key=lambda spot: spot.point.emphasis):
        point = spot.point
        said = " — ".join(filter(None, [_says(around, point.name, point.x, point.y), point.group, point.note]))
        yield svg.marker(spot.group, spot.x, spot.y, 6.5 if point.emphasis else 5, svg.title(said))


def _names(around: Frame, spots: Sequence[_Spot]) -> list[str]:
    ordered = sorted(spots, key=lambda spot: not spot.point.emphasis)
    names = [Named(spot.point.name, spot.x, spot.y, spot.point.emphasis) for spot in ordered]
    return placed(names, [(spot.x, spot.y) for spot in spots], around)


def _bar(around: Frame, low: float, high: float, count: float) -> str:
    (left, top), (right, bottom) = around.at(low, count), around.at(high, 0.0)
    said = svg.title(f"{around.x_axis.say(low)} to {around.x_axis.say(high)} {around.x_axis.unit}: {number(count)}")
    width, height = max(right - left - 1, 1.0), max(bottom - top, 0.0)
    return svg.element("rect", said, x=left, y=top, width=width, height=height, fill=svg.colour(0))
