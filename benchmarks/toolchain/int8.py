"""Quantization and half precision: accuracy, size and speed of each technique.

    python benchmarks/toolchain/int8.py [--rounds 31] [--json]

The starter CNN on the 360 held-out digits, calibrated on the training digits; and four linear layers of 1024 with
random weights, where deviation takes the place of accuracy. Every file runs in Penstock's back end on one thread, in
turn with the fp32 ONNX file; a speed-up is the median over the rounds. Exit code 1 when a target is missed: static int8
of the CNN loses at most 0.5 points of accuracy and has at most 30 % of the fp32 size.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import penstock_digits
from penstock.artifacts.artifact import Artifact
from penstock.backends.base import Backend, ModelFile
from penstock.backends.catalog import open_backend
from penstock.errors import PenstockError
from penstock.options import BackendOptions
from penstock.tensors import Array, Arrays, Signature, TensorSpec
from penstock.toolchain.recipes.making import Made, make
from penstock.toolchain.recipes.opening import subject_of
from penstock.toolchain.recipes.recipe import Recipe
from penstock.toolchain.recipes.subject import Materials, Subject
from penstock_digits.data import features_of, load_split

BATCHES = (1, 32)
MOST_LOST, MOST_SIZE = 0.5, 0.30
RECIPES: dict[str, dict[str, Any]] = {
    "fp32": {},
    "static": {"techniques": [{"kind": "quantize-static"}]},
    "static, 8 bits": {"techniques": [{"kind": "quantize-static", "bits": 8}]},
    "static, entropy": {"techniques": [{"kind": "quantize-static", "observer": "entropy"}]},
    "static, percentile": {"techniques": [{"kind": "quantize-static", "observer": "percentile"}]},
    "static, pt2e": {"techniques": [{"kind": "quantize-static", "engine": "pt2e"}]},
    "dynamic": {"techniques": [{"kind": "quantize-dynamic"}]},
    "dynamic, convolutions": {"techniques": [{"kind": "quantize-dynamic", "convolutions": True}]},
    "weight-only": {"techniques": [{"kind": "weight-only"}]},
    "weight-only, fp32": {"techniques": [{"kind": "weight-only", "compute": "fp32"}]},
    "cast fp16": {"techniques": [{"kind": "cast"}]},
    "cast bf16": {"techniques": [{"kind": "cast", "dtype": "bf16"}]},
    "mixed fp16": {"techniques": [{"kind": "mixed-precision", "dtype": "fp16", "engine": "onnxruntime"}]},
    "graph": {"techniques": [{"kind": "optimize-graph"}]},
    "openvino": {"format": "openvino"},
    "nncf": {"format": "openvino", "techniques": [{"kind": "quantize-nncf"}]},
}


@dataclass(frozen=True)
class Case:
    """A model with calibration rows, held-out rows and, where it is trained, their classes."""

    subject: Subject
    calibration: Arrays
    held_out: Arrays
    labels: Array | None = None


def digits() -> Case:
    artifact = Artifact.open(Path(penstock_digits.__file__).parent / "artifacts" / "digits")
    split = load_split()
    train, held_out = ({"input": features_of(part.counts)} for part in (split.train, split.held_out))
    return Case(subject_of(artifact), train, held_out, split.held_out.labels)


def linear(directory: Path, width: int = 1024, layers: int = 4) -> Case:
    random = np.random.default_rng(0)
    nodes, weights, value = [], [], "x"
    for layer in range(layers):
        weight = (random.standard_normal((width, width)) * np.sqrt(2 / width)).astype(np.float32)
        weights.append(numpy_helper.from_array(weight, f"w{layer}"))
        nodes.append(helper.make_node("MatMul", [value, f"w{layer}"], [f"y{layer}"], name=f"linear{layer}"))
        value = f"x{layer}"
        nodes.append(helper.make_node("Relu", [f"y{layer}"], [value]))
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width]) for name in ("x", value)]
    graph = helper.make_graph(nodes, "linear", ports[:1], ports[1:], weights)
    path = directory / "linear.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path)
    specs = [TensorSpec(name, "FP32", (-1, width)) for name in ("x", value)]
    rows = [{"x": random.standard_normal((count, width)).astype(np.float32)} for count in (256, 256)]
    return Case(Subject("linear", Signature((specs[0],), (specs[1],)), onnx=path), *rows)


def opened(made: Made) -> Backend:
    options = BackendOptions(device="cpu", threads=1, trust="native")
    return open_backend(made.exported.format, ModelFile(made.exported.path), options)


def size_of(made: Made) -> int:
    return sum(path.stat().st_size for path in (made.exported.path, *made.exported.companions.values()))


def ratio(base: Backend, other: Backend, inputs: Arrays, rounds: int) -> float:
    """How much faster `other` is, as the median of rounds in which both run in turn."""
    return statistics.median(seconds(base, inputs) / seconds(other, inputs) for _ in range(rounds))


def seconds(backend: Backend, inputs: Arrays) -> float:
    took = []
    for _ in range(5):
        started = time.perf_counter()
        backend.run(inputs)
        took.append(time.perf_counter() - started)
    return min(took)


def measured(case: Case, rounds: int, scratch: Path) -> Iterator[dict[str, Any]]:
    name = case.subject.signature.outputs[0].name
    base_made = make(Recipe(), case.subject, Materials(scratch))
    base = opened(base_made)
    expected = base.run(case.held_out)[name]
    for label, document in RECIPES.items():
        started = time.perf_counter()
        try:
            made = make(Recipe.from_json(document), case.subject, Materials(scratch, case.calibration))
        except PenstockError as error:
            yield {"model": case.subject.name, "recipe": label, "why": str(error)}
            continue
        took = time.perf_counter() - started
        backend = opened(made)
        got = backend.run(case.held_out)[name]
        batches = {rows: {key: array[:rows] for key, array in case.held_out.items()} for rows in BATCHES}
        result = {
            "model": case.subject.name,
            "recipe": label,
            "size": size_of(made) / size_of(base_made),
            "deviation": float(np.sqrt(np.mean((got - expected) ** 2) / np.mean(expected**2))),
            "speed": {str(rows): ratio(base, backend, batch, rounds) for rows, batch in batches.items()},
            "seconds": took,
            "notes": made.exported.notes,
        }
        if case.labels is not None:
            right, before = ((one.argmax(axis=1) == case.labels).mean() for one in (got, expected))
            result |= {"accuracy": float(right), "points_lost": 100 * float(before - right)}
        yield result
        backend.close()
    base.close()


def shown(result: dict[str, Any]) -> str:
    start = f"{result['model']:7} {result['recipe']:22}"
    if "why" in result:
        return f"{start} {result['why']}"
    accuracy = f"accuracy {result['accuracy']:.4f}, " if "accuracy" in result else ""
    speed = ", ".join(f"{ratio:.2f}x at {rows}" for rows, ratio in result["speed"].items())
    numbers = f"{accuracy}deviation {result['deviation']:.4f}, size {result['size']:.3f}, {speed}"
    return f"{start} {numbers}, made in {result['seconds']:.1f} s; {'; '.join(result['notes'])}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as scratch:
        for case in (digits(), linear(Path(scratch))):
            for result in measured(case, arguments.rounds, Path(scratch)):
                results.append(result)
                print(shown(result), file=sys.stderr if arguments.json else sys.stdout, flush=True)
    if arguments.json:
        print(json.dumps(results, indent=1))
    static = next(one for one in results if one["recipe"] == "static")
    return 0 if static["points_lost"] <= MOST_LOST and static["size"] <= MOST_SIZE else 1


if __name__ == "__main__":
    raise SystemExit(main())
