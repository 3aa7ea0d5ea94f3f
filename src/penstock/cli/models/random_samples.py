"""Random inputs for a bare model file, and golden samples from its own answers to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from penstock.artifacts.golden import Golden
from penstock.backends.base import Backend
from penstock.backends.verification import FREE_LENGTHS
from penstock.errors import InferenceError
from penstock.tensors import Array, Arrays, TensorSpec

ROWS = 8
SEED = 0


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


def trial_batches(specs: Sequence[TensorSpec], length: int) -> list[Arrays]:
    """Two batches that differ in rows and in every free length, to see which lengths of the outputs are free."""
    random = np.random.default_rng(SEED)
    return [
        {spec.name: _random(spec, _shape(spec, rows, free), random) for spec in specs}
        for rows, free in ((2, length), (3, length + 1))
    ]


def _inputs(backend: Backend, length: int) -> Iterator[tuple[str, Array]]:
    """One array per input; none for text."""
    random = np.random.default_rng(SEED)
    fixed = [spec.shape[0] for spec in backend.signature.inputs if spec.shape[0] > 0]
    for spec in backend.signature.inputs:
        if spec.dtype != "BYTES":
            shape = (fixed[0] if fixed else ROWS, *(n if n > 0 else length for n in spec.shape[1:]))
            yield spec.name, _random(spec, shape, random)


def _shape(spec: TensorSpec, rows: int, length: int) -> list[int]:
    """The spec's shape with `rows` for a free first axis and `length` for every other free axis."""
    return [n if n > 0 else length if axis else rows for axis, n in enumerate(spec.shape)]


def _random(spec: TensorSpec, shape: Sequence[int], random: np.random.Generator) -> Array:
    """Standard normal numbers; integers are 0 or 1, which are valid in any vocabulary and any mask."""
    if spec.numpy.kind == "f":
        return random.standard_normal(shape).astype(spec.numpy)
    return random.integers(0, 2, shape).astype(spec.numpy)


def _usable(inputs: Arrays, outputs: Arrays) -> bool:
    rows = len(next(iter(inputs.values())))
    return all(
        array.ndim > 0 and len(array) == rows and array.dtype.kind != "O" and bool(np.isfinite(array).all())
        for array in outputs.values()
    )
