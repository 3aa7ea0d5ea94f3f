"""Which formats there are and which class runs each; a new format is one more row."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from typing import cast

from penstock.backends.base import Backend, BackendOptions, ModelFile, require_file
from penstock.backends.torch.archives import format_of_archive
from penstock.backends.unbatched import RowByRow
from penstock.errors import UnsupportedFormat, Untrusted
from penstock.scan.gate import require_allowed, untrusted
from penstock.scan.scanner import scan_file
from penstock.scan.trust import Trust, at_least

BACKENDS: dict[str, str] = {
    "onnx": "penstock.backends.onnx.backend:OnnxBackend",
    "openvino": "penstock.backends.openvino:OpenVinoBackend",
    "pytorch": "penstock.backends.torch.eager:EagerBackend",
    "torchscript": "penstock.backends.torch.torchscript:TorchScriptBackend",
    "pt2": "penstock.backends.torch.exported:ExportedBackend",
    "aoti": "penstock.backends.torch.aoti:AotiBackend",
}
"""By the format a manifest names: `module:Class`."""

_NEEDS = {
    "onnx": "onnxruntime",
    "openvino": "openvino",
    "pytorch": "torch",
    "torchscript": "torch",
    "pt2": "torch",
    "aoti": "torch",
}
"""The package each backend imports."""

_TRUST: dict[str, Trust] = {
    "onnx": "data",
    "openvino": "data",
    "pytorch": "data",
    "torchscript": "code",
    "pt2": "code",
    "aoti": "native",
}
"""What each format could do when it is opened; eager PyTorch is checked by its architecture as well."""

_REMEDIES = {"openvino": "pip install 'penstock[openvino]'", "torch": "pip install 'penstock[torch]'"}
_BARE = {
    "onnx": "onnx",
    ".onnx": "onnx",
    "openvino": "openvino",
    ".xml": "openvino",
    "pt2": "pt2",
    ".pt2": "pt2",
    "aoti": "aoti",
}
"""Model types and suffixes that can be served from a file alone, since it holds graph and signature."""

_WEIGHTS_ALONE = (
    "a state dict alone does not say which class it fills; give `architecture` and `example_input` in Python, "
    "publish it with `penstock models import --architecture`, or export the model to ONNX"
)
_SIGNATURE_ALONE = (
    "TorchScript does not record the types and shapes of its inputs; give `signature` in Python, "
    "publish it with `penstock models import --input`, or export the model to ONNX or .pt2"
)
_NOT_BARE = {
    "pytorch": _WEIGHTS_ALONE,
    "torchscript": _SIGNATURE_ALONE,
    ".ts": _SIGNATURE_ALONE,
    ".safetensors": _WEIGHTS_ALONE,
    ".ckpt": _WEIGHTS_ALONE,
    ".pt": _WEIGHTS_ALONE,
    ".pth": _WEIGHTS_ALONE,
    ".bin": _WEIGHTS_ALONE,
}


def runnable(format: str) -> bool:
    """True when this machine has what the format's backend imports; imports nothing itself."""
    return format in BACKENDS and importlib.util.find_spec(_NEEDS[format]) is not None


def trust_of(format: str) -> Trust:
    """The tier of trust that opening the format takes."""
    return _TRUST.get(format, "native")


def at_hand(format: str) -> bool:
    """True when opening the format imports nothing that takes seconds: its runtime is light, or loaded already."""
    return runtime_of(format) != "torch" or "torch" in sys.modules


def runtime_of(format: str) -> str:
    """The package that runs the format; its own name for one that is not known here."""
    return _NEEDS.get(format, format)


def open_backend(format: str, file: ModelFile, options: BackendOptions) -> Backend:
    """Load `file` with the backend of its format.

    Raises UnsupportedFormat for a format that is unknown or whose runtime is not installed, Untrusted for one that
    `options.trust` does not cover, IntegrityError for a file made to deceive, and what that backend's `open` raises.
    """
    if format not in BACKENDS:
        raise UnsupportedFormat(f"{file.path}: the format {format!r} is not known; use {', '.join(BACKENDS)}")
    if not at_least(options.trust, trust_of(format)):
        raise Untrusted(untrusted(file.path, f"models of the format {format} can run code", trust_of(format)))
    if not runnable(format):
        remedy = _REMEDIES.get(_NEEDS[format], f"pip install {_NEEDS[format]}")
        raise UnsupportedFormat(f"{file.path}: running {format} models needs {_NEEDS[format]}; {remedy}")
    require_file(file.path)
    require_allowed(scan_file(file.path, format), options.trust)  # before any runtime sees a byte of it
    module, _, name = BACKENDS[format].partition(":")
    backend = cast("type[Backend]", getattr(importlib.import_module(module), name))
    if file.signature is not None and not file.signature.batched:
        file = replace(file, signature=file.signature.without_rows())
    opened = backend.open(file, options)
    return opened if opened.signature.batched else RowByRow(opened)


def format_of(path: Path, model_type: str | None = None, *, signed: bool = False) -> str:
    """The format of a bare model file, from `model_type` where given and else from the file's suffix and content.

    `signed` says that its signature is known from elsewhere. Raises UnsupportedFormat, saying what to do instead, for
    one that cannot be served without an artifact.
    """
    asked = model_type if model_type is not None else path.suffix.lower()
    if asked in _BARE:
        return "aoti" if asked == ".pt2" and format_of_archive(path) == "aoti" else _BARE[asked]
    if asked in (".pt", ".pth") and format_of_archive(path) == "torchscript":
        asked = "torchscript"
    if signed and asked in ("torchscript", ".ts"):
        return "torchscript"
    why = _NOT_BARE.get(asked, f"{asked or 'a file without a suffix'} is not a form of model that can be served alone")
    works = ", ".join(name for name in _BARE if name.startswith("."))
    raise UnsupportedFormat(f"{path}: {why}; what works as a bare file: {works}")
