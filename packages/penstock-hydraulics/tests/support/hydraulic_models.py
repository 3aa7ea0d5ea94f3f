"""A small ONNX model with the interface of the hydraulic ones, its artifact, and requests for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from penstock.artifacts.artifact import TaskEntry, VariantSource, write_artifact
from penstock.registry.registry import Registry
from penstock.tensors import Signature, TensorSpec
from penstock_hydraulics.machine.states import ANOMALIES, HEADS, LEVELS
from penstock_hydraulics.machine.templates import TEMPLATES
from penstock_hydraulics.signals.coverage import EVIDENCE
from penstock_hydraulics.signals.features import CHANNELS, STATISTICS, STEPS, Scales

C = len(CHANNELS)
SIGNATURE = Signature(
    inputs=(
        TensorSpec("signals", "FP32", (-1, -1, C, STEPS)),
        TensorSpec("statistics", "FP32", (-1, -1, C, STATISTICS)),
        TensorSpec("present", "FP32", (-1, -1, C)),
        TensorSpec("adjacency", "FP32", (-1, -1, -1)),
        TensorSpec("kinds", "INT64", (-1, -1)),
    ),
    outputs=(
        TensorSpec("levels", "FP32", (-1, -1, LEVELS)),
        TensorSpec("component_health", "FP32", (-1, -1)),
        TensorSpec("health", "FP32", (-1,)),
        TensorSpec("degradation", "FP32", (-1,)),
        TensorSpec("anomalies", "FP32", (-1, len(ANOMALIES))),
    ),
)


def _value(name: str, kind: int, shape: tuple[int | str, ...]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def hydraulic_model(path: Path, seed: int = 0) -> Path:
    """States from the node's mean signal, faults from the sum over nodes; padding has no effect."""
    rng = np.random.default_rng(seed)
    constants = {
        "to_levels": rng.normal(0, 1, (C, LEVELS)).astype(np.float32),
        "to_anomalies": rng.normal(0, 0.2, (C, len(ANOMALIES))).astype(np.float32),
        "time": np.array([3], np.int64),
        "node": np.array([1], np.int64),
        "last": np.array([2], np.int64),
        "zero": np.array(0, np.int64),
        "one": np.array(1, np.float32),
        "sizes": np.array([len(head.levels) for head in HEADS], np.int64),
        "best": np.array([head.start for head in HEADS], np.int64),
    }
    nodes = [
        helper.make_node("ReduceMean", ["signals", "time"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "to_levels"], ["logits"]),
        helper.make_node("Split", ["logits", "sizes"], [f"l{k}" for k in range(4)], axis=2),
        *(helper.make_node("Softmax", [f"l{k}"], [f"p{k}"], axis=2) for k in range(4)),
        helper.make_node("Concat", [f"p{k}" for k in range(4)], ["levels"], axis=2),
        helper.make_node("Gather", ["levels", "best"], ["sound"], axis=2),
        helper.make_node("ReduceMean", ["sound", "last"], ["component_health"], keepdims=0),
        helper.make_node("Greater", ["kinds", "zero"], ["real"]),
        helper.make_node("Cast", ["real"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["component_health", "mask"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "node"], ["total"], keepdims=0),
        helper.make_node("ReduceSum", ["mask", "node"], ["count"], keepdims=0),
        helper.make_node("Div", ["total", "count"], ["health"]),
        helper.make_node("Sub", ["one", "health"], ["degradation"]),
        helper.make_node("ReduceSum", ["mean", "node"], ["pooled"], keepdims=0),
        helper.make_node("MatMul", ["pooled", "to_anomalies"], ["scores"]),
        helper.make_node("Sigmoid", ["scores"], ["anomalies"]),
    ]
    graph = helper.make_graph(
        nodes,
        "hydraulic",
        [
            _value("signals", TensorProto.FLOAT, ("b", "n", C, STEPS)),
            _value("statistics", TensorProto.FLOAT, ("b", "n", C, STATISTICS)),
            _value("present", TensorProto.FLOAT, ("b", "n", C)),
            _value("adjacency", TensorProto.FLOAT, ("b", "n", "n")),
            _value("kinds", TensorProto.INT64, ("b", "n")),
        ],
        [
            _value("levels", TensorProto.FLOAT, ("b", "n", LEVELS)),
            _value("component_health", TensorProto.FLOAT, ("b", "n")),
            _value("health", TensorProto.FLOAT, ("b",)),
            _value("degradation", TensorProto.FLOAT, ("b",)),
            _value("anomalies", TensorProto.FLOAT, ("b", len(ANOMALIES))),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def coverage_of_the_rig() -> dict[str, Any]:
    """A coverage table by which every sensor of `EVIDENCE` tells its state alone."""
    rig = TEMPLATES["zema_rig"]
    names = [*rig.expected_sensors]
    kinds = {name: (rig.components[node].kind, quantity) for name in names for node, quantity in (rig.sensor(name),)}
    tells = {name: [state for state, evidence in EVIDENCE.items() if kinds[name] in evidence] for name in names}
    sets = [([place], tells[name]) for place, name in enumerate(names)]
    sets.append(([*range(len(names))], [*EVIDENCE]))
    documents = [{"sensors": own, "states": {name: [1.0, 0.5, 1.0, 1.0] for name in told}} for own, told in sets]
    fast = {f"flow_{part}": f"flow_{part}@1hz" for part in ("pump_main", "circ_pump")}
    slow = [fast.get(name, name) for name in names]
    more = [each | {"sensors": [place + len(names) for place in each["sensors"]]} for each in documents]
    return {"zema_rig": {"sensors": [*names, *slow], "sets": [*documents, *more]}}


def task_config(**more: Any) -> dict[str, Any]:
    return {"scales": Scales({}, {}).to_mapping(), "coverage": coverage_of_the_rig(), **more}


def hydraulic_registry(root: Path, database_url: str | None = None, **config: Any) -> Path:
    """`hydraulics` 1.0 in a registry below `root`."""
    root.mkdir(parents=True, exist_ok=True)
    source = write_artifact(
        root / "source",
        name="hydraulics",
        version="1.0",
        task=TaskEntry(kind="hydraulic-diagnostics", config=task_config(**config)),
        signature=SIGNATURE,
        variants=[VariantSource("onnx", "fp32", hydraulic_model(root / "model.onnx"))],
        golden=None,
        card="---\nlicense: apache-2.0\n---\n# A model for tests\n",
    ).path
    with Registry(root / "registry", database_url) as registry:
        registry.publish(source)
        return registry.path


def readings(
    topology: Any, seconds: int = 60, seed: int = 0, rate_hz: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """Plausible noisy readings of all expected sensors."""
    rng = np.random.default_rng(seed)
    usual = {"pressure": 120.0, "flow": 8.0, "temperature": 42.0, "vibration": 0.6, "power": 2500.0}
    data = {}
    for name in topology.expected_sensors:
        base = usual[name.partition("_")[0]]
        count = seconds * (rate_hz or {}).get(name, 1)
        data[name] = [round(float(x), 4) for x in base * (1 + 0.05 * rng.standard_normal(count))]
    return data
