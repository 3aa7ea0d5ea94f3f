"""A PyTorch model with example inputs: what is exported, and the reference for every exported form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.backends.base import Backend, ModelFile
from penstock.backends.catalog import open_backend
from penstock.options import BackendOptions
from penstock.tensors import Arrays, Signature

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class ModuleSource:
    """A module in evaluation mode on the CPU, with its signature and a batch that it runs with.

    A free axis of `signature` (-1, named in its `dims`) is an axis that was requested to be dynamic. `example` holds
    arrays by input name, with at least two rows unless the number of rows is fixed. `architecture` is the
    `module:Class` that weights alone would fill, if it is known. `notes` are sentences for the user, such as that the
    module was switched to evaluation mode.
    """

    name: str
    module: torch.nn.Module
    signature: Signature
    example: Arrays
    architecture: str | None = None
    architecture_args: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def reference(self) -> Backend:
        """The module as a backend: eager PyTorch in fp32, the reference. Its caller closes it."""
        file = ModelFile(Path(self.name), self.signature, module=self.module)
        return open_backend("pytorch", file, BackendOptions(device="cpu", trust="code"))
