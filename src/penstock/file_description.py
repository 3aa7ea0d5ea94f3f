"""What a bare model file does not record, as its user states it: one value, from options, settings or Python."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self, TypeAlias

from penstock.datatypes import DATATYPES
from penstock.errors import ConfigError, InvalidInput
from penstock.tensors import Signature, TensorSpec

Labels: TypeAlias = "str | os.PathLike[str] | Iterable[str]"
"""Class names, or a text file with one a line."""
Preprocess: TypeAlias = "str | os.PathLike[str] | Mapping[str, Any] | list[Any]"
"""Fields of a task's configuration, its list of steps alone, or a JSON file of either."""

_DTYPES = {name: row.wire for row in DATATYPES.values() for name in row.names}


@dataclass(frozen=True, slots=True, eq=False)
class FileDescription:
    """What the user states about a model file; a field that is empty is left to the file and to what runs of it show.

    `task` is the kind of its task, `labels` are the names of its classes and `preprocess` other fields of that task's
    configuration. `example` is an input that it runs with: arrays, or a .npz, .npy or .json file. `batch_axes` gives
    the axis of the batch for inputs and outputs by name; `no_batch` says that there is none. A `signature` without
    outputs leaves those to runs. `architecture` is the class that weights fill, or its `module:Class`.
    """

    task: str | None = None
    labels: tuple[str, ...] = ()
    preprocess: Mapping[str, Any] = field(default_factory=dict)
    example: Any = None
    batch_axes: Mapping[str, int] = field(default_factory=dict)
    no_batch: bool = False
    signature: Signature | None = None
    architecture: str | type | None = None
    architecture_args: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.batch_axes and self.no_batch:
            raise ConfigError("no_batch: axes of the batch are given too; leave one of the two out")

    @property
    def stated(self) -> tuple[str, ...]:
        """The names of the fields that say something."""
        return tuple(one.name for one in fields(self) if not _is_empty(getattr(self, one.name)))

    @property
    def task_config(self) -> dict[str, Any]:
        """The task's configuration, as in a manifest."""
        return {**self.preprocess, **({"labels": [*self.labels]} if self.labels else {})}

    def over(self, other: FileDescription) -> Self:
        """The fields of both; where both say something, it is what `self` says."""
        both = {name: getattr(other, name) for name in other.stated}
        return type(self)(**(both | {name: getattr(self, name) for name in self.stated}))


def _is_empty(value: Any) -> bool:
    """True for None, False and empty containers; an array, also an empty one, says something."""
    return value is None or value is False or (isinstance(value, tuple | Mapping) and not value)


def labels_of(labels: Labels) -> tuple[str, ...]:
    """The names, read from a text file with one a line where `labels` is a path.

    Raises ConfigError for a file that cannot be read or is empty.
    """
    if not isinstance(labels, str | os.PathLike):
        return tuple(map(str, labels))
    names = tuple(line.strip() for line in read_text(Path(labels)).splitlines() if line.strip())
    if not names:
        raise ConfigError(f"labels: {labels} is empty; write the name of one class on each line")
    return names


def preprocess_of(given: Preprocess) -> dict[str, Any]:
    """Fields of a task's configuration, read from a JSON file where `given` is a path. Raises ConfigError."""
    value: Any = given
    if isinstance(given, str | os.PathLike):
        try:
            value = json.loads(read_text(Path(given)))
        except ValueError as error:
            raise ConfigError(f"{given} is not valid JSON: {error}") from None
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, list):
        return {"preprocess": value}
    raise ConfigError(
        f"preprocess: {given if value is not given else type(value).__name__} holds no settings of a task; "
        'write an object such as {"resize": [[224, 224, "bilinear"]]}, or a list of steps'
    )


def read_text(path: Path) -> str:
    """The text of a file that describes a model. Raises ConfigError."""
    try:
        return path.expanduser().read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {getattr(error, 'strerror', None) or 'not UTF-8 text'}") from None


def parse_tensor(text: str) -> TensorSpec:
    """`name:dtype:shape`, such as `x:FP32:-1x784` or `x:FP32:-1,784`; -1 or ? is free, `()` a single value.

    Raises ValueError that names the faulty part.
    """
    parts = text.rsplit(":", 2)
    if len(parts) != 3 or not parts[0]:
        raise ValueError(f"{text!r} is not of the form name:dtype:shape, such as x:FP32:-1x784")
    dtype = _DTYPES.get(parts[1].lower())
    if dtype is None:
        raise ValueError(f"{parts[1]!r} is not a datatype; use one of {', '.join(DATATYPES)}")
    lengths = re.split(r"[x,]", parts[2].lower()) if parts[2] != "()" else []
    if not all(re.fullmatch(r"-1|\?|0|[1-9]\d{0,9}", length) for length in lengths):
        raise ValueError(f"{parts[2]!r} is not a shape; write lengths separated by x, -1 for a free one")
    return TensorSpec(parts[0], dtype, tuple(-1 if length == "?" else int(length) for length in lengths))


def parse_tensors(texts: Iterable[str]) -> tuple[TensorSpec, ...]:
    """One spec for each `name:dtype:shape`. Raises ValueError that names the faulty part or the name given twice."""
    specs = tuple(map(parse_tensor, texts))
    if len({spec.name for spec in specs}) < len(specs):
        raise ValueError("two tensors have the same name")
    return specs


def tensor_list(text: str) -> tuple[TensorSpec, ...]:
    """Several `name:dtype:shape` in one text, separated by spaces or semicolons. Raises ValueError."""
    return parse_tensors(part for part in re.split(r"[;\s]+", text) if part)


def parse_batch_axes(text: str) -> dict[str, int]:
    """`x:0,h:1` as the axis of the batch by the name of an input or output. Raises ValueError that names the fault."""
    axes: dict[str, int] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, axis = part.rpartition(":")
        if not name or not re.fullmatch(r"\d{1,2}", axis):
            raise ValueError(f"{part!r} is not of the form name:axis, such as x:0")
        if axes.setdefault(name, int(axis)) != int(axis):
            raise ValueError(f"{name} has two axes")
    return axes


def parse_arguments(text: str) -> dict[str, Any]:
    """The arguments of a constructor from a JSON object. Raises ValueError."""
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError('it should be an object, such as {"hidden": 64}')
    return value


def described(given: Mapping[str, Any]) -> FileDescription:
    """The description for the keywords of Python calls: labels and preprocess may be files, an example is any input.

    Raises ConfigError for a file that cannot be read, InvalidInput for axes that are none.
    """
    values = dict(given)
    if "labels" in values:
        values["labels"] = labels_of(values["labels"])
    if "preprocess" in values:
        values["preprocess"] = preprocess_of(values["preprocess"])
    if "example_input" in values:
        values["example"] = values.pop("example_input")
    axes = values.get("batch_axes")
    if axes is not None and not (isinstance(axes, Mapping) and all(type(axis) is int for axis in axes.values())):
        raise InvalidInput('batch_axes: give the axis by name, such as {"x": 0, "h": 1}', field="batch_axes")
    return FileDescription(**values)
