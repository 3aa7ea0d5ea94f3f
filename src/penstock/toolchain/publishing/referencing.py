"""The reference of a version, made by running it on rows that are known to be good."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from penstock.artifacts.artifact import Artifact, add_reference
from penstock.artifacts.reference.reference import LEAST_ROWS, MOST_ROWS, Answers, Reference, reference_of
from penstock.backends.base import Backend
from penstock.errors import InferenceError, InvalidInput, ModelLoadError, first_line
from penstock.tasks.catalog import load_task
from penstock.tasks.classification import ClassScores
from penstock.tensors import Array, Arrays, Signature
from penstock.toolchain.publishing.checking import missing_for, open_variant

_ROWS_A_RUN = 64


def with_reference(artifact: Artifact, rows: Mapping[str, Any] | Path | str, directory: Path, trust: str) -> Artifact:
    """A copy of an artifact in `directory`, with the reference that its answers to `rows` make.

    `rows` are arrays by the names of the inputs, or an .npz file of them. Raises InvalidInput naming what does not fit,
    and the ModelLoadError or InferenceError of a model that does not answer.
    """
    return add_reference(artifact, directory, make_reference(artifact, rows, trust))


def make_reference(artifact: Artifact, rows: Mapping[str, Any] | Path | str, trust: str = "data") -> Reference:
    """As `with_reference`, without the copy."""
    signature = artifact.signature
    if signature.whole:
        raise InvalidInput(
            f"reference: {artifact.ref} answers whole requests, since a tensor of it has no batch axis; drift is "
            "measured of rows",
            field="reference",
        )
    given = _read(Path(rows)) if isinstance(rows, str | Path) else {name: np.asarray(one) for name, one in rows.items()}
    inputs = _checked(given, signature)
    with ExitStack() as opened:
        backend = _opened(artifact, trust, opened)
        outputs = _run(backend, inputs, signature, together=artifact.manifest.batchable is not False)
    inputs, outputs = (_rows_first(side, signature) for side in (inputs, outputs))
    return reference_of(inputs, _answers(artifact, outputs), signature)


def _read(path: Path) -> dict[str, Array]:
    try:
        with path.open("rb") as file:  # numpy leaves a damaged one open
            loaded = np.load(file, allow_pickle=False)
            arrays = None if isinstance(loaded, np.ndarray) else dict(loaded)
    except FileNotFoundError:
        raise InvalidInput(f"reference: there is no file {path}", field="reference") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InvalidInput(
            f"reference: {path} is not an .npz file of plain arrays: {first_line(error)}", field="reference"
        ) from None
    if arrays is None:
        raise InvalidInput(
            f"reference: {path} is a single array; save it by the name of the input, np.savez(FILE, name=rows)",
            field="reference",
        )
    return arrays


def _checked(given: Mapping[str, Array], signature: Signature) -> Arrays:
    names = [spec.name for spec in signature.inputs]
    unknown, missing = sorted(set(given) - set(names)), [name for name in names if name not in given]
    if unknown or missing:
        raise InvalidInput(
            f"reference: its arrays are {', '.join(sorted(given)) or 'none'}, the inputs of the model are "
            f"{', '.join(names)}; name each array as the input",
            field="reference",
        )
    try:
        inputs, rows = signature.validate(given)
    except InvalidInput as error:
        raise InvalidInput(f"reference: {error}", field="reference") from None
    if rows < LEAST_ROWS:
        raise InvalidInput(
            f"reference: {rows} rows are too few to compare traffic with; give at least {LEAST_ROWS}, better 1000",
            field="reference",
        )
    if rows > MOST_ROWS:
        kept = np.sort(np.random.default_rng(0).permutation(rows)[:MOST_ROWS])
        inputs = {name: array.take(kept, _axis(signature, name)) for name, array in inputs.items()}
    return inputs


def _opened(artifact: Artifact, trust: str, opened: ExitStack) -> Backend:
    """The first variant that this machine runs. Raises ModelLoadError."""
    problems = []
    for variant in artifact.variants:
        missing = missing_for(variant)
        try:
            if not missing:
                return open_variant(artifact, variant, artifact.golden_for(variant), trust, opened)
        except ModelLoadError as error:
            missing = str(error)
        problems.append(f"{variant.name}: {missing}")
    raise ModelLoadError(f"reference: {artifact.ref} cannot be run here ({'; '.join(problems)})")


def _run(backend: Backend, inputs: Arrays, signature: Signature, *, together: bool) -> Arrays:
    """The outputs for all rows, some at a time."""
    rows = signature.rows(inputs)
    size = signature.fixed_rows or (_ROWS_A_RUN if together else 1)
    parts = [backend.run(part) for part in _parts(inputs, signature, rows, size)]
    try:
        joined = {
            name: np.concatenate([part[name] for part in parts], axis=_axis(signature, name)) for name in parts[0]
        }
    except ValueError:
        raise InferenceError("reference: the rows of an output have several shapes") from None
    return {name: array.take(range(rows), _axis(signature, name)) for name, array in joined.items()}


def _parts(inputs: Arrays, signature: Signature, rows: int, size: int) -> Iterator[Arrays]:
    """Rows in their order; the last part of a model with a fixed batch is filled with its first rows."""
    for start in range(0, rows, size):
        places = np.arange(start, start + size) if signature.fixed_rows else np.arange(start, min(start + size, rows))
        yield {
            name: np.ascontiguousarray(array.take(places % rows, _axis(signature, name)))
            for name, array in inputs.items()
        }


def _axis(signature: Signature, name: str) -> int:
    return signature.batch_axes.get(name) or 0


def _rows_first(arrays: Arrays, signature: Signature) -> Arrays:
    return {name: np.moveaxis(array, _axis(signature, name), 0) for name, array in arrays.items()}


def _answers(artifact: Artifact, outputs: Arrays) -> Answers:
    """Classes and confidences, where a task of the model has classes; else the outputs."""
    for entry in artifact.manifest.tasks():
        scores = getattr(load_task(entry.kind, entry.config, artifact.signature), "scores", None)
        if isinstance(scores, ClassScores):
            return answers_of(scores, outputs)
    return Answers(outputs=outputs)


def answers_of(scores: ClassScores, outputs: Arrays) -> Answers:
    """The classes and confidences of outputs."""
    rows = outputs[scores.name]
    labels = [scores.label(index) for index in range(rows.shape[1])]
    return Answers(rows.argmax(axis=1), scores.confidences(rows), labels)
