"""The rows of a user that a search calibrates and judges with: read, checked, and divided once."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from penstock.errors import InvalidInput, first_line
from penstock.tensors import Array, Arrays, Signature

MOST_CALIBRATION_ROWS, MOST_HELD_OUT_ROWS = 512, 2048
FEWEST_CALIBRATION_ROWS, FEWEST_HELD_OUT_ROWS = 32, 16
"""Fewer rows to calibrate or to judge with say too little: no lossy candidate is tried then."""


@dataclass(frozen=True, eq=False)
class Data:
    """Rows for calibration, and others (`held_out`) to judge candidates with; axis 0 the sample, or the batch axis.

    `labels` and `calibration_labels` are the right classes of those rows. `digest` is the sha256 of all arrays that
    were given. `notes` are sentences for the report.
    """

    held_out: Arrays
    calibration: Arrays | None = None
    labels: Array | None = None
    calibration_labels: Array | None = None
    rows: int = 0
    held_out_rows: int = 0
    digest: str = ""
    notes: tuple[str, ...] = field(default=())

    @property
    def calibration_rows(self) -> int:
        """The number of rows for calibration."""
        return self.rows - self.held_out_rows

    def objection_to_lossy(self) -> str | None:
        """Why no candidate that changes outputs can be made and judged with this data; None if it can."""
        if self.calibration is None:
            return "it changes outputs, which takes rows of data to calibrate and to judge with"
        if self.calibration_rows < FEWEST_CALIBRATION_ROWS or self.held_out_rows < FEWEST_HELD_OUT_ROWS:
            least = 2 * FEWEST_CALIBRATION_ROWS
            return f"it changes outputs, which takes at least {least} rows of data; there are {self.rows}"
        constant = _constant(self.calibration)
        return f"the rows of data for {constant!r} are all the same, which calibrates nothing" if constant else None


NO_DATA = Data({})
"""The data of a search that was given none."""


def read_data(source: Path | str | Mapping[str, ArrayLike], signature: Signature, labels: Any = None) -> Data:
    """Read and divide the rows of an `.npz` file or of arrays by input name.

    `labels` are the right classes of the rows, or the name of the array that holds them. Raises InvalidInput naming the
    array at fault: missing, of another type or shape, empty, with NaN or infinity, or of another number of rows.
    """
    arrays, what = _arrays(source)
    classes = _labels(arrays, labels)
    used = {spec.name: arrays[spec.name] for spec in signature.inputs if spec.name in arrays}
    _require_names(used, arrays, signature, what)
    inputs, rows = _checked(used, signature, what)
    classes = None if classes is None else _checked_labels(classes, rows)
    unused = sorted(set(arrays) - set(used) - ({labels} if isinstance(labels, str) else set()))
    notes = (f"arrays of the data that are no inputs are not used: {', '.join(unused)}",) if unused else ()
    return divided(inputs, classes, signature, rows, _digest(inputs, classes), notes)


def divided(
    inputs: Arrays, labels: Array | None, signature: Signature, rows: int, digest: str, notes: Sequence[str] = ()
) -> Data:
    """The rows in two parts, in an order that depends on their number only, so that every run divides alike."""
    if signature.whole or rows // 2 < (signature.fixed_rows or 1):
        return Data(inputs, None, labels, None, rows, rows, digest, tuple(notes))
    order = np.random.default_rng(0).permutation(rows)
    cut = min(rows // 2, MOST_CALIBRATION_ROWS)
    first, second = order[:cut], order[cut : cut + MOST_HELD_OUT_ROWS]
    return Data(
        held_out=take(inputs, second, signature),
        calibration=take(inputs, first, signature),
        labels=None if labels is None else labels[second],
        calibration_labels=None if labels is None else labels[first],
        rows=len(first) + len(second),
        held_out_rows=len(second),
        digest=digest,
        notes=tuple(notes),
    )


def take(arrays: Arrays, rows: Array, signature: Signature) -> Arrays:
    """These rows of every array, along its batch axis."""
    axes = signature.batch_axes
    return {
        name: np.ascontiguousarray(np.take(array, rows, axis=axes.get(name) or 0)) for name, array in arrays.items()
    }


def _arrays(source: Path | str | Mapping[str, ArrayLike]) -> tuple[Arrays, str]:
    if isinstance(source, Mapping):
        return {str(name): np.asarray(value) for name, value in source.items()}, "data"
    path = Path(source)
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            raise ValueError("it holds one array without a name; write an .npz with the arrays by input name")
        with loaded:
            return {name: loaded[name] for name in loaded.files}, f"data: {path}"
    except FileNotFoundError:
        raise InvalidInput(f"data: {path}: there is no such file", field="data") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InvalidInput(f"data: {path} cannot be read as an .npz file: {first_line(error)}", field="data") from None


def _labels(arrays: Arrays, labels: Any) -> Array | None:
    if not isinstance(labels, str):
        return None if labels is None else np.asarray(labels)
    if labels not in arrays:
        raise InvalidInput(
            f"labels: the data has no array {labels!r}; it has {', '.join(arrays) or 'none'}", field="labels"
        )
    return arrays[labels]


def _require_names(used: Arrays, arrays: Arrays, signature: Signature, what: str) -> None:
    missing = [spec.name for spec in signature.inputs if spec.name not in used]
    if missing:
        raise InvalidInput(
            f"{what}: there is no array for the input {missing[0]!r}; it has {', '.join(arrays) or 'no arrays'}, the "
            f"model takes {', '.join(spec.name for spec in signature.inputs)}",
            field="data",
        )


def _checked(arrays: Arrays, signature: Signature, what: str) -> tuple[Arrays, int]:
    try:
        inputs, rows = _of_any_rows(signature).validate(arrays)
    except InvalidInput as error:
        raise InvalidInput(f"{what}: {error}", field="data") from None
    if rows == 0:
        raise InvalidInput(f"{what}: it has no rows", field="data")
    for name, array in inputs.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            axis = signature.batch_axes.get(name) or 0
            row = int(np.argwhere(~np.isfinite(array))[0][axis])
            raise InvalidInput(f"{what}: {name}: row {row} has NaN or infinity", field="data")
    return inputs, rows


def _of_any_rows(signature: Signature) -> Signature:
    """The signature with a free batch: a model of a fixed number of rows is run as often as the data needs."""
    if signature.fixed_rows is None:
        return signature
    axes = {spec.name: signature.batch_axes.get(spec.name) or 0 for spec in signature.inputs}
    inputs = tuple(
        replace(spec, shape=tuple(-1 if place == axes[spec.name] else n for place, n in enumerate(spec.shape)))
        for spec in signature.inputs
    )
    return replace(signature, inputs=inputs)


def _checked_labels(labels: Array, rows: int) -> Array:
    if labels.ndim < 1 or len(labels) != rows:
        found = len(labels) if labels.ndim else 1
        raise InvalidInput(f"labels: there are {found} for {rows} rows of data", field="labels")
    if labels.dtype.kind == "f" and np.isfinite(labels).all() and (labels == np.floor(labels)).all():
        labels = labels.astype(np.int64)
    if labels.dtype.kind not in "iub":
        raise InvalidInput(
            f"labels: they are of type {labels.dtype}; give the class of each row as a whole number from 0",
            field="labels",
        )
    if labels.dtype.kind == "i" and labels.min() < 0:
        raise InvalidInput(f"labels: {int(labels.min())} is no class; classes count from 0", field="labels")
    return labels.astype(np.int64)


def _digest(inputs: Arrays, labels: Array | None) -> str:
    digest = hashlib.sha256()
    parts = [*inputs.items(), *([("labels", labels)] if labels is not None else [])]
    for name, array in parts:
        digest.update(f"{name}:{array.dtype}:{array.shape};".encode())
        digest.update(repr(array.tolist()).encode() if array.dtype.kind == "O" else np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _constant(calibration: Arrays) -> str | None:
    """The name of an input whose rows are all the same numbers, if it is the only one of numbers."""
    numeric = {name: array for name, array in calibration.items() if array.dtype.kind == "f"}
    constant = [name for name, array in numeric.items() if array.size and np.ptp(array) == 0]
    return constant[0] if constant and len(constant) == len(numeric) else None
