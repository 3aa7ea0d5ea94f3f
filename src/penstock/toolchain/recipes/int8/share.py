"""Counts the operators of an ONNX model that really run in int8, from the graph that a session runs."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from penstock.toolchain.recipes.forms import read_onnx
from penstock.toolchain.recipes.graph import optimized
from penstock.toolchain.recipes.subject import Subject

if TYPE_CHECKING:
    import onnx

_INT8 = {
    "QLinearConv": "Conv",
    "ConvInteger": "Conv",
    "QLinearMatMul": "MatMul",
    "MatMulInteger": "MatMul",
    "MatMulIntegerToFloat": "MatMul",
    "DynamicQuantizeMatMul": "MatMul",
    "QGemm": "Gemm",
    "DynamicQuantizeLSTM": "LSTM",
    "QAttention": "Attention",
    "MatMulNBits": "MatMul",
}
"""Operators with integer arithmetic, and what they are instead of. (MatMulNBits: as `weight-only` writes it.)"""
_FLOAT = {
    "Conv": "Conv",
    "FusedConv": "Conv",
    "NhwcFusedConv": "Conv",
    "ConvTranspose": "ConvTranspose",
    "MatMul": "MatMul",
    "FusedMatMul": "MatMul",
    "Gemm": "Gemm",
    "FusedGemm": "Gemm",
    "LSTM": "LSTM",
    "GRU": "GRU",
    "RNN": "RNN",
    "Attention": "Attention",
    "MultiHeadAttention": "Attention",
}
"""The same in floating point."""


class Share(NamedTuple):
    """How many of the operators that could run in int8 do, and the others by kind."""

    int8: int
    quantizable: int
    left: dict[str, int]

    @property
    def sentence(self) -> str:
        """Such as: 13 of 15 quantizable operators run in int8 (left in fp32: 2 Conv)."""
        left = ", ".join(f"{count} {kind}" for kind, count in self.left.items())
        rest = f" (left in floating point: {left})" if left else ""
        return f"{self.int8} of {self.quantizable} quantizable operators run in int8{rest}"


def int8_share(path: Path) -> Share:
    """The share of an ONNX file in the session's own graph on this CPU; raises ExportFailed if it cannot load."""
    with tempfile.TemporaryDirectory(prefix="penstock-") as scratch:
        graph = read_onnx(optimized(path, Path(scratch) / "session.onnx", "all")).graph
    kinds = Counter(node.op_type for node in _nodes(graph))
    fast = sum(kinds[kind] for kind in _INT8)
    left: Counter[str] = Counter()
    for kind, plain in _FLOAT.items():
        left[plain] += kinds[kind]
    return Share(fast, fast + left.total(), {kind: count for kind, count in sorted(left.items()) if count})


def noted_share(subject: Subject) -> Subject:
    """The subject with its share as a note and as the facts `int8_operators` and `quantizable_operators`."""
    if subject.onnx is None:
        return subject
    share = int8_share(subject.onnx)
    return subject.noted(share.sentence, int8_operators=share.int8, quantizable_operators=share.quantizable)


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Every operator, those inside loops and branches too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nodes(attribute.g)
            for inner in attribute.graphs:
                yield from _nodes(inner)
