"""Opens a model with the backend of its format, as its row in `penstock.formats` says."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from penstock.backends.axes.reading import is_one_row, read_axes
from penstock.backends.base import Backend, BackendOptions, ModelFile, Stated, require_file
from penstock.backends.unbatched import RowByRow
from penstock.errors import InvalidInput, UnsupportedFormat, Untrusted
from penstock.formats import FORMATS, PYTHON, PYTHON_BACKEND, Format, file_kinds, format_of_kind, formats_of_suffix
from penstock.libraries import import_attribute
from penstock.scan.gate import require_allowed, untrusted
from penstock.scan.scanner import kind_of_file, scan_file
from penstock.scan.trust import at_least
from penstock.tensors import Signature, TensorSpec


def runnable(format: str) -> bool:
    """True when the package that runs the format is installed; imports nothing."""
    row = FORMATS.get(format)
    return row is not None and importlib.util.find_spec(row.runtime.package) is not None


def opens_quickly(format: str) -> bool:
    """True when opening the format imports nothing that takes seconds, or that package is imported already."""
    row = FORMATS.get(format)
    return row is None or not row.runtime.slow_import or row.runtime.package in sys.modules


def has_own_threads(format: str) -> bool:
    """True when the threads of a run are set for each model, not for the process; False if it cannot run here."""
    row = FORMATS.get(format)
    return row is not None and runnable(format) and bool(import_attribute(row.backend).own_threads)


def open_backend(format: str, file: ModelFile, options: BackendOptions) -> Backend:
    """Load `file` with the backend of its format.

    Raises UnsupportedFormat for a format that is unknown or whose runtime is not installed, Untrusted for one that
    `options.trust` does not cover, IntegrityError for a crafted or damaged file, and what that backend's `open` raises.
    """
    backend = _backend_for(format, file.path, options.trust)
    _require_allowed(file, format, options.trust)
    written = file.signature
    if written is not None and not written.batched:
        return RowByRow(backend.open(replace(file, signature=written.without_rows()), options))
    opened = backend.open(file, options)
    if not opened.signature.inputs or not opened.signature.outputs:
        opened.close()
        side = "outputs" if opened.signature.inputs else "inputs"
        raise UnsupportedFormat(f"{file.path}: the model has no {side}, so that there is nothing to predict")
    if written is None and file.stated is None and is_one_row(opened.signature):
        opened.signature = replace(opened.signature, batched=False)
        return RowByRow(opened)
    try:
        _read_axes(opened, file.stated)
    except InvalidInput:
        opened.close()
        raise
    return opened


def _require_allowed(file: ModelFile, format: str, trust: str) -> None:
    """Scan a file before any runtime reads a byte of it. A module is code that runs in this process already.

    A Python class is named by whoever starts the server, and runs outside of it.
    """
    if file.module is None and format != PYTHON:
        require_file(file.path)
        require_allowed(scan_file(file.path, format), trust)


def _read_axes(backend: Backend, stated: Stated | None) -> None:
    """Give the backend's signature the batch axes that are stated or can be read."""
    signature = backend.signature
    if stated is None and signature.stated_axes:
        stated = Stated(signature.stated_axes, by="from the signature")
    backend.reading = read_axes(signature, stated)
    backend.signature = backend.reading.applied(signature)


def signature_from_example(format: str, file: ModelFile, example: Any, trust: str) -> Signature:
    """The signature of a model whose file records none, read from one run on `example`; see `Backend`."""
    backend = _backend_for(format, file.path, trust)
    _require_allowed(file, format, trust)
    return backend.signature_from_example(file, example, trust)


def outputs_from_runs(format: str, file: ModelFile, inputs: Sequence[TensorSpec], trust: str) -> tuple[TensorSpec, ...]:
    """The outputs of a model whose file records none, read from runs; see `Backend`."""
    backend = _backend_for(format, file.path, trust)
    require_allowed(scan_file(file.path, format), trust)
    return backend.outputs_from_runs(file, inputs, trust)


