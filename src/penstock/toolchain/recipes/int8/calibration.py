"""Calibration data: rows of the model's inputs from which static quantization reads the ranges of values.

Bad data gives no error but a bad model: ranges of zeros let one in ten images be misread. So it is checked here, and
whatever is wrong is said in one sentence that names the array.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from penstock.errors import InvalidInput
from penstock.tensors import Array, Arrays, Signature, TensorSpec

FEWEST_ROWS = 32
"""Fewer rows do not show the range of values: 8 images doubled the largest error of 256."""
BATCH = 32


def checked_rows(
    data: Mapping[str, ArrayLike] | None, signature: Signature, *, needed_by: str, fewest: int = FEWEST_ROWS
) -> Arrays:
    """The calibration rows as arrays of the types of the inputs, axis 0 the sample.

    Raises InvalidInput naming the array when there are no data, too few, of another name, type or shape, or with NaN or
    infinity, and when an input is always the same, so that its range is not that of real ones.
    """
    specs = {spec.name: spec for spec in signature.inputs}
    names = ", ".join(specs)
    if data is None:
        raise _refused("data", f"{needed_by} needs calibration data: real rows of {names}, data={{…}} or an .npz file")
    for name in specs:
        if name not in data:
            has = ", ".join(map(str, data)) or "nothing"
            raise _refused(name, f"there is no array of this name; the data has {has}, and the model takes {names}")
    for name in data:
        if name not in specs:
            raise _refused(str(name), f"the model has no such input; it takes {names}; leave the array out")
    rows = {name: _checked(row_spec(spec, signature), data[name]) for name, spec in specs.items()}
    _check_counts(rows, fewest)
    _check_ties(signature, rows)
    for name, array in rows.items():
        _check_values(name, array)
    return rows


def row_spec(spec: TensorSpec, signature: Signature) -> TensorSpec:
    """What one array of calibration data looks like: samples along axis 0, each a row of the input.

    A model without a batch axis takes a sample in the shape of its file; a batch on another axis goes to axis 0.
    """
    shape = spec.shape
    if not signature.batched:
        return replace(spec, shape=(-1, *shape[1:]), dims=())
    if signature.whole:
        return replace(spec, shape=(-1, *shape), dims=())
    axis = signature.batch_axes.get(spec.name) or 0
    return replace(spec, shape=(-1, *shape[:axis], *shape[axis + 1 :]), dims=())


def picked(rows: Arrays, count: int) -> Arrays:
    """At most `count` rows, evenly spaced, so that data in the order of its classes has all of them."""
    total = len(next(iter(rows.values())))
    if total <= count:
        return rows
    places = np.linspace(0, total - 1, count).astype(np.int64)
    return {name: array[places] for name, array in rows.items()}


def feeds(rows: Arrays, signature: Signature, batch: int = BATCH) -> Iterator[Arrays]:
    """Batches in the shapes of the model's file; a fixed number of rows is filled up with the last row."""
    total = len(next(iter(rows.values())))
    if not signature.batched or signature.whole:
        yield from ({name: np.ascontiguousarray(array[n]) for name, array in rows.items()} for n in range(total))
        return
    batch = signature.fixed_rows or batch
    for start in range(0, total, batch):
        places = np.arange(start, start + batch)
        places = np.minimum(places, total - 1) if signature.fixed_rows else places[places < total]
        yield {name: _on_axis(array[places], signature.batch_axes.get(name) or 0) for name, array in rows.items()}


def _on_axis(array: Array, axis: int) -> Array:
    return np.ascontiguousarray(np.moveaxis(array, 0, axis))


def _refused(name: str, why: str) -> InvalidInput:
    return InvalidInput(f"calibration data: {name}: {why}", field=name)


def _checked(spec: TensorSpec, value: ArrayLike) -> Array:
    try:
        array = spec.check(value)
    except InvalidInput as error:
        why = str(error).removeprefix(f"{spec.name}: ").replace("the model takes", "rows for the model are")
        raise _refused(spec.name, f"{why}; axis 0 is the sample") from None
    return array


def _check_counts(rows: Arrays, fewest: int) -> None:
    counts = {name: len(array) for name, array in rows.items()}
    first, count = next(iter(counts.items()))
    for name, other in counts.items():
        if other != count:
            raise _refused(name, f"it has {other} rows, and {first} has {count}; give the same samples in each")
    if not count:
        raise _refused(first, f"it has no rows; give at least {fewest}")
    if count < fewest:
        raise _refused(first, f"it has {count} rows, too few to know the range of values; give at least {fewest}")


def _check_ties(signature: Signature, rows: Arrays) -> None:
    """Raise InvalidInput when free axes of one name differ in length."""
    if not signature.batched or signature.whole:
        return
    try:
        signature.validate({name: _on_axis(array, signature.batch_axes.get(name) or 0) for name, array in _few(rows)})
    except InvalidInput as error:
        if signature.fixed_rows is None:
            raise InvalidInput(f"calibration data: {error}", errors=error.errors) from None


def _few(rows: Arrays) -> Iterator[tuple[str, Array]]:
    return ((name, array[:1]) for name, array in rows.items())


def _check_values(name: str, array: Array) -> None:
    if array.dtype.kind != "f":
        return
    finite = np.isfinite(array).reshape(len(array), -1).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        what = "NaN" if np.isnan(array[row]).any() else "infinity"
        raise _refused(name, f"row {row} holds {what}; leave such rows out ({int((~finite).sum())} of {len(array)})")
    if array.size and (array == array.flat[0]).all():
        raise _refused(name, f"every value is {array.flat[0]:g}, which says nothing of its range; give real rows")
    if array[0].size > 1 and (array == array[:1]).all():
        raise _refused(name, f"all {len(array)} rows are the same; give different samples")
