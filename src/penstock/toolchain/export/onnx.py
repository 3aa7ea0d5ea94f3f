"""Exports PyTorch models to ONNX files. Needs `penstock[export]`."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import onnx

from penstock.backends.torch.quiet import quietly

_TREE_SPECS = r"`isinstance\(treespec, LeafSpec\)` is deprecated"
"""torch 2.10 to 2.13 use one of their own classes that is deprecated."""
_AXIS_NAMES = r"# The axis name: \w+ will not be used"
_REGISTRATION = "torch.onnx._internal.exporter._registration"
"""This logger warns that torchvision is missing, which the model does not use."""


def quiet_exporter(*, shares_axes: bool = False) -> AbstractContextManager[None]:
    """Suppress warnings of the exporter that need no action; `shares_axes`: several inputs have an axis in common."""
    messages = (_TREE_SPECS, _AXIS_NAMES) if shares_axes else (_TREE_SPECS,)
    return quietly(*messages, logger=_REGISTRATION, level=logging.ERROR)


def write_onnx(program: Any, path: Path) -> None:
    """Write the program of `torch.onnx.export` as one checked file, the same bytes for the same weights.

    Raises RuntimeError when the export returned nothing.
    """
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    model = program.model_proto
    _strip_metadata(model)
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


def _strip_metadata(model: onnx.ModelProto) -> None:
    """Remove source lines and paths of the machine that exported the model."""
    del model.metadata_props[:]
    model.doc_string = ""
    graph = model.graph
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.doc_string = ""
        del part.metadata_props[:]
