"""Queues the requests of one turn of the event loop together, and answers each.

No request has a task or a future of its own here: the batcher hands the outcome of the run to the bundle. Deadlines,
isolation, cancellation and counting are those of each member.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from penstock import tensors
from penstock.engine.admission import Admission, flags_of, past_deadline
from penstock.engine.batching.outcome import Batched, Preempted
from penstock.engine.bundling.bundle import Answer, Bundle, Member, Replies, Times, own_rows, rows_of
from penstock.engine.loading.loaded_model import LoadedModel
from penstock.engine.observation import AnsweredRun, Observation, outcome_of
from penstock.engine.pipeline import finish, prepare
from penstock.engine.statistics import Statistics
from penstock.engine.tasks.task_runner import SLOW_S, TaskRunner
from penstock.errors import (
    DeadlineExceeded,
    InferenceError,
    InvalidInput,
    ModelNotReady,
    Overloaded,
    PenstockError,
    type_and_message,
)
from penstock.tasks.base import Task
from penstock.tasks.responses import LARGE_VALUES
from penstock.tensors import Arrays

log = logging.getLogger(__name__)

_FINAL = (Overloaded, DeadlineExceeded, ModelNotReady)
"""Errors that say nothing about the rows of a bundle: no part of it would do better."""


class Bundler:
    """Queues bundles and answers their members. For one event loop."""

    def __init__(self, admission: Admission, statistics: Statistics, *, cached: bool) -> None:
        """`cached`: answers may come from the cache, where every request is looked up alone."""
        self._admission = admission
        self._statistics = statistics
        self._cached = cached

    def begin(
        self, model: LoadedModel, runner: TaskRunner, replies: Replies, priority: int = 0, begun: float | None = None
    ) -> Bundle:
        """An empty bundle for `submit`."""
        return Bundle(model, runner, replies, priority, time.monotonic() if begun is None else begun, self.complete)

    def takes(self, model: LoadedModel, runner: TaskRunner) -> bool:
        """True if requests for this task of the model can be bundled."""
        quick = runner.inline and not runner.moved and not runner.answers_large
        return quick and model.batcher.joins_rows and not self._cached

    def submit(self, bundle: Bundle, members: Sequence[Member]) -> bool:
        """Answer the members, now or when their run has ended; False if the model was unloaded meanwhile.

        `bundle` is empty. All `request`s are of one kind: arrays, or Requests of the task. Raises ModelNotReady while
        the server is draining.
        """
        if not self._admission.hold(bundle.model, len(members), time.monotonic()):
            return False
        for member in members:
            member.bundle = bundle
        try:
            self._prepare(bundle, members)
        except Exception as error:  # a bug; nobody else would answer the members
            log.exception("a bundle of %s failed", bundle.model.key)
            for member in members:
                if not member.ended and not member.bundle.queued:
                    self.fail(member, InferenceError(f"{bundle.runner.what} failed: {type_and_message(error)}"))
        return True

    def _prepare(self, bundle: Bundle, members: Sequence[Member]) -> None:
        began = time.monotonic()
        groups = self._joined(bundle, members)
        bundle.prepared = time.monotonic()
        _measure(bundle, bundle.prepared - began, len(members))
        for kept, arrays in groups:
            for filled in bundle.holding(kept, arrays).cut():
                self._queue(filled)

    def _joined(self, bundle: Bundle, members: Sequence[Member]) -> Iterable[tuple[Sequence[Member], Arrays]]:
        """The inputs of members that can share a run; those whose requests are not valid get their error."""
        task = bundle.runner.task
        if type(members[0].request) is np.ndarray:
            try:
                return [(members, task.rows_into([member.request for member in members]))]
            except InvalidInput:  # of one of them: each for itself, then
                for member in members:
                    member.request = task.coerce({task.array_field: member.request})
        together = _prepared_together(bundle.runner, members)
        if together is not None:
            return [(members, together)]
        groups: dict[Any, tuple[list[Member], list[Arrays]]] = {}
        for member in members:
            try:
                member.request, arrays, member.rows = prepare(bundle.runner, member.request)
            except PenstockError as error:
                self.fail(member, error)
                continue
            if member.rows * bundle.runner.row_values > LARGE_VALUES:
                self._decline(member)
                continue
            kept, parts = groups.setdefault(tensors.measure(arrays)[0], ([], []))
            kept.append(member)
            parts.append(arrays)
        return [(kept, tensors.stack(parts)) for kept, parts in groups.values()]

    def _queue(self, bundle: Bundle, *, admitted: bool = False) -> None:
        """Queue a bundle; of one that finds no room, queue the halves, until a member alone is refused."""
        bundle = self._checked(bundle)
        if not bundle.members:
            return
        deadline = max([member.deadline for member in bundle.members])
        batcher = bundle.model.batcher
        try:
            bundle.item = batcher.put(bundle, bundle.arrays, deadline, bundle.priority, bundle.flow, admitted=admitted)
            bundle.queued = True
        except PenstockError as error:
            bundle.ended = True
            if isinstance(error, Overloaded) and len(bundle.members) > 1:
                self._queue_halves(bundle, bundle.members)
            else:
                self._fail_all(bundle.members, error)

    def _queue_halves(self, bundle: Bundle, members: Sequence[Member], *, admitted: bool = False) -> None:
        middle = len(members) // 2
        for half in (members[:middle], members[middle:]):
            self._queue(bundle.part(half), admitted=admitted)

    def _checked(self, bundle: Bundle) -> Bundle:
        """The bundle without the members whose inputs are refused for their range."""
        watch = bundle.runner.watch
        if watch is None or watch.inputs_inside(bundle.arrays):
            return bundle
        kept = []
        for member in bundle.members:
            try:
                member.flags = watch.inputs(own_rows(bundle.arrays, member))
                kept.append(member)
            except PenstockError as error:
                self.fail(member, error)
        return bundle if len(kept) == len(bundle.members) else bundle.part(kept)

    # Outcomes

    def complete(self, bundle: Bundle, outcome: Batched[Arrays] | PenstockError) -> None:
        """Answer the members, or look for the one at fault in halves of a bundle whose run has failed."""
        bundle.ended = True
        bundle.model.batcher.take_back(bundle.item)
        members = [member for member in bundle.members if not member.ended]
        if not isinstance(outcome, PenstockError):
            self._answer(bundle, members, outcome)
        elif len(members) > 1 and not isinstance(outcome, _FINAL):
            self._queue_halves(bundle, members, admitted=True)
        elif isinstance(outcome, Preempted):
            self._give_way(bundle, members, outcome)
        else:
            self._fail_all(members, outcome)
        bundle.let_go()

    def _give_way(self, bundle: Bundle, members: Sequence[Member], refusal: Preempted) -> None:
        """Refuse as many members, the last ones, as the requests need that came in their place; queue the others."""
        rows, kept = bundle.model.batcher.queue.free_rows(), 0
        for member in members:
            rows -= member.rows
            kept += rows >= 0
        kept = min(kept, len(members) - 1)
        if kept:
            self._queue(bundle.part(members[:kept]))
        self._fail_all(members[kept:], refusal)

    def _answer(self, bundle: Bundle, members: Sequence[Member], outcome: Batched[Arrays]) -> None:
        answered = time.monotonic()
        members = self._small(bundle, members, outcome.outputs)
        found = self._answers(bundle, members, outcome.outputs)
        now = time.monotonic()
        _measure(bundle, now - answered, len(members))
        good: list[Member] = []
        answers: list[Answer] = []
        for member, answer in zip(members, found, strict=True):
            if now > member.deadline:
                self.fail(member, DeadlineExceeded("the deadline passed before the answer was ready"))
            elif isinstance(answer, PenstockError):
                self.fail(member, answer)
            else:
                member.ended = True
                good.append(member)
                answers.append(answer)
        if good:
            times = _times(bundle, good, outcome, (now - answered) * 1e3)
            self._observe_answers(bundle, good, outcome, times, now)
            self._admission.release(bundle.model, len(good))
            bundle.replies.answered(bundle, good, answers, times)

    def _answers(self, bundle: Bundle, members: Sequence[Member], outputs: Arrays) -> Sequence[Answer | PenstockError]:
        """The answer or the error of each member."""
        task, watch = bundle.runner.task, bundle.runner.watch
        inside = watch is None or watch.outputs_inside(outputs)
        if inside and type(members[0].request if members else None) is np.ndarray:
            try:
                found = task.answers(outputs)
            except Exception:  # of one member, perhaps: each for itself then
                return [self._answer_of(bundle, member, outputs) for member in members]
            whole = len(members) == len(bundle.members)
            return found if whole else [found[member.start] for member in members]
        return [self._answer_of(bundle, member, outputs) for member in members]

    @staticmethod
    def _answer_of(bundle: Bundle, member: Member, outputs: Arrays) -> Answer | PenstockError:
        runner = bundle.runner
        own = own_rows(outputs, member)
        try:
            if runner.watch is not None:
                member.flags += runner.watch.outputs(own)
            if type(member.request) is not np.ndarray:
                return finish(runner, own, member.request)
            (answer,) = runner.task.answers(own)
        except PenstockError as error:
            return error
        except Exception:
            return runner.failed("postprocess")
        return answer

    def _small(self, bundle: Bundle, members: Sequence[Member], outputs: Arrays) -> Sequence[Member]:
        """The members without those whose answers are large, which take the ordinary way, as later ones will."""
        if all(array.size <= LARGE_VALUES for array in outputs.values()):
            return members
        kept = []
        for member in members:
            if any(array.size > LARGE_VALUES for array in own_rows(outputs, member).values()):
                bundle.runner.answers_large = True
                self._decline(member)
            else:
                kept.append(member)
        return kept

    def _decline(self, member: Member) -> None:
        """Let a member take the ordinary way."""
        member.ended = True
        self._admission.release(member.bundle.model, 1)
        member.bundle.replies.declined(member)

    def fail(self, member: Member, error: PenstockError) -> None:
        """Reply with an error to a member that has no answer."""
        if isinstance(error, DeadlineExceeded):
            error = past_deadline(member.bundle.model.key, error)
        self._end(member, error)
        member.bundle.replies.failed(member, error)

    def _fail_all(self, members: Sequence[Member], error: PenstockError) -> None:
        for member in members:
            self.fail(member, error)

    def cancel(self, member: Member) -> None:
        """The client has disconnected: the member gets no reply, and its rows do not run if they still wait."""
        if member.ended:
            return
        bundle = member.bundle
        self._end(member, asyncio.CancelledError())
        if bundle.ended:
            return
        waiting = [other for other in bundle.members if not other.ended]
        if not waiting:
            bundle.model.batcher.take_back(bundle.item)
            bundle.ended = True
            return
        if bundle.model.batcher.shrink(bundle.item, rows_of(bundle.arrays, waiting)):
            bundle.keep(waiting)

    # Counting

    def _end(self, member: Member, error: BaseException) -> None:
        """Count a member without an answer."""
        member.ended = True
        bundle = member.bundle
        self._admission.release(bundle.model, 1)
        model = bundle.model
        self._observe(
            member,
            Observation(
                model=model.name,
                version=model.version,
                variant=model.variant,
                outcome=outcome_of(error),
                total_ms=(time.monotonic() - member.started) * 1e3,
                request_id=member.request_id,
                task=bundle.runner.task.kind,
                protocol="rest",
                key=member.key,
                route=bundle.route,
                arm=bundle.arm,
                flags=flags_of(error),
                error=error,
            ),
        )

    def _observe(self, member: Member, seen: Observation) -> None:
        _in_context(member, functools.partial(self._statistics.observe, seen))

    def _observe_answers(
        self, bundle: Bundle, members: Sequence[Member], outcome: Batched[Arrays], times: Times, now: float
    ) -> None:
        model, statistics = bundle.model, self._statistics
        run = AnsweredRun(
            model=model.name,
            version=model.version,
            variant=model.variant,
            task=bundle.runner.task.kind,
            protocol="rest",
            route=bundle.route,
            arm=bundle.arm,
            batch_rows=outcome.batch_rows,
            pre_ms=times.pre_ms,
            run_ms=times.run_ms,
            post_ms=times.post_ms,
            requests=members,
            totals_ms=[(now - member.started) * 1e3 for member in members],
            queues_ms=times.queues_ms,
            inputs=bundle.arrays,
            outputs=outcome.outputs,
        )
        if any(member.flags for member in members):
            for member, seen in zip(members, run.observations(), strict=True):
                seen.flags = member.flags
                self._observe(member, seen)
            return
        statistics.add_run(run)
        watching = statistics.request_observers()
        if watching:
            for member, seen in zip(members, run.observations(), strict=True):
                _in_context(member, functools.partial(statistics.show, seen, watching))


def _in_context(member: Member, call: Callable[[], None]) -> None:
    if member.context is None:
        call()
    else:
        member.context.run(call)


def _prepared_together(runner: TaskRunner, members: Sequence[Member]) -> Arrays | None:
    """The inputs of requests that their task prepares at once; None if each has to be prepared alone."""
    task = runner.task
    if len(members) < 2 or type(task).preprocess_all is Task.preprocess_all:
        return None
    try:
        made = task.preprocess_all([member.request for member in members])
        arrays, rows = task.signature.validate(made) if made is not None else ({}, 0)
    except Exception:  # of one of them, perhaps: each for itself, then, with its own error
        return None
    return arrays if rows == len(members) else None


def _times(bundle: Bundle, members: Sequence[Member], outcome: Batched[Arrays], post_ms: float) -> Times:
    began = bundle.begun + bundle.item.entered + outcome.queue_s - bundle.prepared  # the run, but for the preparation
    queues_ms = [(began - member.started) * 1e3 for member in members]
    return Times((bundle.prepared - bundle.begun) * 1e3, queues_ms, outcome.run_s * 1e3, post_ms)


def _measure(bundle: Bundle, seconds: float, count: int) -> None:
    runner = bundle.runner
    if count and (seconds > SLOW_S * count or runner.means):
        runner.measure(0, seconds / count)
