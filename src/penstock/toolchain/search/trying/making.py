"""What runs in the process that makes candidates: it opens the model once, and carries out recipes.

A technique or an exporter that crashes, hangs or takes all memory ends that process, and is a candidate less.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from penstock.artifacts.artifact import Artifact
from penstock.tensors import Array, Arrays
from penstock.toolchain.recipes.making import make
from penstock.toolchain.recipes.opening import subject_of
from penstock.toolchain.recipes.recipe import Recipe
from penstock.toolchain.recipes.subject import Materials, Subject

HOME = "penstock.toolchain.search.trying.making"
_KINDS = {
    "conv": ("Conv", "ConvTranspose", "Conv1d", "Conv2d", "Conv3d", "ConvTranspose2d"),
    "linear": ("MatMul", "Gemm", "Linear", "MultiheadAttention"),
    "recurrent": ("LSTM", "GRU", "RNN"),
}
_opened: dict[str, Subject] = {}


def open_subject(path: Path, trust: str) -> dict[str, Any]:
    """Open the model of an artifact; what the rules of a plan ask of it."""
    subject = _opened["subject"] = subject_of(Artifact.open(path), trust)
    types = set(_types(subject))
    return {
        "operators": [kind for kind, names in _KINDS.items() if types.intersection(names)],
        "has_module": subject.module is not None,
        "notes": list(subject.notes),
    }


def carry_out(recipe: dict[str, Any], scratch: Path, data: Arrays | None, labels: Array | None) -> dict[str, Any]:
    """Carry out one recipe with the opened model; where the files are, and how they came about."""
    materials = Materials(scratch, data, labels, checkpoints=scratch.parent / "trainings")
    made = make(Recipe.from_json(recipe), _opened["subject"], materials)
    exported = made.exported
    return {
        "name": exported.name,
        "format": exported.format,
        "precision": exported.precision,
        "path": exported.path,
        "companions": dict(exported.companions),
        "exporter": exported.exporter,
        "notes": list(exported.notes),
        "requires": list(exported.requires),
        "num_parameters": _parameters(made.subject),
    }


def worst_operators(recipe: dict[str, Any], scratch: Path, data: Arrays | None, seconds: float) -> list[str]:
    """The operators of the model by what they lose in int8, the worst first, as a static quantization names them."""
    from penstock.toolchain.recipes.int8.losses import worst_nodes
    from penstock.toolchain.recipes.int8.static import QuantizeStatic

    technique = Recipe.from_json(recipe).techniques[0]
    if not isinstance(technique, QuantizeStatic):
        return []
    found = worst_nodes(technique, _opened["subject"], Materials(scratch, data), seconds=seconds)
    return [loss.operator for loss in found]


def _types(subject: Subject) -> Iterator[str]:
    """The types of operators in its ONNX file, or of the layers of its module."""
    if subject.onnx is not None:
        import onnx

        model = onnx.load(subject.onnx, load_external_data=False)
        yield from (node.op_type for node in model.graph.node)
        yield from (node.op_type for function in model.functions for node in function.node)
    elif subject.module is not None:
        yield from (type(part).__name__ for part in subject.module.module.modules())


def _parameters(subject: Subject) -> int | None:
    if subject.module is None:
        return None
    return sum(parameter.numel() for parameter in subject.module.module.parameters())
