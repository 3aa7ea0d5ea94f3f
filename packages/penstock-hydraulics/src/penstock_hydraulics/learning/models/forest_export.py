"""Export of scikit-learn trees to ONNX, with the same inputs and outputs as the network.

The graph is for the rig only, so its number of nodes is fixed. Inputs that the trees do not need are unused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from penstock.errors import InvalidInput
from penstock_hydraulics.learning.data.recordings import RIG, ROWS
from penstock_hydraulics.learning.metrics import TINY
from penstock_hydraulics.learning.models.baselines import EPSILON, FittedClassifiers
from penstock_hydraulics.machine.states import ANOMALIES, HEADS, LEVELS, SUPERVISED, Head
from penstock_hydraulics.signals.features import CHANNELS, STATISTICS, STEPS, Layout

OPSET: Final = 17
ML_OPSET: Final = 3
NODES: Final = len(RIG.components)
OUTPUTS: Final = {
    "levels": [NODES, LEVELS],
    "component_health": [NODES],
    "health": [],
    "degradation": [],
    "anomalies": [len(ANOMALIES)],
}


@dataclass(frozen=True)
class Tree:
    """Nodes as columns; `left` is taken if `feature` <= `threshold`. A leaf has `left` -1 and a row of `values`."""

    feature: NDArray[np.int64]
    threshold: NDArray[np.float32]
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    values: NDArray[np.float32]


def write_forest(fitted: FittedClassifiers, temperatures: Sequence[float], path: Path) -> None:
    """Write the calibrated graph to `path`; raises InvalidInput for classifiers other than trees."""
    layout = Layout.make(RIG, ROWS, fitted.scales)
    builder = _Builder()
    features = builder.features(layout)
    blocks = [
        builder.state(head, classifier, features, temperature)
        for head, classifier, temperature in zip(HEADS, fitted.classifiers, temperatures, strict=True)
    ]
    builder.answers(blocks)
    model = helper.make_model(
        builder.graph(),
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)],
        ir_version=8,
    )
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


class _Builder:
    """Collects the nodes and constants of the graph."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, kind: str, inputs: Sequence[str], output: str, domain: str = "", **attributes: Any) -> str:
        """Add a node; returns the name of its output."""
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=output, domain=domain, **attributes))
        return output

    def constant(self, name: str, value: Any, dtype: type = np.float32) -> str:
        """Add a named constant; returns its name."""
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype=dtype), name))
        return name

    def features(self, layout: Layout) -> str:
        """[B, ROWS * STATISTICS + ROWS] like `baselines.features_of`."""
        slots = self.constant("slots", layout.slots, np.int64)
        rows = self.constant("rows_shape", [0, NODES * len(CHANNELS), STATISTICS], np.int64)
        flat = self.constant("flat_shape", [0, len(ROWS) * STATISTICS], np.int64)
        seen = self.constant("seen_shape", [0, NODES * len(CHANNELS)], np.int64)
        chosen = self.add("Gather", [self.add("Reshape", ["statistics", rows], "rows"), slots], "chosen", axis=1)
        present = self.add("Gather", [self.add("Reshape", ["present", seen], "seen"), slots], "given", axis=1)
        return self.add("Concat", [self.add("Reshape", [chosen, flat], "flat"), present], "features", axis=1)

    def state(self, head: Head, classifier: Any, features: str, temperature: float) -> str:
        """[B, levels] calibrated probabilities of one state."""
        trees, base, additive = _trees_of(classifier, head)
        sums = self.add(
            "TreeEnsembleRegressor",
            [features],
            f"{head.name}.sum",
            domain="ai.onnx.ml",
            n_targets=len(head.levels),
            **_ensemble(trees),
            **({"base_values": base} if additive else {}),
        )
        own = self.add("Softmax", [sums], f"{head.name}.own", axis=1) if additive else sums
        share = self.constant(f"{head.name}.share", 1 - EPSILON)
        spread = self.constant(f"{head.name}.spread", EPSILON / len(head.levels))
        smooth = self.add("Add", [self.add("Mul", [own, share], f"{head.name}.part"), spread], f"{head.name}.smooth")
        least = self.constant(f"{head.name}.least", TINY)
        logits = self.add("Log", [self.add("Max", [smooth, least], f"{head.name}.held")], f"{head.name}.log")
        divisor = self.constant(f"{head.name}.temperature", temperature)
        return self.add("Softmax", [self.add("Div", [logits, divisor], f"{head.name}.logits")], head.name, axis=1)

    def answers(self, blocks: Sequence[str]) -> None:
        """The five outputs; a component without a state counts as healthy."""
        row = self.add("Concat", blocks, "row", axis=1)
        middle = self.constant("middle", [1], np.int64)
        one = self.add("Unsqueeze", [row, middle], "one")
        self.add("Tile", [one, self.constant("times", [1, NODES, 1], np.int64)], "levels")
        weights, nodes = _health_weights()
        loss = self.add("MatMul", [row, self.constant("severities", weights)], "severity")
        health = self.add("Sub", [self.constant("whole", 1.0), loss], "component_health")
        stated = self.add("Gather", [health, self.constant("stated", nodes, np.int64)], "with_state", axis=1)
        worst = self.add("ReduceMin", [stated], "worst", axes=[1], keepdims=0)
        mean = self.add("ReduceMean", [stated], "mean", axes=[1], keepdims=0)
        both = self.add("Add", [worst, mean], "both")
        machine = self.add("Mul", [both, self.constant("half", 0.5)], "health")
        self.add("Sub", ["whole", machine], "degradation")
        self.add("MatMul", [row, self.constant("carried", _anomaly_weights())], "anomalies")

    def graph(self) -> onnx.GraphProto:
        """Everything added so far, with the model's inputs and outputs."""
        channels = len(CHANNELS)
        shapes = {
            "signals": [NODES, channels, STEPS],
            "statistics": [NODES, channels, STATISTICS],
            "present": [NODES, channels],
            "adjacency": [NODES, NODES],
        }
        inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *s]) for name, s in shapes.items()]
        inputs.append(helper.make_tensor_value_info("kinds", TensorProto.INT64, ["batch", NODES]))
        outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *s]) for name, s in OUTPUTS.items()]
        return helper.make_graph(self.nodes, "trees", inputs, outputs, self.constants)


