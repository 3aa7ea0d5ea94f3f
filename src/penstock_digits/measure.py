"""Metrics of the models: accuracy, F1 and confusion, and the accuracy on rendered images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from penstock.tasks.image import ImageClassification
from penstock.tensors import Signature
from penstock_digits.data import Digits, Features
from penstock_digits.render import Rendering, render

_PHOTO = Rendering(format="JPEG", margin=0.2, pen=0.5, paper=200, ink=60, shading=0.3, noise=12)


class Look(NamedTuple):
    """A rendering and its description."""

    text: str
    how: Rendering


PICTURES: dict[str, Look] = {
    "png": Look("PNG, dark on light", Rendering()),
    "png_reversed": Look("PNG, light on dark", Rendering(dark_on_light=False)),
    "jpeg": Look("JPEG, dark on light", Rendering(format="JPEG")),
    "jpeg_reversed": Look("JPEG, light on dark", Rendering(format="JPEG", dark_on_light=False)),
    "margin": Look("a margin of a quarter on each side", Rendering(margin=0.25)),
    "sharp": Look("full ink with sharp edges", Rendering(pen=0.5, margin=0.15)),
    "fine_pen": Look("full ink, a finer pen", Rendering(pen=0.7, margin=0.15)),
    "bold_pen": Look("full ink, a bolder pen", Rendering(pen=0.3, margin=0.15)),
    "grain": Look("grain (standard deviation 20 of 255)", Rendering(noise=20, margin=0.15)),
    "shade": Look("paper a third darker on one side", Rendering(shading=0.35, margin=0.15)),
    "photo": Look("like a photograph: sharp ink on grey paper, shade, grain, JPEG", _PHOTO),
    "photo_reversed": Look("the same, light on dark", replace(_PHOTO, dark_on_light=False)),
}
"""The renderings of the held-out digits, 280×280 pixels each, that measure the image model."""


class Scores(NamedTuple):
    """`f1` by digit; `confusion[true, predicted]` counts."""

    accuracy: float
    macro_f1: float
    f1: tuple[float, ...]
    confusion: NDArray[np.int64]


def score(logits: Features, labels: NDArray[np.int64]) -> Scores:
    """The scores of the top-1 classes."""
    classes = logits.shape[1]
    confusion = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(confusion, (labels, logits.argmax(axis=1)), 1)
    hits = confusion.diagonal()
    f1 = 2 * hits / np.maximum(confusion.sum(axis=0) + confusion.sum(axis=1), 1)
    return Scores(
        accuracy=float(hits.sum() / len(labels)),
        macro_f1=float(f1.mean()),
        f1=tuple(f1.tolist()),
        confusion=confusion,
    )


def pictures_of(config: Mapping[str, Any], signature: Signature, digits: Digits) -> dict[str, Features]:
    """What the model gets for `digits` rendered as image files, for each rendering in `PICTURES`."""
    task = ImageClassification(config, signature)
    return {name: picture_rows(task, how, digits) for name, (_, how) in PICTURES.items()}


def picture_rows(task: ImageClassification, how: Rendering, digits: Digits) -> Features:
    """The same for one rendering."""
    rng = np.random.default_rng(0)
    name = task.signature.inputs[0].name
    return np.concatenate([task.preprocess(task.coerce(render(counts, how, rng)))[name] for counts in digits.counts])


def picture_accuracy(
    pictures: Mapping[str, Features], logits_of: Callable[[Features], Features], labels: NDArray[np.int64]
) -> dict[str, float]:
    """The accuracy on each rendering of digits with these labels."""
    return {name: float((logits_of(rows).argmax(axis=1) == labels).mean()) for name, rows in pictures.items()}
