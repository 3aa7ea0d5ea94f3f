"""No regular expression of the product takes long on any text: their steps are counted, by a matcher of our own.

A pattern is tried on the texts that it nearly matches. Twice the text may take twice the steps, and not four times.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from counted_matching import Matcher

import penstock
import penstock_hydraulics
from penstock.patterns import _parser, _repeats_nothing, _repetitions

ROOT = Path(__file__).parents[1]
SOURCES = [ROOT / "src", ROOT / "packages" / "penstock-hydraulics" / "src"]
SHORT, LONG = 40, 80
FUNCTIONS = {"compile", "match", "fullmatch", "search", "sub", "subn", "split", "findall", "finditer"}
"""Of the module `re`, whose first argument is a pattern."""

SLOW_BUT_BOUNDED = {r"(\d+)(?!.*\d)": "a version has at most 100 characters"}
"""Patterns that are quadratic, each with what limits its text."""


def _written() -> Iterator[tuple[str, int]]:
    """The patterns that are written as plain texts in calls of `re`."""
    for path in sorted(path for source in SOURCES for path in source.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or not node.args:
                continue
            first = node.args[0]
            is_re = isinstance(node.func.value, ast.Name) and node.func.value.id == "re"
            if is_re and node.func.attr in FUNCTIONS and isinstance(first, ast.Constant):
                yield first.value.decode("latin-1") if isinstance(first.value, bytes) else str(first.value), 0


def _compiled() -> Iterator[tuple[str, int]]:
    """The patterns that modules hold, also those put together from parts."""
    for package in (penstock, penstock_hydraulics):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if "migrations" in found.name or found.name.endswith("__main__"):
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                module = importlib.import_module(found.name)
            for value in vars(module).values():
                if isinstance(value, re.Pattern):
                    text = value.pattern
                    flags = value.flags & (re.IGNORECASE | re.MULTILINE | re.DOTALL | re.VERBOSE)
                    yield (text.decode("latin-1") if isinstance(text, bytes) else text), int(flags)


PATTERNS = sorted(set(_written()) | set(_compiled()))


def texts(pattern: str, flags: int, length: int) -> Iterator[str]:
    """Texts that the pattern nearly matches: what it repeats, repeated, and something else at the end."""
    tree = _parser.parse(pattern, flags)
    for before, repeated in dict.fromkeys(_repetitions(tree, "")):
        yield (before + repeated * length)[: length + len(before)] + "\0"


@pytest.mark.parametrize(("pattern", "flags"), PATTERNS)
def test_a_pattern_is_linear_on_what_it_nearly_matches(pattern: str, flags: int) -> None:
    tree = _parser.parse(pattern, flags)
    assert not _repeats_nothing(tree)
    if pattern in SLOW_BUT_BOUNDED:
        return
    for short, long in zip(texts(pattern, flags, SHORT), texts(pattern, flags, LONG), strict=True):
        small, large = Matcher(tree, flags).steps(short), Matcher(tree, flags).steps(long)
        assert large <= 2.6 * small + 200, f"{small} steps on {short!r}, {large} on {long!r}"


def test_patterns_of_every_part_are_collected() -> None:
    assert len(PATTERNS) > 100


@pytest.mark.parametrize("pattern", [r"(a+)+$", r"(a|aa)+$", r"\d+\d+\d+x", r"x(\w+\s?)*$", r"a*a*b"])
def test_the_count_shows_patterns_that_are_slow(pattern: str) -> None:
    tree = _parser.parse(pattern)
    counts = [
        (Matcher(tree, 0, most=20_000).steps(short), Matcher(tree, 0, most=20_000).steps(long))
        for short, long in zip(texts(pattern, 0, 20), texts(pattern, 0, 40), strict=True)
    ]
    assert any(large > 2.6 * small + 200 or large >= 20_000 for small, large in counts)
