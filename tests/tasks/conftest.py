from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from penstock.tensors import Signature, TensorSpec

MakeSignature = Callable[..., Signature]
Encode = Callable[..., bytes]


@pytest.fixture(scope="session")
def signature() -> MakeSignature:
    """signature(input_shape, output_shape): one FP32 input `x`, one FP32 output `y`."""

    def make(given: tuple[int, ...], answer: tuple[int, ...] = (-1, 3), dtype: str = "FP32") -> Signature:
        return Signature((TensorSpec("x", dtype, given),), (TensorSpec("y", dtype, answer),))

    return make


@pytest.fixture(scope="session")
def encode() -> Encode:
    """encode(array or PIL image, format, **save options): the bytes of an image file."""

    def make(picture: Any, format: str = "PNG", **options: Any) -> bytes:
        image = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
        buffer = io.BytesIO()
        image.save(buffer, format, **options)
        return buffer.getvalue()

    return make
