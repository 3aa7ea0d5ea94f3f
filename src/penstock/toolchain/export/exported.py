"""The result of one export."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from penstock.errors import PenstockError


@dataclass(frozen=True)
class Exported:
    """A file of one exported form, written to a directory that its caller chose.

    `name` is the variant's name, such as `onnx-fp32`; `exporter` says what wrote it, such as
    `torch.onnx.export(dynamo=True) of torch 2.13.0, opset 20`. `companions` are files that it refers to, by their names
    relative to it. `notes` are sentences for the user, such as why a fallback was taken.
    """

    name: str
    format: str
    precision: str
    path: Path
    exporter: str
    companions: Mapping[str, Path] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class ExportFailed(PenstockError):
    """A model cannot be exported to a format; one sentence with the operation, the module, the line and the remedy."""
