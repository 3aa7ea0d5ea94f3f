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
    """A model as a PyTorch module, as an ONNX file, as OpenVINO IR (its `.xml`), or as several in the same state.

    A technique that changes one form drops the others (`changed`). `precision` is that of the weights now: fp32, fp16,
    bf16 or int8. `writers` name the libraries that changed it, with their versions. `notes` are sentences for the
    report (13 of 15 operators run in int8), `facts` their figures by name.
    """

    name: str
    signature: Signature
    module: ModuleSource | None = None
    onnx: Path | None = None
    openvino: Path | None = None
    precision: str = "fp32"
    writers: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    def noted(self, note: str, **facts: Any) -> Self:
        """The same subject with one more note."""
        return replace(self, notes=(*self.notes, note), facts={**self.facts, **facts})

    def changed(
        self,
        by: str,
        *,
        module: ModuleSource | None = None,
        onnx: Path | None = None,
        openvino: Path | None = None,
        precision: str | None = None,
    ) -> Self:
        """The same subject with new forms, made `by` a library; those that are not given are gone."""
        has = precision or self.precision
        return replace(self, module=module, onnx=onnx, openvino=openvino, precision=has, writers=(*self.writers, by))


def no_progress(step: str, share: float) -> None:
    """Report nothing."""


@dataclass(frozen=True, eq=False)
class Materials:
    """What techniques may use besides the model.

    `data` holds calibration rows by input name (axis 0 the sample), `labels` the right class of each. `scratch` is an
    empty directory for files. `progress` is called with a step's name and the share done, from 0 to 1. In
    `checkpoints`, if given, trainings keep their state, so that one that was killed continues.
    """

    scratch: Path
    data: Arrays | None = None
    labels: Array | None = None
    seed: int = 0
    progress: Callable[[str, float], None] = no_progress
    checkpoints: Path | None = None
