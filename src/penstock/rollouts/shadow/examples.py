"""Disagreements as examples: what may be kept and shown of the inputs of their requests."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from penstock.engine.observation import Observation
from penstock.tensors import Array, Arrays

Keep: TypeAlias = Callable[[Observation, str, Arrays], bool]
"""Takes a request that the given version has answered otherwise, with the outputs of that version: whether its inputs
may be kept."""

MOST_NUMBERS = 4096
"""Examples with more numbers are in the prediction log only."""


def keep_nothing(_seen: Observation, _version: str, _outputs: Arrays) -> bool:
    """Keep no inputs."""
    return False


def example(inputs: Arrays) -> dict[str, Any]:
    """The inputs as JSON shows them; nothing if they are many."""
    if sum(array.size for array in inputs.values()) > MOST_NUMBERS:
        return {}
    return {"inputs": {name: _shown(array) for name, array in inputs.items()}}


def _shown(array: Array) -> Any:
    """Nested lists. JSON has no NaN and no infinity: both are null; bytes are text."""
    if array.dtype.hasobject:
        texts = [each.decode("utf-8", "replace") if isinstance(each, bytes) else each for each in array.ravel()]
        return _nested(texts, array.shape)
    if np.issubdtype(array.dtype, np.inexact) and not np.isfinite(array).all():
        return _nested([each if math.isfinite(each) else None for each in array.ravel().tolist()], array.shape)
    return array.tolist()


def _nested(values: list[Any], shape: tuple[int, ...]) -> Any:
    made = np.empty(len(values), object)
    made[:] = values
    return made.reshape(shape).tolist()
