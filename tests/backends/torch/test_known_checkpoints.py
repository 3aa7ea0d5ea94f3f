from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from penstock.backends.torch import known_checkpoints
from penstock.backends.torch.known_checkpoints import described
from penstock.errors import UnsupportedFormat
from penstock.file_description import FileDescription

Describe = Callable[..., Any]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "model.ckpt"
    torch.save({"state_dict": {"model.weight": torch.zeros(3, 4)}, "hyper_parameters": {"rows": 3}}, path)
    return path


def _registered(monkeypatch: pytest.MonkeyPatch, *functions: Describe) -> None:
    named = {f"package{place}:describe": function for place, function in enumerate(functions)}
    monkeypatch.setattr(known_checkpoints, "_describers", lambda: named)


def test_the_first_package_that_knows_the_weights_describes_them(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rows(shapes: dict[str, Any], arguments: dict[str, Any]) -> dict[str, Any]:
        return {"architecture": torch.nn.Linear, "architecture_args": {"shapes": shapes, **arguments}, "colour": "red"}

    _registered(monkeypatch, lambda *_: None, rows, lambda *_: pytest.fail("asked after an answer"))
    found = described(checkpoint, FileDescription(architecture_args={"bias": False}))
    assert found.architecture is torch.nn.Linear
    assert found.architecture_args == {"bias": False}  # what its user says
    assert described(checkpoint, FileDescription()).architecture_args == {"shapes": {"model.weight": (3, 4)}, "rows": 3}


def test_a_class_that_is_named_and_a_file_that_is_no_checkpoint_are_left_alone(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _registered(monkeypatch, lambda *_: pytest.fail("asked"))
    named = FileDescription(architecture=torch.nn.Linear)
    assert described(checkpoint, named) is named
    (tmp_path / "damaged.ckpt").write_bytes(b"rubbish")
    about = FileDescription()
    assert described(tmp_path / "damaged.ckpt", about) is about


def test_a_function_that_fails_is_named(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _registered(monkeypatch, lambda *_: 1 / 0)
    with pytest.raises(UnsupportedFormat, match="package0:describe cannot describe the checkpoint"):
        described(checkpoint, FileDescription())
