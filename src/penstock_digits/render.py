"""Renders digits of the data set as image files, such as users upload."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from penstock_digits.data import FULL

Picture = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Rendering:
    """The appearance of a digit on its paper.

    `margin`: paper on each side as a share of the image. `pen`: None keeps the soft greys of the data set, a number
    from 0.3 (bold) to 0.7 (fine) draws in full ink with sharp edges. `shading`: the difference in brightness between
    two sides of the paper. `noise`: the standard deviation of the grain, of 255.
    """

    dark_on_light: bool = True
    format: str = "PNG"
    size: int = 280
    margin: float = 0.0
    pen: float | None = None
    paper: int = 255
    ink: int = 0
    shading: float = 0.0
    noise: float = 0.0


def render(counts: NDArray[np.float32], how: Rendering, rng: np.random.Generator) -> bytes:
    """One 8×8 digit as an image file."""
    light, dark = (how.paper, how.ink) if how.dark_on_light else (how.ink, how.paper)
    picture: Picture = light + (dark - light) * _strokes(counts, how)
    if how.shading:
        picture = picture * _shade(how, rng)
    if how.noise:
        picture = picture + rng.standard_normal(picture.shape, dtype=np.float32) * how.noise
    buffer = io.BytesIO()
    Image.fromarray(picture.clip(0, 255).round().astype(np.uint8)).save(buffer, how.format, compress_level=1)
    return buffer.getvalue()


def sharpened(strokes: Picture, level: float, steepness: float) -> Picture:
    """Full ink with a soft edge: values above `level` become ink, values below it paper."""
    result: Picture = (1.0 / (1.0 + np.exp((level - strokes) * steepness))).astype(np.float32)
    return result


def magnified(counts: NDArray[np.float32], side: int) -> Picture:
    """An 8×8 digit as a smooth image, from 0 (paper) to 1 (ink)."""
    picture = Image.fromarray(counts / FULL).resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(picture, dtype=np.float32).clip(0, 1)


def _strokes(counts: NDArray[np.float32], how: Rendering) -> Picture:
    inner = round(how.size * (1 - 2 * how.margin))
    strokes = magnified(counts, inner)
    if how.pen is not None:
        strokes = sharpened(strokes, how.pen, 25.0)
    before = (how.size - inner) // 2
    return np.pad(strokes, (before, how.size - inner - before))


def _shade(how: Rendering, rng: np.random.Generator) -> Picture:
    towards = rng.uniform(0, 2 * np.pi)
    place = np.linspace(-0.5, 0.5, how.size, dtype=np.float32)
    slope = np.cos(towards) * place[None, :] + np.sin(towards) * place[:, None]
    return np.asarray(1 - how.shading / 2 + how.shading * slope, dtype=np.float32)
