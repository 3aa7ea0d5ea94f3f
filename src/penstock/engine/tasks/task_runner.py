"""One task of one loaded model: turns requests into arrays and the model's outputs into responses."""

from __future__ import annotations

import logging
import time
from typing import Literal

from penstock.artifacts.policies import Ranges
from penstock.engine.batching.limits import BatchLimits
from penstock.engine.tasks.ranges import RangePolicies, Watch, watch_for
from penstock.engine.tasks.task_thread_pool import TaskThreadPool
from penstock.errors import InferenceError, ModelLoadError, PenstockError, type_and_message
from penstock.registry.registry import Registry
from penstock.tasks.base import Task
from penstock.tasks.responses import LARGE_VALUES

log = logging.getLogger(__name__)

SLOW_S = 0.001
"""Work of more than this does not belong on an event loop."""
_QUICK_S = SLOW_S / 4
"""Work that was moved to a thread returns to the loop below this."""
_FORGOTTEN_S = SLOW_S / 20
"""A mean below this is not kept."""
_WEIGHT = 0.05
"""Of the newest time in the mean."""
_PAUSE_S = 0.25
"""A shorter time counts as at most 4 * SLOW_S: a busy machine interrupts anything now and then, for up to 0.1 s. So it
takes six slow ones in a row, or one in four.
"""
_RETURN_AFTER_S = 10.0
"""Work that was moved stays in its thread for at least this long."""


class TaskRunner:
    """Runs a task's own code, with a thread pool for work that must not block the event loop."""

    __slots__ = ("answers_large", "inline", "means", "moved", "pool", "row_values", "task", "watch", "what")

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
        """Its author says that it is quick: it runs on the event loop unless it was found to be slow."""
        self.means: dict[int, float] = {}
        """Seconds that requests take, where one was slow, by the number of bits of their size."""
        self.moved: dict[int, float] = {}
        """Sizes whose requests run in a thread, and since when."""
        self.what = f"the task {task.kind} of {key}"
        self.row_values = max((spec.row_elements for spec in task.signature.outputs), default=0)
        """Of the largest output for one row; -1 if that is not known."""
        self.answers_large = self.row_values > LARGE_VALUES
        """True once an answer was too large for the event loop."""
        self.pool = TaskThreadPool(self.what, most=limits.queue_rows, most_bytes=limits.queue_bytes)
        self.watch: Watch | None = watch_for(
            ranges, task.signature, policies or RangePolicies(), finite_by_task=task.refuses_nan
        )

    def failed(self, phase: Literal["preprocess", "postprocess"]) -> InferenceError:
        """The error for a bug in the task, which is being handled: the log has its traceback."""
        log.exception("%s failed in %s", self.what, phase)
        doing = "to prepare the request" if phase == "preprocess" else "on the model's outputs"
        return InferenceError(f"{self.what} failed {doing}")

    def measure(self, size: int, seconds: float) -> None:
        """Take note of how long the methods of an inline task took for a request of `size` bytes, 0 for any size.

        Requests of a size that are slow in the mean run in a thread from then on, until they are quick again.
        """
        self._measure(size.bit_length(), seconds)
        if size and 0 in self.moved:
            self._measure(0, seconds)

    def _measure(self, bits: int, seconds: float) -> None:
        counted = seconds if seconds > _PAUSE_S else min(seconds, 4 * SLOW_S)
        before = self.means.get(bits, 0.0)
        mean = self.means[bits] = before + _WEIGHT * (counted - before)
        since = self.moved.get(bits)
        if since is None and mean > SLOW_S:
            self.moved[bits] = time.monotonic()
            log.warning(
                "%s takes %.1f ms for requests%s; from now on they are prepared in a thread",
                self.what, seconds * 1e3, _of_size(bits),
            )  # fmt: skip
        elif since is not None and mean < _QUICK_S and time.monotonic() - since > _RETURN_AFTER_S:
            del self.moved[bits], self.means[bits]
            log.info("%s is quick again for requests%s", self.what, _of_size(bits))
        elif since is None and mean < _FORGOTTEN_S:
            del self.means[bits]

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


def _of_size(bits: int) -> str:
    return f" of up to {(1 << bits) - 1} bytes" if bits else ""
