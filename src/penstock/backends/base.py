"""The interface of every backend: one batch in, one batch out; synchronous, no queue, no network."""

from __future__ import annotations

import math
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from penstock.backends.process_exit import spare_native_code_at_exit
from penstock.errors import IntegrityError, ModelLoadError, UnsupportedFormat
from penstock.options import BackendOptions as BackendOptions
from penstock.tensors import Arrays, Signature, TensorSpec

Axes: TypeAlias = "dict[str, int | None]"
"""The batch axis of each input and output by name, None for one without."""


@dataclass(frozen=True, slots=True)
class Stated:
    """What a manifest or the user says: an axis by tensor, None for a tensor without; or that there is no batch."""

    axes: Mapping[str, int | None] = field(default_factory=dict)
    none: bool = False
    by: str = "as stated"


@dataclass(frozen=True, slots=True)
class Reading:
    """What is known of the batch axes, `why`, and the tensors of which a run should show it (`unsure`)."""

    axes: Axes
    why: str
    unsure: frozenset[str] = frozenset()
    opted: bool = False
    """The user or the manifest states axes: requests may be joined along another axis than 0."""

    def applied(self, signature: Signature) -> Signature:
        """The signature with the axes to serve with."""
        axes = {name: axis if self.opted or axis == 0 else None for name, axis in self.axes.items()}
        return replace(signature, batch_axes=axes)

    def sentence(self, signature: Signature) -> str:
        """What was found, in words, and what it means for requests."""
        places = {name: axis for name, axis in self.axes.items() if axis is not None}
        if not places:
            found = "no axis is the batch"
        elif len(places) == len(self.axes) and set(places.values()) == {0}:
            found = "the batch is axis 0 of every input and output"
        else:
            found = "the batch is " + _joined([f"axis {axis} of {name}" for name, axis in places.items()])
            without = [name for name, axis in self.axes.items() if axis is None]
            found += f"; {_joined(without)} {'has' if len(without) == 1 else 'have'} none" if without else ""
        alone = ", so each request is one run, in the shapes of the model's file" if signature.whole else ""
        return f"{found} ({self.why}){alone}"


def _joined(items: Sequence[str]) -> str:
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


@dataclass(frozen=True, slots=True)
class ModelFile:
    """What a backend needs to open a model: its main file and, for weights without a graph, the class to fill.

    `architecture` is `module:Class` or the class itself, `architecture_args` its keyword arguments. `signature` is None
    for a bare file; the backend then reads it from the file when the format records one. What a user states about a
    bare file: an `example` input (arrays, or a file of them), the axis of the batch by name, or that there is none.
    `module` is a live `torch.nn.Module`, which no file holds; `path` is then its name in messages.
    """

    path: Path
    signature: Signature | None = None
    architecture: str | type | None = None
    architecture_args: Mapping[str, Any] = field(default_factory=dict)
    example: Any = None
    batch_axes: Mapping[str, int | None] = field(default_factory=dict)
    no_batch: bool = False
    module: Any = None

    @property
    def stated(self) -> Stated | None:
        """What is stated of the batch axes, if anything."""
        return Stated(self.batch_axes, self.no_batch) if self.batch_axes or self.no_batch else None


@dataclass(frozen=True, slots=True)
class InputHints:
    """What a model's file says of its inputs beyond the signature, for inputs to try it with.

    By input and axis: the length that the first operator needs (`lengths`), or the least one (`least`). `ids`: the
    number of rows of the table that an integer input indexes. `numbers`: constants that may be lengths.
    """

    lengths: Mapping[tuple[str, int], int] = field(default_factory=dict)
    least: Mapping[tuple[str, int], int] = field(default_factory=dict)
    ids: Mapping[str, int] = field(default_factory=dict)
    numbers: tuple[int, ...] = ()


spare_native_code_at_exit()


class Stop:
    """Asks a run in another thread to end early, which it does where its runtime can.

    A backend sets `how` to what ends the run, and calls it at once if that was `asked` before. Every run has a Stop, so
    it has no method that a run would call.
    """

    asked = False
    asked_at = math.inf
    """When it was asked first, in `time.monotonic()` seconds."""
    how: Callable[[], None] | None = None

    def ask(self) -> None:
        """End the run."""
        if not self.asked:
            self.asked, self.asked_at = True, time.monotonic()
        if self.how is not None:
            self.how()


class _RunInProgress(threading.local):
    stop: Stop | None = None


run_in_progress = _RunInProgress()
"""What can stop the run in this thread; None for a run that cannot be stopped."""


