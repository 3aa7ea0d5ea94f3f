"""Reads the example input of a user: arrays, or a file of them that are named as the model's inputs."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from penstock.errors import InvalidInput
from penstock.tensors import Signature

MAX_BYTES = 1 << 30
"""An example is one request; a larger file is something else."""


def read_example(example: Any) -> Any:
    """The content of a file where `example` is a path, else `example` itself.

    A mapping by name, or one array or nested list for a model with one input. Raises InvalidInput naming the file.
    """
    if not isinstance(example, str | os.PathLike):
        return example
    path = Path(example).expanduser()
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise InvalidInput(f"example: {path} is not a {', '.join(_READERS)} file", field="example")
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise InvalidInput(f"example: {path} has {size:,} bytes; give the inputs of one request", field="example")
        return reader(path)
    except OSError as error:
        raise InvalidInput(f"example: {path} cannot be read: {error.strerror or error}", field="example") from None
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InvalidInput(f"example: {path} is not what its name says: {error}", field="example") from None


def by_input_name(example: Any, signature: Signature) -> dict[str, Any]:
    """The example by the names of the signature's inputs; without names they are taken in its order.

    The values are not checked. Raises InvalidInput when names or their number differ.
    """
    names = [spec.name for spec in signature.inputs]
    if isinstance(example, Mapping):
        inner = example.get("inputs")
        given = dict(inner if isinstance(inner, Mapping) and "inputs" not in names else example)
        by_position = [given.get(f"arr_{number}") for number in range(len(given))]  # of `numpy.savez(file, x, y)`
        if given and given.keys().isdisjoint(names) and all(value is not None for value in by_position):
            return by_input_name(tuple(by_position), signature)
        unknown = next((name for name in given if name not in names), None)
        if unknown is not None:
            known = ", ".join(names)
            raise InvalidInput(f"example: the model has no input {unknown!r}; it takes {known}", field="example")
        return {name: _even(name, given[name]) for name in names if name in given}
    values = several(example)
    if len(values) != len(names):
        raise InvalidInput(
            f"example: {len(values)} {'array' if len(values) == 1 else 'arrays'} without names, the model takes "
            f"{len(names)} inputs; name them {', '.join(names)}",
            field="example",
        )
    return {name: _even(name, value) for name, value in zip(names, values, strict=True)}


def _even(name: str, value: Any) -> Any:
    """Raises InvalidInput for nested lists of different lengths."""
    try:
        np.shape(value)
    except ValueError:
        raise InvalidInput(f"example: {name}: its lists have different lengths", field="example") from None
    return value


def several(example: Any) -> list[Any]:
    """The inputs of an example without names: a tuple, or a list of arrays, is one for each; nested lists are one."""
    if isinstance(example, tuple) or (isinstance(example, list) and all(hasattr(one, "ndim") for one in example)):
        return list(example)
    return [example]


def _npz(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _npy(path: Path) -> Any:
    return np.load(path, allow_pickle=False)


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8-sig"))


def _safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(str(error)) from None


_READERS: dict[str, Callable[[Path], Any]] = {
    ".npz": _npz,
    ".npy": _npy,
    ".json": _json,
    ".safetensors": _safetensors,
}
