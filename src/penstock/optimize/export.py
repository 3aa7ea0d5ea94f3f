"""What is alike wherever PyTorch's exporter makes an ONNX file of a network. Needs `penstock[train]`."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx


@contextmanager
def quiet_exporter(*, shares_axes: bool = False) -> Iterator[None]:
    """Keeps back what the exporter says that nobody here can act on; `shares_axes`: inputs have an axis in common."""
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registration.level
    registration.setLevel(logging.ERROR)  # that torchvision, which the network does not use, is not installed
    try:
        with warnings.catch_warnings():
            # torch 2.10 to 2.13 copy a tree of their own in the way they themselves deprecate
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
            if shares_axes:  # an axis of several inputs is one axis: that is what the shared names are for
                warnings.filterwarnings("ignore", r"# The axis name: \w+ will not be used", UserWarning)
            yield
    finally:
        registration.setLevel(level)


def write_onnx(program: Any, path: Path) -> None:
    """Write what `torch.onnx.export` gave as one checked file, the same bytes for the same weights.

    RuntimeError where it gave nothing.
    """
    if program is None:
        raise RuntimeError("torch.onnx.export gave no program")
    model = program.model_proto
    _forget_the_place(model)
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


def _forget_the_place(model: onnx.ModelProto) -> None:
    """Drop the exporter's notes: source lines and paths of the machine that exported."""
    del model.metadata_props[:]
    model.doc_string = ""
    graph = model.graph
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.doc_string = ""
        del part.metadata_props[:]
