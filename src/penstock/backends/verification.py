"""Verifies a loaded model against its golden samples, and warms it up with timed runs of every batch size.

`engine.loading.variant_selection` passes over a variant that fails.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

import numpy as np

from penstock.artifacts.golden import Golden
from penstock.backends.base import Backend
from penstock.backends.examples import Examples
from penstock.errors import GoldenMismatch
from penstock.tensors import Array, Arrays, Signature

SEED = 0
"""Of random inputs: the same file gives the same ones."""

WARM_UP_BUDGET_S = 1.0
"""A load spends about this long on warm-up; a slow model is timed at one row and at a full batch only."""
INTERPRETER_S = 0.05
"""A quick run does not wait longer than this for the interpreter."""


def verify(backend: Backend, golden: Golden, batch_rows: int, what: str) -> None:
    """Run the golden samples and compare; raises GoldenMismatch naming the output, the difference and the tolerance."""
    if golden.whole:
        compare_all(backend.run(golden.inputs), golden.outputs, golden, what)
        return
    for start in range(0, golden.rows, batch_rows):
        part = slice(start, start + batch_rows)
        outputs = backend.run({name: array[part] for name, array in golden.inputs.items()})
        compare_all(outputs, {name: array[part] for name, array in golden.outputs.items()}, golden, what)


def compare_all(got: Arrays, expected: Arrays, golden: Golden, what: str) -> None:
    """Compare outputs with those expected, by the tolerance of the golden samples; raises GoldenMismatch."""
    for name, array in expected.items():
        if name not in got:
            raise GoldenMismatch(f"{what}: the model has no output {name!r}, which its golden samples have")
        _compare(got[name], array, golden, f"{what}: output {name!r}")


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


def warm_up(
    backend: Backend, signature: Signature, batch_rows: int, examples: Examples, *, written: bool = True
) -> dict[int, float]:
    """Run every batch size the model will see (1, 2, 4, … and the limit); seconds by number of rows.

    Those of one row and of a full batch, which decide how the model runs, are medians; others are of one run.

    `written`: the signature is from a manifest, so the lengths of outputs are checked; those in a bare file are often
    wrong.
    """
    timings: dict[int, float] = {}
    started = time.monotonic()
    sizes = list(_batch_sizes(signature, batch_rows))
    for rows in sizes:
        if timings and rows != batch_rows and time.monotonic() - started > WARM_UP_BUDGET_S:
            continue
        inputs = examples.of(rows)
        began = time.perf_counter()
        outputs = backend.run(inputs)  # the first run of a shape allocates and, on some devices, compiles
        first_s = time.perf_counter() - began
        signature.check_outputs(outputs, signature.rows(inputs), lengths=written)
        if rows in (sizes[0], sizes[-1]):
            timings[rows] = statistics.median(timed(backend, inputs) for _ in range(3))
        else:  # a run of twice the rows takes about twice as long, unless it compiled
            usual = first_s < 4 * timings[max(timings)]
            timings[rows] = first_s if usual else timed(backend, inputs)
    return timings


def timed(backend: Backend, inputs: Arrays) -> float:
    """The seconds of one run."""
    started = time.perf_counter()
    backend.run(inputs)
    return time.perf_counter() - started


def timed_alone(backend: Backend, inputs: Arrays) -> float:
    """The seconds of one run on the CPU, as it would take on the event loop.

    In another thread, beside a busy loop, a run also waits for the interpreter, several times for 5 ms: it counts with
    the CPU time of its thread then. One that takes much longer waits for something else, and counts with all of it.
    """
    started, used = time.perf_counter(), time.thread_time()
    backend.run(inputs)
    used, whole = time.thread_time() - used, time.perf_counter() - started
    return min(used, whole) if whole < INTERPRETER_S else whole


def _batch_sizes(signature: Signature, limit: int) -> Iterator[int]:
    if signature.fixed_rows is not None:
        yield limit
        return
    rows = 1
    while rows < limit:
        yield rows
        rows *= 2
    yield limit
