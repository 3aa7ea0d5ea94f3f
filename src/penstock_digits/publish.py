"""Writes the two artifacts: `digits` for rows of numbers, `digits-image` for images, with the same weights."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from penstock.artifacts.artifact import Artifact, Golden, TaskEntry, VariantSource, write_artifact
from penstock.tensors import Signature, TensorSpec
from penstock_digits import cards
from penstock_digits.augment import EMBOLDEN
from penstock_digits.data import TRAINING_DATA, Digits, Features, features_of
from penstock_digits.export import INPUT, OUTPUT, export_onnx, onnx_logits, save_weights
from penstock_digits.measure import Scores, picture_accuracy
from penstock_digits.model import CLASSES, PIXELS, DigitsCNN

NAMES = ("digits", "digits-image")
VERSION = "v1.0"
GOLDEN_ROWS = 32
ATOL = 1e-4
RTOL = 1e-4
LABELS = [str(digit) for digit in range(CLASSES)]
SIGNATURE = Signature((TensorSpec(INPUT, "FP32", (-1, PIXELS * PIXELS)),), (TensorSpec(OUTPUT, "FP32", (-1, CLASSES)),))
VECTOR_TASK = TaskEntry(
    kind="vector-classification",
    config={"output": "logits", "labels": LABELS, "preprocess": {"kind": "none"}},
)
IMAGE_TASK = TaskEntry(
    kind="image-classification",
    config={
        "mode": "F",
        "invert": "auto",
        "contrast": "paper",
        "crop": "content",
        "embolden": EMBOLDEN,
        # first the counts of ink in 8×8 fields, as in the data set, then the resize of the features
        "resize": [[8, 8, "box"], [PIXELS, PIXELS, "bilinear"]],
        "preprocess": {"kind": "scale", "factor": 1 / 255},
        "output": "logits",
        "labels": LABELS,
    },
)


def write_artifacts(
    out: Path, network: DigitsCNN, held_out: Digits, scores: Scores, seed: int
) -> tuple[Artifact, Artifact]:
    """Export, compare with the eager network, and write `out/digits` and `out/digits-image`."""
    features = features_of(held_out.counts)
    reference = _eager(network, features)
    with tempfile.TemporaryDirectory() as scratch:
        variants = _variants(network, Path(scratch), features, reference)
        onnx_file = variants[0].source
        pictures = picture_accuracy(IMAGE_TASK.config, SIGNATURE, lambda rows: onnx_logits(onnx_file, rows), held_out)
        shared: dict[str, Any] = {
            "version": VERSION,
            "signature": SIGNATURE,
            "variants": variants,
            "golden": Golden({INPUT: features[:GOLDEN_ROWS]}, {OUTPUT: reference[:GOLDEN_ROWS]}, atol=ATOL, rtol=RTOL),
            "lineage": _lineage(seed),
            "training_data": TRAINING_DATA,
        }
        vector, image = NAMES
        return (
            _write(out, vector, VECTOR_TASK, cards.metrics_of(scores), cards.digits_card(VERSION, scores), shared),
            _write(
                out,
                image,
                IMAGE_TASK,
                cards.metrics_of(scores) | cards.picture_metrics(pictures),
                cards.digits_image_card(VERSION, scores, pictures),
                shared,
            ),
        )


def _write(
    out: Path, name: str, task: TaskEntry, metrics: Mapping[str, float], card: str, shared: Mapping[str, Any]
) -> Artifact:
    return write_artifact(out / name, name=name, task=task, metrics=metrics, card=card, **shared)


def _variants(network: DigitsCNN, scratch: Path, features: Features, reference: Features) -> list[VariantSource]:
    """The ONNX model, compared with the eager network on every held-out digit, and the weights."""
    onnx_file, weights = scratch / "model.onnx", scratch / "model.safetensors"
    export_onnx(network, onnx_file)
    save_weights(network, weights)
    error = float(np.abs(onnx_logits(onnx_file, features) - reference).max())
    if error > ATOL:
        raise RuntimeError(f"the ONNX model differs from the eager one by {error:.2g}, more than {ATOL:.0e}")
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return [
        VariantSource("onnx", "fp32", onnx_file, num_parameters=parameters, max_abs_error=error),
        VariantSource(
            "pytorch",
            "fp32",
            weights,
            architecture="penstock_digits.model:DigitsCNN",
            num_parameters=parameters,
            max_abs_error=0.0,
        ),
    ]


def _eager(network: DigitsCNN, features: Features) -> Features:
    with torch.inference_mode():
        return np.asarray(network(torch.from_numpy(features)), dtype=np.float32)


def _lineage(seed: int) -> dict[str, Any]:
    return {
        "source": "penstock_digits.train",
        "seed": seed,
        "python": platform.python_version(),
        "torch": torch.__version__.partition("+")[0],
        "onnx": onnx.__version__,
        "exporter": "torch.onnx.export(dynamo=True)",
    }
