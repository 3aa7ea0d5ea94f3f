"""Combines requests of one model into a batch, and splits the outputs."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from penstock import tensors
from penstock.tensors import Array, Arrays, Signature

Payload = TypeVar("Payload")
Batch = TypeVar("Batch")
Result = TypeVar("Result")


class Collator(Protocol[Payload, Batch, Result]):
    """What the queue and the batcher know about payloads. A backend turns one batch into another."""

    @property
    def shared(self) -> bool:
        """False if each request needs a separate run."""

    @property
    def plain(self) -> bool:
        """True if payloads are arrays that share runs joined along axis 0, just as they are."""

    def measure(self, payload: Payload) -> tuple[Hashable, int, int]:
        """Key, rows and bytes. Payloads of one key can share a run. Raises InvalidInput for one that cannot run."""

    def stack(self, payloads: Sequence[Payload]) -> Batch:
        """One batch from payloads of one key."""

    def split(self, outputs: Batch, payloads: Sequence[Payload]) -> list[Result]:
        """One result per stacked payload. Raises InferenceError if the outputs do not match the batch."""

    def cut(self, payload: Payload, rows: int) -> list[Payload]:
        """The parts of a payload, each of at most `rows` rows."""

    def join(self, results: Sequence[Result]) -> Result:
        """One result from those of the parts, in order."""


@dataclass(frozen=True, slots=True)
class ArrayCollator:
    """Arrays along axis 0; requests of equal names, datatypes and row shapes share a run.

    The members are the functions of `tensors` themselves: a method around each costs every request a call.
    """

    shared: bool = True

    @property
    def plain(self) -> bool:
        """True if requests share runs."""
        return self.shared

    measure = staticmethod(tensors.measure)
    stack = staticmethod(tensors.stack)
    split = staticmethod(tensors.split)
    cut = staticmethod(tensors.cut)
    join = staticmethod(tensors.stack)


class WholeCollator:
    """Each request is one run, exactly as it came: never joined with others and never cut.

    For a model whose rows influence each other, or whose tensors have no batch axis. A request counts as one row.
    """

    shared = plain = False

    def measure(self, payload: Arrays) -> tuple[Hashable, int, int]:
        """One key for all, one row, and the bytes."""
        return None, 1, tensors.nbytes(payload)

    def stack(self, payloads: Sequence[Arrays]) -> Arrays:
        """The only payload."""
        (payload,) = payloads
        return payload

    def split(self, outputs: Arrays, payloads: Sequence[Arrays]) -> list[Arrays]:  # noqa: ARG002
        """The outputs as they are: their shapes need not match those of the inputs."""
        return [outputs]

    def cut(self, payload: Arrays, rows: int) -> list[Arrays]:  # noqa: ARG002
        """The payload, in one part."""
        return [payload]

    def join(self, results: Sequence[Arrays]) -> Arrays:
        """The only result."""
        (result,) = results
        return result


class AxisCollator:
    """Arrays along the batch axis of each tensor, which is not axis 0 of all of them."""

    shared = True
    plain = False

    def __init__(self, axes: Mapping[str, int | None]) -> None:
        """`axes` are the batch axes that are not axis 0, by input and output."""
        self._axes = {name: axis or 0 for name, axis in axes.items()}

    def _rows(self, arrays: Arrays) -> int:
        name, array = next(iter(arrays.items()))
        return int(array.shape[self._axes.get(name, 0)])

    def _row_shape(self, name: str, array: Array) -> tuple[int, ...]:
        axis = self._axes.get(name, 0)
        return (*array.shape[:axis], *array.shape[axis + 1 :])

    def measure(self, payload: Arrays) -> tuple[Hashable, int, int]:
        """Key, rows and bytes; payloads of equal names, datatypes and row shapes share the key."""
        key = tuple((name, array.dtype.num, self._row_shape(name, array)) for name, array in payload.items())
        return key, self._rows(payload), tensors.nbytes(payload)

    def stack(self, payloads: Sequence[Arrays]) -> Arrays:
        """One batch, each tensor joined along its own axis."""
        if len(payloads) == 1:
            return payloads[0]
        return {
            name: np.concatenate([payload[name] for payload in payloads], axis=self._axes.get(name, 0))
            for name in payloads[0]
        }

    def split(self, outputs: Arrays, payloads: Sequence[Arrays]) -> list[Arrays]:
        """The outputs of each payload: views of its rows. Raises InferenceError for another number of rows."""
        rows = [self._rows(payload) for payload in payloads]
        tensors.check_rows(outputs, sum(rows), self._axes)
        ends = np.cumsum(rows).tolist()
        return [_part(outputs, end - n, end, self._axes) for n, end in zip(rows, ends, strict=True)]

    def cut(self, payload: Arrays, rows: int) -> list[Arrays]:
        """Views of at most `rows` rows each, in order."""
        starts = range(0, self._rows(payload), rows)
        return [_part(payload, start, start + rows, self._axes) for start in starts]

    def join(self, results: Sequence[Arrays]) -> Arrays:
        """The inverse of `cut`, for outputs."""
        return self.stack(results)


class RowCollator:
    """Each request alone, for a model that runs row by row; rows of the file's own shape are a request of one row."""

    shared = plain = False
    stack = staticmethod(tensors.stack)
    cut = staticmethod(tensors.cut)
    join = staticmethod(tensors.stack)

    def __init__(self, signature: Signature) -> None:
        """`signature` is that of requests, with rows."""
        self._signature = signature

    def measure(self, payload: Arrays) -> tuple[Hashable, int, int]:
        """One key for all, the rows and the bytes."""
        return None, self._signature.rows(payload), tensors.nbytes(payload)

    def split(self, outputs: Arrays, payloads: Sequence[Arrays]) -> list[Arrays]:
        """The outputs of the only payload. Raises InferenceError for another number of rows."""
        (payload,) = payloads
        return [outputs] if self._signature.in_file_shape(payload) else tensors.split(outputs, payloads)


def _part(arrays: Arrays, start: int, end: int, axes: Mapping[str, int]) -> Arrays:
    """Views of the rows from `start` to `end` along the batch axes, 0 for those not in `axes`."""
    return {name: array[(slice(None),) * axes.get(name, 0) + (slice(start, end),)] for name, array in arrays.items()}
