"""The manifest of an artifact: what `manifest.json` may say, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, NoReturn

from pydantic import (
    AfterValidator,
    Field,
    PlainSerializer,
    PlainValidator,
    StrictInt,
    ValidationError,
    model_validator,
)

from penstock.artifacts.policies import BatchingPolicy, Entry, PaddingPolicy, Ranges, check_padding, check_ranges
from penstock.artifacts.refs import check_name, check_version
from penstock.errors import InvalidInput
from penstock.tensors import Signature

MANIFEST = "manifest.json"
GOLDEN = "golden.safetensors"
CARD = "card.md"


def check_path(path: str) -> str:
    """`path` when it stays inside its artifact on every system; it names files, so nothing is normalised.

    Raises ValueError.
    """
    parts = path.split("/")
    if not path or "\\" in path or ":" in path or any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"{path!r} is not a path inside the artifact")
    if not path.isprintable() or any(len(part.encode()) > 255 for part in parts):
        raise ValueError(f"{path!r} is not a usable file name")
    if path == MANIFEST:
        raise ValueError(f"{path!r} cannot list itself")
    return path


def _name(value: str) -> str:
    try:
        return check_name(value)
    except InvalidInput as error:
        raise ValueError(str(error)) from None


def _version(value: str) -> str:
    try:
        return check_version(value)
    except InvalidInput as error:
        raise ValueError(str(error)) from None


def _utc(value: str) -> str:
    moment = datetime.fromisoformat(value)
    if moment.utcoffset() != timedelta(0):
        raise ValueError("the time must be in UTC, such as 2026-01-31T12:00:00Z")
    return value


def utc_now() -> str:
    """The time as manifests write it, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


RelativePath = Annotated[str, AfterValidator(check_path)]
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._]{0,39}\z")]
"""A format or precision; without `-`, so that `<format>-<precision>` is read in one way only."""


class _TensorEntry(Entry):
    name: str = Field(min_length=1)
    dtype: str
    shape: tuple[Annotated[StrictInt, Field(ge=-1)], ...]
    dims: tuple[str | None, ...] = ()


class _SignatureEntry(Entry):
    inputs: tuple[_TensorEntry, ...] = Field(min_length=1)
    outputs: tuple[_TensorEntry, ...] = Field(min_length=1)
    batched: bool = True


def _signature(value: Any) -> Signature:
    """A Signature from one or from its JSON form, with distinct names and sensible shapes."""
    data = value.to_json() if isinstance(value, Signature) else value
    entry = _SignatureEntry.model_validate(data)
    for tensors in (entry.inputs, entry.outputs):
        _distinct((tensor.name for tensor in tensors), "tensor")
    try:
        return Signature.from_json(entry.model_dump())
    except InvalidInput as error:
        raise ValueError(str(error)) from None


def _distinct(names: Iterable[str], what: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"the {what} {name!r} is listed twice")
        seen.add(name)


SignatureField = Annotated[
    Signature, PlainValidator(_signature), PlainSerializer(Signature.to_json, return_type=dict[str, Any])
]


class FileEntry(Entry):
    """One file of an artifact; `path` is relative to it, in POSIX form, `size` in bytes."""

    path: RelativePath
    sha256: str = Field(pattern=r"^[0-9a-f]{64}\z")
    size: int = Field(ge=0)


class Variant(Entry):
    """One runnable form of the model. `file` is the path of its main file, one of `files`.

    `max_abs_error` is the largest difference from the reference outputs that was measured at publish. `requires` names
    what the machine must have, such as a CPU flag (`avx512f`).
    """

    format: Word
    precision: Word
    file: RelativePath
    files: tuple[FileEntry, ...] = Field(min_length=1)
    architecture: str | None = None
    architecture_args: dict[str, Any] = Field(default_factory=dict)
    num_parameters: int | None = Field(default=None, ge=0)
    max_abs_error: float | None = Field(default=None, ge=0)
    benchmark: dict[str, Any] | None = None
    requires: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """`<format>-<precision>`, such as onnx-fp32."""
        return f"{self.format}-{self.precision}"

    @model_validator(mode="after")
    def _main_file_is_listed(self) -> Variant:
        if all(entry.path != self.file for entry in self.files):
            raise ValueError(f"the main file {self.file!r} is not among the variant's files")
        return self


