"""Export of the calibrated network to ONNX, with dynamic batch size and number of nodes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor

from penstock.toolchain.export.onnx import quiet_exporter, write_onnx
from penstock_hydraulics.learning.models.gnn import OUTPUTS, Diagnosis
from penstock_hydraulics.signals.features import CHANNELS, INPUTS, SCALES, STATISTICS, STEPS, Scales

ATOL: Final = 1e-4
"""Maximum absolute difference between ONNX Runtime and PyTorch."""

_AXES: Final = {
    "signals": ("batch", "nodes"),
    "statistics": ("batch", "nodes"),
    "present": ("batch", "nodes"),
    "adjacency": ("batch", "nodes", "nodes"),
    "kinds": ("batch", "nodes"),
}


def export_onnx(diagnosis: Diagnosis, path: Path, scales: Scales | None = None) -> float:
    """Write `diagnosis` as a single ONNX file; returns the largest difference from PyTorch.

    With `scales`, the file carries them, and serves without a manifest. Compared at several batch sizes and numbers of
    nodes. Raises RuntimeError beyond `ATOL`.
    """
    diagnosis.eval()
    sizes = {"batch": torch.export.Dim("batch"), "nodes": torch.export.Dim("nodes")}
    with quiet_exporter(shares_axes=True):
        program = torch.onnx.export(
            diagnosis,
            example_inputs(2, 8),  # the exporter would specialise on a batch size of 1
            dynamo=True,
            input_names=list(INPUTS),
            output_names=list(OUTPUTS),
            dynamic_shapes={
                name: {place: sizes[axis] for place, axis in enumerate(axes)} for name, axes in _AXES.items()
            },
            verbose=False,
        )
    write_onnx(program, path)
    if scales is not None:
        _add_scales(path, scales)
    return _difference(diagnosis, path)


def _add_scales(path: Path, scales: Scales) -> None:
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {SCALES: json.dumps(scales.to_mapping())})
    path.write_bytes(model.SerializeToString(deterministic=True))


def onnx_answers(path: Path, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
    """Outputs of ONNX Runtime by name."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    answers = session.run(list(OUTPUTS), dict(inputs))
    return dict(zip(OUTPUTS, (np.asarray(answer, np.float32) for answer in answers), strict=True))


def example_inputs(batch: int, nodes: int, seed: int = 0) -> tuple[Tensor, ...]:
    """Random inputs in the order of `INPUTS`: a ring of components; every second machine ends with padding."""
    random = torch.Generator().manual_seed(seed)
    kinds = torch.arange(nodes).remainder(12).add(1).repeat(batch, 1)
    kinds[1::2, -1] = 0
    real = (kinds > 0).float()
    ring = torch.eye(nodes) + torch.eye(nodes).roll(1, 0) + torch.eye(nodes).roll(-1, 0)
    present = (torch.rand(batch, nodes, len(CHANNELS), generator=random) < 0.5).float() * real[..., None]
    signals = torch.randn(batch, nodes, len(CHANNELS), STEPS, generator=random) * present[..., None]
    statistics = torch.randn(batch, nodes, len(CHANNELS), STATISTICS, generator=random) * present[..., None]
    adjacency = ring.clamp(max=1.0) * real[:, :, None] * real[:, None]
    return signals, statistics, present, adjacency, kinds


def _difference(diagnosis: Diagnosis, path: Path) -> float:
    worst = 0.0
    for batch, nodes in ((1, 8), (1, 64), (7, 16), (32, 8)):
        inputs = example_inputs(batch, nodes, seed=batch)
        with torch.inference_mode():
            wanted = [answer.numpy() for answer in diagnosis(*inputs)]
        named = {name: value.numpy() for name, value in zip(INPUTS, inputs, strict=True)}
        found = onnx_answers(path, named)
        worst = max(worst, *(float(np.abs(found[n] - w).max()) for n, w in zip(OUTPUTS, wanted, strict=True)))
    if not worst <= ATOL:
        raise RuntimeError(f"the ONNX model differs from PyTorch by {worst:.2g}, more than {ATOL:.0e}")
    return worst
