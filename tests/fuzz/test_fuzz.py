"""The short form of `python tests/fuzz`: every seed and every kept input, and some changes of them."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from targets import TARGETS, corpus, inputs, mutated  # noqa: E402

POOLS = {name: inputs(name) for name in TARGETS}


@pytest.mark.parametrize("name", TARGETS)
def test_what_was_found_once_is_replayed(name: str) -> None:
    for data in (*TARGETS[name].seeds(), *(path.read_bytes() for path in corpus(name))):
        TARGETS[name].run(data)


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=60)
@given(st.integers(0, 2**64))
def test_changed_inputs_give_no_finding(name: str, seed: int) -> None:
    TARGETS[name].run(mutated(random.Random(seed), POOLS[name]))


def test_the_long_form_runs(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(HERE), "array", "--count", "50", "--plain"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
