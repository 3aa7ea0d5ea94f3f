"""The tasks of a bare model file: what its user says of it, else what the file shows, else tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from penstock.errors import InferenceError, InvalidInput, ModelLoadError
from penstock.file_description import FileDescription
from penstock.tasks.catalog import load_task, task_for_bare
from penstock.tensors import Array, Arrays, Signature

VECTOR = "vector-classification"
CLASS_METADATA = ("class_names", "classes", "id2label", "label_names", "labels", "names")
"""Keys under which exporters keep the names of a classifier's classes."""

_ROWS = 8
_SUM_TOLERANCE = 1e-3
_CLASSES = f'the task is {VECTOR}, since {{why}}; say otherwise with task="tensor"'
_TENSORS = (
    "the task is tensor, since nothing shows that the outputs are scores of classes; if they are, name the task "
    f'(task="{VECTOR}") or give labels (labels=[…]). POST /inference/predict and ?task={VECTOR} read classes anyway'
)
_BY_SETTING = {"resize": "image-classification", "columns": "tabular"}
"""Settings that only one kind of task has."""


class TaskGuess(NamedTuple):
    """The default task with its configuration, and `more` kinds that requests may name.

    `assumed` says why, and how to say otherwise; it is empty where the user has said it.
    """

    kind: str
    config: dict[str, Any]
    more: tuple[str, ...] = ()
    assumed: str = ""


def guess_task(
    signature: Signature, about: FileDescription, metadata: Mapping[str, str], run: Callable[[Arrays], Arrays]
) -> TaskGuess:
    """The tasks of a file with this signature, metadata and `run`.

    A file is a classifier if its user says so, if its metadata names classes, or if its outputs are probabilities.
    Without such evidence its outputs may be anything: it answers tensors, and reads classes only from requests that ask
    for them. Raises InvalidInput for labels or settings that do not tell which task they belong to.
    """
    said = about.task or _said(signature, about)
    if said is not None:
        return TaskGuess(said, about.task_config)
    if not _fits_vector(signature):
        return TaskGuess("tensor", {})
    why = _evidence(signature, metadata, run) if task_for_bare(signature) == VECTOR and not signature.batch_axes else ""
    if why:
        return TaskGuess(VECTOR, {}, (), _CLASSES.format(why=why))
    return TaskGuess("tensor", {}, (VECTOR,), _TENSORS)


def _said(signature: Signature, about: FileDescription) -> str | None:
    """The task that labels and settings belong to; None without any."""
    config = about.task_config
    if not config:
        return None
    kind = next((kind for name, kind in _BY_SETTING.items() if name in config), VECTOR)
    if kind == VECTOR and not _fits_vector(signature):
        field = "labels" if about.labels else "preprocess"
        raise InvalidInput(
            f"{field}: the model takes no vector of numbers, so name the task that they belong to: "
            'task="image-classification" with preprocess={…}, for example',
            field=field,
        )
    return kind


def _fits_vector(signature: Signature) -> bool:
    try:
        load_task(VECTOR, {}, signature)
    except ModelLoadError:
        return False
    return True


def _evidence(signature: Signature, metadata: Mapping[str, str], run: Callable[[Arrays], Arrays]) -> str:
    """Why the outputs are scores of classes, as the end of a sentence; empty if nothing shows it."""
    named = next((key for key in metadata if key.lower() in CLASS_METADATA), None)
    if named is not None:
        return f"its metadata has {named!r}"
    given, answer = signature.inputs[0], signature.outputs[0]
    random = np.random.default_rng(0).standard_normal((_ROWS, *given.shape[1:]))
    try:
        rows = run({given.name: random.astype(given.numpy)})[answer.name]
    except InferenceError:
        return ""
    if _sums_to_one(rows):
        return "the outputs are probabilities: each row sums to 1"
    with np.errstate(over="ignore"):
        return "the outputs are logarithms of probabilities" if _sums_to_one(np.exp(rows)) else ""


def _sums_to_one(rows: Array) -> bool:
    if rows.ndim != 2 or len(rows) != _ROWS:
        return False
    return bool((rows >= 0).all() and (np.abs(rows.sum(axis=1) - 1) < _SUM_TOLERANCE).all())
