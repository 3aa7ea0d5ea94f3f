"""Which axis of each input and output is the batch: stated, or read from names and shapes.

`seen` asks runs of the model for what is left open.

The order is that of the evidence: what a manifest or the user states; the names of axes (`batch` against `time`) and
the symbols that inputs and outputs share; and last what the outputs do when the model runs with 2 and with 3 rows.

Requests are joined along the batch axis only where it is axis 0 of every tensor, or where other axes were stated. Any
other model still runs: one request at a time, in the shapes of its file (`Signature.whole`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from penstock.backends.base import Axes, Reading, Stated
from penstock.tensors import Signature, TensorSpec

_OPERATORS = re.compile(r"[*+/()]")
_BATCH = re.compile(r"batch|(^|[_.])bsz?($|[_.])", re.IGNORECASE)
"""Plain names of the batch. The letters B and N come after them, in this order: in `[B, N, 3]` B is the batch."""
_LENGTH = re.compile(r"seq|time|len|step|frame|phoneme|token|word|char|(^|[_.])[tl]($|[_.\d])", re.IGNORECASE)
_MADE_UP = re.compile(r".*_dim_\d+|.*dynamic_axes_\d+", re.IGNORECASE)
"""Names that exporters make up for each tensor: two of them may be one length."""


def all_axes(signature: Signature) -> Axes:
    """The batch axis of every input and output."""
    names = (spec.name for spec in (*signature.inputs, *signature.outputs))
    return {name: signature.batch_axes.get(name, 0) for name in names}


def read_axes(signature: Signature, stated: Stated | None = None) -> Reading:
    """The batch axes by what is stated, by names and by shapes. Raises InvalidInput for one of an unknown tensor."""
    specs = (*signature.inputs, *signature.outputs)
    if stated is not None and stated.none:
        return Reading(dict.fromkeys(spec.name for spec in specs), stated.by)
    replace(signature, batch_axes=stated.axes if stated is not None else {})  # checks the names
    reading = _read(signature)
    if stated is None:
        return reading
    rest = reading.unsure - stated.axes.keys()
    return Reading({**reading.axes, **stated.axes}, stated.by, rest, opted=True)


def _read(signature: Signature) -> Reading:
    inputs, outputs = signature.inputs, signature.outputs
    if _one_fixed_batch(inputs, outputs):
        names = [spec.name for spec in (*inputs, *outputs)]
        return Reading(dict.fromkeys(names, 0), "from the fixed shapes", frozenset(names))
    symbols = _batch_symbols(inputs)
    axes: Axes = {}
    unsure: set[str] = set()
    for spec in inputs:
        axes[spec.name], sure = _axis_of_input(spec, symbols, inputs)
        if not sure:
            unsure.add(spec.name)
    lengths = {dim for spec in inputs for dim in spec.dims if dim} - symbols
    for spec in outputs:
        axis, sure = _axis_of_output(spec, symbols, lengths)
        if spec.name in axes:  # one name for an input and an output
            axis = axis if axis == axes[spec.name] else None
        axes[spec.name] = axis
        if not sure:
            unsure.add(spec.name)
    if all(axes[spec.name] is None for spec in inputs):
        axes = dict.fromkeys(axes)
    why = "from the names of axes" if symbols or any(any(spec.dims) for spec in inputs) else "from the shapes"
    return Reading(axes, why, frozenset(unsure))


def _one_fixed_batch(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> bool:
    """True for a file that takes one number of rows only, in every input and output."""
    firsts = {spec.shape[0] if spec.shape else 0 for spec in inputs}
    firsts |= {spec.shape[0] if spec.shape else 0 for spec in outputs} - {-1}
    return len(firsts) == 1 and min(firsts) > 0


def _batch_symbols(inputs: Sequence[TensorSpec]) -> frozenset[str]:
    """The names of the batch: those that say so, else the only name that the first axes of inputs have."""
    free = {dim for spec in inputs for dim, n in zip(spec.dims, spec.shape, strict=False) if dim and n < 0}
    if plain := {dim for dim in free if _BATCH.search(dim) and not _OPERATORS.search(dim)}:
        return frozenset(plain)
    firsts = {dim for dim in map(_first_name, inputs) if dim and not _LENGTH.search(dim)}
    for letter in ("b", "n"):
        if found := {dim for dim in firsts or free if dim.lower() == letter}:
            return frozenset(found)
    named = {dim for dim in firsts if not _MADE_UP.fullmatch(dim)}
    return frozenset(named or firsts) if len(named) < 2 else frozenset()


def _first_name(spec: TensorSpec) -> str | None:
    return spec.dims[0] if spec.dims and spec.shape[0] < 0 else None


def _axis_of_input(spec: TensorSpec, symbols: frozenset[str], inputs: Sequence[TensorSpec]) -> tuple[int | None, bool]:
    """The batch axis, and whether that is sure."""
    places = [axis for axis, dim in enumerate(spec.dims) if dim in symbols]
    if places:
        return (places[0] if len(places) == 1 else None), len(symbols) == 1 or len(inputs) == 1
    if not spec.shape or spec.shape[0] >= 0:
        return None, True
    name = _first_name(spec)
    if name is not None and (_LENGTH.search(name) or not _MADE_UP.fullmatch(name)):
        return None, True
    return 0, len(inputs) == 1


def _axis_of_output(spec: TensorSpec, symbols: frozenset[str], lengths: Iterable[str]) -> tuple[int | None, bool]:
    places = [axis for axis, dim in enumerate(spec.dims) if dim in symbols]
    if places:
        return (places[0] if len(places) == 1 else None), True
    name = spec.dims[0] if spec.dims else None
    if name is not None and (name in lengths or _LENGTH.search(name)):
        return None, True
    return (0 if spec.shape else None), False


def is_one_row(signature: Signature) -> bool:
    """True for a file that takes one vector of numbers and returns another: each row of a request is a separate run."""
    if len(signature.inputs) != 1 or len(signature.outputs) != 1:
        return False
    given, answer = signature.inputs[0], signature.outputs[0]
    fixed = all(spec.dtype == "FP32" and len(spec.shape) == 1 and spec.shape[0] > 0 for spec in (given, answer))
    return fixed and answer.shape[0] >= 2 and not _one_fixed_batch(signature.inputs, signature.outputs)
