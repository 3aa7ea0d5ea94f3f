"""Image classification: an uploaded image in, the likeliest classes out."""

from __future__ import annotations

import binascii
import io
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import unquote_to_bytes

import numpy as np
from PIL import Image
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PositiveInt, ValidationInfo
from pydantic_core import PydanticCustomError

from penstock.errors import ModelLoadError
from penstock.tasks.base import Task, TimedResponse
from penstock.tasks.classification import ClassScores, OutputKind
from penstock.tasks.image_decoding import MAX_PIXELS, check_size, normal_mode, read_picture, refused
from penstock.tasks.image_transforms import PixelConfig, Pixels, to_pixels
from penstock.tasks.steps import Steps, build_steps
from penstock.tasks.validation_errors import parse_config, parse_request
from penstock.tensors import Array, Arrays, Signature


def _form_number(value: Any) -> Any:
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10 else value


_LONG = 1 << 16


def _file(value: Any, info: ValidationInfo) -> Any:
    """The file in base64, of any common form. In Python a short text is none, since it may be meant as a path."""
    if not isinstance(value, str) or (info.mode != "json" and len(value) < _LONG):
        return value
    start, payload = "", value.strip()
    if payload[:5].lower() == "data:":
        start, comma, payload = payload.partition(",")
        if not comma:
            raise _NO_BASE64
    if start and not start[-_LONGEST_KIND:].lower().rstrip().endswith(";base64"):
        return b"".join(_unquoted(payload.encode()))
    if not payload.isascii():
        raise _NO_BASE64
    return _from_base64(b"".join(piece.translate(_URL_SAFE, _SPACES) for piece in _unquoted(payload.encode("ascii"))))


def _unquoted(text: bytes) -> Iterator[bytes]:
    """The text without its percent-encoding, piece by piece: other threads must get their turn meanwhile."""
    low = 0
    while low < len(text):
        high = low + _PIECE
        mark = text.find(b"%", high - 2, high)
        high = high if mark < 0 or high >= len(text) else mark
        piece = text[low:high]
        yield unquote_to_bytes(piece) if b"%" in piece else piece
        low = high


def _from_base64(text: bytes) -> bytes:
    text = text.rstrip(b"=")
    if b"=" in text:
        raise _NO_BASE64
    text += b"=" * (-len(text) % 4)
    try:
        pieces = [text[low : low + _PIECE] for low in range(0, len(text), _PIECE)]
        return b"".join(binascii.a2b_base64(piece, strict_mode=True) for piece in pieces)
    except ValueError:
        raise _NO_BASE64 from None


_PIECE = 1 << 16
"""A multiple of 4 characters of base64."""
_LONGEST_KIND = 64
_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_SPACES = b" \t\n\r\v\f\x1c\x1d\x1e\x1f"
_NO_BASE64 = PydanticCustomError("base64", "Input should be a file in base64, or a data: URL")


class ImageRequest(BaseModel):
    """An image to classify: base64 in JSON, or an uploaded file."""

    model_config = ConfigDict(strict=True, extra="forbid", val_json_bytes="base64", ser_json_bytes="base64")

    image: Annotated[bytes, BeforeValidator(_file)] = Field(
        description="A PNG, JPEG, WebP, BMP or GIF file; of an animation the first frame is used. In JSON as base64 or "
        "a data: URL.",
    )
    top_k: Annotated[int, BeforeValidator(_form_number)] = Field(
        default=5, ge=1, le=1000, description="Number of classes to return, best first."
    )
    model_version: str | None = Field(
        default=None, description="The model version; the default is that of the reference."
    )


class ClassScore(BaseModel):
    """One class and its probability."""

    class_id: int
    class_name: str
    confidence: float


class _BestClasses(ClassScore):
    top_k: list[ClassScore] = Field(description="The likeliest classes, best first.")


class ImageResponse(TimedResponse, _BestClasses):
    """The likeliest class and the top k. (The order of the bases puts the class first in the JSON.)"""


class ImageConfig(PixelConfig):
    """The task section of a manifest: decoding, pixel transforms, and the meaning of the output."""

    max_pixels: PositiveInt = MAX_PIXELS
    layout: Literal["chw", "hwc"] = "chw"
    preprocess: Steps = ()
    output: OutputKind = "auto"
    labels: tuple[str, ...] | None = None


