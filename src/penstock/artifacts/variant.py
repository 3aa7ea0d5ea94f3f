"""The forms of a model in a manifest: each variant with its files, and what was measured of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from penstock.artifacts.policies import Entry

MANIFEST = "manifest.json"
SIGNATURE = "model.sig"
"""The file beside the manifest that holds a signature of the artifact. It is not part of the digest."""
_LONGEST_PATH = 1000


def check_path(path: str) -> str:
    """`path` if it is relative and stays inside its artifact on every operating system; nothing is normalised.

    Raises ValueError.
    """
    if len(path) > _LONGEST_PATH:
        raise ValueError(f"a path of {len(path)} characters is too long; at most {_LONGEST_PATH} are read")
    parts = path.split("/")
    if not path or "\\" in path or ":" in path or any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"{path!r} is not a path inside the artifact")
    if not path.isprintable() or any(len(part.encode()) > 255 for part in parts):
        raise ValueError(f"{path!r} is not a usable file name")
    if path == MANIFEST:
        raise ValueError(f"{path!r} cannot list itself")
    if path == SIGNATURE:
        raise ValueError(f"{path!r} is the name of a signature, which a manifest does not list")
    return path


RelativePath = Annotated[str, AfterValidator(check_path)]
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._]{0,39}\z")]
"""A format or a precision."""

_VARIANT_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}\z"
VariantName = Annotated[str, Field(pattern=_VARIANT_NAME)]


def is_variant_name(name: str) -> bool:
    """True for what the manifest takes as the name of a variant."""
    return re.match(_VARIANT_NAME.replace(r"\z", r"\Z"), name) is not None


def default_variant_name(format: str, precision: str) -> str:
    """`<format>-<precision>`, such as onnx-fp32: the name of a variant that gives none."""
    return f"{format}-{precision}"


class FileEntry(Entry):
    """One file of an artifact; `path` is relative to it, in POSIX form, `size` in bytes."""

    path: RelativePath
    sha256: str = Field(pattern=r"^[0-9a-f]{64}\z")
    size: int = Field(ge=0)


def figures_by_batch(benchmark: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The figures of a benchmark by batch size, in the order of the sizes, such as `{"1": {"p50_ms": 0.4}}`.

    A benchmark has them by figure and batch size, `{"p50_ms": {"1": 0.4}}`, or as here below `batches`.
    """
    found: dict[str, dict[str, Any]] = {}
    for figure, values in benchmark.items():
        for batch, value in values.items() if isinstance(values, Mapping) else ():
            if figure == "batches" and isinstance(value, Mapping):
                found.setdefault(str(batch), {}).update(value)
            elif str(batch).isdecimal():
                found.setdefault(str(batch), {})[figure] = value
    return {batch: found[batch] for batch in sorted(found, key=lambda batch: (len(batch), batch))}


class VariantErrors(Entry):
    """Differences of a variant from the reference, as `toolchain.verification.measures.Errors` defines them.

    `samples` is the number of rows compared; None: not measured, or not defined for these outputs.
    """

    max_abs: float = Field(ge=0)
    max_rel: float | None = Field(default=None, ge=0)
    cosine: float | None = None
    top1: float | None = Field(default=None, ge=0, le=1)
    samples: int | None = Field(default=None, ge=1)


class Variant(Entry):
    """One runnable form of the model. `name` is unique in the artifact; `file` is the path of the main file in `files`.

    `max_abs_error` is the largest difference from the reference outputs that was measured before publishing. `requires`
    lists what the machine must have, such as a CPU flag (`avx512f`). `errors` are all differences that were measured
    then, `batch_invariant` whether its rows were shown to be independent, `exporter` what wrote the file, and `recipe`
    the path of the recipe that made it, one of `files`. `accepted`: it changes outputs more than rounding does, and an
    accuracy budget accepted that; a server runs it unless another precision is asked for, and holds it to its `errors`.
    """

    format: Word
    precision: Word
    name: VariantName = ""
    file: RelativePath
    files: tuple[FileEntry, ...] = Field(min_length=1)
    architecture: str | None = None
    architecture_args: dict[str, Any] = Field(default_factory=dict)
    num_parameters: int | None = Field(default=None, ge=0)
    max_abs_error: float | None = Field(default=None, ge=0)
    benchmark: dict[str, Any] | None = None
    requires: tuple[str, ...] = ()
    errors: VariantErrors | None = None
    batch_invariant: bool | None = None
    exporter: str | None = None
    recipe: RelativePath | None = None
    accepted: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _default_name(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or "name" in data:
            return data
        format, precision = data.get("format"), data.get("precision")
        if not isinstance(format, str) or not isinstance(precision, str):
            return data  # refused for these fields
        return {**data, "name": default_variant_name(format, precision)}

    @model_validator(mode="after")
    def _main_file_is_listed(self) -> Variant:
        if all(entry.path != self.file for entry in self.files):
            raise ValueError(f"the main file {self.file!r} is not among the variant's files")
        if self.recipe is not None and all(entry.path != self.recipe for entry in self.files):
            raise ValueError(f"the recipe {self.recipe!r} is not among the variant's files")
        return self

    @property
    def main(self) -> FileEntry:
        """The entry of the main file."""
        return next(entry for entry in self.files if entry.path == self.file)

    @property
    def size_bytes(self) -> int:
        """The size of all its files."""
        return sum(entry.size for entry in self.files)

    def learned_curve(self, cpu: str, cores: int) -> dict[int, float]:
        """The median milliseconds of a batch by its rows, if its benchmark is of this CPU and number of cores."""
        benchmark = self.benchmark or {}
        machine, curve = benchmark.get("environment"), benchmark.get("p50_ms")
        if not isinstance(machine, Mapping) or not isinstance(curve, Mapping):
            return {}
        if (machine.get("cpu"), machine.get("cores")) != (cpu, cores):
            return {}
        sizes = {rows: ms for rows, ms in curve.items() if re.fullmatch("[1-9][0-9]{0,5}", str(rows))}
        return {int(rows): float(ms) for rows, ms in sizes.items() if isinstance(ms, int | float) and ms > 0}
