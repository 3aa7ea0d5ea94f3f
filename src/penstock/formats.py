"""Every model format in one row: how its files are recognized and scanned, what they may do, and what runs them.

A new format is one row here and one backend module, and a scanner unless one of `scan/` fits. Scanner, registry,
engine, command line and settings read the rows and hold no table of formats.
"""

from __future__ import annotations

import functools
import importlib.metadata
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

Trust = Literal["data", "code", "native"]
"""What a file may do when it is opened: hold numbers and known operators, run a program, run machine code."""

TIERS: tuple[Trust, ...] = get_args(Trust)
"""From the least to the most that a model may do; each tier includes those before it."""


@dataclass(frozen=True, slots=True)
class FileKind:
    """One kind of file, recognized by its content.

    `scanner` is the `module:function` that finds what such a file could do. `suffixes` promise this kind: a file of
    such a name with another content is refused. `shared` are suffixes of another kind that this one also uses.
    `magic` are possible first bytes. `weak_magic` are first bytes that prove nothing and count only when neither the
    content nor the name tells more. `header` tests the first 16 bytes and the size of the file; it runs before any
    magic bytes are compared. `members` tests the names in a zip archive, in lower case, and makes the kind an archive.
    """

    name: str
    scanner: str
    suffixes: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    magic: tuple[bytes, ...] = ()
    weak_magic: bytes = b""
    header: Callable[[bytes, int], bool] | None = None
    members: Callable[[Collection[str]], bool] | None = None

    @property
    def is_archive(self) -> bool:
        """True when the file is a zip archive."""
        return self.members is not None


@dataclass(frozen=True, slots=True)
class Runtime:
    """The package that runs a format. `slow_import`: importing it takes seconds and hundreds of megabytes."""

    package: str
    remedy: str
    slow_import: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """What Penstock knows of one model format."""

    name: str
    """As manifests, settings and metrics name it."""
    files: tuple[FileKind, ...]
    """What its main file may be; the first is assumed where content and suffix do not tell."""
    trust: Trust
    """What opening a file takes at least."""
    backend: str
    """`module:Class` of a `penstock.backends.base.Backend`."""
    runtime: Runtime
    preference: int
    """Variants of lower numbers are tried first, and kept when a later one is not clearly faster."""
    options: frozenset[str] = frozenset()
    """The fields of `BackendOptions` that its backend reads."""
    records_signature: Literal["always", "sometimes", "never"] = "always"
    """Whether a file holds the names, types and shapes of its inputs and outputs."""
    needs_architecture: bool = False
    """True for weights without a graph: they fill a class that is named elsewhere."""
    not_bare: str = ""
    """Why a file alone cannot be served, and what to do instead."""
    other_suffixes: tuple[str, ...] = ()
    """Suffixes that are used for it but promise nothing, since files of other programs have them as well."""
    weights_suffix: str = ""
    """The suffix of a second file, named like the model otherwise, that holds the weights."""
    external_files: str = ""
    """The `module:function` that lists the names of the files that a model's content refers to."""
    suffixes: tuple[str, ...] = field(init=False)
    """Every suffix that its files may have, those of its own first."""

    def __post_init__(self) -> None:
        own = [suffix for file in self.files for suffix in file.suffixes]
        shared = [suffix for file in self.files for suffix in file.shared]
        object.__setattr__(self, "suffixes", tuple(dict.fromkeys((*own, *shared, *self.other_suffixes))))

    @property
    def kinds(self) -> tuple[str, ...]:
        """The names of the kinds of file that it is stored in."""
        return tuple(file.name for file in self.files)

    def shares(self, suffix: str) -> bool:
        """True when `suffix` belongs to another format, which this one shares it with."""
        return not any(suffix in file.suffixes for file in self.files)

    def runs_alone(self, *, signed: bool = False) -> bool:
        """True when a file can be served without an artifact; `signed`: its signature is known from elsewhere."""
        return not self.needs_architecture and (signed or self.records_signature != "never")


def holds(*any_of: str, without: str = "") -> Callable[[Collection[str]], bool]:
    """A test of an archive: below its one directory is one of these files, and nothing that starts with `without`.

    A name that ends in `/` stands for anything in that directory.
    """

    def test(members: Collection[str]) -> bool:
        inner = [name.partition("/")[2] for name in members]
        if without and any(name.startswith(without) for name in inner):
            return False
        return any(name.startswith(one) if one.endswith("/") else name == one for name in inner for one in any_of)

    return test


def _is_safetensors(start: bytes, size: int) -> bool:
    """A length in 8 bytes, then a JSON object of that length."""
    return start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= size - 8


_CHECKPOINTS = (".pt", ".pth", ".ckpt")
_NATIVE_CODE = "data/aotinductor/"
_TORCH = Runtime("torch", "pip install 'penstock[torch]'", slow_import=True)
_COMMON = frozenset({"device", "threads", "precision"})
_TORCH_OPTIONS = _COMMON | {"pin_memory"}