class ImageClassification(Task):
    """One image per request; the manifest defines its preprocessing."""

    kind: ClassVar[str] = "image-classification"
    needs_rows: ClassVar[bool] = True
    Request: ClassVar[type[BaseModel]] = ImageRequest
    Response: ClassVar[type[BaseModel]] = ImageResponse
    upload_field: ClassVar[str | None] = "image"
    takes_arrays: ClassVar[bool] = True
    refuses_nan: ClassVar[bool] = True

    def __init__(self, config: Mapping[str, Any], signature: Signature) -> None:
        """Raises ModelLoadError if the settings or the signature do not fit."""
        super().__init__(config, signature)
        self.settings = settings = parse_config(ImageConfig, self.kind, config)
        self._check_fit(signature)
        spec = signature.inputs[0]
        self._name, self._dtype, self._row_shape = spec.name, spec.numpy, spec.shape[1:]
        limit = float(np.finfo(self._dtype).max) if self._dtype.kind == "f" else 255.0
        self._steps = build_steps(settings.preprocess, settings.channels, np.dtype(np.float32), limit)
        self.scores = ClassScores(signature, settings.output, settings.labels, "image")

    def preprocess(self, request: Any) -> Arrays:
        """The image as the model's input, one row. Raises InvalidInput naming `image`."""
        picture = read_picture(request.image, self.settings.max_pixels)
        return {self._name: self._to_input(to_pixels(picture, self.settings))}

    def postprocess(self, outputs: Arrays, request: Any) -> ImageResponse:
        """The likeliest classes; the engine adds version and times."""
        best = [
            ClassScore(class_id=index, class_name=self.scores.label(index), confidence=confidence)
            for index, confidence in self.scores.top(outputs, request.top_k)
        ]
        first = best[0]
        return ImageResponse(
            class_id=first.class_id, class_name=first.class_name, confidence=first.confidence, top_k=best
        )

    def coerce(self, value: Any) -> ImageRequest:
        """Convert a request, a mapping of its fields, the bytes of a file, its Path, a PIL image or uint8 pixels.

        Pixels are [height, width] or [height, width, 1, 3 or 4]. A path must be a `Path`, not a str: text may come from
        untrusted JSON, which must not name files of this machine. Raises InvalidInput.
        """
        if isinstance(value, ImageRequest):
            return value
        if isinstance(value, Mapping):
            return parse_request(ImageRequest, value)
        return ImageRequest(image=self._encoded(value))

    def _encoded(self, value: Any) -> bytes:
        if isinstance(value, bytes | bytearray | memoryview):
            return bytes(value)
        if isinstance(value, os.PathLike):
            return _read_file(Path(value))
        if isinstance(value, np.ndarray):
            value = _image_of(value)
        if not isinstance(value, Image.Image):
            raise refused("give the bytes of an image file, a pathlib.Path, a PIL image or an array of uint8")
        check_size(value, self.settings.max_pixels)
        return _as_png(value)

    def _check_fit(self, signature: Signature) -> None:
        if len(signature.inputs) != 1:
            raise ModelLoadError(f"image classification takes a model with one input, not {len(signature.inputs)}")
        spec, settings = signature.inputs[0], self.settings
        if not (spec.numpy.kind == "f" or (spec.dtype == "UINT8" and not settings.preprocess)):
            raise ModelLoadError(
                f"image classification takes an input of floats, or of UINT8 without preprocessing;"
                f" {spec.name!r} is {spec.dtype}"
            )
        width, height = settings.size
        numbers = width * height * settings.channels
        if spec.row_elements not in (numbers, -1):
            raise ModelLoadError(
                f"the image settings produce {settings.channels}×{height}×{width} = {numbers} numbers,"
                f" the model's input {spec.name!r} takes {list(spec.shape)}"
            )

    def _to_input(self, pixels: Pixels) -> Array:
        rows = pixels.reshape(1, *pixels.shape[:2], self.settings.channels)
        if self._steps is not None:
            rows = self._steps(rows)
        if self.settings.layout == "chw":
            rows = rows.transpose(0, 3, 1, 2)
        shape = rows.shape[1:] if -1 in self._row_shape else self._row_shape
        return np.ascontiguousarray(rows, dtype=self._dtype).reshape(1, *shape)


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise refused(f"{path} cannot be read: {error.strerror or error}") from None


def _image_of(pixels: Pixels) -> Image.Image:
    flat = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
    if flat.dtype != np.uint8 or not (flat.ndim == 2 or (flat.ndim == 3 and flat.shape[2] in (3, 4))) or not flat.size:
        raise refused(f"pixels are uint8 [height, width(, 3)], not {pixels.dtype} {list(pixels.shape)}")
    return Image.fromarray(np.ascontiguousarray(flat))


def _as_png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    normal_mode(image).save(buffer, "PNG", compress_level=0)
    return buffer.getvalue()
