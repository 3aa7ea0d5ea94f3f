"""A request that a served model answers, for the documentation to show and to try."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from penstock.engine.loaded import LoadedModel


class Example(NamedTuple):
    """A request in JSON, the model that answers it, and whether that one is the default."""

    request: dict[str, Any]
    name: str
    version: str
    is_default: bool


def example_of(default: LoadedModel, loaded: list[LoadedModel]) -> Example | None:
    """For the default model where it takes a vector, else for the first that does; None when none does."""
    for model in [default, *loaded]:
        if model.task.array_field is not None:
            numbers = _golden_row(model) or _plain_row(model)
            return Example({model.task.array_field: numbers}, model.name, model.version, model is default)
    return None


def _plain_row(model: LoadedModel) -> list[float]:
    features = math.prod(model.signature.inputs[0].shape[1:])
    return [round(i / features, 4) for i in range(features)]


def _golden_row(model: LoadedModel) -> list[float] | None:
    """The first golden sample, where a request of its numbers reaches the model as that sample."""
    golden = model.artifact.golden() if model.artifact is not None else None
    if golden is None:
        return None
    name, samples = next(iter(golden.inputs.items()))
    row = np.round(samples[0].ravel().astype(np.float64), 4)
    prepared = model.task.preprocess(model.task.coerce(row))[name]
    return row.tolist() if np.allclose(prepared, samples[:1], atol=1e-3) else None
