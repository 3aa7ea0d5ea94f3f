"""Compiles PyTorch models to native code with AOTInductor. Needs a C++ compiler."""

from __future__ import annotations

import json
import platform
import shutil
from pathlib import Path
from typing import Any

from penstock.backends.torch.aoti import SIGNATURE_KEY, WEIGHTS_KEY, describe
from penstock.backends.torch.base import module_bytes
from penstock.libraries import quietly
from penstock.toolchain.export.exported import ExportOptions, ExportSkipped, Written
from penstock.toolchain.export.failures import explained
from penstock.toolchain.export.program import captured, quiet_capture
from penstock.toolchain.export.source import ModuleSource

_PORTABLE = {"cpp.march": "x86-64-v3", "cpp.simdlen": 256}
"""CPUs of x86-64 since 2013: AVX2 and FMA."""
_PORTABLE_FLAGS = ("avx2", "bmi1", "bmi2", "f16c", "fma", "movbe")
_X86 = ("x86_64", "AMD64")


def compiler() -> str | None:
    """The C++ compiler that PyTorch would use, `g++` or that of the variable CXX; None where it is not installed."""
    from torch._inductor import config

    asked = config.cpp.cxx if isinstance(config.cpp.cxx, tuple | list) else (config.cpp.cxx,)
    return next((name for name in asked if name and shutil.which(name)), None)


def export_aoti(source: ModuleSource, directory: Path, options: ExportOptions) -> Written:
    """`model.pt2` with native code, by default for any x86-64 CPU with AVX2, and the CPU flags that it needs.

    Raises ExportSkipped without a C++ compiler, ExportFailed for a model that cannot be compiled.
    """
    import torch

    if compiler() is None:
        raise ExportSkipped("AOTInductor needs a C++ compiler, and there is none; install g++, or set CXX")
    program = captured(source)
    path = directory / "model.pt2"
    portable = options.portable and platform.machine() in _X86
    try:
        with quiet_capture(), quietly(logger="torch._inductor"), torch.no_grad():
            torch._inductor.aoti_compile_and_package(
                program, package_path=str(path), inductor_configs=_configs(source, portable=portable)
            )
    except Exception as error:  # PyTorch and the compiler fail in many ways
        raise explained(error, source, "AOTInductor", program.graph.nodes) from None
    kind = "for x86-64-v3" if portable else "for this CPU"
    requires = _PORTABLE_FLAGS if portable else describe(path).requires
    return Written(path, f"AOTInductor of torch {torch.__version__}, {kind}", requires=requires)


def _configs(source: ModuleSource, *, portable: bool) -> dict[str, Any]:
    """What the compiler is told; the package records its signature and the size of its weights."""
    count = sum(parameter.numel() for parameter in source.module.parameters())
    metadata = {
        SIGNATURE_KEY: json.dumps(source.signature.to_json()),
        WEIGHTS_KEY: json.dumps([count, module_bytes(source.module)]),
    }
    return {
        "aot_inductor.metadata": metadata,
        "freezing": True,
        "compile_threads": 1,
        **(_PORTABLE if portable else {}),
    }
