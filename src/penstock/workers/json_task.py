"""The task of Python classes that take JSON values in place of tensors: one value a row, as its text in between."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import orjson
from pydantic import BaseModel, ConfigDict, Field

from penstock.errors import InvalidInput, ModelLoadError
from penstock.tasks.base import Task, TimedResponse
from penstock.tensors import Arrays, Signature


class JsonRequest(BaseModel):
    """Any JSON values; the model answers each with one."""

    model_config = ConfigDict(extra="forbid")

    values: list[Any] = Field(
        min_length=1, description="JSON values as the model's class takes them; each is a row of a batch."
    )
    model_version: str | None = Field(
        default=None, description="The model version; the default is that of the reference."
    )


class JsonResponse(TimedResponse):
    """One JSON value for each of the request's."""

    values: list[Any]


class JsonTask(Task):
    """JSON values in, JSON values out."""

    kind: ClassVar[str] = "json"
    Request: ClassVar[type[BaseModel]] = JsonRequest
    Response: ClassVar[type[BaseModel]] = JsonResponse
    needs_rows: ClassVar[bool] = True
    example: ClassVar[Any] = {"values": [{"text": "a value"}]}

    def __init__(self, config: Mapping[str, Any], signature: Signature) -> None:
        """Raises ModelLoadError unless inputs and outputs are one BYTES value a row."""
        super().__init__(config, signature)
        for spec in (*signature.inputs, *signature.outputs):
            if (spec.dtype, len(spec.shape)) != ("BYTES", 1) or len(signature.inputs) + len(signature.outputs) != 2:
                raise ModelLoadError('the task json is for Python classes with inputs = "json"')

    def preprocess(self, request: Any) -> Arrays:
        """The text of each value. Raises InvalidInput naming `values[N]`."""
        texts = np.empty(len(request.values), object)
        for place, value in enumerate(request.values):
            try:
                texts[place] = orjson.dumps(value)
            except TypeError as error:
                field = f"values[{place}]"
                raise InvalidInput(f"{field}: it cannot be written as JSON: {error}", field=field) from None
        return {self.signature.inputs[0].name: texts}

    def postprocess(self, outputs: Arrays, request: Any) -> JsonResponse:  # noqa: ARG002
        """The values that the texts of the outputs are."""
        texts = outputs[self.signature.outputs[0].name]
        return JsonResponse(values=[orjson.loads(text) for text in texts.tolist()])
