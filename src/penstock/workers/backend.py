"""The backend of Python classes: a run is a message to a worker, off the event loop."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from penstock.backends.base import Backend, BackendOptions, ModelFile, empty_outputs, no_rows, run_in_progress
from penstock.errors import InferenceError
from penstock.formats import file_stem, python_class
from penstock.setting_groups.python_models import PythonModelSettings
from penstock.tensors import Arrays, Signature
from penstock.workers.json_task import JsonTask
from penstock.workers.pool import Limits, WorkerPool
from penstock.workers.process import WorkerSpec


class PythonBackend(Backend):
    """A class of the user with `predict`, and `load` if it wants, in worker processes."""

    format = "python"
    device = "cpu"
    num_parameters = None

    def __init__(self, pool: WorkerPool, declared: Mapping[str, Any], workers: int) -> None:
        """`declared` is what a worker says of the class once it has loaded it."""
        self.signature = Signature.from_json(declared)
        self.parallel_runs = workers
        self.pool = pool
        self.example: Any = declared["example"]
        self.metadata = {"task": JsonTask.kind} if declared["json"] else {}
        self._closed = False

    @classmethod
    def open(cls, file: ModelFile, options: BackendOptions) -> PythonBackend:
        """Start the workers. Raises ModelLoadError with what is wrong with the class."""
        chosen = options if isinstance(options, PythonModelSettings) else PythonModelSettings()
        ref = str(file.path)
        path = [str(Path(each).absolute()) for each in chosen.python_path]
        spec = WorkerSpec(
            file_stem(ref),
            {"target": python_class(ref), "python_path": path},
            workers=chosen.python_workers,
            threads=options.threads,
        )
        limits = Limits(
            chosen.python_load_timeout_s,
            chosen.python_grace_s,
            chosen.python_max_rows,
            chosen.python_memory_bytes or 0,
        )
        pool = WorkerPool(spec, limits)
        return cls(pool, pool.open(), chosen.python_workers)

    def run(self, inputs: Arrays) -> Arrays:
        """Outputs for one batch, from a worker that is free."""
        if self._closed:
            raise InferenceError("the model was closed")
        if no_rows(inputs, self.signature):
            return empty_outputs(self.signature)
        rows = self.signature.rows(inputs)
        outputs = self.pool.run(inputs, rows, run_in_progress.stop)
        self.signature.check_outputs(outputs, rows)
        return outputs

    @property
    def problem(self) -> str:
        """Why the workers answer nothing for now."""
        return self.pool.problem

    def close(self) -> None:
        """End the workers."""
        self._closed = True
        self.pool.close()
