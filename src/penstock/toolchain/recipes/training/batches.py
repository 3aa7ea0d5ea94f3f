"""Batches to train on: of a user's function, or of the calibration data; each checked against the signature."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sized
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from penstock.errors import InvalidInput
from penstock.tensors import Arrays, Signature, TensorSpec
from penstock.toolchain.recipes.training import user_functions
from penstock.toolchain.recipes.training.checkpoint import weights_digest

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class Batch:
    """Inputs by name, and their targets: a tensor, several in a tuple or mapping, or None."""

    inputs: Mapping[str, torch.Tensor]
    targets: Any

    @property
    def rows(self) -> int:
        """The length of axis 0 of the first input."""
        return next(iter(self.inputs.values())).shape[0]


class Data(ABC):
    """Batches of one epoch after the other. `name` says in messages where they come from."""

    name: str
    length: int | None
    """Batches in an epoch, where that is known."""

    @property
    @abstractmethod
    def identity(self) -> str:
        """What tells this data from other data: a digest of the rows, or of the code that makes them."""

    @abstractmethod
    def epoch(self) -> Iterator[Batch]:
        """The batches of one epoch. Raises InvalidInput when they do not fit the model."""


class ArrayData(Data):
    """Rows in memory, in a new order of PyTorch's random numbers in each epoch."""

    def __init__(
        self, name: str, inputs: Mapping[str, torch.Tensor], targets: Any, batch_size: int, *, shuffled: bool = True
    ) -> None:
        self.name = name
        self.inputs = inputs
        self.targets = targets
        self.rows = next(iter(inputs.values())).shape[0]
        self._batch_size = batch_size
        self._shuffled = shuffled
        # one row alone has no statistics for a batch norm
        lone = self.rows > batch_size > 1 and self.rows % batch_size == 1
        self._end = self.rows - lone if shuffled else self.rows
        self.length = -(-self._end // batch_size)

    def epoch(self) -> Iterator[Batch]:
        """All rows once; of rows that would leave a last batch of one, one random row is left out."""
        import torch

        order = torch.randperm(self.rows) if self._shuffled else torch.arange(self.rows)
        for start in range(0, self._end, self._batch_size):
            rows = order[start : min(start + self._batch_size, self._end)]
            inputs = {name: tensor[rows] for name, tensor in self.inputs.items()}
            yield Batch(inputs, None if self.targets is None else self.targets[rows])

    @property
    def identity(self) -> str:
        """The digest of all rows."""
        targets = {} if self.targets is None else {"targets": self.targets}
        return weights_digest({**self.inputs, **targets}.items())

    def split(self, share: float, seed: int) -> tuple[ArrayData, ArrayData]:
        """A training and a validation part. Raises InvalidInput when there are too few rows for both."""
        import torch

        held = round(self.rows * share)
        if not 0 < held < self.rows:
            raise InvalidInput(f"validation_share: {share} of {self.rows} rows of {self.name} leaves nothing to use")
        order = torch.randperm(self.rows, generator=torch.Generator().manual_seed(seed))
        return self._part(order[held:], shuffled=True), self._part(order[:held], shuffled=False)

    def _part(self, rows: torch.Tensor, *, shuffled: bool) -> ArrayData:
        inputs = {name: tensor[rows] for name, tensor in self.inputs.items()}
        targets = None if self.targets is None else self.targets[rows]
        return ArrayData(self.name, inputs, targets, self._batch_size, shuffled=shuffled)


class UserData(Data):
    """Batches of a user's function. It is called again for each epoch where it returns a generator."""

    def __init__(self, target: str, field: str, signature: Signature, batch_size: int) -> None:
        self.name = target
        self._field = field
        self._signature = signature
        self._batch_size = batch_size
        self._function: Callable[[], Any] = user_functions.find(target, field)
        source = self._call()
        self._source = None if source is iter(source) else source
        self.length = _length(self._source)

    def epoch(self) -> Iterator[Batch]:
        """The batches of the user, checked. Raises InvalidInput naming the function and the batch."""
        source = self._call() if self._source is None else self._source
        _reseed(source)
        number = 0
        for number, item in enumerate(self._items(source), 1):
            yield checked_batch(item, self._signature, f"{self._field}: batch {number} of {self.name}", self._field)
        if not number:
            raise InvalidInput(f"{self._field}: {self.name} returned no batches", field=self._field)

    @property
    def identity(self) -> str:
        """The digest of the file that holds the function."""
        return user_functions.code_digest(self._function)

    def _call(self) -> Any:
        from torch.utils.data import DataLoader, Dataset, IterableDataset

        source = user_functions.call(self._function, self.name, self._field)
        if isinstance(source, Dataset) and not isinstance(source, IterableDataset):
            return DataLoader(source, self._batch_size, shuffle=True)
        if not hasattr(source, "__iter__"):
            raise InvalidInput(
                f"{self._field}: {self.name} returned {_described(source)}, not an iterable of (inputs, targets)",
                field=self._field,
            )
        return source

    def _items(self, source: Any) -> Iterator[Any]:
        try:
            yield from source
        except (Exception, SystemExit) as error:
            raise user_functions.raised(error, self.name, self._field) from error


def _length(source: Any) -> int | None:
    with suppress(TypeError):  # of a loader over a data set without a length
        return len(source) or None if isinstance(source, Sized) else None
    return None


def _reseed(source: Any) -> None:
    """Give a DataLoader's own generators the random numbers of this epoch, so that a restart sees the same batches."""
    import torch

    for owner in (source, getattr(source, "sampler", None), getattr(source, "batch_sampler", None)):
        generator = getattr(owner, "generator", None)
        if isinstance(generator, torch.Generator):
            generator.manual_seed(torch.initial_seed())


def rows_of(data: Arrays, signature: Signature, labels: Any, field: str) -> tuple[dict[str, torch.Tensor], Any]:
    """Calibration data and its labels as tensors, checked. Raises InvalidInput."""
    batch = checked_batch((data, labels), signature, field, field)
    return dict(batch.inputs), batch.targets


def checked_batch(item: Any, signature: Signature, where: str, field: str) -> Batch:
    """A user's `(inputs, targets)` as tensors that fit the signature. Raises InvalidInput that begins with `where`."""
    if not isinstance(item, tuple | list) or len(item) not in (1, 2):
        raise InvalidInput(f"{where} is {_described(item)}, not (inputs, targets)", field=field)
    named = _by_name(item[0], signature, where, field)
    inputs = {spec.name: _input(named[spec.name], spec, where, field) for spec in signature.inputs}
    rows = {name: tensor.shape[0] for name, tensor in inputs.items() if tensor.ndim}
    if len({*rows.values()}) > 1 and all(spec.shape[:1] == (-1,) for spec in signature.inputs):
        raise InvalidInput(f"{where} has different numbers of rows: {rows}", field=field)
    count = next(iter(rows.values()), 1)
    if not count:
        raise InvalidInput(f"{where} has no rows", field=field)
    targets = _targets(item[1] if len(item) == 2 else None, where, field)
    length = getattr(targets, "shape", (count,))[:1]
    if tuple(length) != (count,):
        given = f"{length[0]} targets" if length else "one target"
        raise InvalidInput(f"{where} has {count} rows of inputs and {given}", field=field)
    return Batch(inputs, targets)


def _by_name(inputs: Any, signature: Signature, where: str, field: str) -> Mapping[str, Any]:
    names = [spec.name for spec in signature.inputs]
    if isinstance(inputs, Mapping):
        given = dict(inputs)
    elif isinstance(inputs, tuple | list) and len(inputs) and all(hasattr(one, "shape") for one in inputs):
        given = dict(zip(names, inputs, strict=False)) if len(inputs) == len(names) else {}
    else:
        given = {names[0]: inputs}
    if sorted(map(str, given)) != sorted(names):
        raise InvalidInput(f"{where} does not have the inputs of the model: {', '.join(names)}", field=field)
    return given


def _input(value: Any, spec: TensorSpec, where: str, field: str) -> torch.Tensor:
    tensor = _tensor(value, f"{where}: {spec.name}", field)
    wanted, floating = _dtype(spec), spec.kind == "f"
    if tensor.is_floating_point() != floating:
        raise InvalidInput(
            f"{where}: {spec.name} has the type {str(tensor.dtype).removeprefix('torch.')}, the model takes "
            f"{str(wanted).removeprefix('torch.')}",
            field=field,
        )
    fits = len(tensor.shape) == len(spec.shape) and all(
        want < 0 or have == want for have, want in zip(tensor.shape, spec.shape, strict=True)
    )
    if spec.ranked and not fits:
        raise InvalidInput(
            f"{where}: {spec.name} has the shape {list(tensor.shape)}, the model takes {list(spec.shape)}", field=field
        )
    if floating and not bool(tensor.isfinite().all()):
        raise InvalidInput(f"{where}: {spec.name} holds values that are not finite (NaN or infinity)", field=field)
    return tensor.to(wanted)


def _dtype(spec: TensorSpec) -> torch.dtype:
    import torch

    from penstock.datatypes import DATATYPES

    name = DATATYPES[spec.dtype].torch
    if name is None:
        raise InvalidInput(f"{spec.name}: a model with the datatype {spec.dtype} cannot be trained", field=spec.name)
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def _targets(value: Any, where: str, field: str) -> Any:
    if value is None:
        return None
    if isinstance(value, Mapping):
        return {name: _targets(one, where, field) for name, one in value.items()}
    if isinstance(value, tuple | list) and value and all(hasattr(one, "shape") for one in value):
        return tuple(_targets(one, where, field) for one in value)
    return _tensor(value, f"{where}: the targets", field)


def _tensor(value: Any, where: str, field: str) -> torch.Tensor:
    """A tensor of its own memory; float64 of Python and numpy becomes float32."""
    import torch

    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    try:
        array = np.asarray(value)
        return torch.from_numpy(np.array(array, dtype=np.float32 if array.dtype == np.float64 else array.dtype))
    except (ValueError, TypeError):
        raise InvalidInput(f"{where} cannot be read as numbers", field=field) from None


def _described(value: Any) -> str:
    if value is None:
        return "None"
    size = f" of {len(value)}" if isinstance(value, tuple | list) else ""
    return f"a {type(value).__name__}{size}"
