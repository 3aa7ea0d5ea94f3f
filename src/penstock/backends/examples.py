"""Inputs to run a model with at load: its golden samples, an example from the user, or made-up ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

import numpy as np

from penstock.artifacts.golden import Golden
from penstock.backends.base import Backend
from penstock.backends.probing.example_file import by_input_name, read_example
from penstock.backends.probing.search import LENGTHS, Search
from penstock.backends.probing.values import STYLES, Lengths, Values, free_axes, make_inputs, rows_to_try
from penstock.errors import InferenceError, InvalidInput
from penstock.tensors import Array, Arrays, Signature


class Examples:
    """Inputs for the runs of a load: warm-up, proofs, golden samples."""

    def __init__(self, backend: Backend, signature: Signature, golden: Golden | None, given: Any = None) -> None:
        """`given`, the example of the user as `read_example` takes it, comes before golden samples and made-up inputs.

        Raises InvalidInput when the example does not fit the signature, and the model's InferenceError when it does not
        run with the example, or without one with anything that is tried.
        """
        self.signature = signature
        self._kept: Arrays | None = None
        self.given: Arrays | None = None
        """The user's example."""
        self.run_s: float | None = None
        """Seconds of an early run with made-up inputs, which may have allocated or compiled."""
        self._lengths: Lengths = {}
        self._values: Values = STYLES[0]
        if given is not None:
            self._kept = self.given = _checked(backend, signature, given)
        elif golden is not None:
            self._kept = golden.inputs
        else:
            search = Search(backend, signature)
            self._lengths, self._values = search.found()
            self.run_s = search.run_s

    @property
    def made_up(self) -> bool:
        """True when the inputs are neither golden samples nor the user's."""
        return self._kept is None

    @property
    def rows(self) -> int:
        """The rows of the golden samples or of the user's example; for made-up inputs those that were tried."""
        return rows_to_try(self.signature) if self._kept is None else self.signature.rows(self._kept)

    def of(self, rows: int) -> Arrays:
        """A batch of this many rows, the same at each call. An axis of a fixed length keeps it."""
        if self._kept is not None and self.signature.whole:
            return self._kept
        if self._kept is not None:
            return {name: np.ascontiguousarray(_tile(array, rows)) for name, array in self._kept.items()}
        rows = self.rows if self.signature.whole else rows
        return make_inputs(self.signature, rows, self._lengths, self._values)

    def longer(self, rows: int) -> Iterator[Arrays]:
        """Batches whose free lengths are other ones, the likely ones first; only the rows differ for kept inputs."""
        if self._lengths:
            yield make_inputs(self.signature, rows, {axis: n + 1 for axis, n in self._lengths.items()}, self._values)
            yield make_inputs(self.signature, rows, {axis: 2 * n for axis, n in self._lengths.items()}, self._values)
        yield self.of(rows)

    def under(self, signature: Signature) -> Self:
        """The same inputs, with the axes of the same model read in another way."""
        other = object.__new__(type(self))
        other.signature, other._kept, other._values, other.given = signature, self._kept, self._values, self.given
        other.run_s = self.run_s
        other._lengths = {axis: self._lengths.get(axis, LENGTHS[0]) for axis in free_axes(signature)}
        return other


def _checked(backend: Backend, signature: Signature, given: Any) -> Arrays:
    named = _with_rows(by_input_name(read_example(given), signature), signature)
    try:
        arrays, rows = signature.validate(named)
    except InvalidInput as error:
        raise InvalidInput(f"example: {error}", field="example") from None
    if not rows:
        raise InvalidInput("example: it has no rows; give at least one", field="example")
    try:
        backend.run(arrays)
    except InferenceError as error:
        raise InferenceError(f"it does not run with the example: {error}") from error
    return arrays


def _with_rows(given: dict[str, Any], signature: Signature) -> dict[str, Any]:
    """A single number for an input of one value a row counts for all rows."""
    single = [spec.name for spec in signature.inputs if spec.shape == (-1,) and not np.ndim(given.get(spec.name, [0]))]
    rows = max((len(value) for name, value in given.items() if name not in single and np.ndim(value)), default=1)
    return {name: np.repeat(value, rows) if name in single else value for name, value in given.items()}


def _tile(array: Array, rows: int) -> Array:
    return array[np.arange(rows) % len(array)]
