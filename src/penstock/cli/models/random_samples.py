"""What runs of a bare model file show: golden samples from its own answers, and which lengths of its outputs hold."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from penstock.artifacts.golden import Golden
from penstock.backends.axes.seen import in_own_axes, moved_example, rows_first, settle_axes, settle_by_example
from penstock.backends.base import Backend
from penstock.backends.examples import Examples
from penstock.backends.probing.search import all_finite
from penstock.backends.probing.values import SEED
from penstock.errors import InferenceError
from penstock.tensors import Arrays, Signature, TensorSpec

ROWS = 8


class Observed(NamedTuple):
    """Golden samples, a sentence on their origin for the lineage (or why there are none), and the signature.

    The signature is without the lengths of outputs that a run does not keep: what an exporter notes is no promise.
    """

    golden: Golden | None
    origin: str
    signature: Signature
    examples: Examples | None = None
    """Inputs that it runs with, if any were found."""


def observe(backend: Backend, example: Any = None, *, stated: bool = False) -> Observed:
    """Run a model on the user's example, or else on made-up inputs. `stated`: its batch axes are, by the user.

    Raises InvalidInput for an example that does not fit the model, InferenceError for one that it does not run with.
    """
    settle_by_example(backend, example)
    try:
        examples = Examples(backend, backend.signature, None, example)
    except InferenceError as error:
        if example is not None:
            raise
        settle_axes(backend, None, written=stated)
        return Observed(None, f"none: no input was found that the model runs with ({error})", backend.signature)
    if not stated or (backend.reading is not None and backend.reading.unsure):
        settle_axes(backend, examples.of(examples.rows), written=False)
    examples = examples.under(backend.signature)
    trial = rows_first(backend)
    if trial is not backend:
        examples = Examples(trial, trial.signature, None, moved_example(examples, backend.signature))
        golden, origin = _self_reference(trial, examples)
        return Observed(in_own_axes(golden, backend.signature), origin, backend.signature, examples)
    golden, origin = _self_reference(backend, examples)
    runs = [] if golden is None else [golden.outputs]
    for batch in (examples.of(2), *examples.longer(3)):
        with suppress(InferenceError):
            runs.append(backend.run(batch))
    outputs = tuple(_as_observed(spec, runs) for spec in backend.signature.outputs)
    return Observed(golden, origin, replace(backend.signature, outputs=outputs), examples)


def _self_reference(backend: Backend, examples: Examples) -> tuple[Golden | None, str]:
    signature = backend.signature
    if any(spec.dtype == "BYTES" for spec in (*signature.inputs, *signature.outputs)):
        return None, "none: golden samples hold no text"
    rows = signature.fixed_rows or (ROWS if examples.made_up and not signature.whole else examples.rows)
    inputs = examples.of(rows)
    try:
        outputs = backend.run(inputs)
    except InferenceError as error:
        return None, f"none: the model does not run with {rows} rows ({error})"
    if not _usable(rows, outputs, signature):
        return None, "none: the model gave no finite answers to random inputs"
    source = f"{rows} random inputs, seed {SEED}" if examples.made_up else "the example"
    golden = Golden(inputs, outputs, whole=signature.whole)
    return golden, f"self-reference: the file's own answers to {source}"


def _usable(rows: int, outputs: Arrays, signature: Signature) -> bool:
    numbers = all_finite(outputs) and all(array.dtype.kind != "O" for array in outputs.values())
    return numbers and (signature.whole or all(np.ndim(array) and len(array) == rows for array in outputs.values()))


def _as_observed(spec: TensorSpec, runs: Sequence[Arrays]) -> TensorSpec:
    shapes = [run[spec.name].shape for run in runs if spec.name in run and run[spec.name].ndim == len(spec.shape)]
    kept = [all(shape[axis] == length for shape in shapes) for axis, length in enumerate(spec.shape)]
    lengths = (n if same else -1 for n, same in zip(spec.shape, kept, strict=True))
    return replace(spec, shape=tuple(lengths))
