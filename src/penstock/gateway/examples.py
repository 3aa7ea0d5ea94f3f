"""A request that the served default model answers, for the documentation to try."""

from __future__ import annotations

import math
from typing import Any

from penstock.engine.engine import InferenceEngine
from penstock.engine.loaded import LoadedModel


def example_request(engine: InferenceEngine) -> dict[str, Any] | None:
    """A JSON request for the default model: a golden sample where that is one, else plain numbers. None without one."""
    model = next((m for m in engine.loaded() if engine.default_ref in (m.name, m.key)), None)
    if model is None or model.task.array_field is None:
        return None
    features = math.prod(model.signature.inputs[0].shape[1:])
    return {model.task.array_field: _golden_row(model) or [round(i / features, 4) for i in range(features)]}


def _golden_row(model: LoadedModel) -> list[float] | None:
    """The first golden sample, unless the request is something else than the model's input."""
    golden = model.artifact.golden() if model.artifact is not None else None
    if golden is None or model.task.config.get("preprocess"):
        return None
    row = next(iter(golden.inputs.values()))[0].ravel()
    return [round(number, 4) for number in row.tolist()]
