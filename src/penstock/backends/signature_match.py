"""Compares the signature in a manifest with the one in a model file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from penstock.errors import ModelLoadError
from penstock.tensors import TensorSpec


def require_fit(
    path: Path,
    side: str,
    wanted: Sequence[TensorSpec],
    found: Sequence[TensorSpec],
    fits: Callable[[TensorSpec, TensorSpec], bool],
) -> None:
    """Raise ModelLoadError, showing both, unless each of `wanted` fits the one of `found` at its position."""
    if len(wanted) == len(found) and all(fits(one, other) for one, other in zip(wanted, found, strict=True)):
        return
    raise ModelLoadError(f"{path}: its manifest says the {side} are {_written(wanted)}; the file has {_written(found)}")


def same_type(wanted: TensorSpec, found: TensorSpec) -> bool:
    """True for the same datatype and number of axes; lengths of outputs are often wrong in files."""
    return wanted.dtype == found.dtype and len(wanted.shape) == len(found.shape)


def same_type_and_lengths(wanted: TensorSpec, found: TensorSpec) -> bool:
    """True when every length that is fixed in the file agrees as well; a manifest may fix more."""
    pairs = zip(wanted.shape, found.shape, strict=False)
    return same_type(wanted, found) and all(fixed in (-1, length) for length, fixed in pairs)


def _written(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(f"{spec.name} {spec.dtype} {list(spec.shape)}" for spec in specs) or "none"