class GoldenEntry(Entry):
    """The golden samples: how many rows, and how far an answer may be from the recorded one."""

    file: FileEntry
    rows: int = Field(ge=1)
    atol: float = Field(ge=0)
    rtol: float = Field(ge=0)


class TaskEntry(Entry):
    """What the tensors mean: the kind of Task and its constants (preprocessing, labels, …)."""

    kind: str = Field(min_length=1)
    config: dict[str, Any] = Field(default_factory=dict)


class Manifest(Entry):
    """Everything an artifact says about itself."""

    schema_version: Literal[1] = 1
    name: Annotated[str, AfterValidator(_name)]
    version: Annotated[str, AfterValidator(_version)]
    task: TaskEntry
    signature: SignatureField
    created_at: Annotated[str, AfterValidator(_utc)] = Field(default_factory=utc_now)
    lineage: dict[str, Any] = Field(default_factory=dict)
    training_data: dict[str, Any] = Field(default_factory=dict)
    metrics: dict[str, Any] = Field(default_factory=dict)
    variants: tuple[Variant, ...] = Field(min_length=1)
    golden: GoldenEntry | None = None
    card: FileEntry | None = None
    more_tasks: tuple[TaskEntry, ...] = ()
    batching: BatchingPolicy | None = None
    padding: tuple[PaddingPolicy, ...] = ()
    ranges: Ranges | None = None

    @model_validator(mode="after")
    def _padding_fits(self) -> Manifest:
        check_padding(self.padding, self.signature)
        return self

    @model_validator(mode="after")
    def _ranges_fit(self) -> Manifest:
        check_ranges(self.ranges, self.signature)
        return self

    @model_validator(mode="after")
    def _every_task_once(self) -> Manifest:
        _distinct((entry.kind for entry in self.tasks()), "task")
        return self

    @model_validator(mode="after")
    def _every_file_once(self) -> Manifest:
        _distinct((variant.name for variant in self.variants), "variant")
        paths = [entry.path for entry in self.files()]
        _distinct(paths, "file")
        directories = {str(parent) for path in paths for parent in PurePosixPath(path).parents}
        for path in paths:
            if path in directories:
                raise ValueError(f"{path!r} is listed as a file and as a directory")
        return self

    def tasks(self) -> Iterator[TaskEntry]:
        """What the model can be asked as; the first is what it is asked as where nobody says."""
        yield self.task
        yield from self.more_tasks

    def files(self) -> Iterator[FileEntry]:
        """Every file but the manifest itself."""
        for variant in self.variants:
            yield from variant.files
        if self.golden is not None:
            yield self.golden.file
        if self.card is not None:
            yield self.card

    def variant(self, name: str) -> Variant:
        """By name, such as `onnx-fp32`; raises InvalidInput that lists those there are."""
        for variant in self.variants:
            if variant.name == name:
                return variant
        known = ", ".join(variant.name for variant in self.variants)
        raise InvalidInput(f"{self.name}:{self.version} has no variant {name!r}; variants: {known}", field="variant")

    def to_bytes(self) -> bytes:
        """As `manifest.json` holds it; raises InvalidInput when it holds what JSON cannot say (NaN, objects)."""
        try:
            data = self.model_dump(mode="json", warnings="error")
            return (json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
        except (ValueError, TypeError, RecursionError) as error:
            raise InvalidInput(f"{MANIFEST}: it holds a value that JSON cannot: {_first_line(error)}") from None

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """The inverse of `to_bytes`; raises InvalidInput with one sentence that names the faulty field."""
        try:
            return cls.model_validate(json.loads(data.decode(), parse_constant=_refuse_constant))
        except ValidationError as error:
            raise InvalidInput(describe(error)) from None
        except (ValueError, RecursionError) as error:
            raise InvalidInput(f"it is not JSON: {_first_line(error)}") from None


def describe(error: ValidationError) -> str:
    """The first fault of a validation, with its field."""
    fault = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(step) for step in fault["loc"]) or "the manifest"
    what = fault["msg"].removeprefix("Value error, ").removeprefix(f"{where}: ")
    more = error.error_count() - 1
    return f"{where}: {what}" + (f" (and {more} more)" if more else "")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")
