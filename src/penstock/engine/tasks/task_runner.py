"""One task of one loaded model: turns requests into arrays and the model's outputs into responses."""

from __future__ import annotations

import logging
from typing import Any

from pydantic import BaseModel

from penstock.artifacts.policies import Ranges
from penstock.engine.batching.limits import BatchLimits
from penstock.engine.tasks.ranges import RangePolicies, Watch, watch_for
from penstock.engine.tasks.task_thread_pool import TaskThreadPool
from penstock.errors import InferenceError, ModelLoadError, PenstockError
from penstock.registry.registry import Registry
from penstock.tasks.base import Task
from penstock.tensors import Arrays

log = logging.getLogger(__name__)


class TaskRunner:
    """Runs a task's own code, with a thread pool for work that must not block the event loop."""

    __slots__ = ("_what", "inline", "pool", "task", "watch")

    def __init__(
        self,
        task: Task,
        key: str,
        limits: BatchLimits,
        ranges: Ranges | None = None,
        policies: RangePolicies | None = None,
    ) -> None:
        """`key` is the model's `name:version`; `ranges` are those of its manifest, `policies` those of the server."""
        self.task = task
        self.inline = task.inline
        self._what = f"the task {task.kind} of {key}"
        self.pool = TaskThreadPool(self._what, most=limits.queue_rows, most_bytes=limits.queue_bytes)
        self.watch: Watch | None = watch_for(
            ranges, task.signature, policies or RangePolicies(), finite_by_task=task.refuses_nan
        )

    def prepare(self, request: Any) -> tuple[Any, Arrays, int]:
        """The task's request, its arrays and their rows. Raises InvalidInput; for a bug in a task InferenceError."""
        task = self.task
        try:
            if not isinstance(request, task.Request):
                request = task.coerce(request)
            arrays, rows = task.signature.validate(task.preprocess(request))
        except PenstockError:
            raise
        except Exception as error:
            log.exception("%s failed in preprocess", self._what)
            raise InferenceError(f"{self._what} failed to prepare the request") from error
        return request, arrays, rows

    def finish(self, outputs: Arrays, request: Any) -> Any:
        """The task's response. A bug in a task becomes an InferenceError."""
        try:
            response = self.task.postprocess(outputs, request)
        except PenstockError:
            raise
        except Exception as error:
            log.exception("%s failed in postprocess", self._what)
            raise InferenceError(f"{self._what} failed on the model's outputs") from error
        if not isinstance(response, BaseModel):
            raise InferenceError(f"{self._what} returned a {type(response).__name__}, which is not a Pydantic model")
        return response

    def attach(self, registry: Registry, model: str) -> None:
        """Start the task's background resources. Raises ModelLoadError."""
        try:
            self.task.attach(registry, model)
        except PenstockError:
            raise
        except Exception as error:
            why = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise ModelLoadError(f"{self._what} could not be attached: {why}") from error

    def close(self) -> None:
        """End the threads."""
        self.pool.close()

    def detach(self) -> None:
        """Stop the task's background resources."""
        try:
            self.task.close()
        except Exception:
            log.exception("%s failed in close", self._what)
