"""Augmentation: real digits rotated, slanted, bolder, finer, and cropped as an uploaded image is."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from penstock.tasks import handwriting as ink
from penstock_digits.data import Counts, Features, enlarged
from penstock_digits.render import Picture, magnified, sharpened

SIDE = 72
PAD = 18
EMBOLDEN = 0.24
"""The target share of ink when strokes are thickened; 90 % of the digits of the data set have 0.25 to 0.36."""


def augmented(counts: Counts, rng: np.random.Generator) -> Features:
    """One random variation of each digit."""
    return np.stack([_variation(one, rng).ravel() for one in counts])


def _variation(counts: NDArray[np.float32], rng: np.random.Generator) -> Picture:
    drawing = _inked(_warped(np.pad(magnified(counts, SIDE), PAD), rng), rng) * ink.FULL
    square = ink.content_square(drawing)
    if square is not None:
        drawing = ink.cut(drawing, _loosened(square, rng))
        if rng.random() < 0.5:
            drawing = ink.embolden(drawing, EMBOLDEN)
    small = Image.fromarray(drawing).resize((8, 8), Image.Resampling.BOX)
    features = enlarged(np.asarray(small, dtype=np.float32) / np.float32(ink.FULL))
    grain = rng.normal(0, rng.uniform(0, 0.04), features.shape)
    return (features + grain).astype(np.float32)


def _warped(drawing: Picture, rng: np.random.Generator) -> Picture:
    """Rotated and slanted by about 7 degrees in either direction, stretched by about 10 %."""
    angle, slant, stretch = rng.normal(0, 0.12), rng.normal(0, 0.12), np.exp(rng.normal(0, 0.1))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ np.array([[stretch, slant], [0.0, 1.0]])
    middle = np.full(2, len(drawing) / 2)
    shift = middle - matrix @ middle
    terms = (*matrix[0], shift[0], *matrix[1], shift[1])
    picture = Image.fromarray(drawing).transform(
        drawing.shape, Image.Transform.AFFINE, tuple(map(float, terms)), Image.Resampling.BILINEAR
    )
    return np.asarray(picture, dtype=np.float32)


def _inked(drawing: Picture, rng: np.random.Generator) -> Picture:
    """Drawn in full ink with a bolder or finer pen, or in the soft greys of the data set."""
    if rng.random() < 0.6:
        drawing = sharpened(drawing, rng.uniform(0.25, 0.85), np.exp(rng.uniform(np.log(4), np.log(30))))
        drawing = drawing - drawing.min()
        return drawing / max(float(drawing.max()), 1e-6)
    return drawing ** np.float32(np.exp(rng.normal(0, 0.3)))


def _loosened(square: ink.Square, rng: np.random.Generator) -> ink.Square:
    """A crop that is slightly too tight or too wide."""
    left, top, side = square
    margin = round(side * rng.uniform(-0.04, 0.08))
    return left - margin, top - margin, side + 2 * margin
