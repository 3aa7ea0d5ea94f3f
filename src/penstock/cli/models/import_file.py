"""Makes an artifact of a bare model file: the signature from the file, golden samples from its own answers."""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from penstock.artifacts.artifact import Artifact, Golden, TaskEntry, VariantSource, write_artifact
from penstock.artifacts.card import render_card
from penstock.backends.base import BackendOptions, ModelFile, require_file
from penstock.backends.catalog import format_of, open_backend, outputs_from_runs
from penstock.backends.verification import FREE_LENGTHS
from penstock.cli.models.random_samples import self_reference, trial_batches
from penstock.datatypes import DATATYPES
from penstock.errors import InvalidInput, ModelLoadError, UnsupportedFormat, Untrusted
from penstock.formats import FORMATS, format_of_kind
from penstock.registry.registry import Registry
from penstock.scan.scanner import scan_file
from penstock.tasks.catalog import load_task, task_for_bare
from penstock.tensors import Signature, TensorSpec

_DTYPES = {name: row.wire for row in DATATYPES.values() for name in row.names}


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """The facts that a file does not record, given by the user. Inputs are in the order of the model's arguments."""

    architecture: str | None = None
    architecture_args: Mapping[str, Any] = field(default_factory=dict)
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()


class InspectedModel(NamedTuple):
    """The facts about a bare file. `golden_origin` is the source of `golden`, or the reason for None."""

    signature: Signature
    task: TaskEntry
    variant: VariantSource
    golden: Golden | None
    golden_origin: str


def publish_file(
    models: Registry,
    path: Path,
    *,
    name: str | None = None,
    version: str | None = None,
    task: str | None = None,
    labels: Path | None = None,
    card: Path | None = None,
    trust: str = "data",
    description: ModelDescription | None = None,
) -> Artifact:
    """Publish a bare model file under `name` (by default the file's name) and `version` (v1.0).

    Raises UnsupportedFormat, Untrusted, ModelLoadError, InvalidInput or ConfigError; nothing is published then.
    """
    model = _inspect(path, task, labels, trust, description or ModelDescription())
    name, version = name or path.stem, version or "v1.0"
    text = _text(card) if card else _card(name, version, path, model)
    with tempfile.TemporaryDirectory(prefix="penstock-") as scratch:
        artifact = write_artifact(
            Path(scratch) / "artifact",
            name=name,
            version=version,
            task=model.task,
            signature=model.signature,
            variants=[replace(model.variant, companions=_companions(path, model.variant.format, Path(scratch)))],
            golden=model.golden,
            card=text,
            lineage=_lineage(path, model.golden_origin),
            created_at=_modified_at(path),
        )
        return models.publish(artifact.path, trust)


def _inspect(path: Path, task: str | None, labels: Path | None, trust: str, about: ModelDescription) -> InspectedModel:
    """Open the file and run it once, so that a model that cannot be served is refused now."""
    format = _format(path, about)
    backend = open_backend(format, _model_file(path, format, trust, about), BackendOptions(device="cpu", trust=trust))
    try:
        entry = TaskEntry(
            kind=task or task_for_bare(backend.signature), config={"labels": _lines(labels)} if labels else {}
        )
        load_task(entry.kind, entry.config, backend.signature)
        golden, origin = self_reference(backend)
    finally:
        backend.close()
    variant = VariantSource(
        format,
        "fp32",
        path,
        architecture=about.architecture,
        architecture_args=about.architecture_args,
        num_parameters=backend.num_parameters,
        max_abs_error=None if golden is None else 0.0,
    )
    return InspectedModel(backend.signature, entry, variant, golden, origin)


