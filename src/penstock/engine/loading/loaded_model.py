"""One model brought up in this process: opened, warmed, and proved on its golden samples."""

from __future__ import annotations

import hashlib
import itertools
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from penstock.artifacts.artifact import Artifact
from penstock.backends.base import Backend, BackendOptions, ModelFile
from penstock.backends.catalog import format_of
from penstock.engine.batching.limits import BatchLimits
from penstock.engine.batching.padding import ArrayBatcher, public_signature
from penstock.engine.loading.bring_up import Ready, bring_up
from penstock.engine.loading.selection_cache import Verdict
from penstock.engine.loading.variant_selection import Choosing, choose
from penstock.engine.tasks.ranges import RangePolicies
from penstock.engine.tasks.task_runner import TaskRunner
from penstock.errors import InvalidInput, ModelLoadError
from penstock.registry.registry import Registry
from penstock.tasks.base import Task
from penstock.tasks.catalog import load_task, task_for_bare
from penstock.tensors import Signature

log = logging.getLogger(__name__)
_loads = itertools.count(1)


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What is known of a loaded model. Shapes start with the batch, -1 is free.

    `size_bytes` is the size of its files, `memory_bytes` that of its weights in memory as far as the backend tells.
    `batch_ms` is the measured time of a run by its number of rows, `warnings` what did not go as asked, and `choice`
    says of each variant why it was taken or not.
    """

    name: str
    version: str
    variant: str
    format: str
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
    choice: tuple[Verdict, ...] = ()


class LoadedModel:
    """A model that answers: its task, its backend and the batcher in front of it. Made by `load`."""

    __slots__ = (
        "_closing",
        "artifact",
        "at_close",
        "backend",
        "batcher",
        "cache_identity",
        "info",
        "key",
        "leases",
        "name",
        "path",
        "retired",
        "runner",
        "runners",
        "task",
        "variant",
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
        """`task` is what the model is asked as where nobody names one of `more_tasks`."""
        self.info = info
        self.name, self.version, self.variant = info.name, info.version, info.variant
        self.key = f"{info.name}:{info.version}"
        self.task = task
        self.backend = backend
        self.batcher = batcher
        self.artifact = artifact
        self.path = path
        self.leases = 0
        self.retired = False
        ranges = artifact.manifest.ranges if artifact is not None else None
        self.runners = {
            each.kind: TaskRunner(each, self.key, batcher.limits, ranges, policies) for each in (task, *more_tasks)
        }
        self.runner = self.runners[task.kind]
        # No two loads share it, so that no answer outlives the model that gave it, whatever its files say they are.
        self.cache_identity = f"{self.key}/{self.variant}/{info.sha256}/{next(_loads)}"
        self._closing = threading.Lock()
        self.at_close: list[Callable[[], None]] = []
        """Called once the model has answered its last request."""

    def runner_for(self, kind: str) -> TaskRunner:
        """The task of a kind that this model can be asked as. Raises InvalidInput naming those there are."""
        try:
            return self.runners[kind]
        except KeyError:
            known = ", ".join(self.runners)
            raise InvalidInput(f"task: {self.key} has no task {kind[:100]!r}; it has {known}", field="task") from None

    @property
    def signature(self) -> Signature:
        """What the model takes and gives."""
        return self.task.signature

    def attach(self, registry: Registry) -> None:
        """Let the tasks start what lives beside them. Raises ModelLoadError for one that cannot."""
        for runner in self.runners.values():
            runner.attach(registry, self.key)

    def close(self) -> None:
        """Refuse what waits and give the memory back. Safe to call twice."""
        if not self._closing.acquire(blocking=False):
            return
        for runner in self.runners.values():
            runner.close()
        self.batcher.close()
        self.backend.close()
        for runner in self.runners.values():  # by now no request of theirs is inside
            runner.detach()
        for call in self.at_close:
            call()


def load_artifact(
    artifact: Artifact,
    options: BackendOptions,
    limits: BatchLimits,
    how: Choosing | None = None,
    policies: RangePolicies | None = None,
) -> LoadedModel:
    """Bring up the variant that is the fastest on this machine and passes its golden samples.

    Raises IntegrityError at once for an altered file, else the ModelLoadError of the first variant that failed.
    """
    manifest = artifact.manifest
    signature = public_signature(manifest.signature, manifest.padding)
    task, *more_tasks = [load_task(entry.kind, entry.config, signature) for entry in manifest.tasks()]
    chosen = choose(artifact, options, limits, how or Choosing())
    variant = chosen.variant
    for each in (task, *more_tasks):  # as in the manifest, with the names of axes that the file knows
        each.signature = chosen.ready.backend.signature
    info = _info(
        chosen.ready,
        task,
        name=artifact.name,
        version=artifact.version,
        variant=variant.name,
        num_parameters=variant.num_parameters,
        size_bytes=sum(entry.size for entry in variant.files),
        sha256=next(entry.sha256 for entry in variant.files if entry.path == variant.file),
        warnings=(*chosen.failures, *_unmet(artifact, variant.precision, options)),
        choice=chosen.verdicts,
    )
    batcher = chosen.ready.batcher()
    return LoadedModel(info, task, chosen.ready.backend, batcher, artifact, more_tasks=more_tasks, policies=policies)


def _unmet(artifact: Artifact, precision: str, options: BackendOptions) -> tuple[str, ...]:
    if options.precision != "int8" or precision == "int8":
        return ()
    return (f"int8 was asked for, {artifact.ref} has no int8 variant that runs here; it runs in {precision}",)


@dataclass(frozen=True, slots=True, eq=False)
class Told:
    """What a Python caller says of a file of weights, which does not say it itself."""

    architecture: str | type | None = None
    architecture_args: Mapping[str, Any] = field(default_factory=dict)
    signature: Signature | None = None
    example_input: Any = None

    @property
    def anything(self) -> bool:
        """False when nothing was said."""
        given = (self.architecture, self.signature, self.example_input)
        return bool(self.architecture_args) or any(value is not None for value in given)


def load_file(
    path: Path,
    model_type: str | None,
    options: BackendOptions,
    limits: BatchLimits,
    told: Told | None = None,
    policies: RangePolicies | None = None,
) -> LoadedModel:
    """Bring up a bare model file under its file name, as version 1, without golden samples to prove it."""
    told = told or Told()
    if not path.is_file():
        raise ModelLoadError(f"{path}: there is no such model file")
    signed = told.signature is not None
    format = "pytorch" if told.architecture is not None else format_of(path, model_type, signed=signed)
    ready = bring_up(format, _described(path, told, options), options, limits, None, str(path))
    try:
        signature = ready.backend.signature
        task = load_task(task_for_bare(signature), {}, signature)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except BaseException:
        ready.backend.close()
        raise
    info = _info(
        ready,
        task,
        name=path.stem,
        version="1",
        variant=f"{format}-{options.precision}",
        num_parameters=None,
        size_bytes=path.stat().st_size,
        sha256=digest,
    )
    return LoadedModel(info, task, ready.backend, ready.batcher(), path=path, policies=policies)


def _described(path: Path, told: Told, options: BackendOptions) -> ModelFile:
    file = ModelFile(path, told.signature, told.architecture, told.architecture_args)
    if told.example_input is None or told.signature is not None:
        return file
    from penstock.backends.torch.infer_signature import with_signature

    return with_signature(file, told.example_input, options.trust)


def _info(
    ready: Ready,
    task: Task,
    *,
    num_parameters: int | None,
    size_bytes: int,
    warnings: tuple[str, ...] = (),
    **facts: Any,
) -> ModelInfo:
    backend, signature = ready.backend, task.signature
    return ModelInfo(
        format=backend.format,
        task=task.kind,
        device=backend.device,
        dtype=signature.inputs[0].dtype,
        num_parameters=num_parameters if num_parameters is not None else backend.num_parameters,
        loaded_at=datetime.now(UTC).isoformat(timespec="seconds"),
        input_shape=signature.inputs[0].shape,
        output_shape=signature.outputs[0].shape,
        batch_ms={rows: round(seconds * 1000, 4) for rows, seconds in ready.timings.items()},
        size_bytes=size_bytes,
        memory_bytes=size_bytes if backend.num_bytes is None else backend.num_bytes,
        warnings=(*backend.warnings, *warnings),
        **facts,
    )
