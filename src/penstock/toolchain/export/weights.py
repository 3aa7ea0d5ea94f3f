"""Writes the weights of a module as safetensors, where its class can be built again by name."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from penstock.backends.base import ModelFile
from penstock.backends.catalog import open_backend
from penstock.errors import PenstockError
from penstock.libraries import import_attribute
from penstock.options import BackendOptions
from penstock.toolchain.export.exported import ExportOptions, ExportSkipped, Written
from penstock.toolchain.export.source import ModuleSource

_PLAIN = (str, int, float, bool, type(None), list, tuple, dict)


def export_weights(source: ModuleSource, directory: Path, options: ExportOptions) -> Written:  # noqa: ARG001
    """`model.safetensors` with the class that it fills.

    The arguments of the class are those that are known, none, or attributes of the module of the same names: those with
    which a new instance gives the same outputs. Raises ExportSkipped where no class or arguments do.
    """
    import torch

    architecture = source.architecture or _architecture(source)
    path = directory / "model.safetensors"
    _save(source, path)
    for arguments in _arguments(source):
        if _same(source, path, architecture, arguments):
            kept = f"safetensors of torch {torch.__version__}"
            return Written(path, kept, architecture=architecture, architecture_args=arguments)
    path.unlink()
    raise ExportSkipped(
        f"weights alone need the arguments that {architecture} was built with, and none that are known give the same "
        "model; keep each as an attribute of its name, or give architecture_args={…}"
    )


def _architecture(source: ModuleSource) -> str:
    """The `module:Class` of the module; raises ExportSkipped for one that cannot be imported."""
    kind = type(source.module)
    name = f"{kind.__module__}:{kind.__qualname__}"
    if kind.__module__ == "__main__" or "<locals>" in name:
        where = "is defined in the script itself" if kind.__module__ == "__main__" else "is defined inside a function"
        raise ExportSkipped(
            f"weights alone need a class that can be imported, and {kind.__name__} {where}; move it to a module"
        )
    try:
        found = import_attribute(name)
    except (ImportError, AttributeError):
        found = None
    if found is not kind or kind.__module__.startswith(("torch.fx", "torch.jit")):
        raise ExportSkipped(f"weights alone need a class that can be imported, and {name} is made at run time")
    return name


def _save(source: ModuleSource, path: Path) -> None:
    """Write the state dict; a tensor under several names is written once."""
    from safetensors.torch import save_model

    try:
        save_model(source.module, str(path))
    except Exception as error:  # tensors that share part of their memory
        raise ExportSkipped(f"safetensors cannot hold these weights: {str(error).splitlines()[0]}") from None


def _arguments(source: ModuleSource) -> Iterator[Mapping[str, Any]]:
    """Arguments to try, as JSON holds them."""
    if source.architecture_args:
        yield dict(source.architecture_args)
    yield {}
    config: Any = getattr(source.module, "config", None)
    if hasattr(config, "to_dict") and hasattr(type(source.module), "config_class"):
        yield json.loads(json.dumps(config.to_dict(), default=str))
    own = dict(_attributes(source.module))
    if own:
        yield own


def _attributes(module: Any) -> Iterator[tuple[str, Any]]:
    """The constructor's parameters that the module keeps as attributes of their names."""
    for name in inspect.signature(type(module)).parameters:
        value = getattr(module, name, getattr(module, f"_{name}", module))
        if isinstance(value, _PLAIN):
            yield name, list(value) if isinstance(value, tuple) else value


def _same(source: ModuleSource, path: Path, architecture: str, arguments: Mapping[str, Any]) -> bool:
    """True when weights and class give the outputs of the module."""
    file = ModelFile(path, source.signature, architecture=architecture, architecture_args=arguments)
    try:
        with closing(open_backend("pytorch", file, BackendOptions(device="cpu", trust="code"))) as rebuilt:
            got = rebuilt.run(source.example)
        with closing(source.reference()) as reference:
            expected = reference.run(source.example)
    except PenstockError:
        return False
    return all(np.allclose(expected[name], got[name], rtol=1e-4, atol=1e-5, equal_nan=True) for name in expected)
