"""Fills a PyTorch model from a file of weights: safetensors, or a state dict that holds nothing but weights."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.backends.base import first_line
from penstock.errors import IntegrityError, ModelLoadError, UnsupportedFormat

if TYPE_CHECKING:
    import torch

_NESTED = ("state_dict", "model_state_dict")
"""Where training loops put the weights in a checkpoint that also holds an optimizer's state."""
_NAMES_SHOWN = 5
_REFUSED = re.compile(r"GLOBAL ([\w.]+)|unrecognized function|Unsupported class")


def fill(model: torch.nn.Module, path: Path) -> None:
    """Load the weights of `path` into `model`; every one must be there, and no other.

    Raises IntegrityError for a damaged file, UnsupportedFormat for one that holds more than weights or
    has an unknown suffix, ModelLoadError naming the keys that are missing, unexpected or of another shape.
    """
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise UnsupportedFormat(f"{path}: weights are read from files named {', '.join(_READERS)}")
    try:
        missing, unexpected = read(model, path)
    except RuntimeError as error:  # load_state_dict; one fault a line
        faults = [line.strip() for line in str(error).splitlines() if "size mismatch" in line]
        detail = faults[0].rstrip(".") if faults else first_line(error)
        raise ModelLoadError(f"{path}: the weights do not fit {type(model).__name__}: {detail}") from None
    if missing or unexpected:
        faults = [_named("missing", missing), _named("unexpected", unexpected)]
        raise ModelLoadError(
            f"{path}: the weights do not fit {type(model).__name__}: {'; '.join(fault for fault in faults if fault)}"
        )


def _named(what: str, keys: Iterable[str]) -> str:
    names = sorted(keys)
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return f"{what} {', '.join(names[:_NAMES_SHOWN])}{more}" if names else ""


def _fill_from_safetensors(model: torch.nn.Module, path: Path) -> tuple[Iterable[str], Iterable[str]]:
    from safetensors import SafetensorError
    from safetensors.torch import load_model

    try:
        return load_model(model, path, strict=False)
    except SafetensorError as error:
        raise IntegrityError(f"{path}: the file is damaged or no safetensors file: {first_line(error)}") from None


def _fill_from_pickle(model: torch.nn.Module, path: Path) -> tuple[Iterable[str], Iterable[str]]:
    result = model.load_state_dict(_weights(path, _unpickle(path)), strict=False)
    return result.missing_keys, result.unexpected_keys


def _unpickle(path: Path) -> Any:
    """The file's content if it is weights and plain containers; nothing in it is ever run."""
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        refused = _REFUSED.search(str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if refused is None:
            raise IntegrityError(f"{path}: the file is damaged or no PyTorch state dict") from None
        what = f" ({refused[1]})" if refused[1] else ""
        raise UnsupportedFormat(
            f"{path}: it holds more than weights{what} and was not loaded; save model.state_dict() as safetensors"
        ) from None


def _weights(path: Path, content: Any) -> Mapping[str, torch.Tensor]:
    import torch

    nested = [content[key] for key in _NESTED if isinstance(content, Mapping) and isinstance(content.get(key), Mapping)]
    weights = nested[0] if nested else content
    if not isinstance(weights, Mapping) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise UnsupportedFormat(f"{path}: it holds no state dict; save model.state_dict() as safetensors")
    return weights


_READERS: dict[str, Callable[[torch.nn.Module, Path], tuple[Iterable[str], Iterable[str]]]] = {
    ".safetensors": _fill_from_safetensors,
    ".pt": _fill_from_pickle,
    ".pth": _fill_from_pickle,
    ".ckpt": _fill_from_pickle,
    ".bin": _fill_from_pickle,
}
