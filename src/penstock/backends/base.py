"""What every backend is: one batch in, one batch out; synchronous, no queue, no network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from penstock.errors import IntegrityError, ModelLoadError
from penstock.options import BackendOptions as BackendOptions
from penstock.tensors import Arrays, Signature


@dataclass(frozen=True, slots=True)
class ModelFile:
    """What a backend needs to open a model: its main file and, for eager PyTorch, the class to fill.

    `architecture` is `module:Class` or the class itself, `architecture_args` its keyword arguments. `signature` is None
    for a bare file, whose backend then reads it from the file where the format holds one.
    """

    path: Path
    signature: Signature | None = None
    architecture: str | type | None = None
    architecture_args: Mapping[str, Any] = field(default_factory=dict)


class Backend(ABC):
    """Runs one batch of one model. Threads may call `run` at the same time."""

    format: str
    device: str
    """Where it really runs: `cpu`, `cuda:0`, …"""
    signature: Signature
    num_parameters: int | None
    """Trained numbers in the model, None when the format does not tell."""
    num_bytes: int | None = None
    """Memory the weights take, None when it is not known."""
    own_threads: bool = False
    """True when `BackendOptions.threads` concerns this model alone and not the whole process."""
    warnings: tuple[str, ...] = ()
    """What did not go as asked at load, one sentence each (a GPU that fell back to CPU)."""

    @classmethod
    @abstractmethod
    def open(cls, file: ModelFile, options: BackendOptions) -> Backend:
        """Load the model. Raises ModelLoadError or a child of it, naming the file."""

    @abstractmethod
    def run(self, inputs: Arrays) -> Arrays:
        """Outputs for one batch, by name, axis 0 the batch. Inputs were validated by the signature.

        Raises InferenceError (OutOfMemory when the batch does not fit).
        """

    def close(self) -> None:  # noqa: B027  most backends have nothing to give back but references
        """Give the memory back. Safe to call twice; `run` after it raises InferenceError."""


def require_file(path: Path) -> None:
    """Raise a ModelLoadError that says what is wrong with `path` unless it is a file that can be read."""
    try:
        with path.open("rb"):
            return
    except FileNotFoundError:
        raise IntegrityError(f"{path}: there is no such file") from None
    except IsADirectoryError:
        raise IntegrityError(f"{path}: this is a directory, not a model file") from None
    except OSError as error:
        raise ModelLoadError(f"{path}: the file cannot be read ({error.strerror})") from None


def no_rows(inputs: Arrays) -> bool:
    """True for a batch of zero rows, which runtimes differ on and no backend hands to its own."""
    return any(array.ndim and not len(array) for array in inputs.values())


def empty_outputs(signature: Signature) -> Arrays:
    """The answer to a batch of zero rows; free axes past the batch have length 0."""
    return {
        spec.name: np.empty((0, *(max(length, 0) for length in spec.shape[1:])), dtype=spec.numpy)
        for spec in signature.outputs
    }


def first_line(error: BaseException, longest: int = 200) -> str:
    """The first line of an error's message, or its type where it has none."""
    lines = str(error).strip().splitlines()
    line = lines[0].rstrip(".") if lines else type(error).__name__
    return line if len(line) <= longest else f"{line[:longest]}…"