_ROWS = (
    Format(
        name="onnx",
        files=(FileKind("onnx", "penstock.scan.onnx:scan", (".onnx",), weak_magic=b"\x08"),),
        trust="data",
        backend="penstock.backends.onnx.backend:OnnxBackend",
        runtime=Runtime("onnxruntime", "pip install onnxruntime"),
        preference=10,
        options=frozenset(
            {"device", "threads", "precision", "enable_onnx_optimization", "cache_dir", "shared_threads"}
        ),
        external_files="penstock.scan.onnx:external_files",
    ),
    Format(
        name="openvino",
        files=(FileKind("openvino", "penstock.scan.openvino:scan", (".xml",), weak_magic=b"<"),),
        trust="data",
        backend="penstock.backends.openvino:OpenVinoBackend",
        runtime=Runtime("openvino", "pip install 'penstock[openvino]'"),
        preference=20,
        options=_COMMON | {"cache_dir"},
        weights_suffix=".bin",
    ),
    Format(
        name="torchscript",
        files=(
            FileKind(
                "torchscript",
                "penstock.scan.checkpoint:scan_torchscript",
                (".ts", ".jit"),
                shared=(".pt", ".pth"),
                members=holds("constants.pkl", "code/"),
            ),
        ),
        trust="code",
        backend="penstock.backends.torch.torchscript:TorchScriptBackend",
        runtime=_TORCH,
        preference=30,
        options=_TORCH_OPTIONS,
        records_signature="never",
        not_bare=(
            "TorchScript does not record the types and shapes of its inputs; describe them "
            "(MODEL_INPUTS=x:FP32:-1,3,32,32 or MODEL_EXAMPLE=FILE; `signature` or `example_input` in Python), "
            "publish it with `penstock models import --input`, or export the model to ONNX or .pt2"
        ),
    ),
    Format(
        name="pt2",
        files=(
            FileKind(
                "pt2",
                "penstock.scan.pt2:scan",
                (".pt2",),
                members=holds("archive_format", "models/", without=_NATIVE_CODE),
            ),
        ),
        trust="code",
        backend="penstock.backends.torch.exported:ExportedBackend",
        runtime=_TORCH,
        preference=40,
        options=_TORCH_OPTIONS,
    ),
    Format(
        name="aoti",
        files=(FileKind("aoti", "penstock.scan.pt2:scan", shared=(".pt2",), members=holds(_NATIVE_CODE)),),
        trust="native",
        backend="penstock.backends.torch.aoti:AotiBackend",
        runtime=_TORCH,
        preference=50,
        options=_COMMON,
        records_signature="sometimes",
    ),
    Format(
        name="pytorch",
        files=(
            FileKind("safetensors", "penstock.scan.safetensors:scan", (".safetensors",), header=_is_safetensors),
            FileKind("checkpoint", "penstock.scan.checkpoint:scan", _CHECKPOINTS, members=holds("data.pkl")),
            FileKind("pickle", "penstock.scan.pickles:scan", _CHECKPOINTS, magic=(b"\x80",)),
        ),
        trust="data",  # the class that the weights fill is checked as well
        backend="penstock.backends.torch.eager:EagerBackend",
        runtime=_TORCH,
        preference=60,
        options=_TORCH_OPTIONS | {"trust", "use_compile", "compile_mode", "cache_dir"},
        records_signature="never",
        needs_architecture=True,
        not_bare=(
            "a state dict alone does not say which class it fills, nor its inputs; name them "
            "(MODEL_ARCHITECTURE=module:Class with MODEL_INPUTS=x:FP32:-1,784 or MODEL_EXAMPLE=FILE; in Python "
            "`architecture` and `example_input`), publish it with `penstock models import --architecture`, or export "
            "it to ONNX"
        ),
        other_suffixes=(".bin",),
    ),
)

FORMATS: dict[str, Format] = {row.name: row for row in _ROWS}
"""Every format by its name. A row that is put in here is known everywhere from then on."""


def file_kinds() -> Iterator[FileKind]:
    """Every kind of file that some format is stored in."""
    return (file for row in FORMATS.values() for file in row.files)


def format_of_kind(kind: str) -> str | None:
    """The format that is stored in files of this kind."""
    return next((row.name for row in FORMATS.values() if kind in row.kinds), None)


def formats_of_suffix(suffix: str) -> list[Format]:
    """The formats whose files may have a suffix such as `.onnx`, the one that it belongs to first."""
    rows = [row for row in FORMATS.values() if suffix in row.suffixes]
    return sorted(rows, key=lambda row: row.shares(suffix))


def runtime_packages() -> list[str]:
    """The packages that run some format, each once."""
    return list(dict.fromkeys(row.runtime.package for row in FORMATS.values()))


PYTHON = "python"
"""What a Python class counts as in place of a format: no file holds it, and it runs in processes of its own."""
PYTHON_BACKEND = "penstock.workers.backend:PythonBackend"
_CLASS = re.compile(rf"{PYTHON}:((?:[^\W\d]\w*\.)*[^\W\d]\w*:([^\W\d]\w*))")


def python_class(ref: str) -> str | None:
    """`module:Class` of `python:module:Class`, which no reference to the registry looks like; None for others."""
    found = _CLASS.fullmatch(ref)
    return None if found is None else found[1]


def file_stem(ref: str) -> str:
    """The name under which a model file or a Python class is served."""
    found = _CLASS.fullmatch(ref)
    return Path(ref).stem if found is None else found[2]


def is_model_file(ref: str) -> bool:
    """True when `ref` means a model outside of the registry: it has a slash, ends as files do or is a class."""
    if python_class(ref) is not None:
        return True
    if "/" in ref or "." not in ref:
        return "/" in ref
    name = ref.lower()
    return any(name.endswith(row.suffixes) for row in FORMATS.values())


@functools.cache
def runtime_version(format: str) -> str:
    """The installed version of the package that runs a format; empty without one.

    Kept for the process: reading it parses the whole metadata of the package.
    """
    with suppress(KeyError, importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(FORMATS[format].runtime.package)
    return ""
