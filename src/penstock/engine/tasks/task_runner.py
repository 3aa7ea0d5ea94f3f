"""One task of one loaded model: how its requests become arrays and the model's rows become answers."""

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
    """A task at work, with threads of its own for where it must not hold up the event loop."""

    __slots__ = ("_what", "inline", "pool", "task", "watch")

    def __init__(
        self,
        task: Task,
        key: str,
        limits: BatchLimits,
        ranges: Ranges | None = None,
        policies: RangePolicies | None = None,
    ) -> None:
        """`key` is the model's `name:version`, `ranges` what its manifest expects, `policies` what the server does."""
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
            raise InferenceError(f"{self._what} failed while it prepared the request") from error
        return request, arrays, rows

    def finish(self, outputs: Arrays, request: Any) -> Any:
        """The task's response. A bug in a task becomes an InferenceError."""
        try:
            response = self.task.postprocess(outputs, request)
        except PenstockError:
            raise
        except Exception as error:
            log.exception("%s failed in postprocess", self._what)
            raise InferenceError(f"{self._what} failed on the model's answer") from error
        if not isinstance(response, BaseModel):
            raise InferenceError(f"{self._what} answered with a {type(response).__name__}, which is no Pydantic model")
        return response

    def attach(self, registry: Registry, model: str) -> None:
        """Let the task start what lives beside it. Raises ModelLoadError."""
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
        """Let the task end what it started."""
        try:
            self.task.close()
        except Exception:
            log.exception("%s failed in close", self._what)
