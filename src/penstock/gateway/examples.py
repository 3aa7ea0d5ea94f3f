"""A request that a served model answers, for the documentation to show and to try."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

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
    """The first golden sample, unless something is done to a request before the model sees it."""
    golden = model.artifact.golden() if model.artifact is not None else None
    if golden is None or model.task.config.get("preprocess"):
        return None
    row = next(iter(golden.inputs.values()))[0].ravel()
    return [round(number, 4) for number in row.tolist()]
