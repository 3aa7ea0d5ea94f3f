from __future__ import annotations

import pytest
from pydantic import BaseModel

from penstock.errors import InvalidInput, ModelLoadError
from penstock.tasks.validation_errors import field_path, parse_config, parse_request


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