class Backend(ABC):
    """Runs one batch of one model. Threads may call `run` at the same time."""

    format: str
    device: str
    """The device in use: `cpu`, `cuda:0`, …"""
    signature: Signature
    num_parameters: int | None
    """The number of trained parameters, None when the format does not record it."""
    num_bytes: int | None = None
    """Memory of the weights, None when unknown."""
    lowered_to: str | None = None
    """The precision that it was switched to at load, such as fp16; None: that of its file."""
    own_threads: bool = False
    """True when `BackendOptions.threads` applies to this model alone and not to the whole process."""
    example: Any = None
    """Inputs that it runs with, where the model itself names some."""
    parallel_runs: int | None = None
    """How many runs it takes at once, where that does not follow from its threads."""
    metadata: Mapping[str, str] = {}
    """What an exporter noted in the file, by key."""
    warnings: tuple[str, ...] = ()
    """One sentence for each option that could not be met at load, such as a GPU that is missing."""
    reading: Reading | None = None
    """How the batch axes of the signature were read; None where rows run one by one."""

    @classmethod
    @abstractmethod
    def open(cls, file: ModelFile, options: BackendOptions) -> Backend:
        """Load the model. Raises ModelLoadError or a subclass, naming the file."""

    @classmethod
    def signature_from_example(cls, file: ModelFile, example: Any, trust: str) -> Signature:  # noqa: ARG003
        """The signature that the model shows when it runs on `example`, whose first axis is the batch.

        Only formats whose weights need an architecture implement it. Raises ModelLoadError when the model does not run.
        """
        raise ModelLoadError(f"{file.path}: an example input needs the architecture too, the class or its module:Class")

    @classmethod
    def outputs_from_runs(
        cls,
        file: ModelFile,
        inputs: Sequence[TensorSpec],  # noqa: ARG003
        trust: str,  # noqa: ARG003
    ) -> tuple[TensorSpec, ...]:
        """The outputs that the model gives for these inputs; lengths that change with theirs are free (-1).

        Raises UnsupportedFormat when the format does not support it, ModelLoadError when the model does not run.
        """
        raise UnsupportedFormat(
            f"{file.path}: a file of the format {cls.format} does not record its outputs; describe them"
        )

    @classmethod
    def module_of(cls, file: ModelFile, trust: str) -> Any:  # noqa: ARG003
        """The `torch.nn.Module` of a file, the caller's own to change: in evaluation mode, called as `run` calls it.

        Only formats that hold one implement it. Raises UnsupportedFormat for others, else what `open` raises.
        """
        raise UnsupportedFormat(f"{file.path}: a file of the format {cls.format} holds no module that can be changed")

    @abstractmethod
    def run(self, inputs: Arrays) -> Arrays:
        """Outputs for one batch, by name, axis 0 the batch. Inputs were validated by the signature.

        Raises InferenceError (OutOfMemory when the batch does not fit).
        """

    @property
    def problem(self) -> str:
        """Why it answers nothing for now, in one sentence; empty while it does."""
        return ""

    def input_hints(self) -> InputHints:
        """What the model's file says of its inputs; nothing for most formats."""
        return InputHints()

    def cost_depends_on_rows_only(self) -> bool:
        """True if no loop, no branch and no size that comes from values makes one batch cost more than another.

        Only such a model may run on an event loop. The lengths of free axes count as values.
        """
        return False

    def close(self) -> None:  # noqa: B027  most backends hold nothing but references
        """Free the memory. Safe to call twice; `run` after it raises InferenceError."""


def require_file(path: Path) -> None:
    """Raise ModelLoadError unless `path` is a readable file."""
    try:
        with path.open("rb"):
            return
    except FileNotFoundError:
        raise IntegrityError(f"{path}: there is no such file") from None
    except IsADirectoryError:
        raise IntegrityError(f"{path}: this is a directory, not a model file") from None
    except OSError as error:
        raise ModelLoadError(f"{path}: the file cannot be read ({error.strerror})") from None


def no_rows(inputs: Arrays, signature: Signature) -> bool:
    """True for a batch of zero rows; runtimes differ on these, so no backend passes one on.

    Without a batch axis an empty tensor is as good as any other.
    """
    if not signature.batched or signature.whole:
        return False
    axes = signature.batch_axes
    return any(not array.shape[axes.get(name) or 0] for name, array in inputs.items())


def empty_outputs(signature: Signature) -> Arrays:
    """The outputs for a batch of zero rows; free axes besides the batch axis have length 0."""
    return {spec.name: np.empty(_no_rows_of(spec, signature), dtype=spec.numpy) for spec in signature.outputs}


def _no_rows_of(spec: TensorSpec, signature: Signature) -> list[int]:
    batch = signature.batch_axes.get(spec.name) or 0
    return [0 if axis == batch else max(length, 0) for axis, length in enumerate(spec.shape)]
