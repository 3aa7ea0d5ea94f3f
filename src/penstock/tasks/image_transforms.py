"""Transforms an upright image into a model's pixels; every step is a setting in the manifest."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, model_validator

from penstock.tasks import handwriting as ink
from penstock.tasks.image_decoding import MAX_PIXELS, refused

Pixels: TypeAlias = NDArray[np.float32]
Side: TypeAlias = Annotated[int, Field(ge=1, le=8192)]
Filter: TypeAlias = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
Resize: TypeAlias = tuple[Side, Side, Filter]


class PixelConfig(BaseModel):
    """The transforms of an image, applied in the order of the fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Literal["L", "F", "RGB"] = "RGB"
    """8-bit greyscale, floating-point greyscale (resized without rounding), or colour."""
    invert: Literal["never", "auto", "always"] = "never"
    """Invert to bright ink on dark paper; auto compares the content with the image's border."""
    contrast: Literal["none", "paper"] = "none"
    """`paper`: even out the lighting, bare paper to 0, the strongest stroke to 255. Greyscale only."""
    crop: Literal["none", "center", "content"] = "none"
    """`center`: the largest square. `content`: the square around the bright ink; greyscale only."""
    embolden: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Thicken fine strokes until they cover this share of the content's square; 0 turns it off."""
    shorter_side: tuple[Side, Filter] | None = None
    """[length, filter]: resize the shorter side to this length, and the other one in proportion."""
    center_crop: tuple[Side, Side] | None = None
    """[width, height] that are cut from the centre; a smaller image gets a black border."""
    resize: tuple[Resize, ...] = ()
    """[width, height, filter], applied one after another."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the result."""
        if self.resize:
            return self.resize[-1][:2]
        assert self.center_crop is not None  # one of the two is required
        return self.center_crop

    @property
    def channels(self) -> int:
        """3 for colour, 1 for greyscale."""
        return 3 if self.mode == "RGB" else 1

    @model_validator(mode="after")
    def _settings_agree(self) -> Self:
        if self.mode == "RGB" and (self.contrast != "none" or self.crop == "content"):
            raise ValueError("contrast and crop to the content need greyscale; set mode to L or F")
        if self.embolden and self.crop != "content":
            raise ValueError("embolden needs crop: content")
        if not self.resize and self.center_crop is None:
            raise ValueError("the size that the model takes is missing; set resize or center_crop")
        return self


def to_pixels(picture: Image.Image, config: PixelConfig) -> Pixels:
    """float32 [height, width] for greyscale and [height, width, 3] for colour, 0 to 255.

    Raises InvalidInput if the image should be cropped to its content and is empty.
    """
    picture = picture.convert("RGB" if config.mode == "RGB" else "L")
    if config.crop == "center":
        picture = _center_square(picture)
    if config.mode == "RGB":
        return _resized(_turned(picture, config), config)
    drawing = Image.fromarray(_drawing(np.asarray(picture, dtype=np.float32), config))
    return _resized(drawing if config.mode == "F" else drawing.convert("L"), config)


def _turned(picture: Image.Image, config: PixelConfig) -> Image.Image:
    grey = ink.shrink(_grey(picture)) if config.invert == "auto" else None
    if config.invert == "never" or (grey is not None and not ink.is_dark_on_light(grey - ink.paper(grey))):
        return picture
    return picture.point(lambda level: 255 - level)


def _drawing(grey: ink.Grey, config: PixelConfig) -> ink.Grey:
    if (config.invert, config.contrast, config.crop) in (("never", "none", "none"), ("never", "none", "center")):
        return grey
    grey = ink.shrink(grey)
    deviation = grey - ink.paper(grey)
    dark = config.invert == "always" or (config.invert == "auto" and ink.is_dark_on_light(deviation))
    drawing: ink.Grey | None
    if config.contrast == "paper":
        drawing = ink.lift(-deviation if dark else deviation)
    else:
        drawing = ink.FULL - grey if dark else grey
    if drawing is not None and config.crop == "content":
        drawing = _content(drawing, config.embolden)
    if drawing is None:
        raise refused("the image is empty: there is no content to crop to")
    return drawing


def _content(drawing: ink.Grey, least: float) -> ink.Grey | None:
    square = ink.content_square(drawing)
    return None if square is None else ink.embolden(ink.cut(drawing, square), least)


def _grey(picture: Image.Image) -> ink.Grey:
    return np.asarray(picture.convert("L"), dtype=np.float32)


def _center_square(picture: Image.Image) -> Image.Image:
    width, height = picture.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return picture.crop((left, top, left + side, top + side))


def _resized(picture: Image.Image, config: PixelConfig) -> NDArray[Any]:
    if config.shorter_side is not None:
        picture = _in_proportion(picture, *config.shorter_side)
    if config.center_crop is not None:
        picture = _cut_from_center(picture, *config.center_crop)
    for width, height, name in config.resize:
        picture = picture.resize((width, height), Image.Resampling[name.upper()])
    return np.asarray(picture, dtype=np.float32)


def _in_proportion(picture: Image.Image, length: int, name: Filter) -> Image.Image:
    """Rounded down as torchvision's `Resize` does. Raises InvalidInput for an image that becomes far too large."""
    shorter = min(picture.size)
    width, height = (length if side == shorter else int(length * side / shorter) for side in picture.size)
    if width * height > max(MAX_PIXELS, length * length):
        raise refused(f"{picture.size[0]}×{picture.size[1]} pixels are too narrow for the model")
    return picture.resize((width, height), Image.Resampling[name.upper()])


def _cut_from_center(picture: Image.Image, width: int, height: int) -> Image.Image:
    """The same pixels as torchvision's `CenterCrop`, which rounds halves to even, and half a pixel of border down."""
    left, top = (_offset(have, want) for have, want in zip(picture.size, (width, height), strict=True))
    return picture.crop((left, top, left + width, top + height))


def _offset(have: int, want: int) -> int:
    return round((have - want) / 2) if have >= want else -((want - have) // 2)
