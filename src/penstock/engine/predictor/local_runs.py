"""Runs of prepared requests without a queue: which share a run, and how many rows it has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from penstock.engine.batching.halving import halve_rows
from penstock.engine.batching.padding import collated
from penstock.engine.loading.loaded_model import LoadedModel
from penstock.errors import OutOfMemory
from penstock.tensors import Arrays


class LocalRuns:
    """Runs requests of one loaded model in the calling thread."""

    def __init__(self, model: LoadedModel) -> None:
        self._whole = model.batcher.limits.whole
        self._run, self._collator = collated(model.backend, whole=self._whole)
        self._fixed_rows = model.signature.fixed_rows

    def outputs(self, inputs: Sequence[Arrays], rows: Sequence[int], size: int) -> list[Arrays]:
        """Outputs of each request of so many `rows`; those that can share a run do, at most `size` rows of them.

        Of a model that is not batchable each request is one run, whatever its rows.
        """
        if self._whole:
            return [self._run(arrays) for arrays in inputs]
        outputs: dict[int, Arrays] = {}
        for members in self._packed(inputs, rows, size):
            arrays = [inputs[index] for index in members]
            ran = self._run_rows(self._collator.stack(arrays), sum(rows[index] for index in members), size)
            outputs.update(zip(members, self._collator.split(ran, arrays), strict=True))
        return [outputs[index] for index in range(len(inputs))]

    def _packed(self, inputs: Sequence[Arrays], rows: Sequence[int], size: int) -> Iterator[list[int]]:
        """The indices of the requests of each run."""
        groups: dict[Any, list[int]] = {}
        for index, arrays in enumerate(inputs):
            groups.setdefault(self._collator.measure(arrays)[0], []).append(index)
        for members in groups.values():
            run: list[int] = []
            filled = 0
            for index in members:
                if run and (filled + rows[index] > size or not self._collator.shared):
                    yield run
                    run, filled = [], 0
                run.append(index)
                filled += rows[index]
            yield run

    def _run_rows(self, arrays: Arrays, rows: int, size: int) -> Arrays:
        """All rows, at most `size` a run (or the batch that the model was exported for)."""
        size = min(size, self._fixed_rows or size)
        if rows <= size:
            return self._run_part(arrays, rows)
        parts = enumerate(self._collator.cut(arrays, size))
        return self._collator.join([self._run_part(part, min(size, rows - n * size)) for n, part in parts])

    def _run_part(self, arrays: Arrays, rows: int) -> Arrays:
        """One run, or several of fewer rows if that does not fit into memory."""
        try:
            return self._run(arrays)
        except OutOfMemory as error:
            if self._fixed_rows is not None:
                raise
            return self._collator.join(halve_rows(self._run, arrays, rows, self._collator.cut, error))
