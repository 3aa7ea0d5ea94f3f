"""Image classification: an uploaded picture in, the likeliest classes out."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PositiveInt

from penstock.errors import ModelLoadError
from penstock.tasks import ink
from penstock.tasks.base import Task, TimedResponse
from penstock.tasks.classes import ClassScores, OutputKind
from penstock.tasks.pictures import MAX_PIXELS, check_size, normal_mode, read_picture, refused
from penstock.tasks.refusals import parse_config, parse_request
from penstock.tasks.steps import Steps, build_steps
from penstock.tensors import Array, Arrays, Signature

Filter: TypeAlias = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
Resize: TypeAlias = tuple[Annotated[int, Field(ge=1, le=8192)], Annotated[int, Field(ge=1, le=8192)], Filter]
Pixels: TypeAlias = NDArray[Any]


def _form_number(value: Any) -> Any:
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10 else value


class ImageRequest(BaseModel):
    """A picture to classify. In JSON the bytes are base64; over HTTP they usually come as an uploaded file."""

    model_config = ConfigDict(strict=True, extra="forbid", val_json_bytes="base64", ser_json_bytes="base64")

    image: bytes = Field(description="A PNG, JPEG, WebP, BMP or GIF file; of an animation the first frame counts.")
    top_k: Annotated[int, BeforeValidator(_form_number)] = Field(
        default=5, ge=1, le=1000, description="How many classes to name, best first."
    )
    model_version: str | None = Field(default=None, description="Which version shall answer; default: as routed.")


class ClassScore(BaseModel):
    """One class and its probability."""

    class_id: int
    class_name: str
    confidence: float


class _BestClasses(ClassScore):
    top_k: list[ClassScore] = Field(description="The likeliest classes, best first.")


class ImageResponse(TimedResponse, _BestClasses):
    """The likeliest class, and the best few. (The bases stand in this order so that the class comes first.)"""


class ImageConfig(BaseModel):
    """The task part of a manifest: what happens to a picture, in this order."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_pixels: PositiveInt = MAX_PIXELS
    mode: Literal["L", "F", "RGB"] = "RGB"
    """Grey in 8 bits, grey in floating point (resized without rounding), or colour."""
    invert: Literal["never", "auto", "always"] = "never"
    """Towards bright ink on dark paper; auto looks which of the two stands out from the picture's border."""
    contrast: Literal["none", "paper"] = "none"
    """`paper`: even out the light, bare paper to 0, the strongest stroke to 255. Grey only."""
    crop: Literal["none", "center", "content"] = "none"
    """`center`: the largest square. `content`: the square around what is drawn; it needs bright ink. Grey only."""
    bolden: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Thicken fine strokes until they cover this share of the content's square."""
    resize: tuple[Resize, ...] = ()
    """[width, height, filter] one after another; the last is the size the model takes."""
    layout: Literal["chw", "hwc"] = "chw"
    preprocess: Steps = ()
    output: OutputKind = "auto"
    labels: tuple[str, ...] | None = None


