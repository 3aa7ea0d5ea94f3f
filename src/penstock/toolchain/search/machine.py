"""What a search needs to know of this machine, and how a report describes it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from penstock.backends.catalog import runnable
from penstock.backends.devices import cpu_flags, cpu_model, usable_cores
from penstock.formats import FORMATS

_PACKAGES = ("penstock", "numpy", "torch", "onnx", "onnxruntime", "openvino", "nncf", "torchao")
_INSTRUCTION_SETS = ("avx", "avx2", "f16c", "fma", "avx512", "avx_vnni", "amx", "asimd", "bf16", "i8mm", "sve", "sse4")
_COMPILERS = ("g++", "clang++", "c++")


@dataclass(frozen=True)
class Machine:
    """What the rules of a plan ask for: CPU flags, usable cores, formats that run here, a C++ compiler, packages."""

    flags: frozenset[str]
    cores: int
    formats: frozenset[str]
    compiler: str | None = None
    packages: frozenset[str] = frozenset()

    @property
    def fast_half(self) -> bool:
        """True if the CPU computes in bf16; without that half precision is a loss."""
        return bool(self.flags & {"avx512_bf16", "amx_bf16", "bf16"})

    @property
    def threads(self) -> tuple[int, ...]:
        """The numbers of threads worth trying for one run: one, and all cores."""
        return (1,) if self.cores == 1 else (1, self.cores)


def this_machine() -> Machine:
    """The machine that this runs on; imports no runtime."""
    compiler = next(filter(None, map(shutil.which, _COMPILERS)), None)
    packages = frozenset(name for name in _PACKAGES if importlib.util.find_spec(name) is not None)
    return Machine(cpu_flags(), usable_cores(), frozenset(filter(runnable, FORMATS)), compiler, packages)


def fingerprint() -> dict[str, Any]:
    """The machine and its libraries as a document: CPU with its instruction sets, cores, memory, versions.

    `id` is the same for the same document but for versions of Penstock and Python.
    """
    document: dict[str, Any] = {
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_model(),
        "instruction_sets": instruction_sets(),
        "cores": usable_cores(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "versions": {name: version for name in _PACKAGES if (version := _version(name))},
    }
    runtimes = {name: version for name, version in document["versions"].items() if name != "penstock"}
    text = json.dumps(document | {"versions": runtimes}, sort_keys=True)
    document["versions"]["python"] = platform.python_version()
    return {"id": hashlib.sha256(text.encode()).hexdigest()[:16], **document}


def instruction_sets() -> list[str]:
    """The CPU flags that kernels choose by, such as avx512_vnni."""
    return sorted(flag for flag in cpu_flags() if flag.startswith(_INSTRUCTION_SETS))


def _version(package: str) -> str:
    with suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package).partition("+")[0]
    return ""
