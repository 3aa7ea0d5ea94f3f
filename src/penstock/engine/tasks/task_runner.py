"""One task of one loaded model: turns requests into arrays and the model's outputs into responses."""

from __future__ import annotations

import logging
from typing import Literal

from penstock.artifacts.policies import Ranges
from penstock.engine.batching.limits import BatchLimits
from penstock.engine.tasks.ranges import RangePolicies, Watch, watch_for
from penstock.engine.tasks.task_thread_pool import TaskThreadPool
from penstock.errors import InferenceError, ModelLoadError, PenstockError, type_and_message
from penstock.registry.registry import Registry
from penstock.tasks.base import Task

log = logging.getLogger(__name__)


class TaskRunner:
    """Runs a task's own code, with a thread pool for work that must not block the event loop."""

    __slots__ = ("inline", "pool", "task", "watch", "what")

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
        self.what = f"the task {task.kind} of {key}"
        self.pool = TaskThreadPool(self.what, most=limits.queue_rows, most_bytes=limits.queue_bytes)
        self.watch: Watch | None = watch_for(
            ranges, task.signature, policies or RangePolicies(), finite_by_task=task.refuses_nan
        )

    def failed(self, phase: Literal["preprocess", "postprocess"]) -> InferenceError:
        """The error for a bug in the task, which is being handled: the log has its traceback."""
        log.exception("%s failed in %s", self.what, phase)
        doing = "to prepare the request" if phase == "preprocess" else "on the model's outputs"
        return InferenceError(f"{self.what} failed {doing}")

    def attach(self, registry: Registry, model: str) -> None:
        """Start the task's background resources. Raises ModelLoadError."""
        try:
            self.task.attach(registry, model)
        except PenstockError:
            raise
        except Exception as error:
            raise ModelLoadError(f"{self.what} could not be attached: {type_and_message(error)}") from error

    def close(self) -> None:
        """End the threads."""
        self.pool.close()

    def detach(self) -> None:
        """Stop the task's background resources."""
        try:
            self.task.close()
        except Exception:
            log.exception("%s failed in close", self.what)
