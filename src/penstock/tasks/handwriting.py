"""Finds handwriting on paper: its polarity, contrast, position and stroke width.

All functions take greyscale images as float32 arrays [height, width], 0 to 255. In an "ink" image the paper is 0 and
the strongest stroke is 255, also if the original was light on dark.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Grey: TypeAlias = NDArray[np.float32]
Square: TypeAlias = tuple[int, int, int]
"""Left, top and side in pixels; it may extend beyond the image."""

FULL = 255.0
_WORKING_SIDE = 512
_CONTENT_SIDE = 128
_PAPER_SIDE = 64
_LEAST_CONTRAST = 10.0
_PAPER_NOISE = 0.15
"""Pixels below this share of the full contrast count as paper: grain, folds, JPEG artefacts."""
_STROKE = 0.35
"""Pixels above this share of the full contrast count as strokes when the content is located."""
_BOLD_SIDE = 48
_BOLD_ROUNDS = 6


def shrink(grey: Grey, longest: int = _WORKING_SIDE) -> Grey:
    """The image reduced to about `longest` pixels on its longer side, by averaging blocks of pixels."""
    factor = _factor(grey.shape, longest)
    return grey if factor == 1 else _through_pillow(grey, lambda image: image.reduce(factor))


def is_dark_on_light(deviation: Grey) -> bool:
    """True if the content is darker than the paper; `deviation` is the image minus its paper."""
    lowest, highest = _extremes(deviation)
    return -lowest > highest


def lift(deviation: Grey) -> Grey | None:
    """The ink image: bare paper is 0, the strongest stroke is 255; None for an empty sheet.

    `deviation` is the image minus its paper, with the sign that makes ink positive.
    """
    depth = _extremes(deviation)[1]
    if depth < _LEAST_CONTRAST:
        return None
    lowest = _PAPER_NOISE * depth
    return ((deviation - lowest) * (FULL / (depth - lowest))).clip(0, FULL).astype(np.float32)


def paper(grey: Grey) -> Grey:
    """The brightness of the bare paper at every pixel: a plane fitted to the image's border."""
    small = shrink(grey, _PAPER_SIDE)
    ring = _ring(small.shape)
    places, levels = _plane_terms(small.shape)[ring], small[ring].astype(np.float64)
    bare = _near(levels, np.full_like(levels, np.median(levels)))
    plane = _fit(places[bare], levels[bare])
    bare = _near(levels, places @ plane)  # without the parts of the border that have writing on them
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
    """A square of an image [height, width, …]; pixels outside the image are 0."""
    left, top, side = square
    result = np.zeros((side, side, *picture.shape[2:]), dtype=picture.dtype)
    rows, columns = (
        slice(max(start, 0), min(start + side, end)) for start, end in ((top, len(picture)), (left, picture.shape[1]))
    )
    result[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = picture[rows, columns]
    return result


def embolden(ink: Grey, least: float) -> Grey:
    """Thicken the strokes of `ink` until they cover the share `least` of their square, and crop to it.

    A fine pen leaves a tenth of the ink that a model trained on bold digits expects.
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
    """The lowest and the highest value, without outliers (0.1 % at either end), which may be specks."""
    lowest, highest = np.percentile(shrink(deviation, _CONTENT_SIDE), [0.1, 99.9])
    return float(lowest), float(highest)


def _ring(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    width = max(1, min(shape) // 25)
    ring = np.ones(shape, dtype=bool)
    ring[width:-width, width:-width] = False
    return ring


def _plane_terms(shape: tuple[int, ...]) -> NDArray[np.float64]:
    """[height, width, 3]: 1, and the horizontal and vertical positions."""
    terms = np.ones((*shape, 3))
    terms[..., 1] = _places(shape[1])
    terms[..., 2] = _places(shape[0])[:, None]
    return terms


def _places(length: int) -> NDArray[np.float64]:
    """The centres of `length` pixels, from -0.5 to 0.5."""
    return (np.arange(length) + 0.5) / length - 0.5


def _near(levels: NDArray[np.float64], expected: NDArray[np.float64]) -> NDArray[np.bool_]:
    distance = np.abs(levels - expected)
    near: NDArray[np.bool_] = distance <= 2 * np.median(distance) + 4
    return near


def _fit(places: NDArray[np.float64], levels: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.linalg.lstsq(places, levels, rcond=None)[0], dtype=np.float64)
