"""The coverage of a model to publish: what its evaluation showed, confirmed by the model itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from penstock_hydraulics.learning.data.recordings import RIG, ROWS, Recordings, rows_of
from penstock_hydraulics.learning.evaluation.coverage import Table, combined, coverage_table
from penstock_hydraulics.learning.evaluation.cross_validation import Echo, coverage_sets
from penstock_hydraulics.machine.states import HEADS
from penstock_hydraulics.signals.features import Layout, Scales, encode_all

_NODES = [next(node for node, part in enumerate(RIG.components) if part.kind == head.kind) for head in HEADS]


def measured_coverage(
    figures: Mapping[str, Any], model: str, path: Path, scales: Scales, recordings: Recordings, echo: Echo
) -> Table | None:
    """The table for the manifest; None if the evaluation has none.

    The evaluation answers runs that its models did not see, but another training may answer few sensors otherwise. So
    the model at `path` answers the settled runs too, and only what both tell counts, with the more cautious figures.
    """
    evaluated = figures.get("coverage", {}).get(model)
    if evaluated is None:
        echo(f"the evaluation of {model} has no coverage, so its answers have low coverage; evaluate it again")
        return None
    settled = recordings.take(np.flatnonzero(recordings.in_settled_runs))
    return combined([evaluated, coverage_table(answers_of(path, scales, settled), settled)])


def answers_of(path: Path, scales: Scales, recordings: Recordings) -> dict[str, NDArray[np.float64]]:
    """[cycles, LEVELS] of the ONNX model at `path` with each set of sensors of the coverage table."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    found = {}
    for key, sensors in coverage_sets().items():
        rows = np.flatnonzero(rows_of(sensors))
        inputs = encode_all(recordings.readings[:, rows], Layout.make(RIG, [ROWS[row] for row in rows], scales))
        count = len(recordings)
        levels = session.run(
            ["levels"], {name: np.repeat(one, count, 0) if len(one) < count else one for name, one in inputs.items()}
        )[0]
        parts = [levels[:, node, head.columns] for node, head in zip(_NODES, HEADS, strict=True)]
        found[key] = np.concatenate(parts, axis=1).astype(np.float64)
    return found
