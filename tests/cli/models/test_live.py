"""Publishing is no rollout: a bare name means its champion, and `models publish` says what is live."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from linear_models import FEATURES, SIGNATURE, linear, weights

from penstock.artifacts.artifact import Golden, TaskEntry, VariantSource, write_artifact
from penstock.registry.registry import Registry

Penstock = Callable[..., Any]


def broken(version: str) -> Path:
    """An artifact that disagrees with its golden samples."""
    x = np.ones((2, FEATURES), np.float32)
    artifact = write_artifact(
        Path(f"broken-{version}"),
        name="linear",
        version=version,
        task=TaskEntry(kind="vector-classification", config={"output": "logits"}),
        signature=SIGNATURE,
        variants=[VariantSource("onnx", "fp32", linear(Path(f"broken-{version}.onnx"), seed=1))],
        golden=Golden({"x": x}, {"logits": x @ weights(2)}, 1e-5, 1e-5),
        card="",
    )
    return artifact.path


def version_of(penstock: Penstock) -> str:
    """The version that answers to the bare name."""
    Path("in.json").write_text("[1, 2, 3, 4]")
    return str(penstock("predict", "linear", "in.json").json()["model_version"])


def test_the_first_version_is_live_and_a_later_one_when_the_champion_moves(penstock: Penstock, onnx_file: Path) -> None:
    done = penstock("models", "publish", onnx_file, "--version", "1.0.0")
    assert done.out.endswith("live: linear:1.0.0 (champion)\n")
    done = penstock("models", "publish", linear(onnx_file, seed=1), "--version", "1.1.0")
    assert done.out.splitlines()[-1] == (
        "live: linear:1.0.0 (champion); linear:1.1.0 is published but not live; "
        "penstock models alias linear champion 1.1.0 makes it live"
    )
    assert version_of(penstock) == "1.0.0"
    assert penstock("models", "show", "linear", "--json").json()["version"] == "1.0.0"
    for version in ("1.1.0", "1.0.0"):
        assert penstock("models", "alias", "linear", "champion", version).code == 0
        assert version_of(penstock) == version


def test_an_imported_file_is_live_by_the_same_rule(penstock: Penstock, onnx_file: Path) -> None:
    assert penstock("models", "import", onnx_file).out.endswith("live: linear:v1.0 (champion)\n")
    done = penstock("models", "import", onnx_file, "--version", "v2.0", "--alias", "champion")
    assert done.out.endswith("live: linear:v2.0 (champion)\n")


def test_without_a_champion_the_highest_release_is_live(penstock: Penstock, published: str) -> None:
    assert penstock("models", "alias", published, "champion", "--remove").code == 0
    assert version_of(penstock) == "v2.0"
    done = penstock("models", "publish", "second.onnx", "--name", "linear", "--version", "v3.0")
    assert done.out.endswith("live: linear:v3.0 (the highest release; there is no champion)\n")


def test_an_alias_moves_only_to_a_version_that_this_machine_can_load(penstock: Penstock, published: str) -> None:
    done = penstock("models", "publish", broken("v3.0"))
    assert (done.code, done.out) == (1, "")
    assert "linear:v3.0/onnx-fp32: output 'logits' differs" in done.err
    assert "--no-prove" in done.err
    assert penstock("models", "publish", "broken-v3.0", "--no-prove").code == 0
    done = penstock("models", "alias", published, "champion", "v3.0")
    assert (done.code, done.out) == (1, "")
    assert "linear@champion stays at v1.0" in done.err
    assert "linear:v3.0/onnx-fp32: output 'logits' differs" in done.err
    assert version_of(penstock) == "v1.0"
    assert penstock("models", "alias", published, "champion", "v3.0", "--force").code == 0
    assert penstock("models", "card", published).code == 0
    assert "linear:v3.0" in penstock("predict", published, "in.json").err


def test_a_publish_beside_a_champion_without_files_succeeds_and_says_that_none_is_live(
    penstock: Penstock, onnx_file: Path
) -> None:
    assert penstock("models", "publish", onnx_file).code == 0
    shutil.rmtree("registry/linear/v1.0")
    done = penstock("models", "publish", onnx_file, "--version", "v2.0")
    assert done.code == 0
    assert "live: none, since linear@champion points at version 'v1.0', which is gone" in done.out
    assert "penstock models alias linear champion v2.0 makes linear:v2.0 live" in done.out


def test_show_writes_the_lineage_as_the_manifest_does(penstock: Penstock, onnx_file: Path) -> None:
    assert penstock("models", "publish", onnx_file).code == 0
    text = penstock("models", "show", "linear").out
    assert '{"batchable": true, "difference": 0.0' in text
    assert "['" not in text


def test_show_and_doctor_find_what_a_load_would(
    penstock: Penstock, published: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = penstock("models", "show", published, "--json")
    assert (shown.code, shown.json()["servable"], shown.json()["problem"]) == (0, True, None)
    assert shown.json()["served_as"]["tasks"] == ["vector-classification", "tensor"]
    assert penstock("models", "publish", broken("v3.0"), "--no-prove", "--alias", "next").code == 0
    shown = penstock("models", "show", "linear@next", "--json")
    assert (shown.code, shown.json()["servable"]) == (1, False)
    assert shown.json()["problem"].startswith("linear:v3.0/onnx-fp32: output 'logits' differs")
    text = penstock("models", "show", "linear@next").out
    assert "linear:v3.0 cannot be served here: " in text
    monkeypatch.setenv("PENSTOCK_PORT", "0")
    done = penstock("doctor", "--json")
    (models,) = [finding for finding in done.json()["findings"] if finding["what"] == "models"]
    assert models["value"] == "1 of 2 chosen versions load"
    assert models["wrong"].startswith("linear:v3.0/onnx-fp32: output 'logits' differs")


def test_damaged_files_are_shown_as_such(penstock: Penstock, published: str) -> None:
    Path("registry/linear/v1.0/variants/onnx-fp32/model.onnx").write_bytes(b"other")
    done = penstock("models", "show", published, "--json")
    assert done.code == 1
    assert done.json()["problem"].startswith("linear:v1.0: ")


def test_the_last_version_goes_with_its_champion(penstock: Penstock, published: str) -> None:
    assert penstock("models", "remove", "linear:v1.0", "-y").code == 1, "another version could be the champion"
    assert penstock("models", "remove", "linear:v2.0", "-y").code == 0
    assert penstock("models", "remove", "linear:v1.0", "-y").code == 0
    assert penstock("models", "list", "--json").json()["models"] == []


def test_settings_of_a_task_are_refused_by_name_and_in_the_words_of_json(penstock: Penstock, onnx_file: Path) -> None:
    artifact = write_artifact(
        Path("picture"),
        name="picture",
        version="1",
        task=TaskEntry(kind="image-classification", config={"mode": "L", "resize": {"width": 2}, "crop": True}),
        signature=SIGNATURE,
        variants=[VariantSource("onnx", "fp32", onnx_file)],
        golden=None,
        card="",
    )
    done = penstock("models", "publish", artifact.path)
    assert done.code == 1
    assert "picture:1: the image-classification settings of the model do not fit" in done.err
    assert "resize: Input should be a valid list" in done.err
    with Registry("registry") as registry:
        assert registry.list() == []
    assert json.loads(Path("picture/manifest.json").read_text())["name"] == "picture"
