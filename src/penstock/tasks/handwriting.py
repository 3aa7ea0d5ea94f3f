"""Writing on paper: which side is the ink, how dark it is, where it stands, how bold.

Everything here works on grey pictures as float32 arrays [height, width], 0 to 255. "Ink" pictures have the
paper at 0 and the darkest stroke at 255, whichever way round the picture was.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Grey: TypeAlias = NDArray[np.float32]
Square: TypeAlias = tuple[int, int, int]
"""Left, top and side in pixels; it may reach outside the picture."""

FULL = 255.0
_WORKING_SIDE = 512
_CONTENT_SIDE = 128
_PAPER_SIDE = 64
_LEAST_CONTRAST = 10.0
_PAPER_NOISE = 0.15
"""Up to this share of the full contrast a pixel counts as paper: grain, folds, what JPEG leaves behind."""
_STROKE = 0.35
"""From this share of the full contrast a pixel counts as stroke where the content is looked for."""
_BOLD_SIDE = 48
_BOLD_ROUNDS = 6


def shrink(grey: Grey, longest: int = _WORKING_SIDE) -> Grey:
    """The picture with its longer side at most about `longest`, by averaging whole blocks of pixels."""
    factor = _factor(grey.shape, longest)
    return grey if factor == 1 else _through_pillow(grey, lambda image: image.reduce(factor))


def is_dark_on_light(deviation: Grey) -> bool:
    """True when what stands out from the paper is darker than it; `deviation` is the picture less its paper."""
    lowest, highest = _extremes(deviation)
    return -lowest > highest


def lift(deviation: Grey) -> Grey | None:
    """The ink picture: bare paper at 0, the strongest stroke at 255; None for an empty sheet.

    `deviation` is the picture less its paper, turned so that the ink is above 0.
    """
    depth = _extremes(deviation)[1]
    if depth < _LEAST_CONTRAST:
        return None
    lowest = _PAPER_NOISE * depth
    return ((deviation - lowest) * (FULL / (depth - lowest))).clip(0, FULL).astype(np.float32)


def paper(grey: Grey) -> Grey:
    """The brightness that the bare paper has in every place: a plane laid through the picture's border."""
    small = shrink(grey, _PAPER_SIDE)
    ring = _ring(small.shape)
    places, levels = _plane_terms(small.shape)[ring], small[ring].astype(np.float64)
    bare = _near(levels, np.full_like(levels, np.median(levels)))
    plane = _fit(places[bare], levels[bare])
    bare = _near(levels, places @ plane)  # what the writing covers of the border does not count
    plane = _fit(places[bare], levels[bare])
    down, across = (_places(length) for length in grey.shape)
    return np.asarray(plane[0] + plane[1] * across + plane[2] * down[:, None], dtype=np.float32)


def content_square(ink: Grey) -> Square | None:
    """The smallest square around the strokes, centred on them; None when there are none."""
    small, scale = shrink(ink, _CONTENT_SIDE), _factor(ink.shape, _CONTENT_SIDE)
    strokes = small >= max(_STROKE * float(small.max()), 1.0)
    rows, columns = np.flatnonzero(strokes.any(axis=1)), np.flatnonzero(strokes.any(axis=0))
    if not rows.size:
        return None
    height, width = (int(line[-1] + 1 - line[0]) * scale for line in (rows, columns))
    side = max(height, width)
    return int(columns[0]) * scale - (side - width) // 2, int(rows[0]) * scale - (side - height) // 2, side


def cut(picture: NDArray[Any], square: Square) -> NDArray[Any]:
    """A square of a picture [height, width, …]; what lies outside the picture is 0."""
    left, top, side = square
    result = np.zeros((side, side, *picture.shape[2:]), dtype=picture.dtype)
    rows, columns = (
        slice(max(start, 0), min(start + side, end)) for start, end in ((top, len(picture)), (left, picture.shape[1]))
    )
    result[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = picture[rows, columns]
    return result


def embolden(ink: Grey, least: float) -> Grey:
    """Strokes thickened until they cover the share `least` of their square, cut out of `ink`.

    A fine pen leaves a tenth of the ink that a model trained on bold digits has learned to expect.
    """
    square = _through_pillow(ink, lambda image: image.resize((_BOLD_SIDE, _BOLD_SIDE), Image.Resampling.BOX))
    if square.mean() >= least * FULL:
        return ink
    bold = np.pad(square, _BOLD_ROUNDS + 1)
    for _ in range(_BOLD_ROUNDS):
        bold = _thicker(bold)
        around = content_square(bold)
        square = bold if around is None else cut(bold, around)
        if square.mean() >= least * FULL:
            break
    return square


def _factor(shape: tuple[int, ...], longest: int) -> int:
    return -(-max(shape) // longest)


def _thicker(ink: Grey) -> Grey:
    image = Image.fromarray(ink.round().clip(0, FULL).astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.MaxFilter(3)), dtype=np.float32)


def _through_pillow(grey: Grey, change: Callable[[Image.Image], Image.Image]) -> Grey:
    return np.asarray(change(Image.fromarray(grey)), dtype=np.float32)


def _extremes(deviation: Grey) -> tuple[float, float]:
    """The lowest and the highest value but for a few pixels, which may be specks."""
    lowest, highest = np.percentile(shrink(deviation, _CONTENT_SIDE), [0.1, 99.9])
    return float(lowest), float(highest)


def _ring(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    width = max(1, min(shape) // 25)
    ring = np.ones(shape, dtype=bool)
    ring[width:-width, width:-width] = False
    return ring


def _plane_terms(shape: tuple[int, ...]) -> NDArray[np.float64]:
    """[height, width, 3]: 1, and the places across and down."""
    terms = np.ones((*shape, 3))
    terms[..., 1] = _places(shape[1])
    terms[..., 2] = _places(shape[0])[:, None]
    return terms


def _places(length: int) -> NDArray[np.float64]:
    """The middles of `length` pixels, from -0.5 to 0.5."""
    return (np.arange(length) + 0.5) / length - 0.5


def _near(levels: NDArray[np.float64], expected: NDArray[np.float64]) -> NDArray[np.bool_]:
    distance = np.abs(levels - expected)
    near: NDArray[np.bool_] = distance <= 2 * np.median(distance) + 4
    return near


def _fit(places: NDArray[np.float64], levels: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.linalg.lstsq(places, levels, rcond=None)[0], dtype=np.float64)
