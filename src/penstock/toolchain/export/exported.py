"""One export: its options, its result, and how it fails."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from penstock.errors import PenstockError


@dataclass(frozen=True)
class ExportOptions:
    """What a user may choose about exports.

    `opset` of ONNX; None is the exporter's own, 18 or later. `external_data` writes the weights of ONNX beside the
    graph, which is done above 2 GB in any case. `translations` are ONNX functions for custom operators: a table of them
    by operator, or its `module:attribute`. `fallback` allows the legacy ONNX exporter where the current one fails.
    `portable` compiles native code for any x86-64 CPU with AVX2; else it is compiled for this CPU.
    """

    opset: int | None = None
    external_data: bool = False
    translations: str | Mapping[Any, Any] | None = None
    fallback: bool = True
    portable: bool = True


@dataclass(frozen=True)
class Written:
    """What an exporter wrote; see `Exported`."""

    path: Path
    exporter: str
    companions: Mapping[str, Path] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    architecture: str | None = None
    architecture_args: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Exported:
    """A file of one exported form, written to a directory that its caller chose.

    `name` is the variant's name, such as `onnx-fp32`; `exporter` says what wrote it, such as
    `torch.onnx.export(dynamo=True) of torch 2.13.0, opset 20`. `companions` are files that it refers to, by their names
    relative to it. `notes` are sentences for the user, such as why a fallback was taken. `requires` are CPU flags of
    native code; `architecture` is the class that weights fill, with its arguments.
    """

    name: str
    format: str
    precision: str
    path: Path
    exporter: str
    companions: Mapping[str, Path] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    architecture: str | None = None
    architecture_args: Mapping[str, Any] = field(default_factory=dict)


class ExportFailed(PenstockError):
    """A model cannot be exported to a format; one sentence with the operation, the module, the line and the remedy."""


class ExportSkipped(ExportFailed):
    """A format does not apply: this machine has no compiler, or no class is known that weights alone could fill."""
