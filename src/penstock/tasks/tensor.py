"""Raw tensors: the inputs and outputs of any model by name, as nested lists."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self, TypeAlias

import numpy as np
import orjson
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    WithJsonSchema,
    model_serializer,
    model_validator,
)

from penstock.datatypes import BF16, float_from_bf16, to_json_values
from penstock.errors import InvalidInput
from penstock.tasks.base import Task, TimedResponse
from penstock.tasks.responses import LARGE_VALUES, array_pieces, model_pieces
from penstock.tasks.validation_errors import parse_config, parse_request
from penstock.tensors import Array, Arrays, Signature, TensorSpec

_NESTED_LISTS = {
    "type": "array",
    "items": {},
    "description": "Rows, each as nested lists of numbers, booleans or text.",
}
Tensor: TypeAlias = Annotated[Any, WithJsonSchema(_NESTED_LISTS)]
"""Nested lists; in Python also an ndarray."""


class TensorRequest(BaseModel):
    """Every input of the model by name; axis 0 of each is the batch."""

    model_config = ConfigDict(strict=True, extra="forbid")

    inputs: dict[str, Tensor] = Field(
        min_length=1,
        description="The model's inputs by name, nested lists in the shape of its signature.",
        examples=[{"input": [[0.5, 1.0]]}],
    )
    model_version: str | None = Field(
        default=None, description="The model version; the default is that of the reference."
    )
    _finite: bool = PrivateAttr(default=False)
    """True for a request from JSON, where a number too large to be one, such as 1e400, reads as infinity."""
    _keeps_arrays: bool = PrivateAttr(default=False)

    def keep_arrays(self) -> None:
        """Let the response hold the outputs as arrays in place of nested lists."""
        self._keeps_arrays = True

    @model_validator(mode="after")
    def _note_origin(self, info: ValidationInfo) -> Self:
        self._finite = info.mode == "json"
        return self


class _Outputs(BaseModel):
    outputs: dict[str, Tensor] = Field(
        description="The model's outputs by name, nested lists; NaN and infinity are null, as JSON has neither."
    )


class TensorResponse(TimedResponse, _Outputs):
    """Every output of the model by name."""


class LargeTensorResponse(TensorResponse):
    """The same with arrays, of which `outputs` becomes lists when it is first read: they take ten times the memory."""

    _arrays: dict[str, tuple[str, Array]] = PrivateAttr()
    """Datatype and array by name."""

    if not TYPE_CHECKING:  # a type checker would accept every name

        def __getattr__(self, name: str) -> Any:
            if name != "outputs":
                return super().__getattr__(name)
            listed = {key: to_json_values(key, array, dtype) for key, (dtype, array) in self._arrays.items()}
            others = dict(self.__dict__)
            self.__dict__.clear()
            self.__dict__.update(outputs=listed, **others)  # in the order of the fields, which is that of the JSON
            return listed

    @model_serializer(mode="wrap")
    def _write(self, handler: SerializerFunctionWrapHandler) -> Any:
        _ = self.outputs
        return handler(self)

    def json_pieces(self) -> Iterator[bytes]:
        """The JSON text of the response, made from the arrays. Raises InvalidInput as `TensorTask.postprocess`."""
        return model_pieces(type(self).model_fields, self._field_pieces)

    def _field_pieces(self, name: str) -> Iterator[bytes]:
        if name != "outputs":
            yield orjson.dumps({name: self.__dict__[name]})[1:-1]
            return
        separator = b'"outputs":{'
        for key, (dtype, array) in self._arrays.items():
            yield separator + orjson.dumps(key) + b":"
            yield from array_pieces(key, array, dtype)
            separator = b","
        yield b"}"


class TensorConfig(BaseModel):
    """The task section of a manifest: it has no settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TensorTask(Task):
    """Arrays in, arrays out, for a model with any signature."""

    kind: ClassVar[str] = "tensor"
    Request: ClassVar[type[BaseModel]] = TensorRequest
    Response: ClassVar[type[BaseModel]] = TensorResponse
    tensors_field: ClassVar[str | None] = "inputs"
    takes_arrays: ClassVar[bool] = True
    passes_arrays: ClassVar[bool] = True
    inline: ClassVar[bool] = True

    def __init__(self, config: Mapping[str, Any], signature: Signature) -> None:
        """Raises ModelLoadError if the manifest has settings for this task."""
        super().__init__(config, signature)
        parse_config(TensorConfig, self.kind, config)

    def preprocess(self, request: Any) -> Arrays:
        """The inputs as checked arrays. Raises InvalidInput naming `inputs.<name>`.

        NaN is refused. Infinity is a value, as in masks of -inf; only JSON has none.
        """
        given: dict[str, Any] = request.inputs
        for name in given:
            if all(name != spec.name for spec in self.signature.inputs):
                known = ", ".join(spec.name for spec in self.signature.inputs)
                raise _wrong(name, f"the model has no such input; it takes {known}")
        return {spec.name: self._read(spec, given, request._finite) for spec in self.signature.inputs}

    def postprocess(self, outputs: Arrays, request: Any) -> TensorResponse:
        """The outputs as nested lists. Raises InvalidInput naming `outputs.<name>` for bytes that are not UTF-8."""
        if request is not None and request._keeps_arrays:
            return TensorResponse.model_construct(outputs=dict(outputs))
        if any(outputs[spec.name].size > LARGE_VALUES for spec in self.signature.outputs):
            return self._large(outputs)
        return TensorResponse(outputs={spec.name: _listed(spec, outputs[spec.name]) for spec in self.signature.outputs})

    def _large(self, outputs: Arrays) -> TensorResponse:
        for spec in self.signature.outputs:
            if spec.dtype == "BYTES":
                _listed(spec, outputs[spec.name])  # raises for bytes that are not UTF-8
        response = LargeTensorResponse.model_construct()
        response._arrays = {spec.name: (spec.dtype, outputs[spec.name]) for spec in self.signature.outputs}
        return response

    def coerce(self, value: Any) -> TensorRequest:
        """Convert a request, a mapping of arrays by input name, or one array for a model with one input.

        An array with one axis less than the input is one row. Raises InvalidInput.
        """
        if isinstance(value, TensorRequest):
            return value
        if isinstance(value, Mapping):
            whole = isinstance(value.get("inputs"), Mapping)
            return parse_request(TensorRequest, value if whole else {"inputs": dict(value)})
        if len(self.signature.inputs) != 1:
            names = ", ".join(spec.name for spec in self.signature.inputs)
            raise InvalidInput(f"inputs: the model takes several, give a mapping of {names} to arrays", field="inputs")
        spec = self.signature.inputs[0]
        if _axes(value) == len(spec.shape) - 1:
            value = [value] if isinstance(value, list) else value[None]
        return TensorRequest(inputs={spec.name: value})

    def array_spec(self) -> TensorSpec | None:
        """That of the only input."""
        return self.signature.inputs[0] if len(self.signature.inputs) == 1 else None

    def from_array(self, array: Array) -> TensorRequest:
        """The request whose only input is this array; it is copied, since runtimes may write to an input."""
        return self.coerce(array if array.flags.writeable else array.copy("K"))

    def _read(self, spec: TensorSpec, given: dict[str, Any], finite: bool) -> Array:
        if spec.name not in given:
            raise _wrong(spec.name, "this input is missing")
        try:
            array = self.signature.check(spec, given[spec.name])
        except InvalidInput as error:
            raise _wrong(spec.name, str(error).removeprefix(f"{spec.name}: ")) from None
        if array.ndim and not len(array) and not self.signature.whole:
            raise _wrong(spec.name, "give at least 1 row")
        if spec.kind == "f":
            values = float_from_bf16(array) if spec.dtype == BF16 else array
            if finite and not np.isfinite(values).all():
                raise _wrong(spec.name, "a value is not a finite number")
            if np.isnan(values).any():
                raise _wrong(spec.name, "a value is not a number (NaN)")
        return array


def _axes(value: Any) -> int:
    """The number of axes of an array, or of lists by their first items; -1 for anything else."""
    if isinstance(value, list):
        return 1 + (max(_axes(value[0]), 0) if value else 0)
    return int(getattr(value, "ndim", -1))


def _wrong(name: str, message: str) -> InvalidInput:
    field = f"inputs.{name}"
    return InvalidInput(f"{field}: {message}", field=field)


def _listed(spec: TensorSpec, array: Array) -> Any:
    try:
        return to_json_values(spec.name, array, spec.dtype)
    except InvalidInput:
        field = f"outputs.{spec.name}"
        raise InvalidInput(
            f"{field}: the bytes are not UTF-8 text, which JSON requires; use engine.infer for other bytes",
            field=field,
        ) from None