class ImageClassification(Task):
    """One picture a request; what is done to it before the model sees it stands in the manifest."""

    kind: ClassVar[str] = "image-classification"
    Request: ClassVar[type[BaseModel]] = ImageRequest
    Response: ClassVar[type[BaseModel]] = ImageResponse
    upload_field: ClassVar[str | None] = "image"

    def __init__(self, config: Mapping[str, Any], signature: Signature) -> None:
        """Raises ModelLoadError when the settings or the signature do not fit."""
        super().__init__(config, signature)
        self.settings = settings = parse_config(ImageConfig, self.kind, config)
        self._channels = 3 if settings.mode == "RGB" else 1
        self._check_fit(signature)
        spec = signature.inputs[0]
        self._name, self._dtype, self._row_shape = spec.name, spec.numpy, spec.shape[1:]
        limit = float(np.finfo(self._dtype).max) if self._dtype.kind == "f" else float(np.iinfo(self._dtype).max)
        self._steps = build_steps(settings.preprocess, self._channels, np.dtype(np.float32), limit)
        self.scores = ClassScores(signature, settings.output, settings.labels, "image")

    def preprocess(self, request: Any) -> Arrays:
        """The picture as the model's input, one row. Raises InvalidInput naming `image`."""
        picture = read_picture(request.image, self.settings.max_pixels)
        return {self._name: self._to_input(self._pixels(picture))}

    def postprocess(self, outputs: Arrays, request: Any) -> ImageResponse:
        """The best classes; the engine adds version and times."""
        best = [
            ClassScore(class_id=index, class_name=self.scores.label(index), confidence=confidence)
            for index, confidence in self.scores.top(outputs, request.top_k)
        ]
        first = best[0]
        return ImageResponse(
            class_id=first.class_id, class_name=first.class_name, confidence=first.confidence, top_k=best
        )

    def coerce(self, value: Any) -> ImageRequest:
        """From a request, a mapping of its fields, the bytes of a file, its path, a PIL image or uint8 pixels.

        Pixels are [height, width] or [height, width, 1, 3 or 4]. Raises InvalidInput.
        """
        if isinstance(value, ImageRequest):
            return value
        if isinstance(value, Mapping):
            return parse_request(ImageRequest, value)
        return ImageRequest(image=self._encoded(value))

    def _encoded(self, value: Any) -> bytes:
        if isinstance(value, bytes | bytearray | memoryview):
            return bytes(value)
        if isinstance(value, str | os.PathLike):
            return _read_file(Path(value))
        if isinstance(value, np.ndarray):
            value = _image_of(value)
        if not isinstance(value, Image.Image):
            raise refused("give the bytes of a picture, a path, a PIL image or an array of uint8")
        check_size(value, self.settings.max_pixels)
        return _as_png(value)

    def _check_fit(self, signature: Signature) -> None:
        settings = self.settings
        if len(signature.inputs) != 1 or signature.inputs[0].numpy.kind not in "fu":
            raise ModelLoadError("image classification takes a model with one input of floats or bytes")
        spec = signature.inputs[0]
        if settings.mode == "RGB" and (settings.contrast != "none" or settings.crop == "content" or settings.bolden):
            raise ModelLoadError("contrast, crop: content and bolden work on grey pictures; set mode to L or F")
        if not settings.resize:
            raise ModelLoadError("the image settings name no resize, so pictures would not fit the model's input")
        width, height, _ = settings.resize[-1]
        numbers = width * height * self._channels
        if spec.row_elements not in (numbers, -1):
            raise ModelLoadError(
                f"the image settings make {self._channels}×{height}×{width} = {numbers} numbers,"
                f" the model's input {spec.name!r} takes {list(spec.shape)}"
            )

    def _pixels(self, picture: Image.Image) -> Pixels:
        """Upright RGB or grey picture to float32 [height, width] or [height, width, 3], resized."""
        settings = self.settings
        picture = picture.convert("L" if settings.mode != "RGB" else "RGB")
        if settings.crop == "center":
            picture = _center_square(picture)
        if settings.mode == "RGB":
            return _resized(self._turned(picture), settings.resize)
        grey = self._drawing(np.asarray(picture, dtype=np.float32))
        image = Image.fromarray(grey)
        return _resized(image if settings.mode == "F" else image.convert("L"), settings.resize)

    def _turned(self, picture: Image.Image) -> Image.Image:
        if self.settings.invert == "never":
            return picture
        grey = ink.shrink(np.asarray(picture.convert("L"), dtype=np.float32))
        if self.settings.invert == "auto" and not ink.is_dark_on_light(grey - ink.paper(grey)):
            return picture
        return picture.point(lambda level: 255 - level)

    def _drawing(self, grey: ink.Grey) -> ink.Grey:
        settings = self.settings
        if (settings.invert, settings.contrast, settings.crop) == ("never", "none", "none"):
            return grey
        grey = ink.shrink(grey)
        deviation = grey - ink.paper(grey)
        dark = settings.invert == "always" or (settings.invert == "auto" and ink.is_dark_on_light(deviation))
        if settings.contrast == "none":
            drawing: ink.Grey | None = ink.FULL - grey if dark else grey
        else:
            drawing = ink.lift(-deviation if dark else deviation)
        if settings.crop == "content":
            drawing = _content(drawing, settings.bolden)
        if drawing is None:
            raise refused("nothing is drawn on this picture")
        return drawing

    def _to_input(self, pixels: Pixels) -> Array:
        rows = pixels.reshape(1, *pixels.shape[:2], self._channels)
        if self._steps is not None:
            rows = self._steps(rows)
        if self.settings.layout == "chw":
            rows = rows.transpose(0, 3, 1, 2)
        shape = rows.shape[1:] if -1 in self._row_shape else self._row_shape
        return np.ascontiguousarray(rows, dtype=self._dtype).reshape(1, *shape)


def _content(drawing: ink.Grey | None, bolden: float) -> ink.Grey | None:
    square = None if drawing is None else ink.content_square(drawing)
    if drawing is None or square is None:
        return None
    content = ink.cut(drawing, square)
    return ink.embolden(content, bolden) if bolden else content


def _center_square(picture: Image.Image) -> Image.Image:
    width, height = picture.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return picture.crop((left, top, left + side, top + side))


def _resized(picture: Image.Image, steps: tuple[Resize, ...]) -> Pixels:
    for width, height, name in steps:
        picture = picture.resize((width, height), Image.Resampling[name.upper()])
    return np.asarray(picture, dtype=np.float32)


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise refused(f"{path} cannot be read: {error.strerror or error}") from None


def _image_of(pixels: Pixels) -> Image.Image:
    flat = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
    if flat.dtype != np.uint8 or not (flat.ndim == 2 or (flat.ndim == 3 and flat.shape[2] in (3, 4))) or not flat.size:
        raise refused(f"pixels are uint8 [height, width] or [height, width, 3], not {pixels.dtype} {list(pixels.shape)}")
    return Image.fromarray(np.ascontiguousarray(flat))


def _as_png(image: Image.Image) -> bytes:
    import io

    buffer = io.BytesIO()
    normal_mode(image).save(buffer, "PNG", compress_level=0)
    return buffer.getvalue()
