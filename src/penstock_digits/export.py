"""The trained network as files: one ONNX model with a free batch, and its weights as safetensors."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from safetensors.torch import save_file

from penstock_digits.data import Features
from penstock_digits.model import PIXELS, DigitsCNN

INPUT = "input"
OUTPUT = "logits"


def export_onnx(network: DigitsCNN, path: Path) -> None:
    """Write `network` as a single ONNX file, the same bytes for the same weights."""
    example = torch.zeros(2, PIXELS * PIXELS)
    with _quiet_exporter():
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes={"input": {0: torch.export.Dim("batch")}},
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export gave no program")
    model = program.model_proto
    _forget_the_place(model)
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


def save_weights(network: DigitsCNN, path: Path) -> None:
    """Write the state dict."""
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, path)


def onnx_logits(path: Path, features: Features) -> Features:
    """What ONNX Runtime answers."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.asarray(session.run([OUTPUT], {INPUT: features})[0], dtype=np.float32)


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Keeps back the two things the exporter says that nobody here can act on."""
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registration.level
    registration.setLevel(logging.ERROR)  # that torchvision, which this network does not use, is not installed
    try:
        with warnings.catch_warnings():
            # torch 2.10 to 2.13 copy a tree of their own in the way they themselves deprecate
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
            yield
    finally:
        registration.setLevel(level)


def _forget_the_place(model: onnx.ModelProto) -> None:
    """Drop the exporter's notes: source lines and paths of the machine that exported."""
    del model.metadata_props[:]
    model.doc_string = ""
    graph = model.graph
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.doc_string = ""
        del part.metadata_props[:]
