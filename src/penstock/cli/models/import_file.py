"""Makes an artifact of a bare model file: the signature from the file, golden samples from its own answers."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from penstock.artifacts.artifact import Artifact, DeclaredCard, Golden, TaskEntry, VariantSource, write_artifact
from penstock.artifacts.refs import FILE_VERSION
from penstock.backends.axes.seen import rows_first
from penstock.backends.base import Backend, BackendOptions, require_file
from penstock.backends.catalog import format_of, holds_module, open_backend
from penstock.backends.examples import Examples
from penstock.backends.row_independence import NOT_DETERMINISTIC, RowProof, prove_rows
from penstock.cli.models.import_directory import (
    is_hugging_face,
    model_in,
    pickled_with_code,
    publish_hugging_face,
    publish_pickled,
)
from penstock.cli.models.random_samples import observe
from penstock.cli.torchserve.archived_model import archive_in, unpacked_model
from penstock.engine.batching.row_proofs import record
from penstock.engine.loading.load import naming
from penstock.engine.loading.load_overrides import described_file
from penstock.errors import InferenceError, InvalidInput, UnsupportedFormat
from penstock.file_description import FileDescription, read_text
from penstock.formats import FORMATS, format_of_kind
from penstock.libraries import import_attribute
from penstock.registry.registry import Registry
from penstock.scan.external_data import plain_location
from penstock.scan.memory_map import mapped
from penstock.scan.scanner import scan_file
from penstock.tasks.catalog import load_task
from penstock.tasks.guessing import TaskGuess, guess_task
from penstock.tensors import Signature

BATCH_ROWS = 32
"""Of the proof that rows are independent, as for a server with its default batch size."""


class InspectedModel(NamedTuple):
    """The facts about a bare file. `golden_origin` is the source of `golden`, or the reason for None."""

    signature: Signature
    task: TaskGuess
    variant: VariantSource
    golden: Golden | None
    golden_origin: str
    rows: RowProof | None


def publish_file(
    models: Registry,
    path: Path,
    *,
    name: str | None = None,
    version: str | None = None,
    card: Path | None = None,
    trust: str = "data",
    prove: bool = True,
    description: FileDescription | None = None,
    reference: Path | None = None,
    log_inputs: bool | None = None,
    origin: Mapping[str, Any] | None = None,
) -> Artifact:
    """Publish a bare model file under `name` (by default the file's name) and `version` (v1.0).

    Unless `prove` is false, the artifact is loaded as by a server first. `origin` goes into its lineage.

    Raises UnsupportedFormat, Untrusted, ModelLoadError, InvalidInput or ConfigError; nothing is published then.
    """
    about = description or FileDescription()
    if (archive := archive_in(path)) is not None:
        with unpacked_model(archive) as archived:
            return publish_file(
                models, archived.file, name=name or archive.default_name, version=version or archive.version, card=card,
                trust=trust, prove=prove, description=about, reference=reference, log_inputs=log_inputs,
                origin=archived.lineage,
            )  # fmt: skip
    name, version = name or path.stem, version or FILE_VERSION
    said = read_text(card) if card else None
    if is_hugging_face(path) and about.architecture is None:
        return publish_hugging_face(models, path, name, version, said, trust, about, reference, log_inputs)
    if (pickle := pickled_with_code(path)) is not None:
        return publish_pickled(models, pickle, name, version, said, trust, about, reference, log_inputs)
    lineage = dict(origin or {})
    if path.is_dir():
        path, about, lineage = model_in(path, about)
    with naming(str(path)):
        model = _inspect(path, trust, about)
    with tempfile.TemporaryDirectory(prefix="penstock-") as scratch:
        artifact = write_artifact(
            Path(scratch) / "artifact",
            name=name,
            version=version,
            task=TaskEntry(kind=model.task.kind, config=model.task.config),
            more_tasks=[TaskEntry(kind=kind) for kind in model.task.more],
            signature=model.signature,
            variants=[replace(model.variant, companions=_companions(path, model.variant.format))],
            golden=model.golden,
            card=_card(path, model) if said is None else said,
            lineage={**_lineage(path, model), **lineage},
            created_at=_modified_at(path),
            batchable=model.rows.batchable if model.rows is not None else None,
        )
        return models.publish(artifact.path, trust, prove=prove, reference=reference, log_inputs=log_inputs)


def _inspect(path: Path, trust: str, about: FileDescription) -> InspectedModel:
    """Open the file and run it once, so that a model that cannot be served is refused now."""
    format = _format(path, about)
    file = described_file(path, format, about, trust)
    backend = open_backend(format, file, BackendOptions(device="cpu", trust=trust))
    try:
        golden, origin, signature, examples = observe(backend, about.example, stated=file.stated is not None)
        rows = _rows(backend, examples)
        if golden is not None and rows is not None and rows.why == NOT_DETERMINISTIC:
            golden, origin = None, f"none: {NOT_DETERMINISTIC}"
        guess = guess_task(signature, about, backend.metadata, backend.run)
        load_task(guess.kind, guess.config, signature)
    finally:
        backend.close()
    variant = VariantSource(
        format,
        "fp32",
        path,
        architecture=_name_of(about.architecture),
        architecture_args=about.architecture_args,
        num_parameters=backend.num_parameters,
        max_abs_error=None if golden is None else 0.0,
    )
    return InspectedModel(signature, guess, variant, golden, origin, rows)


def _rows(backend: Backend, examples: Examples | None) -> RowProof | None:
    """Whether its rows are independent; None if that was not measured."""
    if examples is None or backend.signature.whole:  # it runs with no input that was tried, or has no rows
        return None
    try:
        proof = prove_rows(rows_first(backend), examples, BATCH_ROWS)
    except InferenceError:
        return None
    return proof if proof.measured else None


def _format(path: Path, about: FileDescription) -> str:
    """The format of a file by its content.

    Raises UnsupportedFormat, and InvalidInput if the description does not belong to the format or lacks what it needs.
    """
    require_file(path)
    format = format_of_kind(scan_file(path).kind)
    if format is None:
        return format_of(path)
    row = FORMATS[format]
    if row.needs_architecture and about.architecture is None and not holds_module(path, format):
        raise UnsupportedFormat(
            f"{path}: a file of weights does not record the class that they belong to; name it with "
            "`penstock models import --architecture module:Class`, or export the model to ONNX"
        )
    if not row.needs_architecture and about.architecture is not None:
        raise InvalidInput(f"architecture: {path} is a model of the format {format}, which needs none; leave it out")
    if row.records_signature == "always" and about.signature is not None:
        raise InvalidInput(f"input: {path} records its inputs and outputs itself; leave them out", field="input")
    described = about.signature is not None or about.example is not None
    if row.records_signature == "never" and not described:
        raise InvalidInput(
            f"input: {path} does not record the model's inputs; describe them, as in --input x:FP32:-1x784, "
            "or give an --example",
            field="input",
        )
    return format


def _name_of(architecture: str | type | None) -> str | None:
    """As in a manifest."""
    return f"{architecture.__module__}:{architecture.__qualname__}" if isinstance(architecture, type) else architecture


def _companions(path: Path, format: str) -> dict[str, Path]:
    """The weight files of a model, by the names that the model in the artifact refers to."""
    row = FORMATS[format]
    if row.weights_suffix:  # named like the model, which the artifact names `model`
        return {f"model{row.weights_suffix}": path.with_suffix(row.weights_suffix)}
    if not row.external_files:
        return {}
    with mapped(path) as data:
        locations = {plain_location(name) for name in import_attribute(row.external_files)(data)}
    return {name: path.parent / name for name in sorted(locations)}


def _lineage(path: Path, model: InspectedModel) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    rows = {} if model.rows is None else {"rows": record(model.rows)}
    assumed = {"assumed": [model.task.assumed]} if model.task.assumed else {}
    source = {"source": path.name, "source_sha256": digest, "golden_samples": model.golden_origin}
    return {**source, **rows, **assumed}


def _modified_at(path: Path) -> str:
    """The file's modification time: publishing the same file twice gives the same artifact."""
    return datetime.fromtimestamp(int(path.stat().st_mtime), UTC).isoformat()


def _batching(rows: RowProof | None) -> str:
    """A paragraph on a model that is not batchable."""
    if rows is None or rows.batchable:
        return ""
    return f"\n\nNot batchable: {rows.sentence}. Each request runs whole and alone."


def _card(path: Path, model: InspectedModel) -> DeclaredCard:
    return DeclaredCard(
        summary=f"Published from the file `{path.name}`, which has no description.",
        intended_use="Unknown. Write a card and publish with `--card`.",
        training_data="Unknown.",
        limits=f"Not measured. Golden samples: {model.golden_origin}. They show that later loads answer alike."
        f"{_batching(model.rows)}",
    )
