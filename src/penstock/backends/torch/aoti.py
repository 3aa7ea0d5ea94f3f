"""Runs AOTInductor packages: programs compiled to native code for one kind of CPU or GPU.

Uses the package's own loader and not `torch._inductor.aoti_load_package`, which on a cold cache spends half a minute
compiling a probe to print one warning. The condition behind that warning is checked here, from the package's metadata.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from penstock.backends.base import BackendOptions, ModelFile, require_file
from penstock.backends.devices import missing_features, no_device, parse_device, torch_placement
from penstock.backends.signature_match import require_fit, same_type, same_type_and_lengths
from penstock.backends.torch.base import TorchBackend, load_error, require_numbers, set_threads
from penstock.backends.torch.pt2_archive import open_archive
from penstock.errors import InferenceError, IntegrityError, InvalidInput, ModelLoadError, UnsupportedFormat
from penstock.libraries import quietly
from penstock.tensors import Arrays, Signature

if TYPE_CHECKING:
    import torch

_MODEL = "data/aotinductor/model/"
SIGNATURE_KEY = "penstock.signature"
"""The metadata key under which a package that Penstock compiled records its signature, as in a manifest."""
WEIGHTS_KEY = "penstock.weights"
"""The key of the number of parameters and of their bytes, as `[count, bytes]`."""
_ISA_FLAGS = {
    "AVX2": ("avx2", "fma"),
    "AVX512": ("avx512f", "avx512dq", "avx512vl", "avx512bw"),
    "AVX512_VNNI": ("avx512_vnni",),
    "AVX512_BF16": ("avx512_bf16",),
    "AMX_TILE": ("amx_tile", "amx_bf16", "amx_int8"),
    "AMX_FP16": ("amx_fp16",),
    "ASIMD": ("asimd",),
    "SVE": ("sve",),
}
"""The CPU flags of Linux that each instruction set of PyTorch needs."""


class AotiBackend(TorchBackend):
    """One loaded package. Its code does not check shapes, so every run checks them here."""

    format = "aoti"
    _loader: Any = None
    _tree: Any = None
    _order: Sequence[str] = ()

    @classmethod
    def open(cls, file: ModelFile, options: BackendOptions) -> AotiBackend:
        """Load a package for the CPU or GPU it was compiled for. Raises ModelLoadError or a subclass.

        The signature of a bare file is read from packages that Penstock compiled.
        """
        require_file(file.path)
        package = describe(file.path)
        signature = _signature(file, package)
        require_numbers(file.path, signature)
        _require_machine(file.path, package)
        if package.device == "cpu" and options.device not in ("auto", "cpu"):
            raise no_device(parse_device(options.device), "the package was compiled for the CPU")
        placement = torch_placement(options.device if package.device != "cpu" else "cpu")
        if package.device != placement.device.kind:
            raise ModelLoadError(f"{file.path}: it was compiled for {package.device}, which PyTorch does not find here")
        set_threads(options.threads)
        backend = cls(None, signature, placement.device, warnings=_warnings(options))
        backend.num_parameters, backend.num_bytes = package.num_parameters, package.num_bytes
        backend._load(file.path, package)
        return backend

    def run(self, inputs: Arrays) -> Arrays:
        """Outputs by name, for one batch; raises InferenceError for one of another type or shape."""
        for spec in self.signature.inputs:
            array = inputs.get(spec.name)
            if array is None or array.dtype != spec.numpy or not _fits(array.shape, spec.shape):
                given = "nothing" if array is None else f"{array.dtype} {list(array.shape)}"
                raise InferenceError(
                    f"the model could not run the batch: {spec.name} takes {spec.dtype} {list(spec.shape)}, not {given}"
                )
        return super().run(inputs)

    def close(self) -> None:
        """Drop the package and its unpacked files."""
        super().close()
        self._loader = None

    def _load(self, path: Path, package: Package) -> None:
        import torch
        from torch.utils import _pytree

        number = int(self.device.partition(":")[2] or -1)
        try:
            with quietly():  # PyTorch uses a class of trees that it has deprecated
                loader = torch._C._aoti.AOTIModelPackageLoader(str(path), "model", False, 1, number)
                taken, self._tree = (_pytree.treespec_loads(spec) for spec in loader.get_call_spec())
        except Exception as error:  # may come from the dynamic linker
            raise load_error(path, self.device, error) from None
        self._order = _order(path, package, self.signature, taken)
        self._loader = loader

    def _call(self, tensors: dict[str, torch.Tensor]) -> Any:
        from torch.utils import _pytree

        loader = self._loader
        if loader is None:
            raise InferenceError("the model is closed")
        return _pytree.tree_unflatten(loader.boxed_run([tensors[name] for name in self._order]), self._tree)


class Package(NamedTuple):
    """The metadata of a package, read without loading it."""

    device: str
    requires: tuple[str, ...]
    machine: str
    signature: Signature | None
    num_parameters: int | None = None
    num_bytes: int | None = None


def describe(path: Path) -> Package:
    """The metadata of the package at `path`. Raises IntegrityError or UnsupportedFormat; runs nothing."""
    with open_archive(path, "archive_format", "an AOTInductor package") as archive:
        found = archive.below_root()
        described = next((found[name] for name in found if name.endswith(".wrapper_metadata.json")), None)
        if described is None:
            raise UnsupportedFormat(f"{path}: it has no compiled model named model; compile one with AOTInductor")
        if any(name.startswith(_MODEL) and name.endswith("weights_config.json") for name in found):
            raise UnsupportedFormat(f"{path}: its weights are in separate files; compile it with the weights inside")
        metadata = _json(path, archive.read(described))
    return Package(
        str(metadata.get("AOTI_DEVICE_KEY", "cpu")),
        _flags(str(metadata.get("AOTI_CPU_ISA", ""))),
        str(metadata.get("AOTI_MACHINE", "")),
        _recorded(path, metadata.get(SIGNATURE_KEY)),
        *_weights(metadata.get(WEIGHTS_KEY)),
    )


def _fits(have: tuple[int, ...], want: tuple[int, ...]) -> bool:
    return len(have) == len(want) and all(n in (-1, length) for length, n in zip(have, want, strict=True))


def _json(path: Path, data: bytes) -> dict[str, Any]:
    try:
        metadata = json.loads(data)
    except (ValueError, RecursionError):
        metadata = None
    if not isinstance(metadata, dict):
        raise IntegrityError(f"{path}: the description of the compiled model in it is not JSON")
    return metadata


def _flags(instruction_sets: str) -> tuple[str, ...]:
    """CPU flags for the instruction sets that PyTorch records, such as `AVX512 AVX512_VNNI`."""
    return tuple(sorted({flag for name in instruction_sets.upper().split() for flag in _ISA_FLAGS.get(name, ())}))


def _recorded(path: Path, written: Any) -> Signature | None:
    if written is None:
        return None
    try:
        return Signature.from_json(json.loads(written))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, InvalidInput):
        raise IntegrityError(f"{path}: the signature recorded in it cannot be read") from None


def _weights(written: Any) -> tuple[int | None, int | None]:
    try:
        count, size = json.loads(written)
        return int(count), int(size)
    except (ValueError, TypeError):
        return None, None


def _signature(file: ModelFile, package: Package) -> Signature:
    recorded, wanted = package.signature, file.signature
    if recorded is None and wanted is None:
        raise UnsupportedFormat(
            f"{file.path}: AOTInductor packages do not record their inputs; publish it with its signature"
        )
    if recorded is None or wanted is None:
        return cast("Signature", wanted or recorded)
    by_name = {spec.name: spec for spec in wanted.inputs}
    inputs = [by_name[spec.name] for spec in recorded.inputs if spec.name in by_name]
    require_fit(file.path, "inputs", inputs, recorded.inputs, same_type_and_lengths)
    require_fit(file.path, "outputs", wanted.outputs, recorded.outputs, same_type)
    return wanted


def _order(path: Path, package: Package, signature: Signature, taken: Any) -> list[str]:
    """Names of inputs in the order of the package: as recorded, else positional ones before keywords."""
    if package.signature is not None:
        return [spec.name for spec in package.signature.inputs]
    names = [spec.name for spec in signature.inputs]
    keywords = [key for key in taken.children()[1].context or () if key in names]
    if taken.num_leaves != len(names):
        raise ModelLoadError(f"{path}: its signature has {len(names)} inputs, the package takes {taken.num_leaves}")
    return [*(name for name in names if name not in keywords), *keywords]


def _warnings(options: BackendOptions) -> tuple[str, ...]:
    warnings: tuple[str, ...] = ()
    if options.precision != "fp32":
        warnings += (f"{options.precision} was requested, but a package keeps the precision of its compilation",)
    return warnings


def _require_machine(path: Path, package: Package) -> None:
    """Raise UnsupportedFormat on a CPU without the instructions of the code, which would end the process."""
    if package.device == "cpu" and package.machine not in ("", platform.machine()):
        raise UnsupportedFormat(f"{path}: it was compiled for {package.machine}, this machine is {platform.machine()}")
    missing = missing_features(package.requires) if package.device == "cpu" else []
    if missing:
        raise UnsupportedFormat(f"{path}: it was compiled for a CPU with {', '.join(missing)}, which this one lacks")
