"""One loaded model: its tasks, its backend and the queue in front of it."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from penstock.artifacts.artifact import Artifact
from penstock.backends.base import Backend
from penstock.backends.row_independence import NOT_DETERMINISTIC, RowProof
from penstock.engine.batching.padding import ArrayBatcher
from penstock.engine.loading.load_overrides import LoadOverrides
from penstock.engine.loading.selection_cache import SelectionResult
from penstock.engine.tasks.ranges import RangePolicies
from penstock.engine.tasks.task_runner import TaskRunner
from penstock.errors import InvalidInput, quoted
from penstock.registry.registry import Registry
from penstock.tasks.base import Task
from penstock.tasks.tensor import TensorTask
from penstock.tensors import Signature

_loads = itertools.count(1)

TENSOR = TensorTask.kind
"""The task that every model has, next to its own."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Facts about a loaded model. Shapes start with the batch, -1 is free.

    `size_bytes` is the size of its files, `memory_bytes` that of its weights in memory if the backend reports it, else
    the same. `batch_ms` is the measured time of a run by its number of rows. `warnings` are the options that could not
    be met, and `choice` is the selection result of each variant. `tasks` are the kinds of its tasks, the default first.

    Requests of a `batchable` model share runs, since its rows are independent; of another each runs whole and alone.
    `batch_difference` is the change of a row's outputs by other rows, `batch_noise` the one by their number and order,
    both measured as shares of the outputs' range, None if not measured. `batch_reason` is what was found.

    `proven` is False for a model that ran with no input that was tried at load. `assumed` says what neither the file
    nor the user states, and how to say otherwise.
    """

    name: str
    version: str
    variant: str
    format: str
    precision: str
    task: str
    device: str
    dtype: str
    num_parameters: int | None
    size_bytes: int
    sha256: str
    loaded_at: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    batch_ms: dict[int, float]
    memory_bytes: int
    warnings: tuple[str, ...] = ()
    choice: tuple[SelectionResult, ...] = ()
    tasks: tuple[str, ...] = ()
    batchable: bool = True
    batch_difference: float | None = None
    batch_noise: float | None = None
    batch_reason: str = ""
    proven: bool = True
    assumed: tuple[str, ...] = ()

    @property
    def row_proof(self) -> RowProof:
        """What was found about the rows of a batch."""
        return RowProof(self.batchable, self.batch_difference, self.batch_noise, self.batch_reason)

    def __getitem__(self, name: str) -> Any:
        """A fact by its name, as in a mapping. Raises KeyError naming the facts."""
        if name not in self.__dataclass_fields__:
            raise KeyError(f"{name!r} is no fact about a model; there are {', '.join(self.__dataclass_fields__)}")
        return getattr(self, name)

    def keys(self) -> list[str]:
        """The names of the facts; with `info[name]` it makes `dict(info)`."""
        return list(self.__dataclass_fields__)


class LoadedModel:
    """A model that can answer requests. Made by `load_artifact` and `load_file`."""

    __slots__ = (
        "_closing",
        "artifact",
        "at_close",
        "backend",
        "batcher",
        "cache_identity",
        "cacheable",
        "info",
        "key",
        "leases",
        "loaded_with",
        "name",
        "path",
        "retired",
        "runner",
        "runners",
        "task",
        "used_at",
        "variant",
        "vector_task",
        "version",
    )

    def __init__(
        self,
        info: ModelInfo,
        task: Task,
        backend: Backend,
        batcher: ArrayBatcher,
        artifact: Artifact | None = None,
        path: Path | None = None,
        more_tasks: Sequence[Task] = (),
        policies: RangePolicies | None = None,
    ) -> None:
        """`task` is the default, used where a request names none of `more_tasks`; every model also has `tensor`."""
        self.name, self.version, self.variant = info.name, info.version, info.variant
        self.key = f"{info.name}:{info.version}"
        self.task = task
        self.backend = backend
        self.batcher = batcher
        self.artifact = artifact
        self.path = path
        self.leases = 0
        self.loaded_with = LoadOverrides()
        """All options, the variant and the description that a manager loaded it with."""
        self.retired = False
        self.used_at = time.monotonic()
        ranges = artifact.manifest.ranges if artifact is not None else None
        tasks = (task, *more_tasks)
        if all(each.kind != TENSOR for each in tasks):
            tasks = (*tasks, TensorTask({}, backend.signature))
        self.runners = {each.kind: TaskRunner(each, self.key, batcher.limits, ranges, policies) for each in tasks}
        self.runner = self.runners[task.kind]
        vectors = (each.kind for each in tasks if each.array_field is not None)
        self.vector_task: str | None = next(vectors, None)
        """The first of its tasks that takes one array of numbers."""
        self.info = replace(info, tasks=tuple(self.runners))
        # unique to this load: cached outputs never outlive their model, even if file names are the same
        self.cache_identity = f"{self.key}/{self.variant}/{info.sha256}/{next(_loads)}"
        self.cacheable = info.batch_reason != NOT_DETERMINISTIC
        self._closing = threading.Lock()
        self.at_close: list[Callable[[], None]] = []
        """Called once the model has answered its last request."""

    def runner_for(self, kind: str) -> TaskRunner:
        """The runner of one of the model's tasks. Raises InvalidInput naming the tasks the model has."""
        try:
            return self.runners[kind]
        except KeyError:
            known = ", ".join(self.runners)
            raise InvalidInput(f"task: {self.key} has no task {quoted(kind)}; it has {known}", field="task") from None

    @property
    def signature(self) -> Signature:
        """Names, datatypes and shapes of the model's inputs and outputs."""
        return self.task.signature

    @property
    def has_golden(self) -> bool:
        """True if golden samples say what it has to answer."""
        return self.artifact is not None and self.artifact.manifest.golden is not None

    def attach(self, registry: Registry) -> None:
        """Start each task's background resources. Raises ModelLoadError."""
        for runner in self.runners.values():
            runner.attach(registry, self.key)

    def close(self) -> None:
        """Refuse queued requests and release the memory. Safe to call twice."""
        if not self._closing.acquire(blocking=False):
            return
        for runner in self.runners.values():
            runner.close()
        self.batcher.close()
        self.backend.close()
        for runner in self.runners.values():  # no request is inside any more
            runner.detach()
        for call in self.at_close:
            call()
