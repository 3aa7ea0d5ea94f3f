"""Decodes untrusted image files: known formats only, size check first, then EXIF rotation and a white background."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError, WebPImagePlugin

from penstock.errors import InvalidInput

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
MAX_PIXELS = 25_000_000
assert WebPImagePlugin  # imported by name: Pillow would load every decoder it has to find this one
_NAMES = "PNG, JPEG, WebP, BMP or GIF"


def refused(message: str) -> InvalidInput:
    """The InvalidInput for a refused image."""
    return InvalidInput(f"image: {message}", field="image")


def read_picture(data: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The first frame of an image file, upright, without transparency, in mode L or RGB.

    Raises InvalidInput if the data is not an image, is truncated, or has more than `max_pixels` pixels; the size is
    read from the header, before anything is decoded.
    """
    if not data:
        raise refused("the file is empty")
    image = _open(data)
    check_size(image, max_pixels)
    try:
        image.load()
    except Exception as error:  # on broken files decoders raise any exception, even MemoryError
        raise refused(f"this {image.format} file is truncated or damaged") from error
    return normal_mode(_upright(image))


def check_size(image: Image.Image, max_pixels: int) -> None:
    """Raises InvalidInput if the image has more pixels than are allowed, or none."""
    width, height = image.size
    if width * height > max_pixels:
        raise refused(f"{width}×{height} pixels are more than the {max_pixels:,} that are accepted")
    if not width * height:
        raise refused("the image has no pixels")


def normal_mode(image: Image.Image) -> Image.Image:
    """The image in mode L or RGB: transparency on white, 16 bits reduced to 8."""
    if image.mode in ("L", "RGB") and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):
        return _eight_bits(image)
    if image.mode == "F":
        return Image.fromarray(np.asarray(image).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.new("RGB", layer.size, "white")
        image.paste(layer, mask=layer.getchannel("A"))
    return image.convert("L" if image.mode == "1" else "RGB")


def _open(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise refused("the image has far more pixels than are accepted") from None
    except UnidentifiedImageError:
        raise refused(f"this is not an image file that can be read; send {_NAMES}") from None
    except Exception as error:  # on broken headers parsers raise any exception
        raise refused("the header of this image is damaged") from error


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # the image is readable despite a broken EXIF block
        return image


def _eight_bits(image: Image.Image) -> Image.Image:
    values: np.ndarray[Any, Any] = np.asarray(image)
    return Image.fromarray((values.clip(0, 65535).astype(np.uint32) // 257).astype(np.uint8))
