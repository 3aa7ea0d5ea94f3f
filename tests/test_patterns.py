"""Regular expressions of operators: valid, and quick on every text."""

from __future__ import annotations

import time

import pytest

from penstock.errors import ConfigError
from penstock.patterns import LONGEST_TEXT, checked_pattern
from penstock.settings import Settings, load_settings


@pytest.mark.parametrize(
    "text",
    [
        r"EMP-\d{6}",
        r"\bpatient-\d+\b",
        r"(?:\d{4} ?){3,7}",
        r"[A-Z]{2}\d{2}(?:[ -]?\w{4}){2,7}",
        r"\w+\.internal",
        r"[^@\s]+@[^@\s]+\.[a-z]+",
        r"(?i)mrn[:= ]\d+",
        r"(?:foo|bar)+x",
        r"(\d+-)+\d",
        r"(?P<a>x)(?P=a)(?<=x)(?!y)",
        r"(?s).+?end",
    ],
)
def test_ordinary_expressions_are_allowed(text: str) -> None:
    assert checked_pattern(text).pattern == text


@pytest.mark.parametrize(
    "text",
    [
        r"(a+)+$",
        r"(a|a)*b",
        r"(a|aa)+$",
        r"(\d+)*x",
        r"x(\w+\s?)*$",
        r"(x+x+)+y",
        r"EMP-(\d+)+Z",
        r"(?:\d{1,9})+x",
        r"foo(bar|ba[rz]|b.r)*!",
        r"(?=(\w+)+$)x",
        r"(a?){30}a{30}",
        r"((a?)b?){5,}c",
        r"\d+\d+\d+x",
        r"(?:a{0,9}){9}b",
    ],
)
def test_an_expression_that_some_text_makes_slow_is_refused_at_once(text: str) -> None:
    started = time.thread_time()
    with pytest.raises(ValueError, match="too slow on some texts"):
        checked_pattern(text)
    assert time.thread_time() - started < 5


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("(", "none: missing"),
        ("a{99999999999}", "none: the repetition number is too large"),
        ("(?<=a+)b", "none: look-behind requires fixed-width"),
        ("a*", "matches an empty text"),
        ("", "matches an empty text"),
        ("$", "matches an empty text"),
        ("a" * 501, "500 characters at most"),
    ],
)
def test_an_expression_that_cannot_be_used_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        checked_pattern(text)


def test_the_setting_is_a_list_or_one_expression() -> None:
    assert Settings(redact_patterns=["EMP-\\d{2,4}", "x,y"]).redact_patterns == ("EMP-\\d{2,4}", "x,y")
    environ = {"PENSTOCK_REDACT_PATTERNS": r"EMP-\d{2,4}|MRN-\d+"}
    assert load_settings(environ=environ).settings.redact_patterns == (r"EMP-\d{2,4}|MRN-\d+",)
    with pytest.raises(ConfigError) as refused:
        load_settings(environ={"PENSTOCK_REDACT_PATTERNS": "("})
    assert str(refused.value).startswith(
        "PENSTOCK_REDACT_PATTERNS in the environment is '('; it should hold regular expressions; '(' is none: missing )"
    )


def test_what_is_allowed_is_quick_on_the_longest_piece() -> None:
    for text in (r"\w+\.internal", r"[^@\s]+@[^@\s]+\.[a-z]+", r"(\d+-)+\d"):
        pattern = checked_pattern(text)
        for piece in ("a" * LONGEST_TEXT, "1-" * (LONGEST_TEXT // 2), "@." * (LONGEST_TEXT // 2)):
            started = time.thread_time()
            pattern.search(piece)
            assert time.thread_time() - started < 1
