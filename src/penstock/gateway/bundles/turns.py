"""Collects the small predictions of one turn of the event loop, and has those for one model answered together.

Whatever is unusual (another content type, a query, a named task or version, a model that is not loaded, a body that is
not valid) takes the ordinary way, which answers with the same bytes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from contextvars import Context
from typing import Any, NamedTuple

import numpy as np
from pydantic import BaseModel

from penstock.engine.batching.flows.flow import Flow
from penstock.engine.batching.loop_time import FLUSH_S
from penstock.engine.bundling.bundle import Bundle, Member
from penstock.engine.loading.loaded_model import LoadedModel
from penstock.engine.observation import outcome_of
from penstock.engine.tasks.task_runner import TaskRunner
from penstock.errors import PenstockError
from penstock.gateway.bodies.arrays import array_type, holds_array, is_array, read_array_body
from penstock.gateway.bundles.numbers import NumberReader
from penstock.gateway.bundles.replies import BundleReplies
from penstock.gateway.gateway import Gateway
from penstock.gateway.http import JSON, Call, Handler, is_json
from penstock.gateway.native import predict
from penstock.gateway.native.decoding import read_json
from penstock.gateway.native.fast_json import decode
from penstock.gateway.problems import Refusal
from penstock.tasks.base import Task

log = logging.getLogger(__name__)

MAX_BODY = 64 * 1024
"""Larger bodies take the ordinary way, which counts their memory and decodes them off the event loop."""
MOST_WAITING = 512
"""So many requests end a turn early."""
_ANSWERING = 2
"""How many times as long as reading a turn, answering it may take before a full queue refuses the rest of it."""


class _Route(NamedTuple):
    ref: Callable[[Call], str | None]
    vector: bool = False


class Chosen(NamedTuple):
    """The version that a route has chosen."""

    route: str
    arm: str
    ref: str


class _Turn(NamedTuple):
    """What the requests of a group share. Times are in `time.monotonic()` seconds."""

    model: LoadedModel
    runner: TaskRunner
    priority: int
    timeout_s: float
    begun: float
    ends: float
    """Until when batches of a full queue are run before more requests are read."""
    chosen: Chosen | None
    flow: Flow | None = None


_ROUTES: dict[Handler, _Route] = {
    predict.predict: _Route(lambda _: None),
    predict.predict_vector: _Route(lambda _: None, vector=True),
    predict.predict_model: _Route(predict.model_of_path),
    predict.predict_version: _Route(predict.version_of_path),
}


_ARRAYS = "array"
"""Begins the group of bodies that are arrays."""


class Turns:
    """The requests of the current turn. For the event loop of one gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._engine = gateway.service.engine
        self._bundler = gateway.service.engine.bundler
        self._replies = BundleReplies(gateway)
        self._groups: dict[str, list[Call]] = {}
        self._readers: dict[str, NumberReader] = {}
        self._most = min(MAX_BODY, gateway.limits.max_body_bytes)
        self._waiting = 0
        self._context = Context()
        """Empty: a turn belongs to no single request."""

    def group_of(self, call: Call) -> str | None:
        """The requests that one can be answered with, as far as the head tells; None for one that is unusual."""
        header = call.header
        kind, length = header("content-type"), header("content-length")
        if call.row.handler not in _ROUTES or call.query or length is None or kind is None:
            return None
        array = kind != JSON and is_array(kind)
        if not (array or is_json(kind)) or not (length.isdigit() and len(length) < 6 and int(length) <= self._most):
            return None
        if header("content-encoding") is not None or "q=0" in (header("accept-encoding") or ""):
            return None
        if header("expect") is not None:  # whose client waits for a handler that asks for the body
            return None
        if "charset" in kind.lower():
            return None
        if array_type(header("accept") or "") is not None:
            return None
        limits = f"{header('x-penstock-priority')}\n{header('x-request-timeout-ms')}"
        models = None if call.caller is None else call.caller.models
        limits = limits if models is None else f"{limits}\n{models.label}"
        return f"{_ARRAYS if array else ''}{call.path}\n{limits}"

    def check(self, call: Call) -> None:
        """Refuse a request whose body is still to come, if it would be refused anyway. Raises the refusal."""
        with predict.lease_of(call, _ROUTES[call.row.handler].ref(call)) as lease:
            lease.check()

    def add(self, call: Call) -> None:
        """Add a request with its whole body to the turn."""
        group: str = call.collect  # type: ignore[assignment]  # set by `group_of`
        calls = self._groups.get(group)
        if calls is None:
            if not self._groups:
                asyncio.get_running_loop().call_soon(self._flush, context=self._context)
            calls = self._groups[group] = []
        calls.append(call)
        call.body_at = call.body_at or time.monotonic()
        self._waiting += 1
        # the loop reads from every connection that has sent something before it calls; none of them is being parsed
        if self._waiting >= MOST_WAITING and call.routing is not None:
            self._context.run(self._flush)

    def cancel(self, call: Call) -> None:
        """The client has disconnected."""
        if call.reading:
            self._count(call, asyncio.CancelledError())
            self._gateway.leave(call)
        elif call.member is None:
            call.ended = True  # counted at the end of the turn
        else:
            self._bundler.cancel(call.member)
            self._gateway.leave(call)

    def abort(self, call: Call, reason: Exception) -> None:
        """Answer with an error what is not answered yet."""
        if call.reading:
            call.reading, call.unread = False, True
            self._count(call, reason)
            self._gateway.respond(call, self._gateway.refuse(reason, call))
        elif call.member is not None and not call.member.ended and isinstance(reason, PenstockError):
            self._bundler.fail(call.member, reason)

    def _flush(self) -> None:
        groups, self._groups, self._waiting = self._groups, {}, 0
        for calls in groups.values():
            waiting = [call for call in calls if not call.ended]
            for call in calls if len(waiting) < len(calls) else ():
                if call.ended:
                    self._count(call, asyncio.CancelledError())
                    self._gateway.leave(call)
            try:
                if waiting and self._answer_by_route(waiting):
                    continue
            except Exception:  # a bug; nobody else would answer
                log.exception("the requests of a turn failed together; each is answered alone")
            self._start(waiting)

    def _start(self, calls: Iterable[Call]) -> None:
        """Let calls take the ordinary way, unless they were answered."""
        for call in calls:
            if call.work is None and call.member is None and not call.ended:
                self._gateway.start(call)

    def _answer_by_route(self, calls: Sequence[Call]) -> bool:
        """Bundle the requests of a group by the version that a route chooses for each, if their name has one."""
        routes = self._engine.deployment.traffic.active
        route = routes.get(self._name_of(calls[0])) if routes else None
        if route is None:
            return self._answer(calls)
        if route.chooser.by_field:
            return False
        arms: dict[str, list[Call]] = {}
        for call in calls:
            choice = route.choose(call.header("x-penstock-key"), call.header, call.request_id)
            if choice is None:
                return False
            arms.setdefault(choice.version, []).append(call)
        for version, same in arms.items():
            if not self._answer(same, Chosen(route.route.name, version, route.refs[version])):
                self._start(same)
        return True

    def _name_of(self, call: Call) -> str:
        try:
            return _ROUTES[call.row.handler].ref(call) or self._engine.default_ref or ""
        except PenstockError:
            return ""

    def _count(self, call: Call, error: BaseException) -> None:
        """Count a request that ends before it is in a bundle."""
        try:
            ref = _ROUTES[call.row.handler].ref(call)
        except PenstockError:
            ref = None
        key = call.header("x-penstock-key")
        lease = self._engine.admission.request(
            ref, key=key, request_id=call.request_id, protocol="rest", headers=call.header
        )
        lease.started = call.entered
        if call.context is None:
            lease.observe_failure(error)
        else:
            call.context.run(lease.observe_failure, error)

    def _answer(self, calls: Sequence[Call], chosen: Chosen | None = None) -> bool:
        """Bundle the requests of a group; False if all of them have to take the ordinary way."""
        begun, admission = time.monotonic(), self._engine.admission
        try:
            found = self._find(calls[0], chosen)
            if found is None or admission.draining or not self._gateway.service.started:
                return False
            model, runner = found
            if not _reaches(calls[0], model):
                return False  # the ordinary way says why
            priority, timeout_s = predict.priority_of(calls[0]), self._timeout_s(calls[0], model)
        except (PenstockError, Refusal):
            return False
        ends = begun + max(FLUSH_S, _ANSWERING * (begun - calls[0].body_at))
        turn = _Turn(model, runner, priority, timeout_s, begun, ends, chosen)
        flows, limits = self._gateway.service.flows, model.batcher.limits
        if flows is not None and (model.batcher.queued_rows or len(calls) > limits.batch_rows):
            for flow, same in flows.parted(calls):
                self._answer_within_capacity(same, turn._replace(flow=flow))
        elif model.batcher.queued_rows or len(calls) > limits.queue_rows:
            self._answer_within_capacity(calls, turn)
        else:  # all of them fit into the next run, whoever has sent them
            self._bundle(calls, turn)
        return True

    def _answer_within_capacity(self, calls: Sequence[Call], turn: _Turn) -> None:
        """Bundle the calls that the model's queue has room for, and refuse the others before their bodies are read.

        The batches of a quick model are run in between, as long as the turn allows: it is idle while its queue fills.
        """
        batcher = turn.model.batcher
        while calls:
            deadline = calls[0].body_at + turn.timeout_s
            room, refusal = batcher.admit_some(len(calls), turn.priority, time.monotonic(), deadline, turn.flow)
            if room:
                self._bundle(calls[:room], turn)
                calls = calls[room:]
            elif refusal is not None and not batcher.run_queued(turn.ends):
                self._refuse(calls, turn.model, refusal)
                return

    def _refuse(self, calls: Sequence[Call], model: LoadedModel, refusal: PenstockError) -> None:
        for call in calls:
            call.ended = True
        statistics = self._engine.statistics
        if statistics.shows_failures:
            for call in calls:
                self._count(call, refusal)
        else:
            statistics.add_refused(model.name, model.version, outcome_of(refusal), len(calls))
        self._replies.refused(calls, refusal)

    def _bundle(self, calls: Sequence[Call], turn: _Turn) -> None:
        bundles: tuple[list[Member], list[Member]] = ([], [])
        runner, timeout_s, begun = turn.runner, turn.timeout_s, turn.begun
        arrays = calls[0].collect.startswith(_ARRAYS)  # type: ignore[union-attr]  # set by `group_of`
        read = _array_reader(runner.task) if arrays else self._reader(runner.task)
        for call in calls:
            request = read(call)
            if request is None or call.body_at + timeout_s <= begun:
                self._gateway.start(call)
                continue
            member = Member(
                call, request, call.body_at, call.body_at + timeout_s, call.request_id, call.header("x-penstock-key")
            )
            member.context = call.context
            bundles[type(request) is np.ndarray].append(member)
        for members in bundles:
            if members:
                bundle = self._bundler.begin(turn.model, runner, self._replies, turn.priority, begun)
                bundle.flow = turn.flow
                if turn.chosen is not None:
                    bundle.route, bundle.arm = turn.chosen.route, turn.chosen.arm
                self._submit(bundle, members)

    def _submit(self, bundle: Bundle, members: Sequence[Member]) -> None:
        for member in members:
            member.caller.member = member
        if not self._bundler.submit(bundle, members):
            for member in members:
                self._replies.declined(member)

    def _find(self, call: Call, chosen: Chosen | None) -> tuple[LoadedModel, TaskRunner] | None:
        """The model and task of a group, if it is loaded and takes bundles. Raises ModelNotFound."""
        route = _ROUTES[call.row.handler]
        model = self._engine.admission.request(route.ref(call) if chosen is None else chosen.ref).find()
        if model is None:
            return None
        runner = model.runner
        if route.vector:
            if model.vector_task is None:
                return None
            runner = model.runners[model.vector_task]
        return (model, runner) if self._bundler.takes(model, runner) else None

    def _timeout_s(self, call: Call, model: LoadedModel) -> float:
        own = model.batcher.timeout_s
        timeout_s = self._engine.admission.timeout_s if own is None else own
        asked = predict.timeout_of(call)
        if asked is None:
            return timeout_s
        return asked if own is None else min(asked, own)

    def _reader(self, task: Task) -> Callable[[Call], Any]:
        """What reads a request of the task from a call; None for one that has to take the ordinary way."""
        field = task.array_field if task.bundles else None
        numbers = None if field is None else self._readers.get(field)
        if field is not None and numbers is None:
            numbers = self._readers[field] = NumberReader(field)

        def read(call: Call) -> Any:
            body: bytes = call.content  # type: ignore[assignment]  # `take` is called with the whole body
            if numbers is not None:
                found = numbers.read(body)
                if found is not None:
                    return found
            return _request(task, call, body)

        return read


