"""The reference of a model version: the distributions of rows that are known to be good, kept as `reference.json`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Annotated, Literal, NamedTuple, Self

import numpy as np
from pydantic import Field, ValidationError, model_validator

from penstock.artifacts.policies import Entry
from penstock.artifacts.reference.bins import MOST_CATEGORIES, Feature
from penstock.artifacts.reference.readings import MOST_NUMBERS, Reader, Reading, reading_of, summary_of
from penstock.artifacts.schema import describe
from penstock.errors import InvalidInput, first_line, printable
from penstock.tensors import Array, Arrays, Signature

REFERENCE = "reference.json"
LEAST_ROWS = 100
MOST_ROWS = 20_000
_FITTED_SHARE = 3
"""One of so many rows makes the projection, and the others are counted: rows that made it look closer than others."""
_OUTPUT_NUMBERS = 16
_MOST_OUTPUTS = 32
MOST_CLASSES = 64
CLASS, CONFIDENCE = "class", "confidence"


class Answers(NamedTuple):
    """What a model answered to rows: its likeliest class and that one's confidence, or its outputs."""

    classes: Array | None = None
    confidences: Array | None = None
    labels: Sequence[str] = ()
    outputs: Arrays | None = None


class Reference(Entry):
    """Distributions of the features of inputs and answers. `rows` are the reference rows that are counted."""

    schema_version: Literal["1.0"] = "1.0"
    rows: Annotated[int, Field(ge=1)]
    inputs: tuple[Reading, ...]
    input_features: tuple[Feature, ...]
    outputs: tuple[Reading, ...] = ()
    answer_features: tuple[Feature, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Reference:
        if sum(len(one.names) for one in self.inputs) != len(self.input_features):
            raise ValueError("inputs: their features do not fit what is read of them")
        if self.outputs and sum(len(one.names) for one in self.outputs) != len(self.answer_features):
            raise ValueError("outputs: their features do not fit what is read of them")
        return self

    @property
    def features(self) -> tuple[Feature, ...]:
        """Those of the inputs, then those of the answers."""
        return self.input_features + self.answer_features

    @cached_property
    def counts(self) -> Array:
        """The counts of all features, one after another."""
        return np.array([count for feature in self.features for count in feature.counts], np.int64)

    @cached_property
    def slices(self) -> tuple[slice, ...]:
        """Where the bins of each feature are in `counts`."""
        ends = np.cumsum([feature.size for feature in self.features]).tolist()
        return tuple(slice(end - feature.size, end) for end, feature in zip(ends, self.features, strict=True))

    @cached_property
    def readers(self) -> tuple[Reader, ...]:
        """What reads the inputs."""
        return tuple(map(Reader, self.inputs))

    @cached_property
    def _output_readers(self) -> tuple[Reader, ...]:
        return tuple(map(Reader, self.outputs))

    def count(self, inputs: Arrays, answers: Answers) -> Array:
        """The counts of other rows, in the order of `counts`. Raises ValueError for arrays of another shape."""
        columns = [*_columns(self.readers, inputs), *self._answer_columns(answers)]
        if len(columns) != len(self.features):
            raise ValueError("the answers are not of the kind that the reference holds")
        return np.concatenate([feature.count(one) for feature, one in zip(self.features, columns, strict=True)])

    def _answer_columns(self, answers: Answers) -> list[Array]:
        if self.outputs:
            return list(_columns(self._output_readers, answers.outputs or {}))
        if answers.classes is None or answers.confidences is None:
            return []
        return _class_columns(answers.classes, answers.confidences)

    def to_bytes(self) -> bytes:
        """The bytes of `reference.json`."""
        document = self.model_dump(mode="json", exclude_defaults=True)
        return (json.dumps(document, ensure_ascii=False, allow_nan=False) + "\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The inverse of `to_bytes`; raises InvalidInput with one sentence."""
        try:
            return cls.model_validate(json.loads(data))
        except ValidationError as error:
            raise InvalidInput(describe(error), field="reference") from None
        except (ValueError, RecursionError) as error:
            raise InvalidInput(f"it is not JSON: {first_line(error)}", field="reference") from None


def reference_of(inputs: Arrays, answers: Answers, signature: Signature, *, fitted: Arrays | None = None) -> Reference:
    """The reference that rows make, with the model's answers to them.

    Axis 0 of every array is the row. A projection is made from the rows of `fitted`, else from a third of the rows,
    which are not counted then. Raises InvalidInput for too few rows.
    """
    rows = len(next(iter(inputs.values())))
    if rows < LEAST_ROWS:
        raise InvalidInput(
            f"reference: {rows} rows are too few to compare traffic with; give at least {LEAST_ROWS}, better 1000",
            field="reference",
        )
    shuffled = np.random.default_rng(0).permutation(rows)[:MOST_ROWS]
    counted = np.sort(shuffled)
    if fitted is None and _needs_projection(inputs, signature):
        share = len(shuffled) // _FITTED_SHARE
        fitted, counted = _rows(inputs, np.sort(shuffled[:share])), np.sort(shuffled[share:])
    inputs, answers = _rows(inputs, counted), _some(answers, counted)
    readings = list(_input_readings(inputs, fitted or inputs, signature))
    outputs = [] if answers.classes is not None else _output_readings(answers.outputs or {})
    return Reference(
        rows=len(counted),
        inputs=tuple(readings),
        input_features=tuple(_features(readings, inputs)),
        outputs=tuple(outputs),
        answer_features=tuple(_answer_features(answers, outputs)),
    )


def _rows(arrays: Arrays, places: Array) -> Arrays:
    return {name: array[places] for name, array in arrays.items()}


def _needs_projection(inputs: Arrays, signature: Signature) -> bool:
    """True if some input has more numbers than are features of their own."""
    left = MOST_NUMBERS
    for spec in signature.inputs:
        width = _width(inputs[spec.name])
        if width > left:
            return True
        left -= width
    return False


def _input_readings(inputs: Arrays, fitted: Arrays, signature: Signature) -> Iterator[Reading]:
    left = MOST_NUMBERS
    for spec in signature.inputs:
        reading = reading_of(spec.name, inputs[spec.name], fitted[spec.name], most=left)
        left -= len(reading.names) if reading.kind == "numbers" else 0
        yield reading


def _width(array: Array) -> int:
    """Numbers of a row; 0 for text, which is one feature."""
    return 0 if array.dtype.kind in "OSU" else int(array[0].size)


def _some(answers: Answers, rows: Array) -> Answers:
    outputs = None if answers.outputs is None else _rows(answers.outputs, rows)
    if answers.classes is None or answers.confidences is None:
        return Answers(outputs=outputs)
    return Answers(answers.classes[rows], answers.confidences[rows], answers.labels, outputs)


def _output_readings(outputs: Arrays) -> list[Reading]:
    found: list[Reading] = []
    for name, array in outputs.items():
        small = array.dtype.kind not in "OSU" and array[0].size <= _OUTPUT_NUMBERS
        reading = reading_of(name, array, array, most=_OUTPUT_NUMBERS) if small else summary_of(name)
        if array.dtype.kind not in "OSU" and sum(len(one.names) for one in (*found, reading)) <= _MOST_OUTPUTS:
            found.append(reading)
    return found


def _features(readings: Sequence[Reading], arrays: Arrays) -> Iterator[Feature]:
    for reading in readings:
        values, labels = Reader(reading).columns(arrays[reading.tensor])
        for name, column in zip(reading.names, values.T, strict=True):
            if reading.kind == "categories":
                yield Feature.of(name, column, categories=range(len(labels)), labels=labels)
            else:
                whole = arrays[reading.tensor].dtype.kind in "iub" and reading.kind == "numbers"
                known = np.unique(column)
                few = whole and len(known) <= MOST_CATEGORIES
                yield Feature.of(name, column, categories=known.tolist() if few else None)


def _answer_features(answers: Answers, outputs: Sequence[Reading]) -> Iterator[Feature]:
    if answers.classes is None or answers.confidences is None:
        yield from _features(outputs, answers.outputs or {})
        return
    classes, confidences = _class_columns(answers.classes, answers.confidences)
    counts = np.bincount(answers.classes, minlength=len(answers.labels))
    frequent = np.sort(np.argsort(-counts, kind="stable")[:MOST_CLASSES])
    labels = [printable(answers.labels[n]) if n < len(answers.labels) else str(n) for n in frequent.tolist()]
    yield Feature.of(CLASS, classes, categories=frequent.tolist(), labels=labels)
    yield Feature.of(CONFIDENCE, confidences)


def _class_columns(classes: Array, confidences: Array) -> list[Array]:
    """A row whose scores are not finite has neither a class nor a confidence."""
    return [np.where(np.isfinite(confidences), classes, np.nan), np.asarray(confidences, np.float64)]


def _columns(readers: Sequence[Reader], arrays: Arrays) -> Iterator[Array]:
    for reader in readers:
        if reader.reading.tensor not in arrays:
            raise ValueError(f"there is no tensor {reader.reading.tensor!r}")
        yield from reader.columns(arrays[reader.reading.tensor]).values.T
