"""Fills a PyTorch model from a file of weights: safetensors, or a checkpoint that holds nothing but data."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from penstock.backends.base import first_line
from penstock.errors import IntegrityError, ModelLoadError, UnsupportedFormat

if TYPE_CHECKING:
    import torch

_NESTED = ("state_dict", "model_state_dict", "model_state", "model", "net")
"""Where training loops put the weights in a checkpoint that also holds an optimizer's state."""
_ARGUMENTS = "hyper_parameters"
"""Where Lightning puts the arguments that the model was made with."""
_COMPILED = "_orig_mod."
_WRAPPERS = ("model.", "module.", "net.")
"""What training code puts before the names of a model that it wraps; `_orig_mod.` is torch.compile's, at any depth."""
_NAMES_SHOWN = 5
_REFUSED = re.compile(r"GLOBAL ([\w.]+)|unrecognized function|Unsupported class")


class Checkpoint(NamedTuple):
    """Weights by name as the file has them, and the arguments it says the model was made with."""

    path: Path
    weights: Mapping[str, torch.Tensor]
    arguments: Mapping[str, Any] = {}


def read(path: Path) -> Checkpoint:
    """The content of a file of weights; nothing in it is ever run.

    Raises IntegrityError for a damaged file, UnsupportedFormat for one that holds more than data or has an
    unknown suffix.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise UnsupportedFormat(f"{path}: weights are read from files named {', '.join(_READERS)}")
    return reader(path)


def fill(model: torch.nn.Module, checkpoint: Checkpoint) -> None:
    """Load weights into `model`; every one must be there, and no other.

    Names may have what training code puts before them. Raises ModelLoadError naming the keys that are missing,
    unexpected or of another shape.
    """
    path, own = checkpoint.path, model.state_dict()
    try:
        result = model.load_state_dict(_unwrapped(checkpoint.weights, own), strict=False)
    except RuntimeError as error:  # one fault a line
        faults = [line.strip() for line in str(error).splitlines() if "size mismatch" in line]
        detail = faults[0].rstrip(".") if faults else first_line(error)
        raise ModelLoadError(f"{path}: the weights do not fit {type(model).__name__}: {detail}") from None
    missing, unexpected = _without_shared(result.missing_keys, own), result.unexpected_keys
    if missing or unexpected:
        faults = [_named("missing", missing), _named("unexpected", unexpected)]
        raise ModelLoadError(
            f"{path}: the weights do not fit {type(model).__name__}: {'; '.join(fault for fault in faults if fault)}"
        )


def _unwrapped(weights: Mapping[str, torch.Tensor], own: Iterable[str]) -> dict[str, torch.Tensor]:
    """The weights under the names that most of `own` are among: as they are, or without what wraps them."""
    wanted = set(own)
    best = dict(weights)
    current: dict[str, torch.Tensor] | None = {name.replace(_COMPILED, ""): tensor for name, tensor in weights.items()}
    while current is not None:
        if len(wanted & current.keys()) > len(wanted & best.keys()):
            best = current
        current = _peeled(current)
    return best


def _peeled(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor] | None:
    """The weights without the wrapper most of their names begin with, None when none does."""
    counts = {prefix: sum(name.startswith(prefix) for name in weights) for prefix in _WRAPPERS}
    prefix = max(counts, key=lambda one: counts[one])
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items()} if counts[prefix] else None


def _without_shared(missing: Iterable[str], own: Mapping[str, torch.Tensor]) -> list[str]:
    """The missing names but those of memory that was filled under another name: some files hold tied weights once."""
    gone = set(missing)
    filled = {_memory(tensor) for name, tensor in own.items() if name not in gone}
    return [name for name in gone if not own[name].numel() or _memory(own[name]) not in filled]


def _memory(tensor: torch.Tensor) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    return tensor.data_ptr(), tuple(tensor.shape), tensor.stride()


def _named(what: str, keys: Iterable[str]) -> str:
    names = sorted(keys)
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return f"{what} {', '.join(names[:_NAMES_SHOWN])}{more}" if names else ""


def _read_safetensors(path: Path) -> Checkpoint:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return Checkpoint(path, load_file(path))
    except SafetensorError as error:
        raise IntegrityError(f"{path}: the file is damaged or no safetensors file: {first_line(error)}") from None


def _read_pickle(path: Path) -> Checkpoint:
    content = _unpickle(path)
    arguments = content.get(_ARGUMENTS) if isinstance(content, Mapping) else None
    named = isinstance(arguments, Mapping) and all(isinstance(name, str) for name in arguments)
    return Checkpoint(path, _weights(path, content), dict(arguments) if named and arguments else {})


def _unpickle(path: Path) -> Any:
    """The file's content if it is weights and plain containers."""
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


_READERS: dict[str, Callable[[Path], Checkpoint]] = {
    ".safetensors": _read_safetensors,
    ".pt": _read_pickle,
    ".pth": _read_pickle,
    ".ckpt": _read_pickle,
    ".bin": _read_pickle,
}
