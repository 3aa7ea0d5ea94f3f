"""Combines requests of one model into a batch, and splits the outputs."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from penstock import tensors
from penstock.tensors import Arrays

Payload = TypeVar("Payload")
Batch = TypeVar("Batch")
Result = TypeVar("Result")


class Collator(Protocol[Payload, Batch, Result]):
    """What the queue and the batcher know about payloads. A backend turns one batch into another."""

    @property
    def shared(self) -> bool:
        """False if each request needs a separate run."""

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

    measure = staticmethod(tensors.measure)
    stack = staticmethod(tensors.stack)
    split = staticmethod(tensors.split)
    cut = staticmethod(tensors.cut)
    join = staticmethod(tensors.stack)


class WholeCollator:
    """Each request is one run, exactly as it came: never joined with others and never cut.

    For a model whose rows influence each other, or whose tensors have no batch axis. A request counts as one row.
    """

    shared = False

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
