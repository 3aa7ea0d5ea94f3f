"""Tensors: `TensorSpec`, `Signature`, and stacking and splitting of batches."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from penstock.datatypes import DATATYPES, read_array
from penstock.errors import InferenceError, InvalidInput

Array: TypeAlias = NDArray[Any]
Arrays: TypeAlias = dict[str, Array]
"""Tensors by name; axis 0 of each is the batch, unless the signature says otherwise."""


NO_AXES: Mapping[str, int | None] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, wire datatype and shape of one tensor; -1 in the shape is a free axis, axis 0 is the batch.

    `dims` names the axes that have names: free axes of one name have one length in a request. Comparisons ignore them.
    A tensor that is not `ranked` has any number of axes; its shape is empty.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    dims: tuple[str | None, ...] = field(default=(), compare=False)
    ranked: bool = True

    def __post_init__(self) -> None:
        if self.dims and len(self.dims) != len(self.shape):
            raise InvalidInput(
                f"tensor {self.name!r}: {len(self.dims)} names for {len(self.shape)} axes", field=self.name
            )
        if self.dtype not in DATATYPES:
            raise InvalidInput(
                f"tensor {self.name!r}: {self.dtype!r} is not a datatype; use one of {', '.join(DATATYPES)}",
                field=self.name,
            )

    @property
    def numpy(self) -> np.dtype[Any]:
        """The numpy dtype."""
        return DATATYPES[self.dtype].numpy

    @property
    def kind(self) -> str:
        """The kind of values, as numpy's `dtype.kind`; "f" for BF16 too."""
        return DATATYPES[self.dtype].kind

    @property
    def row_elements(self) -> int:
        """The number of values in one row, or -1 if an axis past the batch is free."""
        row = self.shape[1:]
        return -1 if any(n < 0 for n in row) else math.prod(row)

    def check(self, value: ArrayLike) -> Array:
        """`value` as a C-contiguous array of this dtype and shape. Raises InvalidInput naming the tensor.

        BYTES takes str and any bytes, and keeps each. BF16 takes numbers, or its bits as a uint16 array.
        """
        if type(value) is np.ndarray and value.dtype == self.numpy and not value.dtype.hasobject:
            array: Array = value
        else:
            array = read_array(self.name, value, self.dtype)
            if not array.size:
                array = array.reshape(_empty_shape(array.shape, self.shape))
        # Most models fix every axis but the batch: one comparison is enough, and the loop is for the others.
        shape = self.shape
        usual = array.shape[1:] == shape[1:] and shape[:1] == (-1,) and array.ndim
        if not usual and self.ranked and not _fits(array.shape, shape):
            raise InvalidInput(
                f"{self.name}: the shape is {list(array.shape)}, the model takes {list(shape)}", field=self.name
            )
        return array if array.flags.c_contiguous else np.ascontiguousarray(array)

    def to_json(self) -> dict[str, Any]:
        """As in a manifest."""
        named = {"dims": list(self.dims)} if any(self.dims) else {}
        unranked = {} if self.ranked else {"ranked": False}
        return {"name": self.name, "dtype": self.dtype, "shape": list(self.shape), **named, **unranked}


