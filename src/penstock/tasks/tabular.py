"""Tables: rows of named columns in, a class or a number for each row out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, JsonValue, SerializerFunctionWrapHandler, model_serializer

from penstock.errors import FieldError, InvalidInput, ModelLoadError, OutOfRange, shortened
from penstock.tasks.base import Task, TimedResponse
from penstock.tasks.classification import ClassScores, OutputKind, one_output
from penstock.tasks.columns import WRONG, Column, fits_into, is_missing
from penstock.tasks.validation_errors import MAX_ERRORS, parse_config, parse_fields, parse_request
from penstock.tensors import Array, Arrays, Signature, TensorSpec

MAX_ROWS = 1024


class TabularRequest(BaseModel):
    """Rows of a table, each with its values by column name."""

    model_config = ConfigDict(strict=True, extra="forbid")

    rows: list[dict[str, JsonValue]] = Field(
        min_length=1,
        max_length=MAX_ROWS,
        description="One object per row; missing values may be null or absent if their column allows it.",
        examples=[[{"age": 41, "city": "Bern", "member": True}]],
    )
    model_version: str | None = Field(
        default=None, description="The model version; the default is that of the reference."
    )


class _Answers(BaseModel):
    predictions: list[int | float] = Field(description="The likeliest class of each row, or its predicted number.")
    labels: list[str] | None = Field(default=None, description="The name of each class; absent for numbers.")
    confidence_scores: list[float] | None = Field(
        default=None, description="The probability of that class, 0 to 1; absent for numbers."
    )


class TabularResponse(TimedResponse, _Answers):
    """The prediction for every row. (The order of the bases puts predictions first in the JSON.)"""

    @model_serializer(mode="wrap")
    def _without_absent(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in write(self).items() if value is not None}


class TabularConfig(BaseModel):
    """The task section of a manifest: the columns in the order the model takes them, and the meaning of the output.

    With `answer` auto, an output of one number per row gives a number, any other a class. `scores` names the output
    with the answer, if the model has several. `extra` is the action on unknown columns.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    columns: Annotated[tuple[Column, ...], Field(min_length=1)]
    answer: Literal["auto", "class", "number"] = "auto"
    scores: str | None = None
    output: OutputKind = "auto"
    labels: tuple[str, ...] | None = None
    extra: Literal["refuse", "ignore"] = "refuse"


