"""The record of one finished request, and what the engine returns for one that succeeded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
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
from penstock.tasks.responses import ResponseText
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
    """The outcome that stands for an error: its own `outcome` where it has one, as a refusal of a protocol may."""
    if isinstance(error, asyncio.CancelledError) and error.args and isinstance(error.args[0], Exception):
        error = error.args[0]  # the server has cancelled it, and says why
    own: Outcome | None = getattr(error, "outcome", None)
    if own is not None:
        return own
    return next((outcome for kind, outcome in _OUTCOMES if isinstance(error, kind)), "error")


@dataclass(slots=True, kw_only=True)
class Observation:
    """One finished request, successful or not. Read it by name and do not change it: all observers share it.

    Times are in milliseconds, 0 for a phase that was not reached. `model`, `version` and `variant` are empty where no
    model was found: the name came from the client, and as a label it would grow without bound. `batch_rows` is the
    number of rows in the run, `rows` how many of them belong to this request. `inputs` and `outputs` are the arrays of
    the model, None where it did not run; an observer that keeps them keeps their memory. `flags` are the tensors
    outside their expected range. `key` is the routing key of the request and `arm` the arm of a route that it took.
    """

    # A frozen dataclass takes three times as long to build, which every request would pay.

    model: str
    version: str
    variant: str
    outcome: Outcome
    total_ms: float
    request_id: str = ""
    task: str = ""
    protocol: str = ""
    key: str | None = None
    arm: str = ""
    rows: int = 0
    batch_rows: int = 0
    pre_ms: float = 0.0
    queue_ms: float = 0.0
    run_ms: float = 0.0
    post_ms: float = 0.0
    inputs: Arrays | None = None
    outputs: Arrays | None = None
    flags: tuple[Flag, ...] = ()
    error: BaseException | None = None


Observer: TypeAlias = Callable[[Observation], None]


class Prediction(NamedTuple):
    """The answer of a task, with the model that gave it: `response` is the task's Response; times in milliseconds.

    `batch_rows` is the number of rows in the run, 0 for an answer from the cache. `flags` are the tensors of the
    request outside their expected range. `text` is the JSON of a large response, where it was asked for.
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
    text: ResponseText | None = None


class Inference(NamedTuple):
    """The outputs of a model by name, with the model that gave them; times in milliseconds.

    The arrays may be views of a batch that other requests share: copy what you keep or change. `batch_rows` and
    `flags` are those of a Prediction.
    """

    outputs: Arrays
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
