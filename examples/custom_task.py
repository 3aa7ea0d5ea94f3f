"""A custom Task: request, response, preprocessing and postprocessing for a regression model.

Your package declares it in its pyproject.toml; manifests then name it with `"kind": "house-price"`:

    [project.entry-points."penstock.tasks"]
    house-price = "houses.task:HousePrice"
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from penstock import Signature, Task, TensorSpec
from penstock.tasks.base import TimedResponse
from penstock.tensors import Arrays


class House(BaseModel):
    model_config = ConfigDict(extra="forbid")

    area_m2: float = Field(gt=0, le=2000, allow_inf_nan=False)
    rooms: int = Field(ge=1, le=50)


class Price(TimedResponse):
    price_eur: int


class HousePrice(Task):
    kind: ClassVar[str] = "house-price"
    Request: ClassVar[type[BaseModel]] = House
    Response: ClassVar[type[BaseModel]] = Price

    def __init__(self, config: Mapping[str, Any], signature: Signature) -> None:
        super().__init__(config, signature)
        self.scale = float(config.get("scale", 1.0))

    def preprocess(self, request: House) -> Arrays:
        return {"x": np.array([[request.area_m2, request.rooms]], np.float32)}

    def postprocess(self, outputs: Arrays, request: House) -> Price:  # noqa: ARG002
        return Price(price_eur=round(float(outputs["y"][0, 0]) * self.scale))

    def coerce(self, value: Any) -> House:
        return value if isinstance(value, House) else House.model_validate(value)


if __name__ == "__main__":
    signature = Signature((TensorSpec("x", "FP32", (-1, 2)),), (TensorSpec("y", "FP32", (-1, 1)),))
    task = HousePrice({"scale": 1000}, signature)
    inputs = task.preprocess(task.coerce({"area_m2": 120, "rooms": 5}))
    print("inputs:", inputs["x"].tolist())
    print("answer:", task.postprocess({"y": np.array([[431.2]])}, None).price_eur)  # type: ignore[arg-type]
