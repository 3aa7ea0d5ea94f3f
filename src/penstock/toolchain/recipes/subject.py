"""What techniques work on: a model between two steps of a recipe, and the data that they may use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from penstock.tensors import Array, Arrays, Signature
from penstock.toolchain.export.source import ModuleSource


@dataclass(frozen=True, eq=False)
class Subject:
    """A model as a PyTorch module, as an ONNX file, or as both in the same state; one signature.

    A technique that changes one form drops the other. `precision` is that of the weights now: fp32, fp16, bf16 or int8.
    `notes` are sentences for the report (13 of 15 operators run in int8), `facts` their figures by name.
    """

    name: str
    signature: Signature
    module: ModuleSource | None = None
    onnx: Path | None = None
    precision: str = "fp32"
    notes: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    def noted(self, note: str, **facts: Any) -> Self:
        """The same subject with one more note."""
        return replace(self, notes=(*self.notes, note), facts={**self.facts, **facts})


def no_progress(step: str, share: float) -> None:
    """Report nothing."""


@dataclass(frozen=True, eq=False)
class Materials:
    """What techniques may use besides the model.

    `data` holds calibration rows by input name (axis 0 the sample), `labels` the right class of each. `scratch` is an
    empty directory for files. `progress` is called with a step's name and the share done, from 0 to 1.
    """

    scratch: Path
    data: Arrays | None = None
    labels: Array | None = None
    seed: int = 0
    progress: Callable[[str, float], None] = no_progress
