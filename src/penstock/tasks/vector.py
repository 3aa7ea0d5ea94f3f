"""Vector classification: rows of numbers in, one class and its confidence for each row out."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, TypeAlias

import numpy as np
import orjson
from pydantic import (
    BaseModel,
    ConfigDict,
    FailFast,
    Field,
    PlainSerializer,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic_core import PydanticCustomError

from penstock.datatypes import read_array
from penstock.errors import InvalidInput, ModelLoadError
from penstock.tasks.base import Task, TimedResponse
from penstock.tasks.classification import ClassScores, OutputKind
from penstock.tasks.steps import Steps, build_steps
from penstock.tasks.validation_errors import parse_config, parse_fields, parse_request
from penstock.tensors import Array, Arrays, Signature, TensorSpec

MAX_BATCH = 128
_DOT_LIMIT = 8192
"""Above this size BLAS may start threads for a dot product, which would take cores from the model."""


def _numbers(value: Any, check_list: ValidatorFunctionWrapHandler) -> Any:
    if type(value) is np.ndarray:  # from the fast JSON path; preprocess checks its range
        return value if value.ndim == 1 and value.dtype.char in "df" and value.size else _flat(value)
    return check_list(value)


def _flat(value: Array) -> Array:
    if value.dtype.kind not in "fiu" or not value.size:
        raise PydanticCustomError("numbers", "Input should be an array of at least 1 number")
    return value.astype(np.float64).ravel()


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


Number: TypeAlias = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Numbers: TypeAlias = Annotated[
    list[Number],
    FailFast(),  # report one error, not a million
    Field(min_length=1),
    WrapValidator(_numbers),
    PlainSerializer(_plain, return_type=list[float]),
]
"""A JSON array of finite numbers; in Python also a 1-d float64 ndarray, passed through unchanged."""


class VectorRequest(BaseModel):
    """One or more rows of numbers to classify."""

    model_config = ConfigDict(strict=True, extra="forbid")

    input_data: Numbers = Field(
        description="The rows, flattened: exactly batch_size × the model's features finite numbers.",
    )
    model_version: str | None = Field(
        default=None, description="The model version; the default is that of the reference."
    )
    batch_size: int = Field(default=1, ge=1, le=MAX_BATCH, description="Number of rows in input_data.")


class _Classes(BaseModel):
    predictions: list[int] = Field(description="The likeliest class of each row.")
    confidence_scores: list[float] = Field(description="The probability of that class, 0 to 1.")


class VectorResponse(TimedResponse, _Classes):
    """The class of every row. (The order of the bases puts predictions first in the JSON.)"""


class VectorConfig(BaseModel):
    """The task section of a manifest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    output: OutputKind = "auto"
    labels: tuple[str, ...] | None = None
    preprocess: Steps = ()


