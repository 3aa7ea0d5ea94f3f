"""Copies requests as they are pulled from a source, so that a source may reuse its buffer for the next one."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

_IMMUTABLE = frozenset({float, int, bool, str, bytes, complex, type(None)})


def pulled(values: Iterable[Any]) -> Iterator[Any]:
    """The requests of a source, each as it was when it was pulled.

    Generators, loaders of frames, memory maps and data sets with a buffer of their own may write the next request where
    the last one was. A list, a tuple or an array in memory holds all its requests at once, and nothing is copied.
    """
    if type(values) in (list, tuple) or (type(values) is np.ndarray and not _mapped(values)):
        return iter(values)
    return map(copied, iter(values))


def copied(value: Any) -> Any:
    """A request that shares no memory with `value`; what cannot be copied is returned itself."""
    kind = type(value)
    if kind in _IMMUTABLE:
        return value
    if kind is list or kind is tuple:
        return kind([item if type(item) in _IMMUTABLE else copied(item) for item in value])
    if isinstance(value, np.ndarray):
        return np.array(value, copy=True)  # in memory, also for a memory map
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    if hasattr(value, "detach") and hasattr(value, "clone"):  # a tensor of PyTorch, which is not imported here
        return value.detach().clone()
    if kind is dict:
        return {name: copied(item) for name, item in value.items()}
    if isinstance(value, Mapping):
        return {name: copied(item) for name, item in value.items()}
    try:
        return copy.deepcopy(value)
    except Exception:  # a handle of the operating system, a picture that reads its file later
        return value


def _mapped(array: Any) -> bool:
    """True when the memory of the array is a file's, or belongs to something that is no array."""
    while isinstance(array, np.ndarray):
        if isinstance(array, np.memmap):
            return True
        array = array.base
    return array is not None
