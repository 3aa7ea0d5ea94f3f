"""Checkpoints of `UniversalTemporalGNN`, recognized by their weights: the entry point of `penstock.architectures`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from penstock_hydraulics.machine.states import ANOMALIES, LEVELS

_MARK: Final = "encoder.patches.weight"
"""The name of a weight that every network has once, below the prefixes of training code."""


def describe(shapes: Mapping[str, tuple[int, ...]], arguments: Mapping[str, Any]) -> dict[str, Any] | None:
    """Class, arguments and signature of one network; None for other weights, and for an ensemble.

    The sizes follow from the shapes; `dropout` and `edges`, which leave no trace there, from the recorded `arguments`.
    """
    prefixes = [name.removesuffix(_MARK) for name in shapes if name.endswith(_MARK)]
    if len(prefixes) != 1 or f"{prefixes[0]}attention.0.att" not in shapes:
        return None
    from penstock_hydraulics.learning.models.export import example_inputs
    from penstock_hydraulics.learning.models.gnn import Architecture, UniversalTemporalGNN
    from penstock_hydraulics.signals.features import INPUTS

    _, heads, share = shapes[f"{prefixes[0]}attention.0.att"]
    layers = sum(name.startswith(f"{prefixes[0]}attention.") and name.endswith(".att") for name in shapes)
    sizes: dict[str, Any] = {"width": heads * share, "attention_heads": heads, "layers": layers}
    examples = dict(zip(INPUTS, (tensor.numpy() for tensor in example_inputs(2, 8)), strict=True))
    return {
        "architecture": UniversalTemporalGNN,
        "architecture_args": {"architecture": Architecture(**sizes, **_traceless(arguments))},
        "signature": _signature({name: (array.dtype.name, array.shape) for name, array in examples.items()}),
        "example": examples,
    }


def _traceless(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """`dropout` and `edges`, at the top of the arguments or in their architecture."""
    nested = arguments.get("architecture")
    given = {**arguments, **(nested if isinstance(nested, Mapping) else {})}
    found: dict[str, Any] = {}
    if isinstance(given.get("dropout"), float):
        found["dropout"] = given["dropout"]
    if isinstance(given.get("edges"), bool):
        found["edges"] = given["edges"]
    return found


def _signature(inputs: Mapping[str, tuple[str, tuple[int, ...]]]) -> Any:
    """Batch and number of components are free; the outputs are the network's before calibration."""
    from penstock.plugin_api import Signature, TensorSpec

    nodes = {"adjacency": (-1, -1, -1)}
    given = tuple(
        TensorSpec(name, "INT64" if dtype == "int64" else "FP32", nodes.get(name, (-1, -1, *shape[2:])))
        for name, (dtype, shape) in inputs.items()
    )
    outputs = {"levels": (-1, LEVELS), "health": (-1,), "degradation": (), "anomalies": (len(ANOMALIES),)}
    return Signature(given, tuple(TensorSpec(name, "FP32", (-1, *shape)) for name, shape in outputs.items()))
