"""Random inputs for a bare model file, and golden samples from its own answers to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np

from penstock.artifacts.golden import Golden
from penstock.backends.base import Backend
from penstock.backends.verification import FREE_LENGTHS, SEED, random_array, trial_batches
from penstock.errors import InferenceError
from penstock.tensors import Array, Arrays, Signature, TensorSpec

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


def observed_signature(backend: Backend, golden: Golden | None) -> Signature:
    """The signature, without the lengths of outputs that a run does not keep: what an exporter notes is no promise."""
    signature = backend.signature
    runs = [] if golden is None else [golden.outputs]
    if all(spec.dtype != "BYTES" for spec in signature.inputs):
        for batch in trial_batches(signature.inputs, FREE_LENGTHS[0]):
            with suppress(InferenceError):
                runs.append(backend.run(batch))
    return replace(signature, outputs=tuple(_as_observed(spec, runs) for spec in signature.outputs))


def _as_observed(spec: TensorSpec, runs: Sequence[Arrays]) -> TensorSpec:
    shapes = [run[spec.name].shape for run in runs if spec.name in run and run[spec.name].ndim == len(spec.shape)]
    kept = [all(shape[axis] == length for shape in shapes) for axis, length in enumerate(spec.shape)]
    lengths = (n if same or not axis else -1 for axis, (n, same) in enumerate(zip(spec.shape, kept, strict=True)))
    return replace(spec, shape=tuple(lengths))


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
