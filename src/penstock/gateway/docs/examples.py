"""Example requests for the served models, for the documentation."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import orjson

from penstock.datatypes import to_json_values
from penstock.engine.loading.loaded_model import TENSOR, LoadedModel

log = logging.getLogger(__name__)

_MOST_SHOWN = 300
"""Values in an example."""


class Example(NamedTuple):
    """A request as JSON values, the model that answers it, and whether that is the default model.

    `is_vector`: it is one flat array of numbers. `others` has a request for each model by name, if tasks define
    examples.
    """

    request: Any
    name: str
    version: str
    is_default: bool
    is_vector: bool = True
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
    is_vector = model.task.array_field is not None
    return Example(shown[model.name], model.name, model.version, model is default, is_vector, others)


def _request(model: LoadedModel) -> Any:
    """The example of the task, a row of numbers for one that takes a vector, a whole request in its shapes, or None."""
    task = model.task
    if task.example is not None and _is_json(model):
        return task.example
    if task.kind == TENSOR and task.signature.whole:
        return _whole_request(model)
    if task.array_field is None:
        return None
    return {task.array_field: _golden_row(model) or _plain_row(model)}


def _whole_request(model: LoadedModel) -> Any:
    """The golden samples, or zeros with 1 for free lengths: the shapes of the file. None if it is large, or text."""
    golden = model.artifact.golden() if model.artifact is not None else None
    specs = model.signature.inputs
    arrays = {spec.name: np.zeros([abs(length) for length in spec.shape], spec.numpy) for spec in specs}
    arrays = arrays if golden is None else golden.inputs
    if sum(array.size for array in arrays.values()) > _MOST_SHOWN or any(spec.dtype == "BYTES" for spec in specs):
        return None
    return {"inputs": {spec.name: to_json_values(spec.name, arrays[spec.name], spec.dtype) for spec in specs}}


def _is_json(model: LoadedModel) -> bool:
    try:
        orjson.dumps(model.task.example)
    except TypeError as error:
        log.warning("the example of the task %s is not shown: %s", model.task.kind, error)
        return False
    return True


def _plain_row(model: LoadedModel) -> list[float]:
    features = math.prod(model.signature.inputs[0].shape[1:])
    return [round(i / features, 4) for i in range(features)]


def _golden_row(model: LoadedModel) -> list[float] | None:
    """The first golden sample, if a request with its numbers is preprocessed into that sample."""
    golden = model.artifact.golden() if model.artifact is not None else None
    if golden is None:
        return None
    name, samples = next(iter(golden.inputs.items()))
    row = np.round(samples[0].ravel().astype(np.float64), 4)
    prepared = model.task.preprocess(model.task.coerce(row))[name]
    return row.tolist() if np.allclose(prepared, samples[:1], atol=1e-3) else None
