"""What the shell offers after TAB, as it asks: through the environment of the command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Penstock = Callable[..., Any]


@pytest.fixture
def offered(penstock: Penstock, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], set[str]]:
    """The candidates for a line that was typed up to its last character."""

    def ask(line: str) -> set[str]:
        monkeypatch.setenv("_PENSTOCK_COMPLETE", "complete_fish")
        monkeypatch.setenv("_TYPER_COMPLETE_ARGS", line)
        monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")
        done = penstock()
        assert done.err == ""
        return {candidate.partition("\t")[0] for candidate in done.out.splitlines() if candidate}

    return ask


CASES: list[tuple[str, set[str]]] = [
    ("penstock models show ", {"linear", "linear@champion"}),
    ("penstock models card lin", {"linear", "linear@champion"}),
    ("penstock models show linear:", {"linear:v1.0", "linear:v2.0"}),
    ("penstock models show linear:v2", {"linear:v2.0"}),
    ("penstock models show linear@c", {"linear@champion"}),
    ("penstock models show x", set()),
    ("penstock models diff linear:v1.0 lin", {"linear", "linear@champion"}),
    ("penstock models alias l", {"linear"}),
    ("penstock models alias linear ", {"champion"}),
    ("penstock models alias linear champion v", {"v1.0", "v2.0"}),
    ("penstock models alias nothing ", set()),
    ("penstock models remove ", {"linear:v1.0", "linear:v2.0"}),
    ("penstock models gc lin", {"linear"}),
    ("penstock serve lin", {"linear", "linear@champion", "linear.onnx"}),
    ("penstock serve linear sec", {"second.onnx"}),
    ("penstock predict ./li", {"./linear.onnx"}),
    ("penstock predict reg", {"registry/"}),
    ("penstock models show --registry elsewhere ", set()),
]


def test_models_versions_aliases_and_files_are_offered(offered: Callable[[str], set[str]], published: str) -> None:
    for line, candidates in CASES:
        assert offered(line) == candidates, line


def test_a_registry_that_cannot_be_read_offers_nothing(
    offered: Callable[[str], set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert offered("penstock models show ") == set()
    assert not Path("registry").exists()
    Path("registry").write_text("a file")
    assert offered("penstock models show ") == set()
    monkeypatch.setenv("PENSTOCK_PROT", "1")
    assert offered("penstock models show ") == set()
