"""The record of one finished request, and what the engine returns for one that succeeded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, TypeAlias

from pydantic import BaseModel

from penstock.engine.tasks.ranges import Flag
from penstock.errors import (
    DatabaseUnavailable,
    DeadlineExceeded,
    Forbidden,
    InvalidInput,
    ModelLoadError,
    ModelNotFound,
    ModelNotReady,
    OutOfRange,
    Overloaded,
)
from penstock.tasks.responses import ResponseText
from penstock.tensors import Array, Arrays

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
    (DatabaseUnavailable, "not_ready"),
    (ModelNotFound, "not_found"),
    (Forbidden, "invalid"),
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
    outside their expected range. `key` is the routing key of the request, `route` the name of a route that it took, and
    `arm` the version that the route chose. `item` is the place of a prediction in its batch request, None outside one.
    An answer from the cache has no `batch_rows`.
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
    route: str = ""
    arm: str = ""
    item: int | None = None
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


class AnsweredRequest(Protocol):
    """What the answers of a run do not share: one request, whose rows begin at `start` in the arrays of the run."""

    request_id: str
    key: str | None
    rows: int
    start: int


class Answered(NamedTuple):
    """Outputs of rows of one model version; the inputs of the same rows where they are a sample of the requests."""

    model: str
    version: str
    outputs: Arrays
    rows: int
    inputs: Arrays | None = None


FEW = 64


def few_numbers(array: Array, rows: int) -> Array:
    """At most `FEW` numbers of each row, at equal distances; a copy if there are more."""
    step = -(-array.size // (max(rows, 1) * FEW))
    return array if step <= 1 else array.reshape(-1)[::step].copy()


@dataclass(slots=True, kw_only=True)
class AnsweredRun:
    """Requests that one run has answered: the fields of their Observations, those that they share once.

    `inputs` and `outputs` hold the rows of all `requests` and belong to the run: an observer that keeps them keeps
    their memory. `totals_ms` and `queues_ms` are those of each request, in order.
    """

    model: str
    version: str
    variant: str
    task: str
    protocol: str
    route: str
    arm: str
    batch_rows: int
    pre_ms: float
    run_ms: float
    post_ms: float
    requests: Sequence[AnsweredRequest]
    totals_ms: Sequence[float]
    queues_ms: Sequence[float]
    inputs: Arrays
    outputs: Arrays

    def __len__(self) -> int:
        return len(self.requests)

    def observation(self, index: int) -> Observation:
        """One of the requests as an Observation."""
        request = self.requests[index]
        own = slice(request.start, request.start + request.rows)
        return Observation(
            model=self.model,
            version=self.version,
            variant=self.variant,
            outcome="ok",
            total_ms=self.totals_ms[index],
            request_id=request.request_id,
            task=self.task,
            protocol=self.protocol,
            key=request.key,
            route=self.route,
            arm=self.arm,
            rows=request.rows,
            batch_rows=self.batch_rows,
            pre_ms=self.pre_ms,
            queue_ms=self.queues_ms[index],
            run_ms=self.run_ms,
            post_ms=self.post_ms,
            inputs={name: array[own] for name, array in self.inputs.items()},
            outputs={name: array[own] for name, array in self.outputs.items()},
        )

    def rows_of(self, requests: Iterable[AnsweredRequest]) -> Answered:
        """Copies of the rows of some of the requests."""
        rows = [row for one in requests for row in range(one.start, one.start + one.rows)]
        outputs, inputs = ({name: array[rows] for name, array in side.items()} for side in (self.outputs, self.inputs))
        return Answered(self.model, self.version, outputs, len(rows), inputs)

    def observations(self) -> Iterator[Observation]:
        """Every request as an Observation."""
        return map(self.observation, range(len(self.requests)))


SHADOW = "shadow"
"""The protocol of copies of requests, which no client waits for."""

Observer: TypeAlias = Callable[[Observation], None]


class RunObserver(Protocol):
    """An observer that takes the answers of a run at once, which costs less than an Observation for each.

    One that looks at answers only has the attribute `answers_only`, which is true: it is not shown refusals that are
    counted together.
    """

    def __call__(self, seen: Observation) -> None:
        """Take one finished request, for those that were not answered together."""

    def answered(self, run: AnsweredRun) -> None:
        """Take requests that one run has answered; none of them has flags."""


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
