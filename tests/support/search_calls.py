"""What a search calls in the process that makes candidates, in forms that crash, hang, or take all memory."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any


def open_subject(path: Path, trust: str) -> dict[str, Any]:
    return {"operators": ["linear"], "has_module": False, "notes": []}


def carry_out(recipe: dict[str, Any], scratch: Path, data: Any, labels: Any) -> dict[str, Any]:
    kinds = [step["kind"] for step in recipe["techniques"]]
    if recipe["format"] == "openvino":
        os.abort()
    if kinds == ["quantize-static"]:
        time.sleep(3600)
    if kinds == ["quantize-dynamic"]:
        raise SystemExit(3)
    (scratch / "model.onnx").write_bytes(b"this is no model")
    return {
        "name": "onnx-int8",
        "format": "onnx",
        "precision": "int8",
        "path": scratch / "model.onnx",
        "companions": {},
        "exporter": "a test",
        "notes": [],
        "requires": [],
        "num_parameters": None,
    }


def worst_operators(recipe: dict[str, Any], scratch: Path, data: Any, seconds: float) -> list[str]:
    return []
