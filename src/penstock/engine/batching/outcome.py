"""What becomes of one request in a batch."""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeAlias, TypeVar

from penstock.errors import Overloaded, PenstockError

Result = TypeVar("Result")


class Batched(NamedTuple, Generic[Result]):
    """One request's part of the outputs, and facts of its batch. Times in seconds."""

    outputs: Result
    batch_rows: int
    queue_s: float
    run_s: float


class Preempted(Overloaded):
    """The request was evicted from a full queue by requests of a higher priority."""


Outcome: TypeAlias = "Batched[Result] | PenstockError"