def _empty_shape(have: tuple[int, ...], want: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of an array without values: `[[]]` says of [1, 0, 3] only the first lengths, up to the 0."""
    cut = have.index(0) + 1
    if cut != len(have) or cut >= len(want) or not _fits(have, want[:cut]):
        return have
    return (*have, *(max(length, 0) for length in want[cut:]))


def _fits(have: tuple[int, ...], want: tuple[int, ...]) -> bool:
    return len(have) == len(want) and all(w < 0 or h == w for w, h in zip(want, have, strict=True))


@dataclass(frozen=True, slots=True)
class Signature:
    """Names, datatypes and shapes of a model's inputs and outputs. It validates one request; nothing else does.

    The batch is axis 0 of every tensor, except for those in `batch_axes`: another axis, or None for a tensor without,
    and then each request is one run, in the shapes of the file (`whole`). Requests to a model that is not `batched`
    have a batch axis that its file does not have, and each row runs separately; or they have the shapes of the file.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batched: bool = True
    batch_axes: Mapping[str, int | None] = field(default_factory=dict, hash=False)
    _ties: tuple[Tie, ...] = field(init=False, compare=False, repr=False)
    _plain: bool = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Raises InvalidInput naming the tensor that `batch_axes` does not fit."""
        axes = self.batch_axes
        if self.batched:
            _checked_axes(axes, self.inputs, self.outputs)
            axes = {**dict.fromkeys(_without_batch(self.inputs, self.outputs)), **axes}
        axes = {name: axis for name, axis in axes.items() if axis != 0}
        object.__setattr__(self, "batch_axes", axes)
        object.__setattr__(self, "_ties", tuple(_ties(self.inputs, axes)))
        object.__setattr__(self, "_plain", self.batched and not axes)

    @property
    def whole(self) -> bool:
        """True if a tensor has no batch axis: every request is one run, in the shapes of the file."""
        return None in self.batch_axes.values()

    @property
    def stated_axes(self) -> dict[str, int | None]:
        """The `batch_axes` that the shapes alone do not say."""
        implied = {*_without_batch(self.inputs, self.outputs)}
        return {name: axis for name, axis in self.batch_axes.items() if axis is not None or name not in implied}

    @property
    def fixed_rows(self) -> int | None:
        """The only number of rows that the model takes, None if it takes any or has no batch axis."""
        if self.whole:
            return None
        lengths = (spec.shape[self.batch_axes.get(spec.name) or 0] for spec in self.inputs)
        return next((length for length in lengths if length > 0), None)

    def validate(self, arrays: Mapping[str, ArrayLike]) -> tuple[Arrays, int]:
        """The checked inputs in signature order, and their number of rows (the same for all; 1 for a whole request).

        Raises InvalidInput naming the tensor that is missing, unknown, of another type, shape, row count or of another
        length than an axis of the same name.
        """
        checked: Arrays = {}
        rows = -1
        plain = self._plain
        for spec in self.inputs:
            if spec.name not in arrays:
                raise InvalidInput(f"{spec.name}: this input is missing", field=spec.name)
            if not plain:
                checked[spec.name] = self.check(spec, arrays[spec.name])
                continue
            array = checked[spec.name] = spec.check(arrays[spec.name])
            if rows < 0:
                rows = len(array)
            elif len(array) != rows:
                raise InvalidInput(f"{spec.name}: {len(array)} rows, other inputs have {rows}", field=spec.name)
        if len(arrays) != len(checked):
            unknown = next(name for name in arrays if name not in checked)
            known = ", ".join(spec.name for spec in self.inputs)
            raise InvalidInput(f"{unknown}: the model has no such input; it takes {known}", field=unknown)
        if not plain:
            rows = self.rows(checked)
        for tie in self._ties:
            tie.check(checked)
        return checked, rows

    def check(self, spec: TensorSpec, value: ArrayLike) -> Array:
        """One input of this signature, checked by `spec`; that of a model that is not batched may have no rows."""
        if not self.batched and _rank(value) == len(spec.shape) - 1:
            return _without_rows(spec).check(value)
        return spec.check(value)

    def rows(self, arrays: Arrays) -> int:
        """The number of rows of checked inputs. Raises InvalidInput naming the one that differs."""
        if self.whole or self.in_file_shape(arrays):
            return 1
        rows = -1
        for name, array in arrays.items():
            axis = self.batch_axes.get(name) or 0
            if array.ndim <= axis:
                raise InvalidInput(f"{name}: a single value, other inputs have rows", field=name)
            if rows >= 0 and array.shape[axis] != rows:
                raise InvalidInput(
                    f"{name}: {array.shape[axis]} rows (axis {axis}), other inputs have {rows}", field=name
                )
            rows = array.shape[axis]
        return rows

    def in_file_shape(self, arrays: Arrays) -> bool:
        """True for inputs of a model that is not batched that have no rows: the shapes of its file."""
        return not self.batched and all(arrays[spec.name].ndim == len(spec.shape) - 1 for spec in self.inputs)

    def check_outputs(self, outputs: Arrays, rows: int, *, lengths: bool = True) -> None:
        """Check the outputs of a run of so many rows, axes past the batch only if `lengths`.

        Raises InferenceError naming the output that is missing, of another type, shape or number of rows.
        """
        for spec in self.outputs:
            array = outputs.get(spec.name)
            if array is None:
                raise InferenceError(f"the model returned no output {spec.name!r}, but {', '.join(outputs) or 'none'}")
            if array.dtype != spec.numpy:
                raise InferenceError(
                    f"the model's output {spec.name!r} is of type {array.dtype}, its signature says {spec.dtype}"
                )
        if not self.whole:
            check_rows(outputs, rows, self.batch_axes)
        for spec in self.outputs if lengths else ():
            got, axis = outputs[spec.name].shape, None if self.whole else self.batch_axes.get(spec.name, 0)
            promised = tuple(-1 if number == axis else length for number, length in enumerate(spec.shape))
            if spec.ranked and not _fits(got, promised):
                raise InferenceError(
                    f"the model's output {spec.name!r} has the shape {list(got)}, its signature says {list(spec.shape)}"
                )

    def with_dims(self, dims: Mapping[str, tuple[str | None, ...]]) -> Signature:
        """The same signature, with axis names from the model's file for inputs without names."""
        known = tuple(
            (
                spec
                if spec.dims or len(dims.get(spec.name, ())) != len(spec.shape)
                else replace(spec, dims=dims[spec.name])
            )
            for spec in self.inputs
        )
        return replace(self, inputs=known)

    def without_rows(self) -> Signature:
        """The shapes of one row: the signature of the file of a model that is not batched."""
        return Signature(tuple(map(_without_rows, self.inputs)), tuple(map(_without_rows, self.outputs)), batched=False)

    def with_rows(self) -> Signature:
        """The inverse of `without_rows`: the signature of requests."""
        return Signature(tuple(map(_with_rows, self.inputs)), tuple(map(_with_rows, self.outputs)), batched=False)

    def to_json(self) -> dict[str, Any]:
        """As in a manifest."""
        unbatched = {} if self.batched else {"batched": False}
        axes = {"batch_axes": self.stated_axes} if self.stated_axes else {}
        return {
            "inputs": [t.to_json() for t in self.inputs],
            "outputs": [t.to_json() for t in self.outputs],
            **unbatched,
            **axes,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Signature:
        """The inverse of `to_json`; raises InvalidInput when a datatype is unknown or a batch axis does not exist."""
        if not isinstance(data, Mapping):
            raise InvalidInput("a signature is an object with `inputs` and `outputs`")
        batched, axes = bool(data.get("batched", True)), data.get("batch_axes") or {}
        return cls(_specs(data["inputs"]), _specs(data["outputs"]), batched, axes)


class Tie(NamedTuple):
    """Free axes of one name, as (input, axis); in a request they have one length."""

    dim: str
    axes: tuple[tuple[str, int], ...]

    def check(self, arrays: Arrays) -> None:
        """Raise InvalidInput naming the input whose length differs from that of the first."""
        (first, axis), *others = self.axes
        length = arrays[first].shape[axis]
        for name, other in others:
            if arrays[name].shape[other] != length:
                raise InvalidInput(
                    f"{name}: axis {other} has the length {arrays[name].shape[other]}, axis {axis} of {first} has "
                    f"{length}; the model takes one length ({self.dim}) for both",
                    field=name,
                )


def _checked_axes(axes: Mapping[str, int | None], inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
    """Raise InvalidInput naming the tensor that a batch axis does not fit."""
    ranks = {spec.name: len(spec.shape) if spec.ranked else None for spec in (*inputs, *outputs)}
    for name, axis in axes.items():
        if name not in ranks:
            known = ", ".join(ranks)
            raise InvalidInput(f"batch_axes: the model has no tensor {name!r}; it has {known}", field="batch_axes")
        rank = ranks[name]
        if axis is not None and (axis < 0 or (rank is not None and axis >= rank)):
            raise InvalidInput(f"batch_axes: {name} has no axis {axis}, it has {rank} axes", field="batch_axes")


def _without_batch(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> Iterator[str]:
    """The tensors whose axis 0 cannot be the batch: there is none, or its length is fixed and another input's is not.

    A fixed length of an output proves nothing: exporters record the length that they traced with.
    """
    firsts = {spec.shape[0] for spec in inputs if spec.shape}
    for spec in inputs:
        if not spec.shape or (spec.shape[0] >= 0 and len(firsts) > 1):
            yield spec.name
    yield from (spec.name for spec in outputs if not spec.shape)


def _rank(value: ArrayLike) -> int | None:
    """The number of axes; None for what is not an array, which is refused where it is read."""
    try:
        return np.ndim(value)
    except Exception:  # rows of several lengths, or anything from the `__array__` of a value
        return None


def _without_rows(spec: TensorSpec) -> TensorSpec:
    return replace(spec, shape=spec.shape[1:], dims=spec.dims[1:])


def _with_rows(spec: TensorSpec) -> TensorSpec:
    return replace(spec, shape=(-1, *spec.shape), dims=(None, *spec.dims) if spec.dims else ())


def _ties(inputs: Sequence[TensorSpec], batch_axes: Mapping[str, int | None]) -> Iterator[Tie]:
    axes: dict[str, list[tuple[str, int]]] = {}
    whole = None in batch_axes.values()
    for spec in () if whole else inputs:  # a whole request is the model's own to judge: names in files may be wrong
        batch = batch_axes.get(spec.name, 0)
        for axis, (dim, length) in enumerate(zip(spec.dims, spec.shape, strict=False)):
            if dim and length < 0 and axis != batch:  # the batch axis is compared separately
                axes.setdefault(dim, []).append((spec.name, axis))
    return (Tie(dim, tuple(places)) for dim, places in axes.items() if len(places) > 1)


_ANONYMOUS = re.compile(r"\?|None|dynamic|unk__\d+|-?\d+", re.IGNORECASE)
"""What exporters write for a free axis without a name."""


def named_dims(shape: Iterable[object]) -> tuple[str | None, ...]:
    """The names in a shape of lengths and names, as exporters write it; empty if no axis has a name."""
    dims = tuple(n if isinstance(n, str) and n and not _ANONYMOUS.fullmatch(n) else None for n in shape)
    return dims if any(dims) else ()


def _specs(items: Iterable[Mapping[str, Any]]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(i["name"], i["dtype"], tuple(map(int, i["shape"])), tuple(i.get("dims", ())), i.get("ranked", True))
        for i in items
    )


def measure(arrays: Arrays) -> tuple[tuple[Any, ...], int, int]:
    """Group key, rows and bytes of one request's arrays.

    The key is equal for inputs that can be stacked: same names, dtypes and shapes past axis 0.
    """
    key, rows, size = [], 0, 0
    for name, array in arrays.items():
        shape, dtype = array.shape, array.dtype
        key.append((name, dtype.num, shape[1:]))
        rows = shape[0]
        size += array.nbytes
        if dtype.hasobject:
            size += _characters(array)
    return tuple(key), rows, size


def nbytes(arrays: Arrays) -> int:
    """Memory the arrays hold, in bytes; text counts its characters as well as the references to them."""
    return sum(array.nbytes + (_characters(array) if array.dtype.hasobject else 0) for array in arrays.values())


def _characters(array: Array) -> int:
    return sum(map(len, array.flat))


def stack(items: Sequence[Arrays]) -> Arrays:
    """One batch from inputs of one group key, joined along axis 0."""
    if len(items) == 1:
        return items[0]
    return {name: np.concatenate([item[name] for item in items]) for name in items[0]}


def split(outputs: Arrays, items: Sequence[Arrays]) -> list[Arrays]:
    """The outputs of each stacked item: views of its rows.

    Raises InferenceError if an output has another number of rows than the batch.
    """
    rows = [len(next(iter(item.values()))) for item in items]
    check_rows(outputs, sum(rows))
    if len(rows) == 1:
        return [outputs]
    parts: list[Arrays] = []
    start = 0
    for count in rows:
        end = start + count
        parts.append({name: array[start:end] for name, array in outputs.items()})
        start = end
    return parts


def check_rows(outputs: Arrays, rows: int, axes: Mapping[str, int | None] = NO_AXES) -> None:
    """Raise InferenceError naming the output that does not have so many rows; `axes` are those that are not axis 0."""
    for name, array in outputs.items():
        axis = (axes.get(name) or 0) if axes else 0
        if array.ndim <= axis or array.shape[axis] != rows:
            got = "a single value" if array.ndim <= axis else f"{array.shape[axis]} rows"
            raise InferenceError(f"the model's output {name!r} has {got} for a batch of {rows}")


def cut(arrays: Arrays, rows: int) -> list[Arrays]:
    """Views of at most `rows` rows each, in order."""
    total = len(next(iter(arrays.values())))
    return [{name: array[start : start + rows] for name, array in arrays.items()} for start in range(0, total, rows)]
