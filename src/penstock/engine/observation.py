"""The record of one finished request, and what came back from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias

from pydantic import BaseModel

from penstock.errors import (
    DeadlineExceeded,
    InvalidInput,
    ModelLoadError,
    ModelNotFound,
    ModelNotReady,
    Overloaded,
)

Outcome: TypeAlias = Literal[
    "ok", "invalid", "overloaded", "deadline", "cancelled", "not_ready", "not_found", "load_error", "error"
]

_OUTCOMES: tuple[tuple[type[BaseException], Outcome], ...] = (
    (InvalidInput, "invalid"),
    (Overloaded, "overloaded"),
    (DeadlineExceeded, "deadline"),
    (ModelNotReady, "not_ready"),
    (ModelNotFound, "not_found"),
    (ModelLoadError, "load_error"),
)


def outcome_of(error: BaseException) -> Outcome:
    """The one word for how a request failed."""
    return next((outcome for kind, outcome in _OUTCOMES if isinstance(error, kind)), "error")


class Observation(NamedTuple):
    """One request from the engine's view, whatever its outcome; times in milliseconds, 0 for a phase not reached.

    `batch_rows` is how many rows shared the run, `rows` how many of them were this request's.
    """

    model: str
    version: str
    variant: str
    outcome: Outcome
    rows: int
    batch_rows: int
    pre_ms: float
    queue_ms: float
    run_ms: float
    post_ms: float
    total_ms: float
    request_id: str


Observer: TypeAlias = Callable[[Observation], None]


class Prediction(NamedTuple):
    """An answer with its provenance and times: `response` is the Task's Response; times in milliseconds."""

    response: BaseModel
    model: str
    version: str
    variant: str
    batch_rows: int
    pre_ms: float
    queue_ms: float
    run_ms: float
    post_ms: float
    total_ms: float
