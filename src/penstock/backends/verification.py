"""Verifies a loaded model against its golden samples, and warms it up with timed runs of every batch size.

`engine.loading.variant_selection` passes over a variant that fails.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence

import numpy as np

from penstock.artifacts.golden import Golden
from penstock.backends.base import Backend
from penstock.errors import GoldenMismatch, InferenceError
from penstock.tensors import Array, Arrays, Signature, TensorSpec

FREE_LENGTHS = (8, 224, 1)
"""Lengths to try for free axes after the batch axis, until the model runs."""

SEED = 0
"""Of random inputs: the same file gives the same ones."""

WARM_UP_BUDGET_S = 1.0
"""A load spends about this long on warm-up; a slow model is timed at one row and at a full batch only."""


def verify(backend: Backend, golden: Golden, batch_rows: int, what: str) -> None:
    """Run the golden samples and compare; raises GoldenMismatch naming the output, the difference and the tolerance."""
    rows = len(next(iter(golden.inputs.values())))
    for start in range(0, rows, batch_rows):
        part = slice(start, start + batch_rows)
        outputs = backend.run({name: array[part] for name, array in golden.inputs.items()})
        for name, expected in golden.outputs.items():
            if name not in outputs:
                raise GoldenMismatch(f"{what}: the model has no output {name!r}, which its golden samples have")
            _compare(outputs[name], expected[part], golden, f"{what}: output {name!r}")


def _compare(got: Array, expected: Array, golden: Golden, what: str) -> None:
    if got.shape != expected.shape:
        raise GoldenMismatch(f"{what} has the shape {list(got.shape)}, its golden samples {list(expected.shape)}")
    if got.dtype.kind not in "fc":
        if not np.array_equal(got, expected):
            raise GoldenMismatch(f"{what} differs from its golden samples")
        return
    if not np.allclose(got, expected, rtol=golden.rtol, atol=golden.atol):
        worst = float(np.max(np.abs(got.astype(np.float64) - expected.astype(np.float64))))
        raise GoldenMismatch(
            f"{what} differs from its golden samples by up to {worst:.3g}; "
            f"allowed are {golden.atol:.3g} + {golden.rtol:.3g} of the value"
        )


class Examples:
    """Inputs to time a model with: its golden samples, or zeros of a length that it runs with."""

    def __init__(self, backend: Backend, signature: Signature, golden: Golden | None) -> None:
        """Raises the model's InferenceError when it runs with none of the lengths to try."""
        self._signature = signature
        self._golden = golden
        self._length = FREE_LENGTHS[0] if golden is not None else self._free_length(backend)

    def of(self, rows: int) -> Arrays:
        """A batch of this many rows."""
        if self._golden is not None:
            return {name: np.ascontiguousarray(_tile(array, rows)) for name, array in self._golden.inputs.items()}
        return self._zeros(rows, self._length)

    def _zeros(self, rows: int, length: int) -> Arrays:
        return {spec.name: _zeros(spec, rows, length) for spec in self._signature.inputs}

    def _free_length(self, backend: Backend) -> int:
        """A length for free axes after the batch axis with which the model runs."""
        rows = next((spec.shape[0] for spec in self._signature.inputs if spec.shape and spec.shape[0] > 0), 1)
        failure: InferenceError | None = None
        for length in FREE_LENGTHS if _has_free_axis(self._signature) else FREE_LENGTHS[:1]:
            try:
                backend.run(self._zeros(rows, length))
            except InferenceError as error:
                failure = error
            else:
                return length
        raise failure or InferenceError("no length to try the model with")


def warm_up(
    backend: Backend, signature: Signature, batch_rows: int, golden: Golden | None, *, written: bool = True
) -> dict[int, float]:
    """Run every batch size the model will see (1, 2, 4, … and the limit); the median seconds by number of rows.

    `written`: the signature is from a manifest, so the lengths of outputs are checked; those in a bare file are often
    wrong.
    """
    examples = Examples(backend, signature, golden)
    timings: dict[int, float] = {}
    started = time.monotonic()
    for rows in _batch_sizes(signature, batch_rows):
        if timings and rows != batch_rows and time.monotonic() - started > WARM_UP_BUDGET_S:
            continue
        inputs = examples.of(rows)
        outputs = backend.run(inputs)  # the first run of a shape allocates and, on some devices, compiles
        signature.check_outputs(outputs, len(next(iter(inputs.values()))), lengths=written)
        timings[rows] = statistics.median(timed(backend, inputs) for _ in range(3))
    return timings


def timed(backend: Backend, inputs: Arrays) -> float:
    """The seconds of one run."""
    started = time.perf_counter()
    backend.run(inputs)
    return time.perf_counter() - started


def _has_free_axis(signature: Signature) -> bool:
    return any(spec.row_elements < 0 for spec in signature.inputs)


def _batch_sizes(signature: Signature, limit: int) -> Iterator[int]:
    if any(spec.shape and spec.shape[0] > 0 for spec in signature.inputs):
        yield limit
        return
    rows = 1
    while rows < limit:
        yield rows
        rows *= 2
    yield limit


def _tile(array: Array, rows: int) -> Array:
    return array[np.arange(rows) % len(array)]


def _zeros(spec: TensorSpec, rows: int, length: int) -> Array:
    shape = (rows, *(n if n > 0 else length for n in spec.shape[1:]))
    return np.full(shape, "", dtype=object) if spec.dtype == "BYTES" else np.zeros(shape, spec.numpy)


def trial_batches(specs: Sequence[TensorSpec], length: int) -> list[Arrays]:
    """Two batches that differ in rows and in every free length, to see which lengths of the outputs are free."""
    random = np.random.default_rng(SEED)
    return [
        {spec.name: random_array(spec, _lengths(spec, rows, free), random) for spec in specs}
        for rows, free in ((2, length), (3, length + 1))
    ]


def _lengths(spec: TensorSpec, rows: int, length: int) -> list[int]:
    """The spec's shape with `rows` for a free first axis and `length` for every other free axis."""
    return [n if n > 0 else length if axis else rows for axis, n in enumerate(spec.shape)]


def random_array(spec: TensorSpec, shape: Sequence[int], random: np.random.Generator) -> Array:
    """Standard normal numbers; integers are 0 or 1, which are valid in any vocabulary and any mask."""
    if spec.numpy.kind == "f":
        return random.standard_normal(shape).astype(spec.numpy)
    return random.integers(0, 2, shape).astype(spec.numpy)
