"""The record of one finished request, and what came back from it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias

from pydantic import BaseModel

from penstock.engine.tasks.ranges import Flag
from penstock.errors import (
    DeadlineExceeded,
    InvalidInput,
    ModelLoadError,
    ModelNotFound,
    ModelNotReady,
    OutOfRange,
    Overloaded,
)
from penstock.tensors import Arrays

Outcome: TypeAlias = Literal[
    "ok",
    "invalid",
    "out_of_range",
    "overloaded",
    "deadline",
    "cancelled",
    "not_ready",
    "not_found",
    "load_error",
    "error",
]

_OUTCOMES: tuple[tuple[type[BaseException], Outcome], ...] = (
    (asyncio.CancelledError, "cancelled"),
    (OutOfRange, "out_of_range"),
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

    `batch_rows` is how many rows shared the run, `rows` how many of them were this request's. `inputs` are the arrays
    the model was given, None where it was given none; an observer that keeps them keeps their memory. `flags` are
    the tensors outside of what the model was made for.
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
    inputs: Arrays | None = None
    flags: tuple[Flag, ...] = ()


Observer: TypeAlias = Callable[[Observation], None]


class Prediction(NamedTuple):
    """An answer with its provenance and times: `response` is the Task's Response; times in milliseconds.

    `flags` are the tensors of the request outside of what the model was made for.
    """

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
    flags: tuple[Flag, ...] = ()
