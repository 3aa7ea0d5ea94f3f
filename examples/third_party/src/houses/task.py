"""The task of a regression model that predicts house prices."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from penstock import Signature, Task
from penstock.errors import InvalidInput, ModelLoadError
from penstock.plugin_api import Arrays, TimedResponse, parse_request


class House(BaseModel):
    """The request; for anything else the client gets 422 with the name of the field."""

    model_config = ConfigDict(extra="forbid")

    area_m2: float = Field(gt=0, le=2000, allow_inf_nan=False)
    rooms: int = Field(ge=1, le=50)


class Price(TimedResponse):
    """The response; Penstock adds version and times."""

    price_eur: int


class HousePrice(Task):
    """One house per request.

    `inline` is not set, so the task runs in a thread: if its code is slow or hangs, only its own requests miss their
    deadline; other models are not affected.
    """

    kind: ClassVar[str] = "house-price"
    Request: ClassVar[type[BaseModel]] = House
    Response: ClassVar[type[BaseModel]] = Price
    example: ClassVar[Any] = {"area_m2": 90, "rooms": 4}

    def __init__(self, config: Mapping[str, Any], signature: Signature) -> None:
        """`config` is the task section of the manifest: constants belong there, not in code."""
        super().__init__(config, signature)
        self.market = 1.0
        self.recent: deque[int] = deque(maxlen=100)
        try:
            self.scale = float(config.get("scale", 1.0))
        except (TypeError, ValueError):
            raise ModelLoadError(f"house-price: scale is {config['scale']!r}; it should be a number") from None

    def preprocess(self, request: Any) -> Arrays:
        """One row of two numbers."""
        return {self.signature.inputs[0].name: np.array([[request.area_m2, request.rooms]], np.float32)}

    def postprocess(self, outputs: Arrays, request: Any) -> Price:  # noqa: ARG002
        """The price, from this request's row."""
        price = round(float(outputs[self.signature.outputs[0].name][0, 0]) * self.scale * self.market)
        self.recent.append(price)
        return Price(price_eur=price)

    def coerce(self, value: Any) -> BaseModel:
        """Convert an argument of `Predictor` or `InferenceEngine` into a request."""
        if isinstance(value, House):
            return value
        if not isinstance(value, Mapping):
            raise InvalidInput("house: give a mapping with area_m2 and rooms", field="house")
        return parse_request(House, value)
