"""Finds the operators that lose most in int8, so that a search can leave them in fp32."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from penstock.tensors import Arrays
from penstock.toolchain.recipes.int8.calibration import checked_rows, feeds, picked
from penstock.toolchain.recipes.int8.onnx_files import weighted
from penstock.toolchain.recipes.int8.static import QUANTIZABLE, Quantization, QuantizeStatic
from penstock.toolchain.recipes.subject import Materials, Subject

_ROWS = 32


class Loss(NamedTuple):
    """What quantizing one operator alone changes in the outputs: the largest root mean square of an output's
    differences, as a share of the root mean square of that output.
    """

    operator: str
    loss: float


def worst_nodes(
    technique: QuantizeStatic, subject: Subject, materials: Materials, *, seconds: float = 60.0
) -> list[Loss]:
    """The operators with weights, those first that lose most when they alone are quantized as `technique` says.

    Each is measured in a session of its own on 32 rows of the data, so that errors of kernels count too. Operators that
    were not measured within `seconds` are left out. Raises what the technique raises.
    """
    rows = checked_rows(materials.data, subject.signature, needed_by=technique.kind)
    quantization = Quantization(replace(technique, exclude=()), subject, materials, picked(rows, technique.rows))
    batches = list(feeds(picked(rows, _ROWS), subject.signature))
    expected = list(_outputs(quantization.source, batches))
    names = weighted(quantization.model, QUANTIZABLE)
    ends = time.monotonic() + seconds
    losses = []
    for number, name in enumerate(names):
        if time.monotonic() > ends:
            break
        got = _outputs(quantization.write(only=[name]), batches)
        losses.append(Loss(name, _loss(expected, list(got))))
        materials.progress("losses of operators", (number + 1) / len(names))
    return sorted(losses, key=lambda one: -one.loss)


def _outputs(path: Path, batches: Sequence[Arrays]) -> Iterator[list[np.ndarray]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return (session.run(None, batch) for batch in batches)


def _loss(expected: Sequence[list[np.ndarray]], got: Sequence[list[np.ndarray]]) -> float:
    losses = [0.0]
    for one, other in zip(zip(*expected, strict=True), zip(*got, strict=True), strict=True):
        if one[0].dtype.kind != "f":
            continue
        right = np.concatenate([np.ravel(array) for array in one]).astype(np.float64)
        difference = np.concatenate([np.ravel(array) for array in other]).astype(np.float64) - right
        size = float(np.sqrt(np.mean(right**2)))
        losses.append(float(np.sqrt(np.mean(difference**2))) / size if size else 0.0)
    return max(losses)
