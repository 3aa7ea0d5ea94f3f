"""Text from elsewhere inside a sentence: one line, printable, of limited length."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import first_line, printable, quoted, shortened, worded


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


@pytest.mark.parametrize(
    ("python", "cli", "server"),
    [
        (
            'm.pt: it runs code; pass trust="code", or publish it with trust="code"',
            "m.pt: it runs code; pass --trust code, or publish it with --trust code",
            "m.pt: it runs code; pass PENSTOCK_TRUST=code, or publish it with PENSTOCK_TRUST=code",
        ),
        ('device="cuda:7" cannot be used', "--device cuda:7 cannot be used", "PENSTOCK_DEVICE=cuda:7 cannot be used"),
        ("only prove=False publishes it", "only --no-prove publishes it", "only prove=False publishes it"),
        ("only force=True moves it", "only --force moves it", 'only "force": true moves it'),
        (
            'say so with task="tensor", batch_axes={…}, no_batch=True',
            "say so with --task tensor, --batch-axis NAME:AXIS, --no-batch",
            "say so with PENSTOCK_MODEL_TASK=tensor, PENSTOCK_MODEL_BATCH_AXIS=NAME:AXIS, PENSTOCK_MODEL_NO_BATCH=true",
        ),
        (
            "give labels=[…], preprocess={…} or example_input=…",
            "give --labels FILE, --preprocess FILE or --example FILE",
            "give PENSTOCK_MODEL_LABELS=FILE, PENSTOCK_MODEL_PREPROCESS=FILE or PENSTOCK_MODEL_EXAMPLE=FILE",
        ),
        (
            'pass architecture="module:Class" and architecture_args={…}',
            "pass --architecture module:Class and --architecture-args '{…}'",
            "pass PENSTOCK_MODEL_ARCHITECTURE=module:Class and PENSTOCK_MODEL_ARCHITECTURE_ARGS={…}",
        ),
    ],
)
def test_options_are_named_as_the_reader_sets_them(python: str, cli: str, server: str) -> None:
    assert [worded(python, surface) for surface in ("python", "cli", "server")] == [python, cli, server]


@pytest.mark.parametrize("text", ["", "a=b", 'mistrust="code"', 'trust="two words"', 'name="x"', "enforce=True"])
def test_other_text_keeps_its_words(text: str) -> None:
    for surface in ("python", "cli", "server"):
        assert worded(text, surface) == text


def test_no_message_of_the_library_names_an_option_of_the_command_line() -> None:
    """`worded` adds those; a whole command in backticks may be named anywhere."""
    import penstock

    root = Path(penstock.__file__).parent
    served = {
        "gateway/process/serving.py",
        "gateway/process/server.py",
        "gateway/process/sockets.py",
        "gateway/process/asgi.py",
    }  # started by the command line only
    served |= {"toolchain/tune/server.py"}  # starts the command line
    for file in root.rglob("*.py"):
        shown = str(file.relative_to(root))
        if shown.startswith("cli/") or shown in served or shown == "errors.py":
            continue
        for line in file.read_text(encoding="utf-8").splitlines():
            assert not re.search(r"(?<![-\w`])--[a-z]", re.sub(r"`[^`]*`|var\(--", "", line)), f"{shown}: {line}"