def _health_weights() -> tuple[NDArray[np.float32], list[int]]:
    """[LEVELS, NODES] severity of each level at the component with the state; indices of those components."""
    weights = np.zeros((LEVELS, NODES), dtype=np.float32)
    nodes = [next(n for n, part in enumerate(RIG.components) if part.kind == head.kind) for head in HEADS]
    for head, node in zip(HEADS, nodes, strict=True):
        weights[head.columns, node] = head.severities
    return weights, nodes


def _anomaly_weights() -> NDArray[np.float32]:
    """[LEVELS, ANOMALIES] 1 where a level counts as an anomaly; 0 for unlabelled anomalies."""
    weights = np.zeros((LEVELS, len(ANOMALIES)), dtype=np.float32)
    for one in SUPERVISED:
        weights[one.columns, ANOMALIES.index(one.anomaly)] = 1.0
    return weights


def _trees_of(classifier: Any, head: Head) -> tuple[list[Tree], list[float], bool]:
    """The trees, their base values, and whether they sum to logits (True) or probabilities (False)."""
    if list(classifier.classes_) != list(range(len(head.levels))):
        raise InvalidInput(
            f"{head.name}: the training data has only the levels {list(classifier.classes_)}; all levels are needed"
        )
    if hasattr(classifier, "_predictors"):
        base = [float(value) for value in np.ravel(classifier._baseline_prediction)]
        return list(_boosted(classifier, len(head.levels))), base, True
    if hasattr(classifier, "estimators_"):
        return [_grown(one.tree_, len(classifier.estimators_)) for one in classifier.estimators_], [], False
    raise InvalidInput(f"{type(classifier).__name__} cannot be exported; only tree ensembles can")


def _boosted(classifier: Any, levels: int) -> Iterator[Tree]:
    """One tree per level and iteration, read from private attributes, since scikit-learn has no public ones."""
    for iteration in classifier._predictors:
        for level, predictor in enumerate(iteration):
            nodes = predictor.nodes
            leaf = nodes["is_leaf"].astype(bool)
            values = np.zeros((len(nodes), levels), dtype=np.float32)
            values[leaf, level] = nodes["value"][leaf]
            left = np.where(leaf, -1, nodes["left"].astype(np.int64))
            yield Tree(
                nodes["feature_idx"].astype(np.int64),
                _rounded_down(nodes["num_threshold"]),
                left,
                nodes["right"].astype(np.int64),
                values,
            )


def _grown(tree: Any, count: int) -> Tree:
    """One of `count` averaged trees."""
    shares = tree.value[:, 0, :]
    values = (shares / shares.sum(axis=1, keepdims=True) / count).astype(np.float32)
    left = tree.children_left.astype(np.int64)
    return Tree(tree.feature.astype(np.int64), _rounded_down(tree.threshold), left, tree.children_right, values)


def _rounded_down(thresholds: NDArray[np.float64]) -> NDArray[np.float32]:
    """The largest float32 not above, so that float32 inputs take the same branch."""
    near = thresholds.astype(np.float32)
    return np.where(near > thresholds, np.nextafter(near, np.float32(-np.inf)), near).astype(np.float32)


def _ensemble(trees: Sequence[Tree]) -> dict[str, list[Any]]:
    """The attributes of ONNX's TreeEnsembleRegressor; zeros of leaves are omitted."""
    columns: dict[str, list[Any]] = {name: [] for name in _ATTRIBUTES}
    for number, tree in enumerate(trees):
        leaf = tree.left < 0
        count = len(leaf)
        columns["nodes_treeids"] += [number] * count
        columns["nodes_nodeids"] += range(count)
        columns["nodes_modes"] += np.where(leaf, "LEAF", "BRANCH_LEQ").tolist()
        columns["nodes_featureids"] += np.where(leaf, 0, tree.feature).tolist()
        columns["nodes_values"] += np.where(leaf, 0, tree.threshold).tolist()
        columns["nodes_truenodeids"] += np.where(leaf, 0, tree.left).tolist()
        columns["nodes_falsenodeids"] += np.where(leaf, 0, tree.right).tolist()
        at, level = np.nonzero(tree.values * leaf[:, None])
        columns["target_treeids"] += [number] * len(at)
        columns["target_nodeids"] += at.tolist()
        columns["target_ids"] += level.tolist()
        columns["target_weights"] += tree.values[at, level].tolist()
    return columns


_ATTRIBUTES: Final = (
    "nodes_treeids",
    "nodes_nodeids",
    "nodes_modes",
    "nodes_featureids",
    "nodes_values",
    "nodes_truenodeids",
    "nodes_falsenodeids",
    "target_treeids",
    "target_nodeids",
    "target_ids",
    "target_weights",
)
