"""Makes an artifact of a bare model file: signature from the file, golden samples from its own answers."""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from penstock.artifacts.artifact import Artifact, Golden, TaskEntry, VariantSource, write_artifact
from penstock.artifacts.card import render_card
from penstock.backends.base import Backend, BackendOptions, ModelFile, require_file
from penstock.backends.catalog import format_of, open_backend
from penstock.backends.verification import FREE_LENGTHS
from penstock.errors import InferenceError, InvalidInput, ModelLoadError, UnsupportedFormat, Untrusted
from penstock.registry.registry import Registry
from penstock.scan.scanner import scan_file
from penstock.tasks.catalog import load_task, task_for_bare
from penstock.tensors import DATATYPES, Array, Arrays, Signature, TensorSpec

GOLDEN_ROWS = 8
GOLDEN_SEED = 0
_DTYPES = {name: row.wire for row in DATATYPES.values() for name in row.names}
_COMPANIONS = (".data", "_data")
"""What exporters append to a model's name for the file of its weights."""


_BY_KIND = {kind: kind for kind in ("onnx", "openvino", "torchscript", "pt2", "aoti")}
_BY_KIND |= {"safetensors": "pytorch", "checkpoint": "pytorch", "pickle": "pytorch"}
"""The format of what a scan found a file to be."""
_DESCRIBED = ("pytorch", "torchscript", "aoti")
"""Formats whose files do not record their inputs."""


@dataclass(frozen=True, slots=True)
class Described:
    """What a person says of a file that does not say it itself. Inputs are in the order the model takes them."""

    architecture: str | None = None
    architecture_args: Mapping[str, Any] = field(default_factory=dict)
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()


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
    trust: str = "data",
    described: Described | None = None,
) -> Artifact:
    """Publish a bare model file under `name` (its own by default) and `version` (v1.0).

    Raises UnsupportedFormat, Untrusted, ModelLoadError, InvalidInput or ConfigError, and then publishes nothing.
    """
    model = _inspect(path, task, labels, trust, described or Described())
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
            lineage=_lineage(path, model.golden_note),
            created_at=_written_at(path),
        )
        return models.publish(artifact.path, trust)


def _inspect(path: Path, task: str | None, labels: Path | None, trust: str, described: Described) -> Inspected:
    """Open the file and run it once. Refuses now what could not be served later."""
    format = _format(path, described)
    file = _model_file(path, format, trust, described)
    backend = open_backend(format, file, BackendOptions(device="cpu", trust=trust))
    try:
        entry = TaskEntry(
            kind=task or task_for_bare(backend.signature), config={"labels": _lines(labels)} if labels else {}
        )
        load_task(entry.kind, entry.config, backend.signature)
        golden, note = _sample(backend)
    finally:
        backend.close()
    variant = VariantSource(
        format,
        "fp32",
        path,
        architecture=described.architecture,
        architecture_args=described.architecture_args,
        num_parameters=backend.num_parameters,
        max_abs_error=None if golden is None else 0.0,
    )
    return Inspected(backend.signature, entry, variant, golden, note)


def _format(path: Path, described: Described) -> str:
    """The format of a file by its content. Raises UnsupportedFormat, and InvalidInput for what does not describe it."""
    require_file(path)
    format = _BY_KIND.get(scan_file(path).kind)
    if format is None:
        return format_of(path)
    if format == "pytorch" and described.architecture is None:
        raise UnsupportedFormat(
            f"{path}: weights alone do not say which class they fill; name it with "
            "`penstock models import --architecture module:Class`, or export the model to ONNX"
        )
    if format != "pytorch" and described.architecture is not None:
        raise InvalidInput(f"architecture: {path} is a model of the format {format}, which needs none; leave it out")
    if format not in _DESCRIBED and (described.inputs or described.outputs):
        raise InvalidInput(f"input: {path} records its inputs and outputs itself; leave them out", field="input")
    return format


def _model_file(path: Path, format: str, trust: str, described: Described) -> ModelFile:
    """The file with its signature, as it was described and as runs on random inputs show it."""
    file = ModelFile(path, None, described.architecture, described.architecture_args)
    if not described.inputs:
        if format in ("pytorch", "torchscript"):
            raise InvalidInput(
                f"input: {path} does not record what the model takes; describe it, as by --input x:FP32:-1x784",
                field="input",
            )
        return file
    outputs = described.outputs or _outputs(file, format, trust, described)
    return replace(file, signature=Signature(described.inputs, outputs))


def _outputs(file: ModelFile, format: str, trust: str, described: Described) -> tuple[TensorSpec, ...]:
    from penstock.backends.torch.outputs import output_specs

    failure: ModelLoadError | None = None
    for length in FREE_LENGTHS:
        random = np.random.default_rng(GOLDEN_SEED)
        batches = [
            {spec.name: _random(spec, _lengths(spec, rows, more), random) for spec in described.inputs}
            for rows, more in ((2, length), (3, length + 1))
        ]
        try:
            return output_specs(format, file, batches, trust)
        except Untrusted:
            raise
        except ModelLoadError as error:
            failure = failure or error
    raise failure or ModelLoadError(f"{file.path}: there is no length to try the model with")


def _companions(path: Path, format: str, scratch: Path) -> list[Path]:
    """The files of weights beside a model, named as the model in the artifact will look for them."""
    if format == "openvino":
        weights = scratch / "model.bin"
        shutil.copyfile(path.with_suffix(".bin"), weights)
        return [weights]
    return [file for file in (path.with_name(path.name + suffix) for suffix in _COMPANIONS) if file.is_file()]


def parse_tensor(text: str) -> TensorSpec:
    """`name:dtype:shape`, such as `x:FP32:-1x784`; the first length is the batch, -1 or ? is free.

    Raises ValueError that says what is wrong.
    """
    parts = text.rsplit(":", 2)
    if len(parts) != 3 or not parts[0]:
        raise ValueError(f"{text!r} is not of the form name:dtype:shape, such as x:FP32:-1x784")
    dtype = _DTYPES.get(parts[1].lower())
    if dtype is None:
        raise ValueError(f"{parts[1]!r} is not a datatype; use one of {', '.join(DATATYPES)}")
    lengths = re.split(r"[x,]", parts[2].lower())
    if not all(re.fullmatch(r"-1|\?|[1-9]\d{0,9}", length) for length in lengths):
        raise ValueError(f"{parts[2]!r} is not a shape; write lengths with x between them, -1 where one is free")
    return TensorSpec(parts[0], dtype, tuple(-1 if length == "?" else int(length) for length in lengths))


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


def _lengths(spec: TensorSpec, rows: int, length: int) -> list[int]:
    """A shape the spec allows, with so many rows and so long where it is free."""
    return [n if n > 0 else length if axis else rows for axis, n in enumerate(spec.shape)]


def _random(spec: TensorSpec, shape: Sequence[int], random: np.random.Generator) -> Array:
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


def _card(name: str, version: str, path: Path, model: Inspected) -> str:
    return render_card(
        name=name,
        version=version,
        summary=f"Published from the file `{path.name}`, which says nothing about itself.",
        intended_use="Unknown: write it down and publish with `--card`.",
        training_data="Unknown.",
        limits=f"Not measured. Golden samples: {model.golden_note}. They show that it runs here as it ran at publish.",
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