def _format(path: Path, about: ModelDescription) -> str:
    """The format of a file by its content.

    Raises UnsupportedFormat, and InvalidInput if the description does not belong to the format.
    """
    require_file(path)
    format = format_of_kind(scan_file(path).kind)
    if format is None:
        return format_of(path)
    row = FORMATS[format]
    if row.needs_architecture and about.architecture is None:
        raise UnsupportedFormat(
            f"{path}: a file of weights does not record the class that they belong to; name it with "
            "`penstock models import --architecture module:Class`, or export the model to ONNX"
        )
    if not row.needs_architecture and about.architecture is not None:
        raise InvalidInput(f"architecture: {path} is a model of the format {format}, which needs none; leave it out")
    if row.records_signature == "always" and (about.inputs or about.outputs):
        raise InvalidInput(f"input: {path} records its inputs and outputs itself; leave them out", field="input")
    return format


def _model_file(path: Path, format: str, trust: str, about: ModelDescription) -> ModelFile:
    """The file with its signature, from the description and, for outputs, from trial runs."""
    file = ModelFile(path, None, about.architecture, about.architecture_args)
    if not about.inputs:
        if FORMATS[format].records_signature == "never":
            raise InvalidInput(
                f"input: {path} does not record the model's inputs; describe them, as in --input x:FP32:-1x784",
                field="input",
            )
        return file
    outputs = about.outputs or _outputs(file, format, trust, about.inputs)
    return replace(file, signature=Signature(about.inputs, outputs))


def _outputs(file: ModelFile, format: str, trust: str, inputs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    """The outputs that trial runs on random inputs give, at the first free length that the model accepts."""
    failure: ModelLoadError | None = None
    for length in FREE_LENGTHS:
        try:
            return outputs_from_runs(format, file, trial_batches(inputs, length), trust)
        except Untrusted:
            raise
        except ModelLoadError as error:
            failure = failure or error
    raise failure or ModelLoadError(f"{file.path}: there is no length to try the model with")


def _companions(path: Path, format: str, scratch: Path) -> list[Path]:
    """The weight files of a model, under the names that the model in the artifact refers to."""
    row = FORMATS[format]
    if row.weights_suffix:  # named like the model, which the artifact names `model`
        weights = scratch / f"model{row.weights_suffix}"
        shutil.copyfile(path.with_suffix(row.weights_suffix), weights)
        return [weights]
    return [file for file in (path.with_name(path.name + suffix) for suffix in row.external_data) if file.is_file()]


def parse_tensor(text: str) -> TensorSpec:
    """`name:dtype:shape`, such as `x:FP32:-1x784`; the first length is the batch, -1 or ? is free.

    Raises ValueError that names the faulty part.
    """
    parts = text.rsplit(":", 2)
    if len(parts) != 3 or not parts[0]:
        raise ValueError(f"{text!r} is not of the form name:dtype:shape, such as x:FP32:-1x784")
    dtype = _DTYPES.get(parts[1].lower())
    if dtype is None:
        raise ValueError(f"{parts[1]!r} is not a datatype; use one of {', '.join(DATATYPES)}")
    lengths = re.split(r"[x,]", parts[2].lower())
    if not all(re.fullmatch(r"-1|\?|[1-9]\d{0,9}", length) for length in lengths):
        raise ValueError(f"{parts[2]!r} is not a shape; write lengths separated by x, -1 for a free one")
    return TensorSpec(parts[0], dtype, tuple(-1 if length == "?" else int(length) for length in lengths))


def _lineage(path: Path, golden_origin: str) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"source": path.name, "source_sha256": digest, "golden_samples": golden_origin}


def _modified_at(path: Path) -> str:
    """The file's modification time: publishing the same file twice gives the same artifact."""
    return datetime.fromtimestamp(int(path.stat().st_mtime), UTC).isoformat()


def _card(name: str, version: str, path: Path, model: InspectedModel) -> str:
    return render_card(
        name=name,
        version=version,
        summary=f"Published from the file `{path.name}`, which has no description.",
        intended_use="Unknown. Write a card and publish with `--card`.",
        training_data="Unknown.",
        limits=f"Not measured. Golden samples: {model.golden_origin}. They show that later loads answer alike.",
        license="other",
        tags=(model.variant.format,),
        task_type="other",
    )


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in _text(path).splitlines() if line.strip()]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path} cannot be read: {getattr(error, 'strerror', None) or 'not UTF-8 text'}") from None
