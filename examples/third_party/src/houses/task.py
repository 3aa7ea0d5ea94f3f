"""Houses in, prices out: what the tensors of one regression model mean."""

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
    """What a client sends; Pydantic refuses the rest with 422 and the name of the field."""

    model_config = ConfigDict(extra="forbid")

    area_m2: float = Field(gt=0, le=2000, allow_inf_nan=False)
    rooms: int = Field(ge=1, le=50)


class Price(TimedResponse):
    """What a client gets; version and times come from Penstock."""

    price_eur: int


class HousePrice(Task):
    """One house a request.

    It says nothing of `inline`, so it runs in a thread beside the event loop: a mistake here that takes long, or never
    ends, costs its own requests their deadline and no other model anything.
    """

    kind: ClassVar[str] = "house-price"
    Request: ClassVar[type[BaseModel]] = House
    Response: ClassVar[type[BaseModel]] = Price
    example: ClassVar[Any] = {"area_m2": 90, "rooms": 4}

    def __init__(self, config: Mapping[str, Any], signature: Signature) -> None:
        """`config` is the task part of the manifest: constants live there, not in code."""
        super().__init__(config, signature)
        self.market = 1.0
        self.told: deque[int] = deque(maxlen=100)
        try:
            self.scale = float(config.get("scale", 1.0))
        except (TypeError, ValueError):
            raise ModelLoadError(f"house-price: scale is {config['scale']!r}; it should be a number") from None

    def preprocess(self, request: Any) -> Arrays:
        """One row of two numbers."""
        return {self.signature.inputs[0].name: np.array([[request.area_m2, request.rooms]], np.float32)}

    def postprocess(self, outputs: Arrays, request: Any) -> Price:  # noqa: ARG002
        """The price, from this request's own row."""
        price = round(float(outputs[self.signature.outputs[0].name][0, 0]) * self.scale * self.market)
        self.told.append(price)
        return Price(price_eur=price)

    def coerce(self, value: Any) -> BaseModel:
        """From what Python code hands to `Predictor` or `InferenceEngine`."""
        if isinstance(value, House):
            return value
        if not isinstance(value, Mapping):
            raise InvalidInput("house: give a mapping with area_m2 and rooms", field="house")
        return parse_request(House, value)
