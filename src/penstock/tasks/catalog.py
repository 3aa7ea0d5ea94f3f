"""The available tasks: built-in ones and those of installed packages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.metadata import entry_points
from typing import Any

from penstock.errors import ModelLoadError, PenstockError, type_and_message
from penstock.libraries import import_attribute
from penstock.tasks.base import Task
from penstock.tensors import Signature

GROUP = "penstock.tasks"
"""The entry point group through which packages add tasks: name = kind, value = `module:Class`."""

BUILT_IN: dict[str, str] = {
    "vector-classification": "penstock.tasks.vector:VectorClassification",
    "image-classification": "penstock.tasks.image:ImageClassification",
    "tensor": "penstock.tasks.tensor:TensorTask",
    "text-classification": "penstock.tasks.text:TextClassification",
    "tabular": "penstock.tasks.tabular:TabularTask",
    "json": "penstock.workers.json_task:JsonTask",
}
"""Listed here, since reading the metadata of every installed package would slow down every start."""


def task_class(kind: str) -> type[Task]:
    """Import and return the class of a kind of task.

    Raises ModelLoadError if the kind is unknown or its package cannot be imported.
    """
    target = BUILT_IN.get(kind) or _plugins().get(kind)
    if target is None:
        raise ModelLoadError(f"there is no task of the kind {kind!r}; this installation has {', '.join(kinds())}")
    found = _import(kind, target)
    if not (isinstance(found, type) and issubclass(found, Task)):
        raise ModelLoadError(f"the task {kind!r} points at {target}, which is not a subclass of Task")
    missing = [name for name in ("kind", "Request", "Response") if not hasattr(found, name)]
    if missing:
        raise ModelLoadError(f"the task {kind!r} points at {target}, which does not define {' and '.join(missing)}")
    return found


def kinds() -> list[str]:
    """The kinds of task of this installation."""
    return sorted({*BUILT_IN, *_plugins()})


def load_task(kind: str, config: Mapping[str, Any], signature: Signature) -> Task:
    """The task that an artifact names. Raises ModelLoadError if it is unknown, broken, or does not fit the model."""
    found = task_class(kind)
    require_rows(found, signature)
    try:
        return found(config, signature)
    except PenstockError:
        raise
    except Exception as error:  # a plug-in may raise anything while it reads its settings
        raise ModelLoadError(f"the task {kind!r} could not be set up: {type_and_message(error)}") from error


def request_fields(entries: Iterable[tuple[str, Mapping[str, Any]]], signature: Signature) -> tuple[str, ...]:
    """The fields of the requests that these tasks take, by kind and config.

    Nothing if one of them is not known here, or takes any field.
    """
    try:
        requests = [load_task(kind, config, signature).Request for kind, config in entries]
    except PenstockError:
        return ()
    if any(request.model_config.get("extra") == "allow" for request in requests):
        return ()
    return tuple(dict.fromkeys(name for request in requests for name in request.model_fields))


def require_rows(task: Task | type[Task], signature: Signature) -> None:
    """Raise ModelLoadError for a task that needs rows and a model with a tensor that has no batch axis."""
    if not task.needs_rows or not signature.whole:
        return
    without = next(name for name, axis in signature.batch_axes.items() if axis is None)
    raise ModelLoadError(
        f"the task {task.kind} needs rows, and {without} has no batch axis; such a model has the task tensor only"
    )


def task_for_bare(signature: Signature) -> str:
    """The kind of task for a bare model file, chosen from its signature."""
    if signature.whole or len(signature.inputs) != 1 or len(signature.outputs) != 1:
        return "tensor"
    given, answer = signature.inputs[0], signature.outputs[0]
    rows_of_floats = all(
        spec.dtype == "FP32" and len(spec.shape) == 2 and spec.shape[0] < 0 for spec in (given, answer)
    )
    return "vector-classification" if rows_of_floats and given.shape[1] >= 1 and answer.shape[1] >= 2 else "tensor"


def _plugins() -> dict[str, str]:
    return {entry.name: entry.value for entry in entry_points(group=GROUP)}


def _import(kind: str, target: str) -> Any:
    try:
        return import_attribute(target)
    except Exception as error:  # a plug-in may raise anything while it is imported
        raise ModelLoadError(
            f"the task {kind!r} could not be loaded from {target}: {type_and_message(error)}"
        ) from error
