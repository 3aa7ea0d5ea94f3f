"""The Pareto front."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from penstock.toolchain.report.pareto import front

POINTS = st.lists(st.tuples(st.floats(), st.floats()), max_size=20)


def test_the_front_goes_from_the_fastest_to_the_most_accurate() -> None:
    points = [(4.0, 0.99), (1.0, 0.95), (2.0, 0.94), (2.0, 0.97), (9.0, 0.98), (None, 1.0)]
    assert front(points) == [1, 3, 0]


def test_directions_can_be_chosen() -> None:
    points = [(1.0, 5.0), (2.0, 3.0), (3.0, 4.0)]
    assert front(points, low_y=True) == [0, 1]
    assert front(points, low_x=False, low_y=False) == [2, 0]


def test_of_equal_points_the_first_is_on_the_front() -> None:
    assert front([(1.0, 1.0), (1.0, 1.0)]) == [0]


@given(POINTS)
def test_no_point_beats_one_on_the_front(points: list[tuple[float, float]]) -> None:
    kept = front(points)
    finite = [point for point in points if all(abs(value) < 1e300 for value in point)]
    for x, y in (points[place] for place in kept):
        assert not any(a <= x and b >= y and (a, b) != (x, y) for a, b in finite)
    assert bool(kept) == bool(finite)
