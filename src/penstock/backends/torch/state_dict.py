"""Fills a PyTorch model from a file of weights: safetensors, or a checkpoint that holds data only."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from penstock.errors import IntegrityError, ModelLoadError, UnsupportedFormat, Untrusted, first_line
from penstock.formats import FORMATS
from penstock.scan.trust import at_least

if TYPE_CHECKING:
    import torch

_NESTED = ("state_dict", "model_state_dict", "model_state", "model", "net")
"""The keys of the weights in a checkpoint that also holds an optimizer's state."""
_ARGUMENTS = "hyper_parameters"
"""Lightning's key of the constructor's arguments."""
_COMPILED = "_orig_mod."
_WRAPPERS = ("model.", "module.", "net.")
"""Prefixes that training code adds to the names of a wrapped model; `_orig_mod.` is torch.compile's, at any depth."""
_MAX_NAMES = 5
_SIZES = "the sizes that it is built with are its arguments, architecture_args={…}"
_SAVE = "save model.state_dict() and name its class"
_REFUSED = re.compile(r"GLOBAL ([\w.]+)|unrecognized function|Unsupported class")


class Checkpoint(NamedTuple):
    """Weights by their names in the file, and the recorded arguments of the model's constructor."""

    path: Path
    weights: Mapping[str, torch.Tensor]
    arguments: Mapping[str, Any] = {}


def read(path: Path, trust: str = "data") -> Checkpoint:
    """The content of a file of weights; no code in it runs unless `trust` covers code and the file needs it.

    Raises IntegrityError for a damaged file, UnsupportedFormat for one that holds more than data or has an
    unknown suffix.
    """
    weights = FORMATS["pytorch"]
    suffix = path.suffix.lower()
    if suffix not in weights.suffixes:
        raise UnsupportedFormat(f"{path}: weights are read from files named {', '.join(weights.suffixes)}")
    return _read_safetensors(path) if suffix in weights.files[0].suffixes else _read_pickle(path, trust)


def read_module(path: Path, trust: str) -> torch.nn.Module:
    """The module that a file holds as a whole pickle, which runs code of the file and of the classes that it names.

    Raises Untrusted unless `trust` covers code, UnsupportedFormat for a file without a module, ModelLoadError when its
    classes are missing here.
    """
    import torch

    if not at_least(trust, "code"):
        raise Untrusted(
            f"{path}: a pickle of a whole module runs code when it is opened; trust its source (code) or {_SAVE}"
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=False)  # nosec B614
    except (Exception, SystemExit) as error:  # of classes that are missing or have changed
        raise ModelLoadError(f"{path}: the pickle of a module cannot be loaded: {first_line(error)}; {_SAVE}") from None
    parts = [content, *(content.get(key) for key in _NESTED)] if isinstance(content, Mapping) else [content]
    module = next((part for part in parts if isinstance(part, torch.nn.Module)), None)
    if module is None:
        raise UnsupportedFormat(
            f"{path}: it holds no module; weights need the class that they fill, " 'architecture="module:Class"'
        )
    return module


def fill(model: torch.nn.Module, checkpoint: Checkpoint, remedy: str = _SIZES) -> None:
    """Load weights into `model`; all must be present, and no others.

    Names may have the prefixes of training code. Raises ModelLoadError naming the keys that are missing,
    unexpected or of another shape; `remedy` says what to do about shapes.
    """
    path, own = checkpoint.path, model.state_dict()
    try:
        result = model.load_state_dict(_unwrapped(checkpoint.weights, own), strict=False)
    except RuntimeError as error:  # one fault a line
        faults = [line.strip() for line in str(error).splitlines() if "size mismatch" in line]
        detail = faults[0].rstrip(".") if faults else first_line(error)
        raise ModelLoadError(f"{path}: the weights do not fit {type(model).__name__}: {detail}; {remedy}") from None
    missing, unexpected = _without_shared(result.missing_keys, own), result.unexpected_keys
    if missing or unexpected:
        faults = [_named("missing", missing), _named("unexpected", unexpected)]
        raise ModelLoadError(
            f"{path}: the weights do not fit {type(model).__name__}: {'; '.join(fault for fault in faults if fault)}"
        )


