"""The manifest of an artifact: the schema of `manifest.json`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Annotated, Any, NoReturn, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    PlainValidator,
    PrivateAttr,
    StrictInt,
    ValidationError,
    model_validator,
)

from penstock.artifacts.policies import BatchingPolicy, Entry, PaddingPolicy, Ranges, check_padding, check_ranges
from penstock.artifacts.refs import check_name, check_version
from penstock.artifacts.schema import (
    CURRENT,
    FIRST,
    WRITTEN,
    SchemaVersion,
    UnknownField,
    describe_unknown,
    invalid,
    parse_version,
    put_back,
    validate_newer,
)
from penstock.artifacts.variant import MANIFEST, FileEntry, Variant, default_variant_name
from penstock.errors import InvalidInput, first_line
from penstock.tensors import Signature

GOLDEN = "golden.safetensors"
CARD = "card.md"
MAX_BYTES = 4 << 20
"""Of a manifest. One that is all faults takes 300 times as much memory."""
_MAX_AXES = 64


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
    """The current time in UTC, to the second, such as 2026-01-31T12:00:00Z."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


BatchAxes = dict[str, Annotated[StrictInt, Field(ge=0)] | None]
"""The batch axis by tensor, for those where it is not axis 0; null for a tensor without one."""


class _TensorEntry(Entry):
    name: str = Field(min_length=1)
    dtype: str
    shape: tuple[Annotated[StrictInt, Field(ge=-1)], ...] = Field(max_length=_MAX_AXES)
    dims: tuple[str | None, ...] = Field(default=(), max_length=_MAX_AXES)
    ranked: bool = True


class _SignatureEntry(Entry):
    inputs: tuple[_TensorEntry, ...] = Field(min_length=1)
    outputs: tuple[_TensorEntry, ...] = Field(min_length=1)
    batched: bool = True
    batch_axes: BatchAxes = Field(default_factory=dict)


def _signature(value: Any) -> Signature:
    """A Signature from a Signature or its JSON form; the names are distinct and the shapes valid."""
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


def _shapes(signature: Signature) -> dict[str, Any]:
    """Without the batch axes, which are a field of the manifest."""
    document = signature.to_json()
    document.pop("batch_axes", None)
    return document


SignatureField = Annotated[Signature, PlainValidator(_signature), PlainSerializer(_shapes, return_type=dict[str, Any])]


class GoldenEntry(Entry):
    """The golden samples: the number of rows and the tolerance (see `Golden`)."""

    file: FileEntry
    rows: int = Field(ge=1)
    atol: float = Field(ge=0)
    rtol: float = Field(ge=0)


class ReferenceEntry(Entry):
    """The distributions that drift is measured from: the file, and the number of rows in them (see `Reference`)."""

    file: FileEntry
    rows: int = Field(ge=1)


class TaskEntry(Entry):
    """The kind of the Task that gives the tensors their meaning, and its configuration (preprocessing, labels, …)."""

    kind: str = Field(min_length=1)
    config: dict[str, Any] = Field(default_factory=dict)


_ADDED_IN_1_2 = ("errors", "batch_invariant", "exporter", "recipe", "accepted")
"""Fields of a variant that are written only when they say something."""


def _schema_version(value: Any) -> str:
    return str(parse_version(value))


