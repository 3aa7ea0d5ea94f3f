from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from penstock_digits.augment import augmented
from penstock_digits.data import FULL, features_of, load_split
from penstock_digits.render import Rendering, render

ONE = load_split().train.counts[0]


def pixels(how: Rendering) -> np.ndarray:
    image = Image.open(io.BytesIO(render(ONE, how, np.random.default_rng(0))))
    assert (image.format, image.size) == (how.format, (how.size, how.size))
    return np.asarray(image, dtype=float)


def test_the_split_holds_out_a_fifth_of_every_digit_and_shares_none():
    split = load_split()
    assert (len(split.train.labels), len(split.held_out.labels)) == (1437, 360)
    assert np.bincount(split.held_out.labels).tolist() == [36, 36, 35, 37, 36, 37, 36, 36, 35, 36]
    assert len(np.unique(np.concatenate([part.counts for part in split]), axis=0)) == 1797


def test_features_are_the_counts_over_16_resized_by_pillow():
    features = features_of(ONE[None])[0].reshape(28, 28)
    expected = Image.fromarray((ONE / FULL).astype(np.float32)).resize((28, 28), Image.Resampling.BILINEAR)
    assert features.dtype == np.float32
    assert np.array_equal(features, np.asarray(expected))
    assert 0 <= features.min() < features.max() <= 1


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_a_digit_is_drawn_dark_on_light_or_the_reverse(format):
    dark, light = (pixels(Rendering(format=format, dark_on_light=way, margin=0.1)) for way in (True, False))
    assert dark[0, 0] > 250
    assert light[0, 0] < 5
    assert np.abs(dark + light - 255).max() <= (0 if format == "PNG" else 20)


def test_shade_and_grain_change_the_paper():
    assert np.ptp(pixels(Rendering(shading=0.4, margin=0.3))[:20]) > 20
    assert pixels(Rendering(noise=10, margin=0.3, paper=200))[:20].std() == pytest.approx(10, rel=0.1)


def test_variations_are_the_same_for_the_same_seed_and_all_different():
    counts = np.stack([ONE] * 5)
    first, again = (augmented(counts, np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(first, again)
    assert len(np.unique(first, axis=0)) == 5
    assert first.shape == (5, 784)
    assert first.min() > -0.3
    assert first.max() < 1.3
