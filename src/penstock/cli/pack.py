"""Makes an artifact of a bare model file: signature from the file, golden samples from its own answers."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from penstock.backends.base import Backend, BackendOptions, ModelFile
from penstock.backends.catalog import format_of, open_backend
from penstock.engine.loaded import FREE_LENGTHS
from penstock.errors import InferenceError, InvalidInput
from penstock.registry.artifact import Artifact, Golden, TaskEntry, VariantSource, write_artifact
from penstock.registry.card import render_card
from penstock.registry.registry import Registry
from penstock.tasks.catalog import load_task, task_for_bare
from penstock.tensors import Array, Arrays, Signature, TensorSpec

GOLDEN_ROWS = 8
GOLDEN_SEED = 0
_COMPANIONS = (".data", "_data")
"""What exporters append to a model's name for the file of its weights."""


class Inspected(NamedTuple):
    """What a bare file tells. `golden` is None where the model ran on no random input; `golden_note` says so."""

    signature: Signature
    task: TaskEntry
    variant: VariantSource
    golden: Golden | None
    golden_note: str


def publish_file(
    models: Registry,
    path: Path,
    *,
    name: str | None = None,
    version: str | None = None,
    task: str | None = None,
    labels: Path | None = None,
    card: Path | None = None,
) -> Artifact:
    """Publish a bare .onnx file under `name` (its own by default) and `version` (v1.0).

    Raises UnsupportedFormat, ModelLoadError, InvalidInput or ConfigError, and then publishes nothing.
    """
    model = _inspect(path, task, labels)
    name, version = name or path.stem, version or "v1.0"
    text = _text(card) if card else _card(name, version, path, model.golden_note)
    with tempfile.TemporaryDirectory(prefix="penstock-") as scratch:
        artifact = write_artifact(
            Path(scratch) / "artifact",
            name=name,
            version=version,
            task=model.task,
            signature=model.signature,
            variants=[model.variant],
            golden=model.golden,
            card=text,
            lineage=_lineage(path, model.golden_note),
            created_at=_written_at(path),
        )
        return models.publish(artifact.path)


def _inspect(path: Path, task: str | None, labels: Path | None) -> Inspected:
    """Open the file and run it once. Refuses now what could not be served later."""
    format = format_of(path)
    backend = open_backend(format, ModelFile(path), BackendOptions(device="cpu"))
    try:
        entry = TaskEntry(
            kind=task or task_for_bare(backend.signature), config={"labels": _lines(labels)} if labels else {}
        )
        load_task(entry.kind, entry.config, backend.signature)
        golden, note = _sample(backend)
    finally:
        backend.close()
    companions = [path.with_name(path.name + suffix) for suffix in _COMPANIONS]
    variant = VariantSource(
        format,
        "fp32",
        path,
        num_parameters=backend.num_parameters,
        max_abs_error=None if golden is None else 0.0,
        companions=[file for file in companions if file.is_file()],
    )
    return Inspected(backend.signature, entry, variant, golden, note)


def _sample(backend: Backend) -> tuple[Golden | None, str]:
    """The model's own answers to seeded random inputs."""
    for length in FREE_LENGTHS:
        inputs = dict(_random_inputs(backend, length))
        if len(inputs) < len(backend.signature.inputs):
            break
        try:
            outputs = backend.run(inputs)
        except InferenceError:
            continue
        if _usable(inputs, outputs):
            note = f"self-reference: the file's own answers to {len(next(iter(inputs.values())))} random inputs"
            return Golden(inputs, outputs), f"{note}, seed {GOLDEN_SEED}"
    return None, "none: the model gave no finite answers to random inputs"


def _random_inputs(backend: Backend, length: int) -> Iterator[tuple[str, Array]]:
    """One array per input; nothing for text, which random numbers are not."""
    random = np.random.default_rng(GOLDEN_SEED)
    fixed = [spec.shape[0] for spec in backend.signature.inputs if spec.shape[0] > 0]
    for spec in backend.signature.inputs:
        if spec.dtype != "BYTES":
            shape = (fixed[0] if fixed else GOLDEN_ROWS, *(n if n > 0 else length for n in spec.shape[1:]))
            yield spec.name, _random(spec, shape, random)


def _random(spec: TensorSpec, shape: tuple[int, ...], random: np.random.Generator) -> Array:
    """Standard normal numbers; whole numbers are 0 or 1, which any vocabulary and any mask knows."""
    if spec.numpy.kind == "f":
        return random.standard_normal(shape).astype(spec.numpy)
    return random.integers(0, 2, shape).astype(spec.numpy)


def _usable(inputs: Arrays, outputs: Arrays) -> bool:
    rows = len(next(iter(inputs.values())))
    return all(
        array.ndim > 0 and len(array) == rows and array.dtype.kind != "O" and bool(np.isfinite(array).all())
        for array in outputs.values()
    )


def _lineage(path: Path, golden: str) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"source": path.name, "source_sha256": digest, "golden_samples": golden}


def _written_at(path: Path) -> str:
    """When the file was last written: publishing it twice makes the same artifact."""
    return datetime.fromtimestamp(int(path.stat().st_mtime), UTC).isoformat()


def _card(name: str, version: str, path: Path, golden: str) -> str:
    return render_card(
        name=name,
        version=version,
        summary=f"Published from the file `{path.name}`, which says nothing about itself.",
        intended_use="Unknown: write it down and publish with `--card`.",
        training_data="Unknown.",
        limits=f"Not measured. Golden samples: {golden}. They show that this file runs here as it ran at publish.",
        license="other",
        tags=("onnx",),
        task_type="other",
    )


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in _text(path).splitlines() if line.strip()]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path} cannot be read: {getattr(error, 'strerror', None) or 'not UTF-8 text'}") from None