def _unwrapped(weights: Mapping[str, torch.Tensor], own: Iterable[str]) -> dict[str, torch.Tensor]:
    """The weights under the names that match most of `own`: unchanged, or without the prefixes of wrappers."""
    wanted = set(own)
    best = dict(weights)
    current: dict[str, torch.Tensor] | None = {name.replace(_COMPILED, ""): tensor for name, tensor in weights.items()}
    while current is not None:
        if len(wanted & current.keys()) > len(wanted & best.keys()):
            best = current
        current = _peeled(current)
    return best


def _peeled(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor] | None:
    """The weights without the most frequent wrapper prefix; None when no name has one."""
    counts = {prefix: sum(name.startswith(prefix) for name in weights) for prefix in _WRAPPERS}
    prefix = max(counts, key=lambda one: counts[one])
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items()} if counts[prefix] else None


def _without_shared(missing: Iterable[str], own: Mapping[str, torch.Tensor]) -> list[str]:
    """The missing names, without those whose memory was filled under another name: files may hold tied weights once."""
    gone = set(missing)
    filled = {_memory(tensor) for name, tensor in own.items() if name not in gone}
    return [name for name in gone if not own[name].numel() or _memory(own[name]) not in filled]


def _memory(tensor: torch.Tensor) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    return tensor.data_ptr(), tuple(tensor.shape), tensor.stride()


def _named(what: str, keys: Iterable[str]) -> str:
    names = sorted(keys)
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return f"{what} {', '.join(names[:_MAX_NAMES])}{more}" if names else ""


def _read_safetensors(path: Path) -> Checkpoint:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return Checkpoint(path, load_file(path))
    except SafetensorError as error:
        raise IntegrityError(f"{path}: the file is damaged or not a safetensors file: {first_line(error)}") from None


def _read_pickle(path: Path, trust: str) -> Checkpoint:
    content = _unpickle(path, trust)
    arguments = content.get(_ARGUMENTS) if isinstance(content, Mapping) else None
    named = isinstance(arguments, Mapping) and all(isinstance(name, str) for name in arguments)
    return Checkpoint(path, _weights(path, content), dict(arguments) if named and arguments else {})


def _unpickle(path: Path, trust: str) -> Any:
    """The content of a file that holds weights and plain containers; where code is trusted, also of other pickles."""
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        refused = _REFUSED.search(str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if refused is None:
            raise IntegrityError(f"{path}: the file is damaged or not a PyTorch state dict") from None
        if at_least(trust, "code"):
            return _trusted(path)
        what = f" ({refused[1]})" if refused[1] else ""
        raise UnsupportedFormat(
            f"{path}: it holds more than weights{what} and was not loaded; save model.state_dict() as safetensors; a "
            "whole module loads without an architecture where its source is trusted (code)"
        ) from None


def _trusted(path: Path) -> Any:
    """The content of a pickle that may run code; of a whole module, its weights."""
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=False)  # nosec B614
    except (Exception, SystemExit) as error:  # of classes that are missing or have changed
        raise ModelLoadError(f"{path}: the pickle cannot be loaded: {first_line(error)}; {_SAVE}") from None
    if isinstance(content, Mapping):
        return {key: _plain(value) for key, value in content.items()}
    return _plain(content)


def _plain(value: Any) -> Any:
    import torch

    return value.state_dict() if isinstance(value, torch.nn.Module) else value


def _weights(path: Path, content: Any) -> Mapping[str, torch.Tensor]:
    import torch

    nested = [content[key] for key in _NESTED if isinstance(content, Mapping) and isinstance(content.get(key), Mapping)]
    weights = nested[0] if nested else content
    if not isinstance(weights, Mapping) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise UnsupportedFormat(f"{path}: it has no state dict; save model.state_dict() as safetensors")
    return weights
