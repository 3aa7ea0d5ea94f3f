"""Several requests of one turn of the event loop, as one item in the queue of their model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import Context
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
from pydantic import BaseModel

from penstock.engine.batching.flows.flow import Flow
from penstock.engine.batching.flows.item import Item
from penstock.engine.loading.loaded_model import LoadedModel
from penstock.engine.tasks.ranges import Flag
from penstock.engine.tasks.task_runner import TaskRunner
from penstock.tensors import Arrays

Answer: TypeAlias = BaseModel | bytes
"""A task's response, or its JSON without the fields of `TimedResponse` and without the closing brace."""


class Member:
    """One request of a bundle. Times are in `time.monotonic()` seconds.

    `request` is the Request of the task, or the numbers of its `array_field`, flat and of float64. `caller` is what the
    replies need. After submission the member has `rows` from `start` on in the arrays of its `bundle`.
    """

    # no slots: what most members have in common is set once, in the class
    bundle: Bundle
    context: Context | None = None
    """In which its observers are called; None for the current one."""
    ended = False
    flags: tuple[Flag, ...] = ()
    rows = 1
    start = 0

    def __init__(
        self, caller: Any, request: Any, started: float, deadline: float, request_id: str = "", key: str | None = None
    ) -> None:
        self.caller = caller
        self.request = request
        self.started = started
        self.deadline = deadline
        self.request_id = request_id
        self.key = key


class Times(NamedTuple):
    """The times of the answered members of a bundle, in milliseconds. They share all but the time in the queue."""

    pre_ms: float
    queues_ms: Sequence[float]
    """Of each member, for the turn of the event loop and for the run."""
    run_ms: float
    post_ms: float


class Replies(Protocol):
    """What sends the replies. Both are called on the event loop, once for each member that was not cancelled."""

    def answered(self, bundle: Bundle, members: Sequence[Member], answers: Sequence[Answer], times: Times) -> None:
        """Send the answers of some members."""

    def failed(self, member: Member, error: Exception) -> None:
        """Send an error."""

    def declined(self, member: Member) -> None:
        """Answer a member in the ordinary way, which makes large answers off the event loop."""


class Bundle:
    """Members that share a run, in the place of the future of one item."""

    __slots__ = (
        "arm", "arrays", "begun", "complete", "ended", "flow", "item", "members", "model", "prepared", "priority",
        "queued", "replies", "route", "runner",
    )  # fmt: skip

    item: Item[Arrays]

    def __init__(
        self,
        model: LoadedModel,
        runner: TaskRunner,
        replies: Replies,
        priority: int,
        begun: float,
        complete: Callable[[Bundle, Any], None],
    ) -> None:
        """`begun`: when the turn ended, in `time.monotonic()` seconds. `complete` takes the outcome of the run."""
        self.complete = complete
        self.model = model
        self.runner = runner
        self.replies = replies
        self.priority = priority
        self.begun = begun
        self.prepared = begun
        self.ended = False
        self.queued = False
        self.flow: Flow | None = None
        """The caller of all members, where it matters."""
        self.route = self.arm = ""
        """The route that has chosen the model, and the version that it chose."""
        self.members: Sequence[Member] = ()
        self.arrays: Arrays = {}

    def holding(self, members: Sequence[Member], arrays: Arrays) -> Bundle:
        """A bundle like this one, with these members and the rows of their inputs, in order."""
        bundle = Bundle(self.model, self.runner, self.replies, self.priority, self.begun, self.complete)
        bundle.prepared, bundle.members, bundle.arrays = self.prepared, members, arrays
        bundle.route, bundle.arm, bundle.flow = self.route, self.arm, self.flow
        bundle._place_members()
        return bundle

    def part(self, members: Sequence[Member]) -> Bundle:
        """A bundle of some of these members."""
        return self.holding(members, rows_of(self.arrays, members))

    def cut(self) -> list[Bundle]:
        """Bundles of at most one batch each, or of a part of one where several callers wait."""
        most, last = self.model.batcher.queue.bundle_rows(), self.members[-1]
        if last.start + last.rows <= most:
            return [self]
        if last.start + last.rows == len(self.members):  # each has one row
            return [self.part(self.members[low : low + most]) for low in range(0, len(self.members), most)]
        parts: list[list[Member]] = []
        rows = most
        for member in self.members:
            rows += member.rows
            if rows > most:
                parts.append([])
                rows = member.rows
            parts[-1].append(member)
        return [self.part(part) for part in parts]

    def keep(self, members: Sequence[Member]) -> None:
        """Drop the other members, and their rows."""
        self.arrays = rows_of(self.arrays, members)
        self.members = members
        self._place_members()

    def _place_members(self) -> None:
        start = 0
        for member in self.members:
            member.bundle, member.start = self, start
            start += member.rows

    def let_go(self) -> None:
        """Forget the members, which know the bundle, once all have their outcome: the collector need not find them."""
        self.members, self.arrays = (), {}
        del self.item

    def done(self) -> bool:
        """True once the outcome is known."""
        return self.ended

    def set_result(self, outcome: Any) -> None:
        """Take the outcome of the run."""
        self.complete(self, outcome)


def own_rows(arrays: Arrays, member: Member) -> Arrays:
    """The rows of one member: views."""
    return {name: array[member.start : member.start + member.rows] for name, array in arrays.items()}


def rows_of(arrays: Arrays, members: Sequence[Member]) -> Arrays:
    """The rows of some members, in order: a view if they are neighbours."""
    if not members:
        return {name: array[:0] for name, array in arrays.items()}
    first, last = members[0], members[-1]
    end = last.start + last.rows
    if sum([member.rows for member in members]) == end - first.start:
        return {name: array[first.start : end] for name, array in arrays.items()}
    index = np.concatenate([np.arange(member.start, member.start + member.rows) for member in members])
    return {name: array[index] for name, array in arrays.items()}
