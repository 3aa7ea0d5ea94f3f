"""Column settings in a manifest, and the conversion of a column's values to numbers or text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from penstock.tensors import Array

Finite: TypeAlias = Annotated[float, Field(allow_inf_nan=False)]

WRONG = object()
"""Marks a value that is invalid for its column."""


class ColumnConfig(BaseModel):
    """The settings of every column: its name, the model input it belongs to, and the default for missing values.

    `input` is needed if the model has several inputs and none of them has the column's name. A value is missing if its
    field is absent, null or, in Python, NaN; a column without `missing` refuses missing values.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    input: str | None = None

    @property
    def width(self) -> int:
        """Number of values that the column adds to a row of the model's input."""
        return 1

    @property
    def wanted(self) -> str:
        """The error message for an invalid value, such as "should be a number"."""
        return self._wanted()

    def read(self, value: Any) -> Any:
        """The value converted for the model; WRONG if it is invalid."""
        return self._read(value)

    def encode(self, values: Sequence[Any], dtype: np.dtype[Any]) -> Array:
        """The converted values as an array [rows, width]."""
        return self._encode(values, dtype)

    def _wanted(self) -> str:
        raise NotImplementedError

    def _read(self, value: Any) -> Any:
        raise NotImplementedError

    def _encode(self, values: Sequence[Any], dtype: np.dtype[Any]) -> Array:
        return np.array(values, dtype=dtype).reshape(len(values), self.width)


class Number(ColumnConfig):
    """Finite numbers, passed to the model as (x - mean) / std."""

    type: Literal["number"]
    missing: Finite | None = None
    mean: Finite = 0.0
    std: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0

    def _wanted(self) -> str:
        return "should be a number"

    def _read(self, value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int | float | np.number):
            return WRONG
        try:
            number = float(value)
        except OverflowError:
            return WRONG
        return (number - self.mean) / self.std if math.isfinite(number) else WRONG


class Integer(ColumnConfig):
    """Whole numbers of 64 bits."""

    type: Literal["integer"]
    missing: int | None = None

    def _wanted(self) -> str:
        return "should be a whole number"

    def _read(self, value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            whole = isinstance(value, float | np.floating) and float(value).is_integer()
            if not whole:
                return WRONG
        return int(value) if -(2**63) <= value < 2**63 else WRONG


class Boolean(ColumnConfig):
    """True or false; 1 or 0 for a model that takes numbers."""

    type: Literal["boolean"]
    missing: bool | None = None

    def _wanted(self) -> str:
        return "should be true or false"

    def _read(self, value: Any) -> Any:
        return bool(value) if isinstance(value, bool | np.bool_) else WRONG


class Category(ColumnConfig):
    """One of the words in `categories`, passed to the model as its index, one-hot, or as text.

    `unknown` is the category for words that are not listed; without it they are refused.
    """

    type: Literal["category"]
    categories: tuple[str, ...] = Field(min_length=1)
    encoding: Literal["index", "one_hot", "text"] = "index"
    missing: str | None = None
    unknown: str | None = None

    @model_validator(mode="after")
    def _sensible(self) -> Category:
        if len(set(self.categories)) != len(self.categories):
            raise ValueError(f"the column {self.name!r} lists a category twice")
        for stand_in in (self.missing, self.unknown):
            if stand_in is not None and stand_in not in self.categories:
                raise ValueError(f"{stand_in!r} is not among the categories of {self.name!r}")
        return self

    @property
    def width(self) -> int:
        """1, or the number of categories for one-hot encoding."""
        return len(self.categories) if self.encoding == "one_hot" else 1

    def _wanted(self) -> str:
        shown = ", ".join(self.categories[:10])
        return f"should be one of {shown}" + (", …" if len(self.categories) > 10 else "")

    def _read(self, value: Any) -> Any:
        if not isinstance(value, str):
            return WRONG
        if value in self.categories:
            return str(value)
        return WRONG if self.unknown is None else self.unknown

    def _encode(self, values: Sequence[Any], dtype: np.dtype[Any]) -> Array:
        if self.encoding == "text":
            return super()._encode(values, dtype)
        places = np.array([self.categories.index(value) for value in values], dtype=np.int64)
        return np.eye(self.width, dtype=dtype)[places] if self.encoding == "one_hot" else places[:, None].astype(dtype)


class Text(ColumnConfig):
    """Any text, for models that take text."""

    type: Literal["text"]
    missing: str | None = None

    def _wanted(self) -> str:
        return "should be text"

    def _read(self, value: Any) -> Any:
        return str(value) if isinstance(value, str) and "\0" not in value and _whole(value) else WRONG


Column: TypeAlias = Annotated[Number | Integer | Boolean | Category | Text, Field(discriminator="type")]

TAKES: dict[str, str] = {"number": "f", "integer": "fiu", "boolean": "fiub", "index": "fiu", "one_hot": "fiub"}
"""The numpy dtype kinds that a column's values fit into; all others are text."""


def fits_into(column: Column, dtype: np.dtype[Any]) -> bool:
    """Whether an input of this type can hold the column."""
    encoding = column.encoding if isinstance(column, Category) else column.type
    return dtype.kind in TAKES.get(encoding, "O")


def is_missing(value: Any) -> bool:
    """True for null and for NaN, which data frames use for missing values."""
    return value is None or (isinstance(value, float | np.floating) and math.isnan(value))


def _whole(text: str) -> bool:
    """False for text with an unpaired surrogate, which cannot be encoded."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
