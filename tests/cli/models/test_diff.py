"""`penstock models diff`, against a real registry."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from linear_models import CLASSES, FEATURES, SIGNATURE, linear, weights

from penstock.artifacts.artifact import Golden, TaskEntry, VariantSource, write_artifact
from penstock.artifacts.diff import changes
from penstock.artifacts.manifest import Manifest
from penstock.artifacts.variant import MANIFEST
from penstock.tensors import Signature, TensorSpec

Penstock = Callable[..., Any]
Publish = Callable[..., None]


@pytest.fixture
def publish(penstock: Penstock, tmp_path: Path) -> Publish:
    """Publish a version of `model`, with golden samples from the given seed."""

    def run(version: str, seed: int = 0, samples: int | None = 7, **facts: Any) -> None:
        golden = None
        if samples is not None:
            x = np.random.default_rng(samples).standard_normal((20, FEATURES)).astype(np.float32)
            golden = Golden({"x": x}, {"logits": x @ weights(seed)}, 1e-4, 1e-4)
        artifact = write_artifact(
            tmp_path / f"source-{version}",
            name="model",
            version=version,
            task=TaskEntry(kind="vector-classification", config={"output": "logits"}),
            signature=facts.pop("signature", SIGNATURE),
            variants=[VariantSource("onnx", "fp32", linear(tmp_path / f"{version}.onnx", seed))],
            golden=golden,
            card="",
            created_at=facts.pop("created_at", "2026-01-01T00:00:00Z"),
            **facts,
        )
        done = penstock("models", "publish", artifact.path, "--no-prove")
        assert done.code == 0, done.err

    return run


def test_differences_are_listed_field_by_field(penstock: Penstock, publish: Publish) -> None:
    publish("v1", metrics={"accuracy": 0.97, "note": "first"}, lineage={"commit": "abc"})
    publish("v2", seed=1, metrics={"accuracy": 0.985, "f1": 0.9}, lineage={"commit": "abc"})
    done = penstock("models", "diff", "model:v1", "model:v2", "--json").json()
    assert (done["a"], done["b"], done["same"]) == ("model:v1", "model:v2", False)
    by_field = {(change["part"], change["field"]): (change["a"], change["b"]) for change in done["changes"]}
    assert by_field.pop(("files", "variants/onnx-fp32/model.onnx"))
    assert by_field.pop(("files", "golden.safetensors"))
    assert by_field == {
        ("metrics", "accuracy"): (0.97, 0.985),
        ("metrics", "f1"): (None, 0.9),
        ("metrics", "note"): ("first", None),
    }
    table = penstock("models", "diff", "model:v1", "model:v2").out
    assert "+0.015" in table
    assert "answers: logits differs by at most" in table


def test_the_table_is_grouped_by_part_with_changes_in_percent(penstock: Penstock, publish: Publish) -> None:
    publish("v1", metrics={"accuracy": 0.8, "f1": 0.5}, lineage={"commit": "abc"})
    publish("v2", seed=1, metrics={"accuracy": 0.9, "f1": 0.25}, lineage={"commit": "def", "parent": "model:v1"})
    done = penstock("models", "diff", "model:v1", "model:v2")
    rows = [line.split() for line in done.out.splitlines()]
    assert ["metrics", "accuracy", "0.8", "0.9", "+0.1", "+12.5", "%"] in rows
    assert ["f1", "0.5", "0.25", "-0.25", "-50.0", "%"] in rows
    assert sum(row[:1] == ["lineage"] for row in rows) == 1
    accuracy = next(
        change
        for change in penstock("models", "diff", "model:v1", "model:v2", "--json").json()["changes"]
        if change["field"] == "accuracy"
    )
    assert accuracy["percent"] == pytest.approx(12.5)


def test_the_exit_code_shows_differences_only_when_asked(penstock: Penstock, publish: Publish) -> None:
    publish("v1")
    publish("v2", seed=1)
    assert penstock("models", "diff", "model:v1", "model:v2").code == 0
    assert penstock("models", "diff", "model:v1", "model:v2", "--exit-code").code == 1
    assert penstock("models", "diff", "model:v1", "model:v2", "--exit-code", "--json").json()["same"] is False
    assert penstock("models", "diff", "model:v1", "model:v1", "--exit-code").code == 0


def test_the_time_of_creation_alone_is_no_difference(penstock: Penstock, publish: Publish) -> None:
    publish("v1")
    publish("v2", created_at="2026-02-02T00:00:00Z")
    done = penstock("models", "diff", "model:v1", "model:v2", "--exit-code")
    assert (done.code, "created_at" in done.out) == (0, True)


def test_a_tensor_is_compared_by_its_name(penstock: Penstock, publish: Publish) -> None:
    named = Signature((TensorSpec("x", "FP32", (-1, FEATURES)),), (TensorSpec("logits", "FP32", (-1, -1)),))
    publish("v1")
    publish("v2", signature=named)
    changes = penstock("models", "diff", "model:v1", "model:v2", "--json").json()["changes"]
    fields = {change["field"]: (change["a"], change["b"]) for change in changes if change["part"] == "signature"}
    assert fields == {"outputs.logits.shape": ([-1, CLASSES], [-1, -1])}


def test_the_answers_to_the_same_samples_are_compared_as_recorded(penstock: Penstock, publish: Publish) -> None:
    publish("v1")
    publish("v2", seed=1)
    x = np.random.default_rng(7).standard_normal((20, FEATURES)).astype(np.float32)
    ours, theirs = x @ weights(0), x @ weights(1)
    answers = penstock("models", "diff", "model:v1", "model:v2", "--json").json()["answers"]
    assert (answers["compared"], answers["how"], answers["rows"]) == (True, "recorded", 20)
    assert answers["outputs"]["logits"]["max_abs"] == pytest.approx(np.abs(ours - theirs).max(), rel=1e-5)
    same = (ours.argmax(1) == theirs.argmax(1)).mean()
    assert answers["outputs"]["logits"]["same_top_1"] == pytest.approx(same)


def test_with_other_samples_the_second_model_is_run_on_those_of_the_first(penstock: Penstock, publish: Publish) -> None:
    publish("v1")
    publish("v2", samples=8)
    answers = penstock("models", "diff", "model:v1", "model:v2", "--json").json()["answers"]
    assert answers["how"] == "run here"
    assert answers["outputs"]["logits"]["max_abs"] < 1e-4
    done = penstock("models", "diff", "model:v1", "model:v2", "--no-run")
    assert "was not run" in done.out


def test_answers_that_cannot_be_compared_are_explained(penstock: Penstock, publish: Publish) -> None:
    publish("v1", samples=None)
    publish("v2")
    assert "model:v1 has no golden samples" in penstock("models", "diff", "model:v1", "model:v2").out
    wide = Signature((TensorSpec("y", "FP32", (-1, FEATURES)),), SIGNATURE.outputs)
    publish("v3", samples=None, signature=wide)
    done = penstock("models", "diff", "model:v2", "model:v3")
    assert done.code == 0
    assert "takes other inputs" in done.out


def test_a_second_model_that_does_not_load_does_not_hide_the_differences(penstock: Penstock, publish: Publish) -> None:
    publish("v1", metrics={"accuracy": 0.5})
    publish("v2", samples=8)
    file = Path("registry/model/v2/variants/onnx-fp32/model.onnx")
    file.write_bytes(b"damaged")
    done = penstock("models", "diff", "model:v1", "model:v2")
    assert done.code == 0
    assert "accuracy" in done.out
    assert "not compared" in done.out


def test_a_version_is_equal_to_itself(penstock: Penstock, publish: Publish) -> None:
    publish("v1")
    done = penstock("models", "diff", "model", "model:v1")
    assert (done.code, done.out.splitlines()[0]) == (0, "model:v1 and model:v1 have the same content")
    assert penstock("models", "diff", "model", "model:v1", "--json").json()["same"] is True


def test_an_unknown_reference_is_one_sentence(penstock: Penstock, publish: Publish) -> None:
    publish("v1")
    done = penstock("models", "diff", "model:v1", "model:v9")
    assert (done.code, done.out) == (1, "")
    assert "v9" in done.err


def test_unknown_fields_of_files_are_compared(penstock: Penstock, publish: Publish) -> None:
    publish("v1")
    first = Manifest.from_bytes(
        Path(penstock("models", "show", "model:v1", "--json").json()["path"], MANIFEST).read_bytes()
    )
    document = {**first.to_json(), "schema_version": "1.99"}
    document["variants"][0]["files"][0]["blake3"] = "ab"
    document["golden"]["file"]["blake3"] = "cd"
    found = changes(first, Manifest.from_bytes(json.dumps(document).encode()))
    assert [(change.part, change.field, change.b) for change in found] == [
        ("files", "golden.safetensors.blake3", "cd"),
        ("files", "variants/onnx-fp32/model.onnx.blake3", "ab"),
    ]
