"""Reads an uploaded picture that nobody vouches for: only known formats, size first, then upright and opaque."""

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
    """The InvalidInput of a picture that is refused."""
    return InvalidInput(f"image: {message}", field="image")


def read_picture(data: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The first frame of an encoded picture, upright, without transparency, in mode L or RGB.

    Raises InvalidInput for what is no picture, is cut off, or has more than `max_pixels` pixels; the size is
    read from the header, before anything is decoded.
    """
    if not data:
        raise refused("the file is empty")
    image = _open(data)
    check_size(image, max_pixels)
    try:
        image.load()
    except Exception as error:  # decoders raise whatever a broken file leads them to, MemoryError included
        raise refused(f"this {image.format} file is cut off or damaged") from error
    return normal_mode(_upright(image))


def check_size(image: Image.Image, max_pixels: int) -> None:
    """Raises InvalidInput when the picture has more pixels than are allowed, or none."""
    width, height = image.size
    if width * height > max_pixels:
        raise refused(f"{width}×{height} pixels are more than the {max_pixels:,} that are accepted")
    if not width * height:
        raise refused("the picture has no pixels")


def normal_mode(image: Image.Image) -> Image.Image:
    """Any mode as L or RGB: transparency laid on white paper, 16 bits brought to 8."""
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
        raise refused("the picture has far more pixels than are accepted") from None
    except UnidentifiedImageError:
        raise refused(f"this is not a picture that can be read; send {_NAMES}") from None
    except Exception as error:  # a header can break a parser in any way
        raise refused("the header of this picture is damaged") from error


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # a broken EXIF block does not make the picture unreadable
        return image


def _eight_bits(image: Image.Image) -> Image.Image:
    values: np.ndarray[Any, Any] = np.asarray(image)
    return Image.fromarray((values.clip(0, 65535).astype(np.uint32) // 257).astype(np.uint8))
