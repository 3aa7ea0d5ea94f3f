"""A few cases of the bulk run over the ONNX backend tests; the whole takes minutes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "onnx_backend.py"


def test_cases_of_the_onnx_package_are_served_as_onnx_runtime_answers_them() -> None:
    operators = "div,nonzero,softmax_cross_entropy_loss"
    command = [sys.executable, SCRIPT, "--operators", operators, "--workers", "1", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    statuses = [result["status"] for result in json.loads(done.stdout)]
    assert statuses.count("passed") > 20
    assert {*statuses} <= {"passed", "ort", "types"}
