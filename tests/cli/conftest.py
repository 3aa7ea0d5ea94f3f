"""The `penstock` command, called through its entry point in an empty directory and a clean environment."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from commands import penstock_command
from linear_models import linear

from penstock.cli.main import run
from penstock.settings import Settings, alias_of


class Done(NamedTuple):
    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


Penstock = Callable[..., Done]


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database: Callable[[Path], str]) -> None:
    """Hide the developer's settings from the tests; only the database of the registry in this directory is set."""
    monkeypatch.chdir(tmp_path)
    aliases = {alias_of(name) for name in Settings.model_fields}
    for name in list(os.environ):
        if name.startswith("PENSTOCK_") or name in aliases:
            monkeypatch.delenv(name)
    address = database(tmp_path / "registry")
    if address.startswith("postgresql"):
        monkeypatch.setenv("DATABASE_URL", address)


@pytest.fixture
def penstock(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Penstock:
    """Run one command in this process; return its exit code and output."""

    def call(*args: object, stdin: bytes = b"") -> Done:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capsys.readouterr()
        code = run(lambda: penstock_command([str(arg) for arg in args]))
        return Done(code, *capsys.readouterr())

    return call


@pytest.fixture
def onnx_file(tmp_path: Path) -> Path:
    """Four features, three classes."""
    return linear(tmp_path / "linear.onnx")


@pytest.fixture
def published(penstock: Penstock, onnx_file: Path) -> str:
    """A reference into the registry of the current directory, with two versions; @champion is the older."""
    linear(onnx_file.with_name("second.onnx"), seed=1)
    assert penstock("models", "publish", onnx_file, "--alias", "champion").code == 0
    assert penstock("models", "publish", "second.onnx", "--name", "linear", "--version", "v2.0").code == 0
    return "linear"
