"""`penstock models publish --no-log-inputs`: a version whose inputs no server may log."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from penstock.artifacts.artifact import Artifact
from penstock.registry.registry import Registry

Penstock = Callable[..., Any]


def published() -> Artifact:
    with Registry("registry", os.environ.get("DATABASE_URL")) as registry:
        return registry.get("linear")


def test_a_file_is_published_with_the_prohibition(penstock: Penstock, onnx_file: Path) -> None:
    assert penstock("models", "publish", onnx_file, "--no-log-inputs").code == 0
    manifest = published().manifest
    assert (manifest.log_inputs, manifest.schema_version) == (False, "1.4")
    assert "never logged" in penstock("models", "show", "linear").out
    assert penstock("models", "publish", onnx_file, "--version", "v2.0").code == 0
    assert "log_inputs" in penstock("models", "diff", "linear:v1.0", "linear:v2.0").out


def test_a_directory_gets_it_and_stays_as_it_is(penstock: Penstock, onnx_file: Path) -> None:
    penstock("models", "publish", onnx_file, "--registry", "plain")
    source = Path("plain/linear/v1.0")
    before = Artifact.open(source).digest
    assert penstock("models", "publish", source, "--no-log-inputs").code == 0
    assert published().manifest.log_inputs is False
    published().verify()
    assert Artifact.open(source).digest == before
    assert Artifact.open(source).manifest.schema_version == "1.2", "a manifest that says nothing stays as it was"


def test_it_belongs_to_one_model(penstock: Penstock) -> None:
    refused = penstock("models", "publish", "--bundled", "--no-log-inputs")
    assert refused.code == 2
    assert "--no-log-inputs belongs to one model" in refused.err
