"""`Task` itself: a task with only a request, a response and its two conversions works as over HTTP."""

from __future__ import annotations

import datetime
from typing import Any, ClassVar

import numpy as np
import pytest
from pydantic import BaseModel, ConfigDict, Field

from penstock.errors import InvalidInput
from penstock.tasks.base import Task
from penstock.tensors import Arrays, Signature, TensorSpec

SIGNATURE = Signature((TensorSpec("x", "FP32", (-1, 2)),), (TensorSpec("y", "FP32", (-1, 1)),))


class Visit(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    day: datetime.date
    path: tuple[float, ...] = Field(min_length=1)
    note: str = ""


class Area(BaseModel):
    size: float
    unit: str = "m2"


class Price(BaseModel):
    price: float


class Small(Task):
    kind: ClassVar[str] = "small"
    Request: ClassVar[type[BaseModel]] = Visit
    Response: ClassVar[type[BaseModel]] = Price

    def preprocess(self, request: Any) -> Arrays:
        return {"x": np.array([request.path], np.float32)}

    def postprocess(self, outputs: Arrays, request: Any) -> BaseModel:
        return Price(price=float(outputs["y"][0, 0]))


class OneField(Small):
    Request: ClassVar[type[BaseModel]] = Area


class Upload(Small):
    Request: ClassVar[type[BaseModel]] = type("File", (BaseModel,), {"__annotations__": {"data": bytes, "name": str}})
    upload_field: ClassVar[str | None] = "data"


def task(kind: type[Task] = Small) -> Task:
    return kind({}, SIGNATURE)


VISIT = Visit(day=datetime.date(2026, 1, 2), path=(1.0, 2.0))


@pytest.mark.parametrize(
    "value",
    [
        VISIT,
        {"day": datetime.date(2026, 1, 2), "path": (1.0, 2.0)},
        {"day": "2026-01-02", "path": [1.0, 2.0]},
        {"day": "2026-01-02", "path": np.array([1.0, 2.0])},
    ],
    ids=["request", "Python", "JSON", "array"],
)
def test_a_request_is_read_as_over_http(value: Any) -> None:
    assert task().coerce(value) == VISIT


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ({"day": "2026-01-02"}, "path"),
        ({"day": "never", "path": [1.0]}, "day"),
        ({"day": "2026-01-02", "path": []}, "path"),
        ({"day": "2026-01-02", "path": [1.0], "extra": 1}, "extra"),
        ({"day": "2026-01-02", "path": [object()]}, "day"),
        ([1.0, 2.0], "body"),
    ],
)
def test_a_wrong_request_names_the_field(value: Any, field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        task().coerce(value)
    assert field in [error.field for error in refused.value.errors]


def test_a_value_without_a_name_is_the_only_required_field() -> None:
    assert task(OneField).coerce(2.5) == Area(size=2.5)
    with pytest.raises(InvalidInput, match="size"):
        task(OneField).coerce("large")


def test_bytes_are_the_upload() -> None:
    with pytest.raises(InvalidInput, match="name: Field required"):
        task(Upload).coerce(b"\x00\xff")
