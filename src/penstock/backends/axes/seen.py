"""Which axes follow the number of rows when a model runs: the batch axes that names and shapes leave open.

`RowsFirst` runs a model whose batch is on other axes as one with the batch on axis 0, for what a load tries it with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from penstock.artifacts.golden import Golden
from penstock.backends.base import Axes, Backend, BackendOptions, ModelFile, Reading
from penstock.backends.examples import Examples
from penstock.backends.probing.example_file import by_input_name, read_example
from penstock.errors import InferenceError, InvalidInput, OutOfMemory, UnsupportedFormat
from penstock.tensors import NO_AXES, Array, Arrays, Signature, TensorSpec

_ROWS = (2, 3)


def settle_axes(backend: Backend, base: Arrays | None, *, written: bool) -> None:
    """Let runs show what names and shapes leave open of the batch axes; the backend's signature has them then.

    `base` is an input that the model runs with. Without one nothing more is known, and inputs of which it is open
    whether they have the same number of rows are taken as they come, unless the signature is `written` in a manifest or
    by the user.
    """
    reading, signature = backend.reading, backend.signature
    if reading is None:
        return
    if base is not None:
        reading, found = seen_axes(backend, reading, base)
        signature = signature if written else found
    elif not written and not signature.fixed_rows:
        open_inputs = reading.unsure & {spec.name for spec in signature.inputs}
        reading = replace(reading, axes={**reading.axes, **dict.fromkeys(open_inputs)})
    backend.reading, backend.signature = reading, reading.applied(signature)


def settle_by_example(backend: Backend, given: Any) -> None:
    """An example of the user with another number of rows for each input shows that these have none in common.

    `given` is what `read_example` takes; one that cannot be read is refused by `Examples`.
    """
    reading = backend.reading
    if reading is None or given is None:
        return
    try:
        arrays = by_input_name(read_example(given), backend.signature)
        rows = {name: np.shape(array)[:1] for name, array in arrays.items() if name in reading.unsure}
    except (InvalidInput, ValueError):
        return
    inputs = [spec.name for spec in backend.signature.inputs if spec.name in rows]
    if len({rows[name] for name in inputs}) > 1:
        backend.reading = replace(reading, axes={**reading.axes, **dict.fromkeys(inputs)}, why="from the example")
        backend.signature = backend.reading.applied(backend.signature)


def seen_axes(backend: Backend, reading: Reading, base: Arrays) -> tuple[Reading, Signature]:
    """The axes that follow the number of rows in runs with 2 and 3 of them, and the signature with shapes as seen.

    `base` is an input that the model runs with. A model that does not run with other numbers of rows has no batch.
    """
    signature = backend.signature
    if reading.applied(signature).whole and not _only_outputs_differ(reading, signature):
        return reading, _with_outputs(signature, [backend.run(base)])
    fixed = _fixed_rows(signature, reading)
    sizes = (fixed,) if fixed else _ROWS if reading.unsure else _ROWS[1:]
    try:
        runs = [backend.run(base if fixed else _with_rows(base, reading.axes, rows)) for rows in sizes]
    except InferenceError as error:
        if isinstance(error, OutOfMemory) or signature.rows(base) > 1:  # the rows of the base may be the only number
            return reading, signature
        why = "it does not run with several rows"
        return replace(reading, axes=dict.fromkeys(reading.axes), why=why, unsure=frozenset()), signature
    axes = dict(reading.axes)
    for spec in signature.inputs:
        if spec.name in reading.unsure and not fixed and not _tied(backend, reading, base, spec.name):
            axes[spec.name] = None
    for spec in signature.outputs:
        shapes = [run[spec.name].shape for run in runs]
        axes[spec.name] = _followed(shapes, sizes, axes[spec.name])
    if all(axes[spec.name] is None for spec in signature.inputs):
        axes = dict.fromkeys(axes)
    changed = axes != reading.axes
    why = "from runs with 2 and 3 rows" if (changed or reading.unsure) and not fixed else reading.why
    return replace(reading, axes=axes, why=why, unsure=frozenset()), _with_outputs(signature, runs)


def _with_outputs(signature: Signature, runs: Sequence[Arrays]) -> Signature:
    return replace(signature, outputs=tuple(_as_seen(spec, runs) for spec in signature.outputs))


def _only_outputs_differ(reading: Reading, signature: Signature) -> bool:
    """True if every input has its batch axis, and what an output has is for a run to show."""
    served = {name: axis if reading.opted or axis == 0 else None for name, axis in reading.axes.items()}
    inputs = all(served[spec.name] is not None for spec in signature.inputs)
    return inputs and all(served[spec.name] is not None or spec.name in reading.unsure for spec in signature.outputs)


def _fixed_rows(signature: Signature, reading: Reading) -> int:
    """The only number of rows that the file takes, 0 if it takes any."""
    lengths = [spec.shape[reading.axes[spec.name] or 0] for spec in signature.inputs]
    return max([0, *lengths])


def _with_rows(base: Arrays, axes: Axes, rows: int, odd: str = "") -> Arrays:
    """The base with so many rows; one more in the input `odd`."""
    return {name: _taken(array, axes[name], rows + (name == odd)) for name, array in base.items()}


def _taken(array: Array, axis: int | None, rows: int) -> Array:
    if axis is None or not array.shape[axis]:
        return array
    return np.ascontiguousarray(np.take(array, np.arange(rows) % array.shape[axis], axis=axis))


def _tied(backend: Backend, reading: Reading, base: Arrays, name: str) -> bool:
    """False for an input whose number of rows may be another than that of the others."""
    try:
        backend.run(_with_rows(base, reading.axes, _ROWS[0], odd=name))
    except InferenceError:
        return True
    return False


def _followed(shapes: Sequence[tuple[int, ...]], rows: Sequence[int], expected: int | None) -> int | None:
    """The one axis that has the number of rows in every run; that expected if a single run shows no more."""
    if len({len(shape) for shape in shapes}) > 1:
        return None
    axes = [n for n, lengths in enumerate(zip(*shapes, strict=True)) if lengths == tuple(rows)]
    if len(shapes) == 1:
        return expected if expected in axes else None
    return axes[0] if len(axes) == 1 else None


def _as_seen(spec: TensorSpec, runs: Sequence[Arrays]) -> TensorSpec:
    """The output with the number of axes that it has; a length that a run contradicts is free."""
    shapes = [run[spec.name].shape for run in runs]
    if {len(shape) for shape in shapes} != {len(spec.shape)}:
        ranks = {len(shape) for shape in shapes}
        return replace(spec, shape=(-1,) * max(ranks), dims=(), ranked=len(ranks) == 1)
    lengths = zip(spec.shape, *shapes, strict=True)
    return replace(spec, shape=tuple(n if set(seen) == {n} else -1 for n, *seen in lengths))


# Other axes than 0


class RowsFirst(Backend):
    """Wraps a backend whose batch is another axis than 0 for some tensors: here it is axis 0 of all of them."""

    def __init__(self, inner: Backend) -> None:
        self.inner = inner
        self.format, self.device = inner.format, inner.device
        self.num_parameters, self.num_bytes = inner.num_parameters, inner.num_bytes
        self.own_threads, self.warnings = inner.own_threads, inner.warnings
        axes = inner.signature.batch_axes
        self.signature = Signature(
            tuple(_rows_first(spec, axes.get(spec.name) or 0) for spec in inner.signature.inputs),
            tuple(_rows_first(spec, axes.get(spec.name) or 0) for spec in inner.signature.outputs),
        )

    @classmethod
    def open(cls, file: ModelFile, options: BackendOptions) -> Backend:  # noqa: ARG003
        """Not supported: it wraps a backend that is already open."""
        raise UnsupportedFormat(f"{file.path}: open the model with the backend of its format")

    def run(self, inputs: Arrays) -> Arrays:
        """Outputs by name, axis 0 the batch. Raises InferenceError when a run fails."""
        axes = self.inner.signature.batch_axes
        return moved(self.inner.run(moved_back(inputs, axes)), axes)

    def close(self) -> None:
        """Close the wrapped backend."""
        self.inner.close()


def rows_first(backend: Backend) -> Backend:
    """The backend, with the batch on axis 0 of every tensor that has one; whole requests are left alone."""
    signature = backend.signature
    return RowsFirst(backend) if signature.batch_axes and not signature.whole else backend


def moved_samples(golden: Golden | None, signature: Signature) -> Golden | None:
    """Golden samples with the batch on axis 0."""
    if golden is None or golden.whole or not signature.batch_axes:
        return golden
    axes = signature.batch_axes
    return replace(golden, inputs=moved(golden.inputs, axes), outputs=moved(golden.outputs, axes), axes=NO_AXES)


def in_own_axes(golden: Golden | None, signature: Signature) -> Golden | None:
    """The inverse of `moved_samples`."""
    if golden is None:
        return None
    axes = signature.batch_axes
    return replace(golden, inputs=moved_back(golden.inputs, axes), outputs=moved_back(golden.outputs, axes), axes=axes)


def moved_example(examples: Examples, signature: Signature) -> Arrays | None:
    """The user's example with the batch on axis 0, None without one."""
    return None if examples.given is None else moved(examples.given, signature.batch_axes)


def moved(arrays: Arrays, axes: Mapping[str, int | None]) -> Arrays:
    """Arrays whose batch is on these axes, with the batch on axis 0."""
    return {name: np.ascontiguousarray(np.moveaxis(array, axes.get(name) or 0, 0)) for name, array in arrays.items()}


def moved_back(arrays: Arrays, axes: Mapping[str, int | None]) -> Arrays:
    """The inverse of `moved`."""
    return {name: np.ascontiguousarray(np.moveaxis(array, 0, axes.get(name) or 0)) for name, array in arrays.items()}


def _rows_first(spec: TensorSpec, axis: int) -> TensorSpec:
    order = (axis, *(other for other in range(len(spec.shape)) if other != axis))
    dims = tuple(spec.dims[n] for n in order) if spec.dims else ()
    return replace(spec, shape=tuple(spec.shape[n] for n in order), dims=dims)
