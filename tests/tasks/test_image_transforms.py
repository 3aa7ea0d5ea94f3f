"""The preprocessing of torchvision's published weights, compared with its formulas computed by PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from penstock.errors import InvalidInput
from penstock.tasks.image import ImageClassification
from penstock.tasks.image_transforms import PixelConfig, to_pixels
from penstock.tensors import Signature, TensorSpec

SIZES = [
    (500, 375), (375, 500), (256, 256), (257, 300), (300, 257), (640, 427), (427, 641), (333, 1000), (1000, 31),
    (224, 224), (225, 223), (64, 48), (7, 5), (1, 1), (1, 300), (255, 511),
]  # fmt: skip
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def picture(width: int, height: int) -> Image.Image:
    """Smooth shapes with noise on them: both the blur and its borders show."""
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(x / 9), np.cos(y / 7), np.sin((x + y) / 23)], axis=-1)
    noise = np.random.default_rng(width * 10_007 + height).integers(0, 60, waves.shape)
    return Image.fromarray((waves * 95 + 97 + noise).clip(0, 255).astype(np.uint8))


def reference(image: Image.Image, resize: int, crop: tuple[int, int], mode: str) -> np.ndarray:
    """torchvision's Resize(resize, antialias=True) and CenterCrop(crop) on a uint8 tensor, as they are documented."""
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    height, width = pixels.shape[2:]
    short, long = sorted((width, height))
    new_long = int(resize * long / short)
    size = (new_long, resize) if width <= height else (resize, new_long)
    pixels = torch.nn.functional.interpolate(pixels, size=size, mode=mode, antialias=True, align_corners=False)
    height, width = pixels.shape[2:]
    wide, high = crop
    border = [
        (wide - width) // 2 if wide > width else 0,
        (wide - width + 1) // 2 if wide > width else 0,
        (high - height) // 2 if high > height else 0,
        (high - height + 1) // 2 if high > height else 0,
    ]
    pixels = torch.nn.functional.pad(pixels, border)
    height, width = pixels.shape[2:]
    top, left = round((height - high) / 2.0), round((width - wide) / 2.0)
    return pixels[0, :, top : top + high, left : left + wide].permute(1, 2, 0).numpy().astype(np.float32)


@pytest.mark.parametrize("name", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize(("resize", "crop"), [(256, (224, 224)), (232, (224, 224)), (100, (131, 120))])
def test_the_shorter_side_is_resized_and_the_centre_cut_as_torchvision_does(
    name: str, size: tuple[int, int], resize: int, crop: tuple[int, int]
) -> None:
    config = PixelConfig.model_validate({"shorter_side": [resize, name], "center_crop": list(crop)})
    image = picture(*size)
    expected = reference(image, resize, crop, name)
    got = to_pixels(image, config)
    assert got.shape == expected.shape
    apart = np.abs(got - expected)
    # PyTorch rounds between its two passes; torchvision itself uses Pillow for images, as Penstock does
    assert np.mean(apart > 1) < 1e-4
    assert apart.max() <= 3


def test_published_weights_get_what_they_were_trained_with() -> None:
    config: dict[str, Any] = {
        "shorter_side": [256, "bilinear"],
        "center_crop": [224, 224],
        "preprocess": [{"kind": "scale", "factor": 1 / 255}, {"kind": "mean_std", "mean": MEAN, "std": STD}],
    }
    signature = Signature(
        (TensorSpec("image", "FP32", (-1, 3, 224, 224)),), (TensorSpec("logits", "FP32", (-1, 1000)),)
    )
    task = ImageClassification(config, signature)
    image = picture(500, 375)
    expected = (reference(image, 256, (224, 224), "bilinear") / 255 - MEAN) / STD
    made = task.preprocess(task.coerce(image))["image"]
    assert made.shape == (1, 3, 224, 224)
    assert np.abs(made[0].transpose(1, 2, 0) - expected).max() <= 1.01 / 255 / min(STD)


@pytest.mark.parametrize(
    "config",
    [{}, {"shorter_side": [256, "bilinear"]}, {"center_crop": [224]}, {"shorter_side": [0, "box"]}, {"resize": []}],
)
def test_settings_without_a_size_are_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        PixelConfig.model_validate(config)


def test_an_image_that_would_become_a_bomb_is_refused() -> None:
    config = PixelConfig.model_validate({"shorter_side": [256, "bilinear"], "center_crop": [224, 224]})
    with pytest.raises(InvalidInput, match="1×20000 pixels are too narrow"):
        to_pixels(Image.new("RGB", (1, 20_000)), config)
