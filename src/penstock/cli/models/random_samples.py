"""Random inputs for a bare model file, and golden samples from its own answers to them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from penstock.artifacts.golden import Golden
from penstock.backends.base import Backend
from penstock.backends.verification import FREE_LENGTHS, SEED, random_array
from penstock.errors import InferenceError
from penstock.tensors import Array, Arrays

ROWS = 8


def self_reference(backend: Backend) -> tuple[Golden | None, str]:
    """Golden samples from the model's own answers, and a sentence on their origin for the lineage.

    None if the model gives no finite answers at any length that is tried.
    """
    for length in FREE_LENGTHS:
        inputs = dict(_inputs(backend, length))
        if len(inputs) < len(backend.signature.inputs):
            break
        try:
            outputs = backend.run(inputs)
        except InferenceError:
            continue
        if _usable(inputs, outputs):
            rows = len(next(iter(inputs.values())))
            origin = f"self-reference: the file's own answers to {rows} random inputs, seed {SEED}"
            return Golden(inputs, outputs), origin
    return None, "none: the model gave no finite answers to random inputs"


def _inputs(backend: Backend, length: int) -> Iterator[tuple[str, Array]]:
    """One array per input; none for text."""
    random = np.random.default_rng(SEED)
    fixed = [spec.shape[0] for spec in backend.signature.inputs if spec.shape[0] > 0]
    for spec in backend.signature.inputs:
        if spec.dtype != "BYTES":
            shape = (fixed[0] if fixed else ROWS, *(n if n > 0 else length for n in spec.shape[1:]))
            yield spec.name, random_array(spec, shape, random)


def _usable(inputs: Arrays, outputs: Arrays) -> bool:
    rows = len(next(iter(inputs.values())))
    return all(
        array.ndim > 0 and len(array) == rows and array.dtype.kind != "O" and bool(np.isfinite(array).all())
        for array in outputs.values()
    )
