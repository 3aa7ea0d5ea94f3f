"""Which formats there are and which class runs each; a new format is one more row."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import cast

from penstock.backends.base import Backend, BackendOptions, ModelFile
from penstock.errors import UnsupportedFormat

BACKENDS: dict[str, str] = {
    "onnx": "penstock.backends.onnx:OnnxBackend",
    "pytorch": "penstock.backends.eager:EagerBackend",
}
"""By the format a manifest names: `module:Class`."""

_NEEDS = {
    "onnx": "onnxruntime",
    "pytorch": "torch",
}
"""The package each backend imports."""

_REMEDIES = {"pytorch": "pip install 'penstock[torch]'"}
_BARE = {"onnx": "onnx", ".onnx": "onnx"}
"""Model types and suffixes that can be served from a file alone, since it holds graph and signature."""

_WEIGHTS_ALONE = (
    "a state dict alone does not say which class it fills; publish it as an artifact with its architecture, "
    "or export the model to ONNX"
)
_NOT_BARE = {
    "pytorch": _WEIGHTS_ALONE,
    "torchscript": "TorchScript is not run yet; export the model to ONNX",
    ".safetensors": _WEIGHTS_ALONE,
    ".ckpt": _WEIGHTS_ALONE,
    ".pt": _WEIGHTS_ALONE,
    ".pth": _WEIGHTS_ALONE,
    ".bin": _WEIGHTS_ALONE,
}


def runnable(format: str) -> bool:
    """True when this machine has what the format's backend imports; imports nothing itself."""
    return format in BACKENDS and importlib.util.find_spec(_NEEDS[format]) is not None


def open_backend(format: str, file: ModelFile, options: BackendOptions) -> Backend:
    """Load `file` with the backend of its format.

    Raises UnsupportedFormat for a format that is unknown or whose runtime is not installed, and what
    that backend's `open` raises.
    """
    if format not in BACKENDS:
        raise UnsupportedFormat(f"{file.path}: the format {format!r} is not known; use {', '.join(BACKENDS)}")
    if not runnable(format):
        remedy = _REMEDIES.get(format, f"pip install {_NEEDS[format]}")
        raise UnsupportedFormat(f"{file.path}: running {format} models needs {_NEEDS[format]}; {remedy}")
    module, _, name = BACKENDS[format].partition(":")
    backend = cast("type[Backend]", getattr(importlib.import_module(module), name))
    return backend.open(file, options)


def format_of(path: Path, model_type: str | None = None) -> str:
    """The format of a bare model file, from `model_type` where given and else from the file's suffix.

    Raises UnsupportedFormat, saying what to do instead, for one that cannot be served without an artifact.
    """
    asked = model_type if model_type is not None else path.suffix.lower()
    if asked in _BARE:
        return _BARE[asked]
    why = _NOT_BARE.get(asked, f"{asked or 'a file without a suffix'} is not a form of model that can be served alone")
    works = ", ".join(name for name in _BARE if name.startswith("."))
    raise UnsupportedFormat(f"{path}: {why}; what works as a bare file: {works}")
