"""Checkpoints whose class an installed package knows, from the names and shapes of their weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final, TypeAlias

from penstock.backends.torch import state_dict
from penstock.backends.torch.architecture import GROUP
from penstock.errors import PenstockError, UnsupportedFormat, type_and_message
from penstock.file_description import FileDescription

Describe: TypeAlias = Callable[[Mapping[str, tuple[int, ...]], Mapping[str, Any]], Mapping[str, Any] | None]
"""From the shapes of the weights by name, and the recorded arguments of the constructor: fields of a FileDescription,
or None for the weights of another class."""

_FIELDS: Final = ("architecture", "architecture_args", "signature", "example")


def described(path: Path, about: FileDescription) -> FileDescription:
    """`about`, completed by what a package of the group `penstock.architectures` knows of these weights.

    An entry point names a package, or a function of it (`module:describe`). The file is read as data; what is no
    checkpoint is left to the backend, which says what is wrong with it. Raises UnsupportedFormat naming the package
    whose function fails.
    """
    describers = _describers()
    if about.architecture is not None or not describers:
        return about
    try:
        checkpoint = state_dict.read(path)
    except PenstockError:
        return about
    shapes = {name: tuple(map(int, tensor.shape)) for name, tensor in checkpoint.weights.items()}
    for package, describe in describers.items():
        try:
            known = describe(shapes, checkpoint.arguments)
        except Exception as error:  # the function of a package may raise anything
            why = type_and_message(error)
            raise UnsupportedFormat(
                f"{path}: {package} cannot describe the checkpoint ({why}); name its class"
            ) from None
        if known is not None:
            return about.over(FileDescription(**{name: known[name] for name in _FIELDS if name in known}))
    return about


@cache
def _describers() -> dict[str, Describe]:
    return {point.value: point.load() for point in entry_points(group=GROUP) if point.attr}
