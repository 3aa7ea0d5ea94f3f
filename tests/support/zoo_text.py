"""Models with text, as ONNX graphs written by hand, and the same in plain Python for comparison."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from penstock.tensors import Array, Arrays

LABELS = ("bad", "good", "mixed")
VOCABULARY = ("great", "fine", "poor", "broken", "but", "käse")
_WEIGHTS = np.array([[-2, 2, 0], [-1, 1, 0], [1, -1, 0], [2, -2, 0], [0, 0, 2], [0, 1.5, 0]], np.float32)
_BIAS = np.array([0, 0, 0.5], np.float32)

CITIES = ("Basel", "Lyon", "Zürich")
_BASE, _PER_YEAR = np.array([[300], [200], [500]], np.float32), np.float32(2.5)

_OTHER_WORDS = ("", "the", "Engine", "日本", "it's", "Basel", "Zürich")


def words(shape: tuple[int, ...], random: np.random.Generator) -> Array:
    """Texts of up to six words, some in the models' vocabulary; some texts are empty, some are names of cities."""
    pool = np.array((*VOCABULARY, *(word.upper() for word in VOCABULARY), *_OTHER_WORDS), object)
    result = np.empty(shape, object)
    for place in np.ndindex(shape):
        result[place] = " ".join(random.choice(pool, random.integers(1, 7)))
        if random.random() < 0.4:
            result[place] = str(random.choice(CITIES))
    return result


def classify(inputs: Arrays) -> Arrays:
    """Counts the lower-case words of its vocabulary."""
    texts = [text.lower().split() for text in inputs["text"]]
    counts = np.array([[found.count(word) for word in VOCABULARY] for found in texts], np.float32)
    logits = counts.reshape(-1, len(VOCABULARY)) @ _WEIGHTS + _BIAS
    return {"label": np.array([LABELS[i] for i in logits.argmax(axis=1)], object), "logits": logits}


def price(inputs: Arrays) -> Arrays:
    """The price of a city plus an amount per year; an unknown city has the price 0."""
    base = (inputs["city"] == np.array(CITIES, object)).astype(np.float32) @ _BASE
    return {"price": base + inputs["age"] * _PER_YEAR}


def write_text_classifier(path: Path) -> None:
    """`text` → `label`, `logits`: `classify` as a graph."""
    nodes = [
        helper.make_node("StringNormalizer", ["text"], ["small"], case_change_action="LOWER", locale="C.UTF-8"),
        helper.make_node("StringSplit", ["small"], ["words", "lengths"]),
        helper.make_node(
            *("TfIdfVectorizer", ["words"], ["counts"]),
            mode="TF",
            min_gram_length=1,
            max_gram_length=1,
            max_skip_count=0,
            ngram_counts=[0],
            ngram_indexes=list(range(len(VOCABULARY))),
            pool_strings=list(VOCABULARY),
        ),
        helper.make_node("Gemm", ["counts", "weights", "bias"], ["logits"]),
        helper.make_node("ArgMax", ["logits"], ["best"], axis=1, keepdims=0),
        helper.make_node(
            *("LabelEncoder", ["best"], ["label"]),
            domain="ai.onnx.ml",
            keys_int64s=list(range(len(LABELS))),
            values_strings=list(LABELS),
        ),
    ]
    outputs = [_value("label", TensorProto.STRING, "batch"), _value("logits", TensorProto.FLOAT, "batch", len(LABELS))]
    constants = [numpy_helper.from_array(_WEIGHTS, "weights"), numpy_helper.from_array(_BIAS, "bias")]
    _save(path, nodes, [_value("text", TensorProto.STRING, "batch")], outputs, constants)


def write_tabular(path: Path) -> None:
    """`age`, `city` → `price`: `price` as a graph."""
    nodes = [
        helper.make_node("OneHotEncoder", ["city"], ["cube"], domain="ai.onnx.ml", cats_strings=list(CITIES), zeros=1),
        helper.make_node("Squeeze", ["cube", "middle"], ["flags"]),
        helper.make_node("MatMul", ["flags", "base"], ["fixed"]),
        helper.make_node("Mul", ["age", "per_year"], ["yearly"]),
        helper.make_node("Add", ["fixed", "yearly"], ["price"]),
    ]
    inputs = [_value("age", TensorProto.FLOAT, "batch", 1), _value("city", TensorProto.STRING, "batch", 1)]
    constants = {"middle": np.array([1]), "base": _BASE, "per_year": np.array(_PER_YEAR)}
    weights = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    _save(path, nodes, inputs, [_value("price", TensorProto.FLOAT, "batch", 1)], weights)


def _value(name: str, dtype: int, *shape: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def _save(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    constants: list[TensorProto],
) -> None:
    graph = helper.make_graph(nodes, path.stem, inputs, outputs, constants)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, path)