def _reaches(call: Call, model: LoadedModel) -> bool:
    """True if the callers of a group reach a version."""
    models = None if call.caller is None else call.caller.models
    return models is None or models.allows(model.name, model.version)


def _array_reader(task: Task) -> Callable[[Call], Any]:
    """What reads a request from a body that is an array: one row as it is where the task takes that, else the task's
    request; None for one that has to take the ordinary way.
    """
    spec = task.array_spec()
    one_row = task.signature.inputs[0].row_elements if task.bundles else -1

    def read(call: Call) -> Any:
        kind: str = call.header("content-type")  # type: ignore[assignment]  # `group_of` has seen it
        if not holds_array(task, kind, call.header):
            return None
        try:
            if task.stores:
                predict.check_sender(call)
            array = read_array_body(call.content or b"", kind, call.header, spec)
            if array.size == one_row and array.dtype.char in "df":
                return array.reshape(-1)
            return task.from_array(array)
        except (PenstockError, Refusal):  # the ordinary way writes the error
            return None

    return read


def _request(task: Task, call: Call, body: bytes) -> BaseModel | None:
    if b'"task"' in body or b'"model_version"' in body or task.upload_field is not None:
        return None
    try:
        if task.stores:
            predict.check_sender(call)
        return read_json(task, body) if len(body) < predict.SMALL else decode(task, body)
    except (PenstockError, Refusal):  # the ordinary way writes the error
        return None
