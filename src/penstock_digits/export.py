"""The trained network as files: one ONNX model with a free batch, and its weights as safetensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import torch
from safetensors.torch import save_file

from penstock.toolchain.export.onnx import quiet_exporter, write_onnx
from penstock_digits.data import Features
from penstock_digits.model import PIXELS, DigitsCNN

INPUT = "input"
OUTPUT = "logits"


def export_onnx(network: DigitsCNN, path: Path) -> None:
    """Write `network` as a single ONNX file; the same weights give the same bytes."""
    example = torch.zeros(2, PIXELS * PIXELS)
    with quiet_exporter():
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes={"input": {0: torch.export.Dim("batch")}},
            verbose=False,
        )
    write_onnx(program, path)


def save_weights(network: DigitsCNN, path: Path) -> None:
    """Write the state dict."""
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, path)


def onnx_logits(path: Path, features: Features) -> Features:
    """The output of ONNX Runtime."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.asarray(session.run([OUTPUT], {INPUT: features})[0], dtype=np.float32)
