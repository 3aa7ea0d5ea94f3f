"""Writes the models of the zoo in PyTorch's formats, like their users."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from torch.export import _patches as patches
from zoo import TorchModel

from penstock.backends.torch.aoti import SIGNATURE_KEY


@contextmanager
def _quietly() -> Iterator[None]:
    """Suppress PyTorch's warnings: TorchScript is deprecated, tracing may record constants, and so on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def write_trace(model: TorchModel, path: Path) -> Path:
    """TorchScript by `torch.jit.trace`."""
    with _quietly(), torch.no_grad():
        torch.jit.trace(model.make(), model.example(), strict=False).save(str(path))
    return path


def write_script(model: TorchModel, path: Path) -> Path:
    """TorchScript by `torch.jit.script`."""
    with _quietly():
        torch.jit.script(model.make()).save(str(path))
    return path


def export(model: TorchModel) -> torch.export.ExportedProgram:
    """The program of `torch.export`, with free axes also in recurrent networks."""
    with _quietly(), ExitStack() as stack:
        stack.enter_context(patches.register_gru_while_loop_decomposition())
        free = model.dynamic_shapes(torch.export.Dim.DYNAMIC)
        return torch.export.export(model.make(), model.example(), dynamic_shapes=free)


def write_pt2(model: TorchModel, path: Path) -> Path:
    """A program with its example inputs, as `torch.export.save` writes it."""
    torch.export.save(export(model), path)
    return path


def write_aoti(model: TorchModel, path: Path, *, recorded: bool = True) -> Path:
    """A native package; `recorded` stores its signature in it. Takes many seconds and needs a C++ compiler."""
    metadata = {SIGNATURE_KEY: json.dumps(model.signature.to_json())} if recorded else {}
    configs = {"aot_inductor.metadata": metadata, "compile_threads": 1}
    with _quietly():
        torch._inductor.aoti_compile_and_package(export(model), package_path=str(path), inductor_configs=configs)
    return path
