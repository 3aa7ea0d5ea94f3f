"""Example requests for the served models, for the documentation."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import orjson

from penstock.datatypes import BF16, to_json_values
from penstock.engine.loading.loaded_model import LoadedModel
from penstock.tasks.base import Task
from penstock.tasks.tensor import TensorTask

_MOST_NUMBERS = 4096
"""Of one input in an example; more are hard to read in a page."""

log = logging.getLogger(__name__)

_MOST_SHOWN = 300
"""Values in an example."""


class Example(NamedTuple):
    """A request as JSON values, the model that answers it, and whether that is the default model.

    `vector` is a request for a model that takes one flat array of numbers, None if there is none. `others` has a
    request for each model by name, if tasks define examples.
    """

    request: Any
    name: str
    version: str
    is_default: bool
    vector: Any = None
    others: Mapping[str, Any] = {}


def example_of(default: LoadedModel, loaded: Sequence[LoadedModel]) -> Example | None:
    """For the default model if its task has an example or takes a vector, else for the first such model, or None."""
    models = [default, *(model for model in loaded if model is not default)]
    requests = {
        model.name: (model, _request(model)) for model in reversed(models)
    }  # of several versions, the default's
    shown = {name: request for name, (_, request) in sorted(requests.items()) if request is not None}
    model = next((model for model in models if model.name in shown), None)
    if model is None:
        return None
    has_examples = any(model.task.example is not None for model in models)
    others = shown if has_examples and len(shown) > 1 else {}
    taking = next((model for model in models if model.vector_task is not None), None)
    vector = None if taking is None else request_for(taking, taking.runners[str(taking.vector_task)].task)
    return Example(shown[model.name], model.name, model.version, model is default, vector, others)


def _request(model: LoadedModel) -> Any:
    return request_for(model, model.task)


def request_for(model: LoadedModel, task: Task) -> Any:
    """A request that one task of a model answers: the task's own example, or numbers that fit; else None."""
    if task.example is not None and _is_json(task):
        return task.example
    if task.array_field is not None:
        return {task.array_field: _golden_row(model, task) or _plain_row(model)}
    if not isinstance(task, TensorTask):
        return None
    arrays = _whole_request(model) if model.signature.whole else _tensors(model)
    return None if arrays is None else {"inputs": arrays}


def _whole_request(model: LoadedModel) -> dict[str, Any] | None:
    """The golden samples, or zeros with 1 for free lengths: the shapes of the file. None if it is large, or text."""
    golden = model.artifact.golden() if model.artifact is not None else None
    specs = model.signature.inputs
    arrays = {spec.name: np.zeros([abs(length) for length in spec.shape], spec.numpy) for spec in specs}
    arrays = arrays if golden is None else golden.inputs
    if sum(array.size for array in arrays.values()) > _MOST_SHOWN or any(spec.dtype == "BYTES" for spec in specs):
        return None
    return {spec.name: to_json_values(spec.name, arrays[spec.name], spec.dtype) for spec in specs}


def _is_json(task: Task) -> bool:
    try:
        orjson.dumps(task.example)
    except TypeError as error:
        log.warning("the example of the task %s is not shown: %s", task.kind, error)
        return False
    return True


def _tensors(model: LoadedModel) -> dict[str, Any] | None:
    """One row of each input: of the golden samples, or zeros where every length is known; None for a large one."""
    golden = model.artifact.golden() if model.artifact is not None else None
    if model.signature.batch_axes or not model.signature.batched:
        return None
    arrays = {}
    for spec in model.signature.inputs:
        shape = tuple(max(length, 1) for length in spec.shape)
        array = golden.inputs[spec.name][: shape[0]] if golden is not None else np.zeros(shape, spec.numpy)
        known = golden is not None or all(length > 0 for length in spec.shape[1:])
        if not known or array.dtype.kind not in "fiub" or spec.dtype == BF16 or array.size > _MOST_NUMBERS:
            return None
        arrays[spec.name] = (np.round(array.astype(np.float64), 4) if array.dtype.kind == "f" else array).tolist()
    return arrays


def _plain_row(model: LoadedModel) -> list[float]:
    features = math.prod(model.signature.inputs[0].shape[1:])
    return [round(i / features, 4) for i in range(features)]


def _golden_row(model: LoadedModel, task: Task) -> list[float] | None:
    """The first golden sample, if a request with its numbers is preprocessed into that sample."""
    golden = model.artifact.golden() if model.artifact is not None else None
    if golden is None:
        return None
    name, samples = next(iter(golden.inputs.items()))
    row = np.round(samples[0].ravel().astype(np.float64), 4)
    prepared = task.preprocess(task.coerce(row))[name]
    return row.tolist() if np.allclose(prepared, samples[:1], atol=1e-3) else None
