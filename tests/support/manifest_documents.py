"""The JSON document of a small manifest, and modified copies."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

SHA = "ab" * 32
MANIFEST: dict[str, Any] = {
    "schema_version": 1,
    "name": "m",
    "version": "v1",
    "task": {"kind": "tensor", "config": {"labels": ["é", "b"]}},
    "signature": {
        "inputs": [{"name": "x", "dtype": "FP32", "shape": [-1, 4]}],
        "outputs": [{"name": "y", "dtype": "FP32", "shape": [-1, 2]}],
    },
    "created_at": "2026-01-31T12:00:00Z",
    "lineage": {},
    "training_data": {},
    "metrics": {"accuracy": 0.98},
    "variants": [
        {
            "format": "onnx",
            "precision": "fp32",
            "file": "variants/onnx-fp32/model.onnx",
            "files": [{"path": "variants/onnx-fp32/model.onnx", "sha256": SHA, "size": 3}],
        }
    ],
    "golden": {"file": {"path": "golden.safetensors", "sha256": SHA, "size": 4}, "rows": 2, "atol": 0, "rtol": 1e-3},
    "card": {"path": "card.md", "sha256": SHA, "size": 5},
}


def changed(changes: dict[str, Any], document: dict[str, Any] = MANIFEST) -> dict[str, Any]:
    """A copy with values set by dotted path, in which numbers are indices."""
    data: Any = deepcopy(document)
    for path, value in changes.items():
        place = data
        *steps, last = [int(step) if step.isdigit() else step for step in path.split(".")]
        for step in steps:
            place = place[step]
        place[last] = deepcopy(value)
    return data


def encoded(changes: dict[str, Any]) -> bytes:
    """MANIFEST with changes, as the bytes of a file."""
    return json.dumps(changed(changes)).encode()
