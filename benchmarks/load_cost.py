"""`python benchmarks/load_cost.py [--model FILE] [--rounds N]`: what a load costs beside ONNX Runtime's own.

CPU time of this process, all threads, after every import: `ModelManager.load_model` of a small model, as a file and as
an artifact (checked, opened, warmed up, ready to answer), against `onnxruntime.InferenceSession` and one run. Medians
of rounds in turn. The first load on a machine also proves that rows are independent; it is printed apart.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
from turns import Result, in_turn

from penstock.engine.loading.manager import ModelManager
from penstock.registry.registry import Registry

ARTIFACT = Path(__file__).parents[1] / "src" / "penstock_digits" / "artifacts" / "digits"
LIMIT = 5.0
"""A load may cost this many times ONNX Runtime's own open and one run."""


def cpu_ms(action: Callable[[], object]) -> Result:
    started, cpu = time.perf_counter(), time.process_time()
    action()
    return {"cpu_ms": (time.process_time() - cpu) * 1e3, "wall_ms": (time.perf_counter() - started) * 1e3}


def bare(path: Path) -> None:
    """Open and run one row of ones."""
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    kinds = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(double)": np.float64}
    inputs = {
        value.name: np.ones([n if isinstance(n, int) else 1 for n in value.shape], kinds[value.type])
        for value in session.get_inputs()
    }
    session.run(None, inputs)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=ARTIFACT / "variants" / "onnx-fp32" / "model.onnx")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Registry(folder) as registry:
        manager = ModelManager(registry, device="cpu")
        ref = registry.publish(ARTIFACT).ref

        def load(what: str | Path) -> None:
            manager.load_model(what)
            manager.clear_cache()

        sides: dict[str, Callable[[], Result]] = {
            "onnxruntime": lambda: cpu_ms(lambda: bare(given.model)),
            "file": lambda: cpu_ms(lambda: load(given.model)),
            "artifact": lambda: cpu_ms(lambda: load(ref)),
        }
        for name, side in sides.items():
            print(f"    first {name}: {side()}")  # imports what is imported late
        found = in_turn(sides, given.rounds)
    own = found["onnxruntime"]["cpu_ms"]
    ratios = {name: found[name]["cpu_ms"] / own for name in sides if name != "onnxruntime"}
    for name, ratio in ratios.items():
        print(f"{name}: {found[name]['cpu_ms']:.1f} ms, {ratio:.1f} times the {own:.1f} ms of ONNX Runtime")
    return int(max(ratios.values()) > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
