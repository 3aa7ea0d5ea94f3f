from __future__ import annotations

import re
from typing import Any

import pytest
from pydantic import BaseModel

from penstock.errors import InvalidInput, ModelLoadError
from penstock.tasks.validation_errors import field_path, parse_config, parse_request
from penstock.tasks.vector import VectorConfig


class Point(BaseModel):
    x: int
    tags: list[int] = []


@pytest.mark.parametrize(
    ("loc", "path"),
    [
        (("a",), "a"),
        (("a", 3), "a[3]"),
        (("a", "b", 0, "c"), "a.b[0].c"),
        ((0, "a"), "[0].a"),
        ((), ""),
        (("a", "b\nc"), "a.b\\nc"),
    ],
)
def test_a_field_path_is_written_as_in_python(loc, path):
    assert field_path(loc) == path


def test_a_very_long_name_is_truncated():
    assert len(field_path(("a", "b" * 10_000))) < 200


def test_every_invalid_field_is_named():
    with pytest.raises(InvalidInput) as caught:
        parse_request(Point, {"x": "one", "tags": [1, "two"]})
    assert [error.field for error in caught.value.errors] == ["x", "tags[1]"]
    assert str(caught.value).startswith("x: ")


def test_a_message_lists_three_errors_and_counts_the_rest():
    with pytest.raises(InvalidInput) as caught:
        parse_request(Point, {"x": 1, "tags": ["a"] * 10})
    assert str(caught.value).endswith("and 7 more")
    assert len(caught.value.errors) == 10


def test_invalid_settings_of_a_model_are_a_load_error_in_one_sentence():
    with pytest.raises(ModelLoadError, match=r"^the point settings of the model do not fit: x: ") as caught:
        parse_config(Point, "point", {})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("steps", "sentence"),
    [
        ([{"kind": "mean_std", "mean": 0, "std": 0}], r"preprocess\[0\]\.std: Input should be greater than 0 or Input"),
        ([{"kind": "mean_std", "mean": [0], "std": [1, 0]}], r"preprocess\[0\]\.std\[1\]: Input should be greater"),
        ([{"kind": "mean_std", "mean": 0}], r"preprocess\[0\]\.std: Field required"),
        ([{"kind": "scale", "factr": 1}], r"preprocess\[0\]\.factr: Extra inputs are not permitted"),
    ],
)
def test_settings_are_named_by_their_place_in_the_document(steps: Any, sentence: str) -> None:
    with pytest.raises(ModelLoadError, match=sentence) as caught:
        parse_config(VectorConfig, "vector-classification", {"preprocess": steps})
    assert not re.search(r"constrained|tuple|mean_std|\.scale", str(caught.value))