class VectorClassification(Task):
    """Classifies flat rows of numbers; the model has one float input with a fixed number of features."""

    kind: ClassVar[str] = "vector-classification"
    needs_rows: ClassVar[bool] = True
    bundles: ClassVar[bool] = True
    Request: ClassVar[type[BaseModel]] = VectorRequest
    Response: ClassVar[type[BaseModel]] = VectorResponse
    array_field: ClassVar[str | None] = "input_data"
    takes_arrays: ClassVar[bool] = True
    inline: ClassVar[bool] = True
    refuses_nan: ClassVar[bool] = True

    def __init__(self, config: Mapping[str, Any], signature: Signature) -> None:
        """Raises ModelLoadError if the settings or the signature do not fit."""
        super().__init__(config, signature)
        settings = parse_config(VectorConfig, self.kind, config)
        spec = _only_input(signature)
        self.features = spec.row_elements
        self._name, self._dtype, self._row_shape = spec.name, spec.numpy, spec.shape[1:]
        self._limit = float(np.finfo(self._dtype).max)
        self._fixed_rows = max(spec.shape[0], 0)
        self._steps = build_steps(settings.preprocess, self.features, np.dtype(np.float64), self._limit)
        self.scores = ClassScores(signature, settings.output, settings.labels, "input_data")

    def preprocess(self, request: Any) -> Arrays:
        """The rows as the model's input. Raises InvalidInput naming `input_data` or the invalid number."""
        given = request.input_data
        values: Array = given if type(given) is np.ndarray else np.array(given, dtype=np.float64)
        rows = request.batch_size
        if values.size != rows * self.features:
            raise self._wrong_length(values.size, rows)
        if self._fixed_rows not in (0, rows):
            message = f"batch_size: the model takes exactly {self._fixed_rows} in a request"
            raise InvalidInput(message, field="batch_size")
        if not _within(values, self._limit):
            _refuse_number(values, self._dtype)
        if self._steps is not None:
            values = self._steps(values.reshape(rows, -1).astype(np.float64, copy=False))
        return {self._name: values.astype(self._dtype).reshape(rows, *self._row_shape)}

    def postprocess(self, outputs: Arrays, request: Any) -> VectorResponse:  # noqa: ARG002
        """The likeliest class of each row; the engine adds version and times."""
        predictions, confidences = self.scores.best(outputs)
        return VectorResponse(predictions=predictions, confidence_scores=confidences)

    @np.errstate(over="ignore", invalid="ignore")
    def rows_into(self, requests: Sequence[Array]) -> Arrays:
        """The rows as the model's input, each array one row. Raises InvalidInput for a wrong length or a bad number."""
        rows = np.empty((len(requests), self.features), self._dtype if self._steps is None else np.float64)
        for index, values in enumerate(requests):
            if values.size != self.features:
                raise self._wrong_length(values.size, 1)
            rows[index] = values
        if not np.isfinite(rows if self._steps is None else rows.astype(self._dtype)).all():
            raise InvalidInput("input_data: a number is too large for the model", field="input_data")
        if self._steps is not None:
            rows = self._steps(rows).astype(self._dtype)
        return {self._name: rows.reshape(len(requests), *self._row_shape)}

    def answers(self, outputs: Arrays) -> Sequence[bytes]:
        """The likeliest class of each row as JSON, without version and times."""
        winners, confidences = self.scores.best(outputs)
        texts = orjson.dumps(confidences)[1:-1].split(b",")
        return [b'{"predictions":[%d],"confidence_scores":[%b]' % pair for pair in zip(winners, texts, strict=True)]

    def array_spec(self) -> TensorSpec:
        """That of the model's input."""
        return self.signature.inputs[0]

    def from_array(self, array: Array) -> BaseModel:
        """The request with these rows. Raises InvalidInput as for JSON."""
        fields = {"input_data": array.reshape(-1), "batch_size": self._count_rows(array)}
        return parse_fields(self.Request, fields)

    def coerce(self, value: Any) -> VectorRequest:
        """Convert a request, a mapping of its fields, one row (any shape of `features` numbers) or an array of rows.

        An array may hold more rows than a request over HTTP. Raises InvalidInput.
        """
        if isinstance(value, VectorRequest):
            return value
        if isinstance(value, Mapping):
            return parse_request(VectorRequest, value)
        array = _as_array(value)
        return VectorRequest.model_construct(
            input_data=array.ravel(), model_version=None, batch_size=self._count_rows(array)
        )

    def _count_rows(self, array: Array) -> int:
        if array.ndim > 1 and array.size and array.size == array.shape[0] * self.features:
            return len(array)
        if array.size == self.features:
            return 1
        given = f"{array.size} numbers" if array.ndim == 1 else f"the shape {list(array.shape)}"
        raise InvalidInput(
            f"input_data: {given} given, the model takes rows of {self.features} numbers", field="input_data"
        )

    def _wrong_length(self, got: int, rows: int) -> InvalidInput:
        if rows == 1:
            wanted = f"the model takes {self.features}"
        else:
            wanted = f"{rows} rows of {self.features} are {rows * self.features}"
        return InvalidInput(f"input_data: {got} numbers given, {wanted}", field="input_data")


def _only_input(signature: Signature) -> TensorSpec:
    if len(signature.inputs) != 1:
        names = ", ".join(spec.name for spec in signature.inputs) or "none"
        raise ModelLoadError(f"vector classification takes a model with one input, this one has {names}")
    spec = signature.inputs[0]
    if spec.numpy.kind != "f" or len(spec.shape) < 2 or spec.row_elements < 1:
        raise ModelLoadError(
            f"vector classification takes an input of floats [batch, features];"
            f" {spec.name!r} is {spec.dtype} {list(spec.shape)}"
        )
    return spec


def _as_array(value: Any) -> Array:
    array = read_array("input_data", value, "FP64")
    if array.ndim == 0:
        raise InvalidInput("input_data: give an array of numbers, or a mapping of fields", field="input_data")
    return array


@np.errstate(over="ignore", invalid="ignore")
def _within(values: Array, limit: float) -> bool:
    """True only if all values are finite and within ±limit; False can be a false alarm."""
    if values.size <= _DOT_LIMIT:  # takes a third of the time of min and max; NaN and infinity are never <=
        return float(values.dot(values)) <= min(limit * limit, sys.float_info.max)
    return bool(values.max() <= limit and values.min() >= -limit)


@np.errstate(over="ignore", invalid="ignore")
def _refuse_number(values: Array, dtype: np.dtype[Any]) -> None:
    """Raises InvalidInput for the first value that `dtype` cannot hold; returns if there is none."""
    bad = np.flatnonzero(~np.isfinite(values.astype(dtype)))
    if not bad.size:
        return
    field = f"input_data[{bad[0]}]"
    fits = "is too large for the model" if np.isfinite(values[bad[0]]) else "is not a finite number"
    raise InvalidInput(f"{field}: {values[bad[0]]} {fits}", field=field)