class TabularTask(Task):
    """Maps named columns to the model's inputs: all in its only input, or each to the input of its name."""

    kind: ClassVar[str] = "tabular"
    needs_rows: ClassVar[bool] = True
    Request: ClassVar[type[BaseModel]] = TabularRequest
    Response: ClassVar[type[BaseModel]] = TabularResponse
    passes_arrays: ClassVar[bool] = True
    takes_arrays: ClassVar[bool] = True
    inline: ClassVar[bool] = True
    refuses_nan: ClassVar[bool] = True

    def __init__(self, config: Mapping[str, Any], signature: Signature) -> None:
        """Raises ModelLoadError if the settings or the signature do not fit."""
        super().__init__(config, signature)
        self.settings = settings = parse_config(TabularConfig, self.kind, config)
        names = [column.name for column in settings.columns]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ModelLoadError(f"the column {twice!r} is listed twice")
        self._names = frozenset(names)
        self._parts = [(spec, _columns_of(spec, settings.columns, signature)) for spec in signature.inputs]
        self._check_all_used()
        answer = one_output(signature, settings.scores)
        self.scores = None if _is_number(answer, settings) else _class_scores(answer, settings)
        self._answer = answer.outputs[0].name

    def preprocess(self, request: Any) -> Arrays:
        """The columns as the model's inputs. Raises InvalidInput naming every invalid value."""
        rows: list[Mapping[str, Any]] = request.rows
        faults: list[FieldError] = []
        if self.settings.extra == "refuse":
            self._check_names(rows, faults)
        read = {column.name: self._read(column, rows, faults) for column in self.settings.columns}
        if faults:
            raise InvalidInput(f"{faults[0].field}: {faults[0].message}", errors=tuple(faults[:MAX_ERRORS]))
        return {spec.name: self._assembled(spec, columns, read, len(rows)) for spec, columns in self._parts}

    def postprocess(self, outputs: Arrays, request: Any) -> TabularResponse:  # noqa: ARG002
        """The class or the number of each row; the engine adds version and times."""
        if self.scores is None:
            return TabularResponse(predictions=self._numbers(outputs[self._answer]))
        predictions, confidences = self.scores.best(outputs)
        labels = [self.scores.label(index) for index in predictions]
        return TabularResponse(predictions=[*predictions], labels=labels, confidence_scores=confidences)

    def coerce(self, value: Any) -> TabularRequest:
        """Convert a request, a mapping of its fields, one row, an iterable of rows, or a DataFrame.

        An iterable may hold more rows than a request over HTTP. Raises InvalidInput.
        """
        if isinstance(value, TabularRequest):
            return value
        if isinstance(value, Mapping):
            if isinstance(value.get("rows"), list):
                return parse_request(TabularRequest, value)
            value = [value]
        elif callable(to_dict := getattr(value, "to_dict", None)):  # pandas; polars has to_dicts()
            value = to_dict(orient="records")
        elif callable(to_dicts := getattr(value, "to_dicts", None)):
            value = to_dicts()
        if isinstance(value, str | bytes) or not isinstance(value, Iterable):
            raise InvalidInput("rows: give a row as a mapping, a list of rows, or a DataFrame", field="rows")
        rows = list(value)
        wrong = next((n for n, row in enumerate(rows) if not isinstance(row, Mapping)), None)
        if wrong is not None or not rows:
            field = "rows" if wrong is None else f"rows[{wrong}]"
            raise InvalidInput(f"{field}: a row should be a mapping of values by column", field=field)
        return TabularRequest.model_construct(rows=rows, model_version=None)

    def array_spec(self) -> TensorSpec:
        """Rows of numbers, a column each."""
        return TensorSpec("rows", "FP64", (-1, len(self.settings.columns)))

    def from_array(self, array: Array) -> BaseModel:
        """The request with these rows, whose columns are in the order of the manifest. Raises InvalidInput."""
        names = [column.name for column in self.settings.columns]
        if array.ndim != 2 or array.shape[1] != len(names):
            message = (
                f"the shape is {list(array.shape)}, the model takes rows of {len(names)} columns: {', '.join(names)}"
            )
            raise InvalidInput(f"rows: {message}", field="rows")
        return parse_fields(self.Request, {"rows": [dict(zip(names, row, strict=True)) for row in array.tolist()]})

    def _check_all_used(self) -> None:
        used = {column.name for _, columns in self._parts for column in columns}
        if unused := next((name for name in self._names if name not in used), None):
            inputs = ", ".join(spec.name for spec in self.signature.inputs)
            raise ModelLoadError(
                f"the column {unused!r} belongs to no input of the model, which has {inputs}; name one in its `input`"
            )
        for spec, columns in self._parts:
            for column in columns:
                if not fits_into(column, spec.numpy):
                    raise ModelLoadError(
                        f"the column {column.name!r} ({column.type}) does not fit the input {spec.name!r}: {spec.dtype}"
                    )

    def _check_names(self, rows: Iterable[Mapping[str, Any]], faults: list[FieldError]) -> None:
        for number, row in enumerate(rows):
            for name in row.keys() - self._names if len(row) and not row.keys() <= self._names else ():
                faults.append(FieldError(_path(number, name), "the model has no such column"))
            if len(faults) >= MAX_ERRORS:
                return

    @staticmethod
    def _read(column: Column, rows: Iterable[Mapping[str, Any]], faults: list[FieldError]) -> list[Any]:
        stand_in = None if column.missing is None else column.read(column.missing)
        read: list[Any] = []
        for number, row in enumerate(rows):
            value = row.get(column.name)
            if not is_missing(value):
                value = column.read(value)
                if value is WRONG:
                    faults.append(FieldError(_path(number, column.name), column.wanted))
            elif stand_in is None:
                faults.append(FieldError(_path(number, column.name), "a value is missing"))
            else:
                value = stand_in
            read.append(value)
        return read

    def _assembled(
        self, spec: TensorSpec, columns: Iterable[Column], read: Mapping[str, list[Any]], rows: int
    ) -> Array:
        wide = np.float64 if spec.numpy.kind == "f" else spec.numpy
        parts = []
        for column in columns:
            try:
                parts.append(column.encode(read[column.name], np.dtype(wide)))
            except OverflowError:
                raise _too_large(column, spec) from None
            self._check_size(parts[-1], column, spec)
        whole = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
        return np.ascontiguousarray(whole.astype(spec.numpy)).reshape(rows, *([whole.shape[1]] * (len(spec.shape) - 1)))

    @staticmethod
    def _check_size(part: Array, column: Column, spec: TensorSpec) -> None:
        if spec.numpy.kind == "f" and part.size and np.abs(part).max() > np.finfo(spec.numpy).max:
            raise _too_large(column, spec)

    def _numbers(self, answer: Array) -> list[int | float]:
        if answer.dtype.kind == "f" and not np.isfinite(answer).all():
            raise OutOfRange(
                "rows: the model's output is not finite; the input is far outside the range of the model",
                field="rows",
                side="output",
                tensor=self._answer,
            )
        return answer.reshape(len(answer)).tolist()


def _path(row: int, name: str) -> str:
    return f"rows[{row}].{shortened(name, 100)}"


def _too_large(column: Column, spec: TensorSpec) -> InvalidInput:
    field = f"rows.{column.name}"
    return InvalidInput(f"{field}: a number does not fit into {spec.dtype}", field=field)


def _columns_of(spec: TensorSpec, columns: Iterable[Column], signature: Signature) -> list[Column]:
    """The columns of an input, in order. Raises ModelLoadError if their total width does not match the input."""
    only = len(signature.inputs) == 1
    chosen = [column for column in columns if (column.input or (spec.name if only else column.name)) == spec.name]
    width = sum(column.width for column in chosen)
    if not chosen or len(spec.shape) not in (1, 2):
        raise ModelLoadError(f"no column belongs to the input {spec.name!r} of {spec.dtype} {list(spec.shape)}")
    takes = spec.shape[1] if len(spec.shape) == 2 else 1
    if takes not in (width, -1):
        raise ModelLoadError(f"the columns make {width} numbers per row, the input {spec.name!r} takes {takes}")
    return chosen


def _is_number(answer: Signature, settings: TabularConfig) -> bool:
    """True if the answer for a row is a number. Raises ModelLoadError if it should be one and the output has more."""
    if len(answer.outputs) != 1:
        names = ", ".join(spec.name for spec in answer.outputs)
        raise ModelLoadError(f"the model has several outputs ({names}); name the one with the answer in `scores`")
    spec = answer.outputs[0]
    one = spec.shape[1:] in ((), (1,)) and spec.numpy.kind in "fiu"
    if settings.answer == "number" and not one:
        raise ModelLoadError(f"the output {spec.name!r} of {spec.dtype} {list(spec.shape)} is not one number per row")
    return settings.answer == "number" or (settings.answer == "auto" and one)


def _class_scores(answer: Signature, settings: TabularConfig) -> ClassScores:
    return ClassScores(answer, settings.output, settings.labels, "rows")
