"""Plots: what they show, what they leave out and say so, and that no name becomes markup."""

from __future__ import annotations

import itertools
import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.toolchain.report.plots import Axis, Point, Series, bins, histogram, lines, percentiles, scatter
from penstock.toolchain.report.wording import text_width

SVG = "{http://www.w3.org/2000/svg}"
ODD = [math.nan, math.inf, -math.inf, None]
VALUES = st.one_of(st.floats(), st.none(), st.integers(-(10**320), 10**320))


def parsed(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def texts(svg: str) -> list[str]:
    return [node.text or "" for node in parsed(svg).iter(f"{SVG}text")]


def hovers(svg: str) -> list[str]:
    return [node.text or "" for node in parsed(svg).iter(f"{SVG}title")]


def positions(svg: str) -> list[float]:
    numbers = re.findall(r' (?:cx|cy|x|y|x1|x2|y1|y2|width|height)="([^"]+)"', svg)
    return [float(number) for number in numbers]


def test_a_scatter_shows_every_point_with_its_values_and_units() -> None:
    points = [Point("slow", 4.0, 0.99, "baseline", True), Point("fast", 1.0, 0.98, "kept")]
    plot = scatter("speed", points, Axis("latency", "ms"), Axis("accuracy"), front=[1, 0])
    assert {"latency (ms)", "accuracy", "slow", "fast", "baseline", "kept"} <= set(texts(plot.svg))
    assert "fast: accuracy 0.98 at latency 1 ms — kept" in hovers(plot.svg)
    assert plot.columns == ("name", "latency (ms)", "accuracy", "group")
    assert plot.rows == [("slow", 4.0, 0.99, "baseline"), ("fast", 1.0, 0.98, "kept")]
    assert "On the front: fast, slow" in parsed(plot.svg).attrib["aria-label"]


def test_a_group_has_one_colour_in_every_scatter_of_the_same_points() -> None:
    whole = [Point("a", 1.0, 1.0, "eager"), Point("b", 2.0, 2.0, "kept")]
    part = [whole[0]._replace(y=None), whole[1]]
    drawings = [scatter("x", points, Axis("a"), Axis("b")).svg for points in (whole, part)]
    fills = [re.findall(r'fill="(var\(--series-[^"]+)"', svg) for svg in drawings]
    assert fills[1]
    assert set(fills[1]) < set(fills[0])
    assert "eager" not in texts(drawings[1])


def test_points_without_finite_values_are_left_out_and_named() -> None:
    points = [Point("good", 1.0, 1.0), *(Point(f"odd{place}", value, 1.0) for place, value in enumerate(ODD))]
    plot = scatter("x", points, Axis("a"), Axis("b"))
    assert plot.note == "not shown, for lack of a finite value: odd0, odd1, odd2, odd3"
    assert len(list(parsed(plot.svg).iter(f"{SVG}circle"))) == 1
    assert len(plot.rows) == 5


@pytest.mark.parametrize("values", [[], ODD])
def test_a_plot_without_any_finite_value_says_so(values: list[float | None]) -> None:
    series = [Series("a", [(1.0, value) for value in values])]
    pictures = [
        scatter("x", [Point("a", 1.0, value) for value in values], Axis("a"), Axis("b")),
        lines("x", series, Axis("a"), Axis("b")),
        percentiles("x", series, Axis("b")),
        histogram("x", [], [], Axis("a")),
    ]
    assert all("no data to plot" in texts(picture.svg) for picture in pictures)


def test_names_become_text_and_never_markup() -> None:
    name = '</title><script>alert("x")</script>&\x00\u202e'
    for plot in (
        scatter(name, [Point(name, 1.0, 2.0, name, True, name)], Axis(name, name), Axis(name)),
        lines(name, [Series(name, [(1.0, 2.0), (2.0, 3.0)])], Axis(name), Axis(name)),
        histogram(name, [0.0, 1.0], [3], Axis(name)),
    ):
        assert "<script" not in plot.svg
        assert any("<script>" in text for text in hovers(plot.svg))
        assert "\x00" not in plot.svg
        assert "\u202e" not in plot.svg


def test_forty_points_in_one_place_give_no_two_labels_that_overlap() -> None:
    points = [Point(f"onnx-int8-static-percentile-{place}", 1.0 + place % 7 / 50, 0.9) for place in range(40)]
    plot = scatter("x", points, Axis("a"), Axis("b"))
    labels = [
        (float(node.attrib["x"]), float(node.attrib["y"]), text_width(node.text or "", 11))
        for node in parsed(plot.svg).iter(f"{SVG}text")
        if node.attrib.get("paint-order")
    ]
    assert 1 <= len(labels) < 40
    for place, (x, y, width) in enumerate(labels):
        assert all(abs(y - b) >= 11 or x >= a + wide or a >= x + width for a, b, wide in labels[:place])
    assert len(list(parsed(plot.svg).iter(f"{SVG}circle"))) == 40


def test_a_point_with_emphasis_is_labelled_before_the_others() -> None:
    crowd = [Point(f"candidate number {place}", 1.0, 1.0 + place / 1000) for place in range(30)]
    plot = scatter("x", [*crowd, Point("the chosen one", 1.0, 1.0145, "", True)], Axis("a"), Axis("b"))
    assert "the chosen one" in texts(plot.svg)


def test_a_long_name_is_shortened_in_the_picture_and_whole_where_the_pointer_rests() -> None:
    name = "a" * 200 + "-int8"
    plot = scatter("x", [Point(name, 1.0, 2.0)], Axis("a"), Axis("b"))
    shown = next(text for text in texts(plot.svg) if text.startswith("aaa"))
    assert len(shown) <= 30
    assert shown.endswith("-int8")
    assert any(hover.startswith(name) for hover in hovers(plot.svg))


def test_more_than_eight_series_leave_colours_to_those_with_emphasis() -> None:
    series = [Series(f"s{place}", [(1.0, 1.0), (8.0, 3.0 + place)], place == 7) for place in range(12)]
    plot = lines("x", series, Axis("batch"), Axis("ms"))
    assert [text for text in texts(plot.svg) if text.startswith("s")] == ["s7"]
    assert "11 more series" in plot.note
    assert {"s0", "s11"} <= set(hovers(plot.svg))


def test_plots_of_the_same_series_give_each_the_same_colour_even_where_one_has_no_points() -> None:
    whole = lines("x", [Series("a", [(1.0, 1.0)]), Series("b", [(1.0, 2.0)])], Axis("x"), Axis("y"))
    part = lines("x", [Series("a", []), Series("b", [(1.0, 2.0)])], Axis("x"), Axis("y"))
    assert "--series-1" in whole.svg
    assert "--series-1" in part.svg
    assert "--series-0" not in part.svg
    assert part.note == ""


def test_an_axis_is_logarithmic_where_values_span_a_wide_range() -> None:
    wide = lines("x", [Series("a", [(1.0, 0.1), (2.0, 90.0)])], Axis("x"), Axis("ms"))
    narrow = lines("x", [Series("a", [(1.0, 1.0), (2.0, 3.0)])], Axis("x"), Axis("ms"))
    negative = lines("x", [Series("a", [(1.0, -1.0), (2.0, 300.0)])], Axis("x"), Axis("ms", log=True))
    assert "ms, log scale" in texts(wide.svg)
    assert "ms" in texts(narrow.svg)
    assert "ms" in texts(negative.svg)


def test_named_ticks_are_the_only_labels_of_their_axis() -> None:
    axis = Axis("batch", log=True, ticks=((1, "1"), (7, "7"), (1000, "1000")))
    plot = lines("x", [Series("a", [(1.0, 1.0), (7.0, 2.0)])], axis, Axis("ms"))
    assert "7" in texts(plot.svg)
    assert "1000" not in texts(plot.svg)
    assert "5" not in texts(plot.svg)


def test_percentiles_give_each_further_nine_the_same_room() -> None:
    points = [(50.0, 1.0), (90.0, 2.0), (99.0, 3.0), (99.9, 9.0), (100.0, 12.0)]
    plot = percentiles("latency", [Series("r", points)], Axis("latency", "ms"))
    circles = [float(node.attrib["cx"]) for node in parsed(plot.svg).iter(f"{SVG}circle")][:4]
    gaps = [later - earlier for earlier, later in itertools.pairwise(circles[1:])]
    assert gaps[0] == pytest.approx(gaps[1], abs=0.2)
    assert {"50", "90", "99", "99.9"} <= set(texts(plot.svg))
    assert "r: latency 9 ms at percentile 99.9 %" in hovers(plot.svg)
    assert plot.rows[3] == ("r", 99.9, 9.0)


def test_bins_hold_every_positive_value_and_count_the_others() -> None:
    found = bins([1e-6, 2e-6, 0.5, 0.0, math.nan, math.inf, None])
    assert sum(found["counts"]) == 3
    assert (found["zeros"], found["not_finite"]) == (1, 3)
    assert found["edges"][0] == 1e-6
    assert found["edges"][-1] == 0.5
    assert bins([]) == {"edges": [], "counts": [], "zeros": 0, "not_finite": 0}


@given(st.lists(VALUES, max_size=30))
def test_bins_lose_no_value(values: list[float | None]) -> None:
    found = bins(values)
    assert sum(found["counts"]) + found["zeros"] + found["not_finite"] == len(values)
    assert found["edges"] == sorted(found["edges"])
    parsed(histogram("x", found["edges"], found["counts"], Axis("error")).svg)


def test_edges_that_do_not_fit_the_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="a histogram of 2 counts has 3 edges, not 2"):
        histogram("x", [0.0, 1.0], [1, 2], Axis("a"))


@given(st.lists(st.tuples(st.text(), VALUES, VALUES), max_size=12))
def test_any_values_give_a_well_formed_picture_within_its_bounds(data: list[tuple[str, float, float]]) -> None:
    points = [Point(name, x, y, name[:1]) for name, x, y in data]
    series = [Series(name, [(x, y), (y, x)]) for name, x, y in data]
    for plot in (
        scatter("x", points, Axis("a"), Axis("b")),
        lines("x", series, Axis("a"), Axis("b", zero=True)),
        percentiles("x", series, Axis("b")),
    ):
        parsed(plot.svg)
        assert all(-1 <= position <= 10_000 for position in positions(plot.svg))
