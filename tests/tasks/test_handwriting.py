from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp

from penstock.tasks import handwriting as ink

sizes = hnp.array_shapes(min_dims=2, max_dims=2, max_side=40)


def sheet(paper: float = 240.0, stroke: float = 20.0, side: int = 100) -> ink.Grey:
    """An image with one upright bar, 10 wide, from row 30 to row 70."""
    picture = np.full((side, side), paper, dtype=np.float32)
    picture[30:70, 45:55] = stroke
    return picture


@pytest.mark.parametrize(("paper", "stroke", "dark"), [(240, 20, True), (20, 240, False), (128, 90, True)])
def test_the_polarity_of_ink_is_detected_from_the_border(paper, stroke, dark):
    picture = sheet(paper, stroke)
    assert ink.is_dark_on_light(picture - ink.paper(picture)) is dark


def test_a_digit_that_touches_the_border_does_not_change_the_paper_level():
    picture = sheet()
    picture[:, 45:55] = 20
    assert np.allclose(ink.paper(picture), 240, atol=1)


def test_uneven_light_is_removed():
    slope = np.linspace(-60, 60, 100, dtype=np.float32)[None, :]
    picture = sheet(170, 60) + slope
    drawing = ink.lift(ink.paper(picture) - picture)
    assert drawing is not None
    assert drawing[:20].max() == 0
    assert drawing[35:65, 47:53].min() > 200


def test_the_strongest_stroke_is_255_and_bare_paper_is_0():
    picture = sheet(150, 110)
    drawing = ink.lift(ink.paper(picture) - picture)
    assert drawing is not None
    assert (drawing.min(), drawing.max()) == (0, 255)


def test_an_empty_sheet_has_no_ink():
    assert ink.lift(np.zeros((50, 50), dtype=np.float32)) is None
    assert ink.content_square(np.zeros((50, 50), dtype=np.float32)) is None


def test_the_square_is_around_the_content_and_centred_on_it():
    assert ink.content_square(sheet(0, 255)) == (30, 30, 40)
    assert ink.content_square(sheet(0, 255).T.copy()) == (30, 30, 40)


def test_a_crop_beyond_the_image_is_filled_with_zeros():
    picture = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert ink.cut(picture, (-1, -1, 3)).tolist() == [[0, 0, 0], [0, 0, 1], [0, 4, 5]]
    assert ink.cut(picture, (3, 2, 2)).tolist() == [[11, 0], [0, 0]]


def test_fine_strokes_are_thickened_to_the_share_and_bold_ones_are_unchanged():
    fine = np.zeros((60, 60), dtype=np.float32)
    fine[:, 29:31] = 255
    fine[29:31, :] = 255
    assert fine.mean() / 255 < 0.1
    assert ink.embolden(fine, 0.3).mean() / 255 >= 0.3
    bold = np.full((60, 60), 255, dtype=np.float32)
    assert ink.embolden(bold, 0.3) is bold


def test_thickening_ends_if_the_share_cannot_be_reached():
    dot = np.zeros((60, 60), dtype=np.float32)
    assert ink.embolden(dot, 0.9).mean() == 0


@settings(deadline=None)
@given(hnp.arrays(np.float32, sizes, elements={"min_value": 0, "max_value": 255}))
def test_any_image_gives_ink_from_0_to_255_or_none(picture):
    deviation = picture - ink.paper(picture)
    drawing = ink.lift(-deviation if ink.is_dark_on_light(deviation) else deviation)
    if drawing is not None:
        assert drawing.shape == picture.shape
        assert drawing.min() >= 0
        assert drawing.max() <= 255
        square = ink.content_square(drawing)
        assert square is not None
        side = ink.embolden(ink.cut(drawing, square), 0.24).shape
        assert side[0] == side[1] > 0


@given(hnp.array_shapes(min_dims=2, max_dims=2, max_side=3000))
def test_a_shrunk_image_has_at_most_the_given_side(shape):
    if shape[0] * shape[1] < 200_000:
        assert max(ink.shrink(np.zeros(shape, dtype=np.float32), 64).shape) <= 64
