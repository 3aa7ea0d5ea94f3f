"""Admission: a request gets a lease on one loaded model, or one refusal.

Every protocol opens a `Lease` for a request and leaves it when the request is answered. In between the model stays
loaded. An error that refuses or fails the request is observed once, when the lease is left. A full queue refuses in
`batching.batcher`.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

from penstock.artifacts.refs import name_of
from penstock.engine.allowed_models import allowed_models
from penstock.engine.batching.flows.flow import Flow
from penstock.engine.deployment.reconciler import Reconciler
from penstock.engine.deployment.traffic import ActiveRoute
from penstock.engine.loading.loaded_model import LoadedModel
from penstock.engine.loading.model_cache import ModelCache
from penstock.engine.observation import Observation, outcome_of
from penstock.engine.routing import Headers
from penstock.engine.tasks.ranges import Flag
from penstock.engine.tasks.task_runner import TaskRunner
from penstock.errors import DeadlineExceeded, ModelNotFound, ModelNotReady, OutOfRange

T = TypeVar("T")

_MORE_TIME = "ask for less at once, or allow more time (request_timeout_ms)"


class Admission:
    """Admits requests and counts those in flight. Event loops in several threads may share it."""

    def __init__(
        self,
        deployment: Reconciler,
        models: ModelCache,
        *,
        timeout_s: float,
        observe: Callable[[Observation], None],
    ) -> None:
        """`timeout_s` is the default timeout of a request; the request or its model may set another."""
        self.deployment = deployment
        self.models = models
        self.timeout_s = timeout_s
        self.observe = observe
        self.draining = False
        """New requests are refused; those in flight are finished."""
        self.inflight = 0
        """Requests in flight: in preprocessing, queued or running."""

    def request(
        self,
        ref: str | None = None,
        *,
        task: str | None = None,
        key: str | None = None,
        deadline: float | None = None,
        priority: int = 0,
        flow: Flow | None = None,
        request_id: str = "",
        protocol: str = "",
        headers: Headers | None = None,
    ) -> Lease:
        """A lease for one request, to be used as a context; it holds no model yet.

        `ref` None means the default model, `task` None its first task. `key` is the routing key, by which a route keeps
        a client at its version, and `headers` are those that its rules look at. `deadline` is absolute, in
        `time.monotonic()` seconds. `flow` is the caller that a contended model is shared with others by.
        """
        lease = Lease(self, ref)
        lease.task, lease.key, lease.requested_deadline, lease.priority = task, key, deadline, priority
        lease.request_id, lease.protocol, lease.headers = request_id, protocol, headers
        lease.flow = flow
        return lease

    def hold(self, model: LoadedModel, requests: int, now: float, *, retired: bool = False) -> bool:
        """Keep the model loaded for so many requests; False if it was unloaded, unless `retired` models count as well.

        `now` is in `time.monotonic()` seconds.
        """
        with self.models.lease_lock:
            if model.retired and not retired:
                return False
            model.leases += requests
            model.used_at = now
            self.inflight += requests
        return True

    def release(self, model: LoadedModel, requests: int) -> None:
        """So many requests have ended. The last lease on a model that was unloaded closes it."""
        models = self.models
        with models.lease_lock:
            self.inflight -= requests
            model.leases -= requests
            idle = not model.leases
            last = idle and model.retired  # checked under the lock: without it the model may be leased again
        if last or (idle and models.over_budget):
            models.settle(model)


class Lease:
    """One request from its arrival to its answer, and the model that stays loaded for it.

    `check` refuses early at almost no cost. `hold`, or else `load`, leases the model. Leaving the context releases the
    model and observes the error that ended the request, if there is one.
    """

    __slots__ = (
        "_admission", "_allowed", "_held", "_undecided", "arm", "deadline", "flow", "headers", "key", "model",
        "position", "priority", "protocol", "ref", "request_id", "requested_deadline", "route", "runner", "started",
        "task", "wait_for_capacity",
    )  # fmt: skip

    model: LoadedModel
    runner: TaskRunner
    """The requested task of the model."""
    deadline: float
    """Absolute, in `time.monotonic()` seconds; known once the model is leased, since it may have its own timeout."""
    requested_deadline: float | None
    task: str | None
    key: str | None
    priority: int
    flow: Flow | None
    request_id: str
    protocol: str
    headers: Headers | None
    """The versions that get a copy of this request; known where there is a `route`."""

    def __init__(self, admission: Admission, ref: str | None) -> None:
        self._admission = admission
        self._allowed = allowed_models.get()
        self._held = False
        self._undecided: ActiveRoute | None = None
        self.route = self.arm = ""
        """The route that has chosen the version, and that version; empty where no route has."""
        self.ref = ref
        self.position: int | None = None
        """The place of an item in its batch request."""
        self.started = time.monotonic()
        self.wait_for_capacity = False
        """Wait for room in a full queue instead of being refused."""

    # Entry

    def find(self) -> LoadedModel | None:
        """The model of the reference, None if it is not loaded. A route chooses the version once and for all."""
        deployment = self._admission.deployment
        if deployment.traffic.active:
            self._enter(deployment.traffic.active.get(self.ref or deployment.default_ref or ""))
        return deployment.routes.get(self.ref or deployment.default_ref or "")

    def _enter(self, route: ActiveRoute | None) -> None:
        """Let a route choose. If the body decides, the primary version decodes it, and `decide` chooses."""
        if route is None:
            return
        if route.chooser.by_field:
            self._undecided, self.ref = route, route.refs[route.primary]
        else:
            self._follow(route, None)

    def _follow(self, route: ActiveRoute, field: str | None) -> None:
        request_id = self.request_id or uuid.uuid4().hex
        choice = route.choose(self.key, self.headers, request_id, field)
        if choice is not None:
            self.ref, self.route = route.refs[choice.version], route.route.name
            self.arm = choice.arm

    def name(self, ref: str) -> None:
        """Ask another model, named exactly, in place of what a route has chosen."""
        self.ref, self.route, self.arm, self._undecided = ref, "", "", None

    async def decide(self, request: Any) -> None:
        """Where the body decides, choose the version by the decoded request, and lease it."""
        route, self._undecided = self._undecided, None
        if route is None:
            return
        name = route.route.sticky.name
        value = request.get(name) if isinstance(request, Mapping) else getattr(request, name, None)
        self._follow(route, str(value) if isinstance(value, str | int | float) else None)
        if self.ref is not None and self.ref != self.model.key:
            await self._swap(self.ref)
        else:
            self._check_allowed(self.model)

    def check_draining(self) -> None:
        """Raises ModelNotReady while the server is draining."""
        if self._admission.draining:
            raise ModelNotReady("the server accepts no more requests; try another replica", retry_after_s=1.0)

    def check(self) -> LoadedModel | None:
        """Refuse now what `hold` would refuse; the model of the reference, None if it is not loaded.

        Raises ModelNotReady while draining, Forbidden for a model that the caller does not reach, Overloaded when the
        queue is full and no queued request of lower priority can be evicted, and InvalidInput for a task that the model
        does not have.
        """
        self.check_draining()
        model = self.find()
        if model is not None:
            self._check_allowed(model)
            self._check_capacity(model)
        return model

    def _check_allowed(self, model: LoadedModel) -> None:
        """Raises Forbidden unless the caller reaches this version, once it is decided."""
        if self._allowed is None:
            return
        if self._undecided is None:
            self._allowed.check(model.name, model.version)
        else:
            self._allowed.check_name(model.name)

    async def _loaded(self, ref: str | None) -> LoadedModel:
        """The model of a reference, loaded now if need be. Raises Forbidden before a load."""
        if self._allowed is not None:
            meant = ref or self._admission.deployment.default_ref
            if meant is not None:
                self._allowed.check_name(name_of(meant))
        model = await self._in_time(self._admission.deployment.model(ref))
        self._check_allowed(model)
        return model

    def hold(self) -> bool:
        """Take the model, if it is loaded; else `load` takes it. Raises what `check` raises, and DeadlineExceeded."""
        self.check_draining()
        model = self.find()
        if model is None or not self.take(model):
            return False
        self._check_capacity(model)
        return True

    def _check_capacity(self, model: LoadedModel) -> None:
        runner = self.runner = model.runner if self.task is None else model.runner_for(self.task)
        if self.wait_for_capacity:
            return
        if not runner.inline:
            runner.pool.admit()
        model.batcher.admit(1, self.priority, self.flow)

    async def load_only(self) -> None:
        """Load the model without taking it, for a request whose body is still to come. Raises what `load` raises."""
        model = await self._loaded(self.ref)
        if self.task is not None:
            model.runner_for(self.task)

    async def load(self) -> None:
        """Take the model, and load it first if need be. Raises ModelNotFound, ModelLoadError or DeadlineExceeded."""
        while True:
            model = await self._loaded(self.ref)
            runner = model.runner if self.task is None else model.runner_for(self.task)
            if self.take(model):
                self.runner = runner
                return

    def choose(self, task: str) -> None:
        """Select another task of the leased model. Raises InvalidInput naming the supported tasks."""
        self.runner = self.model.runner_for(task)
        self.task = task

    async def move_to(self, ref: str) -> None:
        """Lease another version of the model instead of this one, for a request that names its version.

        Raises ModelNotFound, also for a version whose task takes another kind of request.
        """
        await self._swap(ref)
        self.name(ref)

    async def _swap(self, ref: str) -> None:
        before = self.model
        other = await self._loaded(ref)
        runner = other.runner if self.task is None else other.runner_for(self.task)
        if runner.task.Request is not self.runner.task.Request:
            raise ModelNotFound(f"{ref} takes another kind of request; send it to /models/{other.name}/versions")
        if not self.take(other):
            return await self._swap(ref)
        self._admission.release(before, 1)
        self.runner = runner
        return None

    def item(self, position: int | None = None) -> Lease:
        """A lease for the item at a place of a batch, which waits for room in a full queue; `share` takes the model."""
        item = Lease(self._admission, self.ref)
        item.position = position
        item.task, item.key, item.requested_deadline, item.priority = self.task, self.key, self.deadline, self.priority
        item.request_id, item.protocol, item.runner = self.request_id, self.protocol, self.runner
        item.headers, item.route, item.arm, item.flow = self.headers, self.route, self.arm, self.flow
        item.wait_for_capacity = True
        return item

    def share(self, batch: Lease) -> None:
        """Take the model that a batch holds, also if it was unloaded meanwhile. Raises DeadlineExceeded."""
        self.take(batch.model, retired=True)

    async def _in_time(self, work: Awaitable[T]) -> T:
        """The result of `work`; a load that other requests wait for continues after the deadline of this one."""
        deadline = (
            self.started + self._admission.timeout_s if self.requested_deadline is None else self.requested_deadline
        )
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                return await work
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed before the request reached the model") from None

    def take(self, model: LoadedModel, *, retired: bool = False) -> bool:
        """Count a lease on the model; False if it was unloaded meanwhile, unless `retired` models count as well."""
        self._check_allowed(model)
        admission = self._admission
        now = time.monotonic()
        timeout_s = model.batcher.timeout_s
        deadline = self.requested_deadline
        if deadline is None:
            deadline = now + (admission.timeout_s if timeout_s is None else timeout_s)
        elif timeout_s is not None:
            deadline = min(deadline, now + timeout_s)
        if deadline <= now:
            raise DeadlineExceeded("the deadline had passed before the request reached the model")
        if not admission.hold(model, 1, now, retired=retired):
            return False
        self._held = True
        self.model = model
        self.deadline = deadline
        return True

    # Exit

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.observe_failure(error)
        model = self.model if self._held else None
        if self._held:
            self._held = False
            self._admission.release(self.model, 1)
        if isinstance(error, DeadlineExceeded):
            raise past_deadline(self.ref if model is None else model.key, error) from None

    def observe_failure(self, error: BaseException) -> None:
        """Record the error that ended this request; leaving the context does so for the error that is raised."""
        # An unknown name comes from the client: as a metric label it would grow without bound.
        model = self.model if self._held else self.find()
        name, version, variant = (model.name, model.version, model.variant) if model is not None else ("", "", "")
        self._admission.observe(
            Observation(
                model=name,
                version=version,
                variant=variant,
                outcome=outcome_of(error),
                total_ms=(time.monotonic() - self.started) * 1e3,
                request_id=self.request_id,
                task=self.task or "",
                protocol=self.protocol,
                key=self.key,
                route=self.route,
                arm=self.arm,
                item=self.position,
                flags=flags_of(error),
                error=error,
            )
        )


def past_deadline(what: str | None, error: DeadlineExceeded) -> DeadlineExceeded:
    """The error for a client: `what` is the reference or the model that it asked."""
    return DeadlineExceeded(f"{what}: {error}; {_MORE_TIME}")


def flags_of(error: BaseException) -> tuple[Flag, ...]:
    """The tensor that an error refuses for its range."""
    return (Flag(error.side, error.tensor, error.kind),) if isinstance(error, OutOfRange) else ()
