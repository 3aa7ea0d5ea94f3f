"""Runs models without a batch axis: each row of a batch is a separate run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from penstock.backends.base import Backend, BackendOptions, InputHints, ModelFile, empty_outputs
from penstock.errors import InferenceError, InvalidInput, UnsupportedFormat
from penstock.tensors import Array, Arrays


class RowByRow(Backend):
    """Wraps a backend that takes single rows; its signature has the batch axis that requests use.

    Inputs in the shapes of the file are a run of their own, and so are their outputs.
    """

    def __init__(self, inner: Backend) -> None:
        self.inner = inner
        self.format, self.device, self.signature = inner.format, inner.device, inner.signature.with_rows()
        self.num_parameters, self.num_bytes = inner.num_parameters, inner.num_bytes
        self.own_threads, self.warnings, self.lowered_to = inner.own_threads, inner.warnings, inner.lowered_to
        self.parallel_runs = inner.parallel_runs

    @classmethod
    def open(cls, file: ModelFile, options: BackendOptions) -> Backend:  # noqa: ARG003
        """Not supported: it wraps a backend that is already open."""
        raise UnsupportedFormat(f"{file.path}: open the model with the backend of its format")

    def run(self, inputs: Arrays) -> Arrays:
        """Outputs by name, axis 0 the rows. Raises InvalidInput for empty rows, InferenceError when a run fails."""
        if self.signature.in_file_shape(inputs):
            return self.inner.run(inputs)
        for name, array in inputs.items():
            if len(array) and not array.size:
                raise InvalidInput(f"{name}: a row of the shape {list(array.shape[1:])} has no elements", field=name)
        rows = len(next(iter(inputs.values())))
        if not rows:
            return empty_outputs(self.signature)
        answers = [self.inner.run({name: array[row, ...] for name, array in inputs.items()}) for row in range(rows)]
        return {name: _stacked(name, [answer[name] for answer in answers]) for name in answers[0]}

    @property
    def problem(self) -> str:
        """As the wrapped backend."""
        return self.inner.problem

    def input_hints(self) -> InputHints:
        """Those of the wrapped backend, whose axes are one less."""
        hints = self.inner.input_hints()
        lengths = {(name, axis + 1): length for (name, axis), length in hints.lengths.items()}
        least = {(name, axis + 1): length for (name, axis), length in hints.least.items()}
        return replace(hints, lengths=lengths, least=least)

    def cost_depends_on_rows_only(self) -> bool:
        """As the wrapped backend."""
        return self.inner.cost_depends_on_rows_only()

    def close(self) -> None:
        """Close the wrapped backend."""
        self.inner.close()


def _stacked(name: str, rows: Sequence[Array]) -> Array:
    if any(row.shape != rows[0].shape for row in rows):
        raise InferenceError(
            f"the model's output {name!r} has another shape for each row ({list(rows[0].shape)}, …); "
            "send each row in a separate request"
        )
    return np.stack(rows)
