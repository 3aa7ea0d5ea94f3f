"""The columns of a table as their settings stand in a manifest: values of one column into numbers or text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from penstock.tensors import Array

Finite: TypeAlias = Annotated[float, Field(allow_inf_nan=False)]

WRONG = object()
"""Stands for a value that its column does not take."""


class ColumnConfig(BaseModel):
    """What every column has: its name, the model's input it goes to, and what stands for a missing value.

    `input` is needed where the model has several inputs and none of them has the column's name. A value is missing when
    its field is not there, is null or, from Python, is NaN; a column without `missing` refuses that.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    input: str | None = None

    @property
    def width(self) -> int:
        """How many numbers of the model's input it makes."""
        return 1

    @property
    def wanted(self) -> str:
        """What a value should be, for people."""
        return self._wanted()

    def read(self, value: Any) -> Any:
        """The value as the model takes it, WRONG for one that the column does not take."""
        return self._read(value)

    def encode(self, values: Sequence[Any], dtype: np.dtype[Any]) -> Array:
        """What was read, as [rows, width]."""
        return self._encode(values, dtype)

    def _wanted(self) -> str:
        raise NotImplementedError

    def _read(self, value: Any) -> Any:
        raise NotImplementedError

    def _encode(self, values: Sequence[Any], dtype: np.dtype[Any]) -> Array:
        return np.array(values, dtype=dtype).reshape(len(values), self.width)


class Number(ColumnConfig):
    """Finite numbers, given to the model as (x - mean) / std."""

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
    """True or false, 1 or 0 to a model that takes numbers."""

    type: Literal["boolean"]
    missing: bool | None = None

    def _wanted(self) -> str:
        return "should be true or false"

    def _read(self, value: Any) -> Any:
        return bool(value) if isinstance(value, bool | np.bool_) else WRONG


class Category(ColumnConfig):
    """One of a few words: to the model its place in `categories`, one column for each of them, or the word itself.

    `unknown` is the category that stands for a word not listed; without it such a word is refused.
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
        """One number, or one for each category."""
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
"""The kinds of numpy that a column's values fit into; whatever is not named is text."""


def fits_into(column: Column, dtype: np.dtype[Any]) -> bool:
    """Whether an input of this type can hold the column."""
    encoding = column.encoding if isinstance(column, Category) else column.type
    return dtype.kind in TAKES.get(encoding, "O")


def is_missing(value: Any) -> bool:
    """True for null and for NaN, which is how tables in Python say it."""
    return value is None or (isinstance(value, float | np.floating) and math.isnan(value))


def _whole(text: str) -> bool:
    """False for text with half a character in it, which no model can be given."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