class Manifest(Entry):
    """The content of `manifest.json`.

    `batchable` records whether the rows of a batch were shown to be independent; None: not recorded. With false every
    request runs whole and alone; true is still measured.
    """

    schema_version: Annotated[str, BeforeValidator(_schema_version)] = str(WRITTEN)
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
    reference: ReferenceEntry | None = None
    more_tasks: tuple[TaskEntry, ...] = ()
    batching: BatchingPolicy | None = None
    padding: tuple[PaddingPolicy, ...] = ()
    ranges: Ranges | None = None
    batchable: bool | None = None
    batch_axes: BatchAxes | None = None
    """The batch axes that are not axis 0, as found or stated; None where nothing was recorded."""
    log_inputs: bool | None = None
    """False forbids that inputs of the model are kept, in the prediction log or as examples; no setting allows it."""
    _unknown: tuple[UnknownField, ...] = PrivateAttr(default=())
    """Fields of a newer schema."""

    @model_validator(mode="before")
    @classmethod
    def _axes_of_the_signature(cls, data: Any) -> Any:
        """The batch axes are recorded in the manifest, and used in its signature."""
        if not isinstance(data, Mapping) or "signature" not in data:
            return data
        signature, axes = data["signature"], data.get("batch_axes")
        if isinstance(axes, Mapping):
            if isinstance(signature, Signature):
                return {**data, "signature": {**signature.to_json(), "batch_axes": axes}}
            return {**data, "signature": {**signature, "batch_axes": axes}} if isinstance(signature, Mapping) else data
        stated = signature.get("batch_axes") if isinstance(signature, Mapping) else None
        if isinstance(signature, Signature):
            stated = dict(signature.batch_axes)
        return {**data, "batch_axes": stated} if stated and axes is None else data

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
        # with a separator that sorts before all others, what is in a directory follows it
        for before, path in pairwise(sorted(path.replace("/", "\0") for path in paths)):
            if path.startswith(f"{before}\0"):
                name = before.replace("\0", "/")
                raise ValueError(f"{name!r} is listed as a file and as a directory")
        return self

    def tasks(self) -> Iterator[TaskEntry]:
        """The tasks that the model supports; the first is the default."""
        yield self.task
        yield from self.more_tasks

    def files(self) -> Iterator[FileEntry]:
        """Every file except the manifest itself. Fields that are not known add none."""
        for variant in self.variants:
            yield from variant.files
        if self.golden is not None:
            yield self.golden.file
        if self.card is not None:
            yield self.card
        if self.reference is not None:
            yield self.reference.file

    def variant(self, name: str) -> Variant:
        """The variant of this name, such as `onnx-fp32`; raises InvalidInput that lists the names."""
        for variant in self.variants:
            if variant.name == name:
                return variant
        known = ", ".join(variant.name for variant in self.variants)
        raise InvalidInput(f"{self.name}:{self.version} has no variant {name!r}; variants: {known}", field="variant")

    @property
    def unknown_fields(self) -> list[str]:
        """The fields of a newer schema that this Penstock ignores, such as `variants.0.ancestry`."""
        return [field.name for field in self._unknown]

    @property
    def schema_warning(self) -> str | None:
        """One sentence that names the ignored fields; None if there are none."""
        return describe_unknown(self.schema_version, self.unknown_fields) if self._unknown else None

    def to_json(self) -> dict[str, Any]:
        """The document that `manifest.json` holds, ignored fields included.

        A manifest of version 1.0 keeps the form that the first releases read. Raises ValueError or TypeError for values
        that JSON does not have.
        """
        document = self.model_dump(mode="json", warnings="error")
        for name in ("batchable", "batch_axes", "reference", "log_inputs"):
            if document[name] is None:  # a release that does not know the field reads the manifest as well
                del document[name]
        for variant in document["variants"]:
            for name in _ADDED_IN_1_2:
                if variant[name] is None:
                    del variant[name]
        if self.schema_version == str(FIRST):
            document["schema_version"] = FIRST.major
            for variant in document["variants"]:
                if variant["name"] == default_variant_name(variant["format"], variant["precision"]):
                    del variant["name"]
        return put_back(document, self._unknown)

    def to_bytes(self) -> bytes:
        """The bytes of `manifest.json`; raises InvalidInput for a value that JSON does not have (NaN, objects)."""
        try:
            return (json.dumps(self.to_json(), indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
        except (ValueError, TypeError, RecursionError) as error:
            raise InvalidInput(f"{MANIFEST}: it holds a value that JSON cannot: {first_line(error)}") from None

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The inverse of `to_bytes`; raises InvalidInput with one sentence that names the faulty field.

        Fields that are not known are refused, except in a manifest of a newer minor schema version: there they are kept
        and ignored.
        """
        document = _json_object(data)
        document.setdefault("schema_version", FIRST.major)
        try:
            return cls._validated(document, _version_of(document))
        except RecursionError:
            raise InvalidInput("its values are nested too deeply") from None

    @classmethod
    def _validated(cls, document: dict[str, Any], version: SchemaVersion) -> Self:
        try:
            if version <= CURRENT:
                return cls.model_validate(document)
            manifest, unknown = validate_newer(cls.model_validate, document)
        except ValidationError as error:
            raise invalid(error, version) from None
        manifest._unknown = tuple(unknown)
        return manifest


def _json_object(data: bytes) -> dict[str, Any]:
    if len(data) > MAX_BYTES:
        raise InvalidInput(f"it has {len(data)} bytes; at most {MAX_BYTES} are read")
    try:
        document = json.loads(data.decode(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"it is not JSON: {first_line(error)}") from None
    if not isinstance(document, dict):
        raise InvalidInput("it is not a JSON object")
    return document


def _version_of(document: dict[str, Any]) -> SchemaVersion:
    try:
        return parse_version(document["schema_version"])
    except ValueError as error:
        raise InvalidInput(f"schema_version: {error}", field="schema_version") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")
