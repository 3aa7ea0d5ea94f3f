"""The data: 1,797 real handwritten digits, their split, and the 784 features of each."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

Counts = NDArray[np.float32]
"""Digits of the data set: [n, 8, 8], each value the number of inked dots of 16."""
Features = NDArray[np.float32]
"""[n, 784], from 0 (paper) to 1 (ink)."""

FULL = 16
HELD_OUT = 0.2
SPLIT_SEED = 0
"""Independent of the seed of a training, so that two trainings are measured on the same digits."""

TRAINING_DATA: dict[str, Any] = {
    "name": "Optical Recognition of Handwritten Digits (test set)",
    "source": "scikit-learn load_digits, a copy of the UCI Machine Learning Repository's optdigits",
    "url": "https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
    "doi": "10.24432/C50P49",
    "licence": "CC BY 4.0",
    "attribution": "E. Alpaydin and C. Kaynak (1998), UCI Machine Learning Repository",
    "images": 1797,
    "held_out": HELD_OUT,
    "split": f"stratified, seed {SPLIT_SEED}",
    "features": "values / 16, resized from 8×8 to 28×28 with Pillow's bilinear filter in floating point",
}


class Digits(NamedTuple):
    """Images and their labels."""

    counts: Counts
    labels: NDArray[np.int64]


class Split(NamedTuple):
    """The training set and the held-out set."""

    train: Digits
    held_out: Digits


def load_split() -> Split:
    """The real digits; a stratified 20 % are held out."""
    bunch = load_digits()
    counts, labels = bunch.images.astype(np.float32), bunch.target.astype(np.int64)
    train, held_out = train_test_split(
        np.arange(len(labels)), test_size=HELD_OUT, stratify=labels, random_state=SPLIT_SEED
    )
    return Split(Digits(counts[train], labels[train]), Digits(counts[held_out], labels[held_out]))


def features_of(counts: Counts) -> Features:
    """The model's input for digits of the data set."""
    return np.stack([enlarged(one / FULL).ravel() for one in counts])


def enlarged(digit: NDArray[np.float32]) -> NDArray[np.float32]:
    """An 8×8 digit resized to 28×28, bilinear."""
    picture = Image.fromarray(digit).resize((28, 28), Image.Resampling.BILINEAR)
    return np.asarray(picture, dtype=np.float32)