def module_of(format: str, file: ModelFile, trust: str) -> Any:
    """The `torch.nn.Module` of a file, for tools that change it; see `Backend`. The file is scanned as for a load."""
    backend = _backend_for(format, file.path, trust)
    _require_allowed(file, format, trust)
    written = file.signature
    if written is not None and not written.batched:
        file = replace(file, signature=written.without_rows())
    return backend.module_of(file, trust)


def _backend_for(format: str, path: Path, trust: str) -> type[Backend]:
    """The class that runs a format; its module is imported only when the format is trusted and its runtime is here."""
    if format == PYTHON:
        python: type[Backend] = import_attribute(PYTHON_BACKEND)
        return python
    row = FORMATS.get(format)
    if row is None:
        raise UnsupportedFormat(f"{path}: the format {format!r} is unknown; use {', '.join(FORMATS)}")
    if not at_least(trust, row.trust):
        raise Untrusted(untrusted(path, f"models of the format {format} can run code", row.trust))
    if not runnable(format):
        raise UnsupportedFormat(f"{path}: running {format} models needs {row.runtime.package}; {row.runtime.remedy}")
    backend: type[Backend] = import_attribute(row.backend)
    return backend


def format_of(
    path: Path, model_type: str | None = None, *, signed: bool = False, has_architecture: bool = False
) -> str:
    """The format of a bare model file, from `model_type` when given and else from the file's suffix and content.

    `signed`: its signature is known from elsewhere. `has_architecture`: a caller names the class that its weights fill.
    A pickle of a whole module needs no class; opening it takes the trust `code`.
    Raises UnsupportedFormat, with what to do instead, for a file that cannot be served without an artifact.
    """
    if has_architecture:
        model_type = next(row.name for row in FORMATS.values() if row.needs_architecture)
    row = _row_of(path) if model_type is None else FORMATS.get(model_type)
    if row is not None:
        _require_content(path, row, architecture=has_architecture)
        if has_architecture or row.runs_alone(signed=signed) or (signed and holds_module(path, row.name)):
            return row.name
    asked = model_type or path.suffix.lower() or "a file without a suffix"
    why = row.not_bare if row is not None else f"{asked} is not a model format that can be served alone"
    works = (row.suffixes[0] for row in FORMATS.values() if row.runs_alone())
    raise UnsupportedFormat(f"{path}: {why}; what works as a bare file: {', '.join(dict.fromkeys(works))}")


def holds_weights(path: Path, model_type: str | None = None) -> bool:
    """True for a file of weights by its suffix and content, which needs the class that they fill."""
    row = FORMATS.get(model_type) if model_type is not None else _row_of(path)
    return row is not None and row.needs_architecture


def holds_module(path: Path, format: str) -> bool:
    """True for a pickle of a whole module: it holds the names of classes beside its weights."""
    return FORMATS[format].needs_architecture and path.is_file() and scan_file(path, format).tier == "code"


def _require_content(path: Path, row: Format, *, architecture: bool) -> None:
    """Raise UnsupportedFormat for a file whose content proves that it is of another format than `row`."""
    kind = kind_of_file(path) if path.is_file() else ""
    proven = next((file for file in file_kinds() if file.name == kind and (file.is_archive or file.header)), None)
    if proven is not None and kind not in row.kinds:
        found = format_of_kind(proven.name)
        remedy = "leave the architecture out" if architecture else f"name that (MODEL_TYPE={found}), or none"
        raise UnsupportedFormat(f"{path}: it should be of the format {row.name}, but is {found}; {remedy}")


def _row_of(path: Path) -> Format | None:
    """By the suffix; where several formats use it, by the content, and else the one that it belongs to."""
    rows = formats_of_suffix(path.suffix.lower())
    kind = kind_of_file(path) if len(rows) > 1 else None
    return next((row for row in rows if kind in row.kinds), rows[0] if rows else None)
