"""Text from elsewhere inside a sentence: one line, printable, of limited length."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import first_line, printable, quoted, shortened


@pytest.mark.parametrize(
    ("text", "expected"), [("abc", "abc"), ("abcd", "abcd"), ("abcde", "abcd…"), ("", "")], ids=repr
)
def test_text_is_truncated_with_an_ellipsis(text: str, expected: str) -> None:
    assert shortened(text, 4) == expected


@given(text=st.text())
def test_any_text_is_printed_on_one_line_of_limited_length(text: str) -> None:
    for shown in (printable(text, 30), quoted(text, 30)):
        assert shown.isprintable()
        assert len(shown) <= 32


def test_a_printable_name_is_unchanged() -> None:
    assert printable("größe 1") == "größe 1"
    assert printable("a\nb") == "a\\nb"


def test_a_truncated_quoted_text_has_quotes_on_both_ends() -> None:
    assert quoted("x" * 100, 5) == "'xxxx…'"
    assert quoted(7) == "'7'"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("it failed.\nsecond line"), "it failed"),
        (ValueError("\n\n  it failed"), "it failed"),
        (KeyError(), "KeyError"),
        (ValueError("x" * 300), "x" * 200 + "…"),
    ],
    ids=["several lines", "blank lines", "no message", "long"],
)
def test_the_first_line_of_an_error(error: Exception, line: str) -> None:
    assert first_line(error) == line
