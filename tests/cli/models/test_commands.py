"""`penstock models`, against a real registry and real ONNX files."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from linear_models import FEATURES, SIGNATURE, linear, weights
from onnx import TensorProto, helper
from quantized_models import int8_variants, write_quantized

from penstock.artifacts.artifact import Golden, TaskEntry, VariantSource, write_artifact
from penstock.registry.registry import Registry

Penstock = Callable[..., Any]


def refused(done: Any, *parts: str) -> None:
    assert done.code == 1
    assert done.out == ""
    assert done.err.startswith("penstock: ")
    assert done.err.count("\n") == 1
    assert [part for part in parts if part not in done.err] == [], done.err


def test_an_empty_registry_prints_a_hint_and_is_not_created(penstock: Penstock) -> None:
    done = penstock("models", "list")
    assert done.code == 0
    assert "penstock models publish --bundled" in done.out
    assert penstock("models", "list", "--json").json() == {"models": [], "broken": []}
    assert not Path("registry").exists()


def test_a_bare_file_becomes_an_artifact_that_answers(penstock: Penstock, onnx_file: Path) -> None:
    done = penstock("models", "publish", onnx_file, "--alias", "champion", "--alias", "canary", "--json")
    (model,) = done.json()["models"]
    assert (model["name"], model["version"], model["task"]) == ("linear", "v1.0", "vector-classification")
    assert model["aliases"] == ["canary", "champion"]
    with Registry("registry", os.environ.get("DATABASE_URL")) as registry:
        artifact = registry.get("linear@champion")
    artifact.verify()
    golden = artifact.golden()
    assert golden is not None
    assert golden.rows == 8
    assert "self-reference" in artifact.manifest.lineage["golden_samples"]
    assert artifact.variants[0].num_parameters == 12


def test_publishing_the_same_file_twice_changes_nothing(penstock: Penstock, onnx_file: Path) -> None:
    first = penstock("models", "publish", onnx_file, "--json").json()
    assert penstock("models", "publish", onnx_file, "--json").json() == first


def test_another_model_under_a_taken_version_is_refused(penstock: Penstock, published: str) -> None:
    done = penstock("models", "publish", "second.onnx", "--name", published)
    refused(done, "linear:v1.0 already exists")


def test_a_published_artifact_directory_can_be_published_elsewhere(penstock: Penstock, published: str) -> None:
    done = penstock("models", "publish", f"registry/{published}/v2.0", "--registry", "other")
    assert done.code == 0
    assert done.out.startswith("published linear:v2.0 (")
    assert [m["version"] for m in penstock("models", "list", "--registry", "other", "--json").json()["models"]] == [
        "v2.0"
    ]


def test_labels_and_card_of_a_file_are_published(penstock: Penstock, onnx_file: Path) -> None:
    Path("labels.txt").write_text("red\ngreen\n\nblue\n")
    Path("about.md").write_text("# Colours\n")
    assert penstock("models", "publish", onnx_file, "--labels", "labels.txt", "--card", "about.md").code == 0
    manifest = penstock("models", "show", "linear", "--json").json()["manifest"]
    assert manifest["task"]["config"] == {"labels": ["red", "green", "blue"]}
    assert penstock("models", "card", "linear").out == "# Colours\n\n"


def test_a_model_of_whole_numbers_and_free_axes_gets_golden_samples(penstock: Penstock) -> None:
    tensors = [helper.make_tensor_value_info(n, TensorProto.INT64, ["batch", "length"]) for n in ("ids", "copy")]
    graph = helper.make_graph([helper.make_node("Identity", ["ids"], ["copy"])], "copy", tensors[:1], tensors[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), "copy.onnx")
    assert penstock("models", "publish", "copy.onnx").code == 0
    shown = penstock("models", "show", "copy", "--json").json()
    assert shown["task"] == "tensor"
    assert shown["manifest"]["golden"]["rows"] == 8


def test_a_model_that_answers_nan_to_random_numbers_is_published_without_golden_samples(penstock: Penstock) -> None:
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2]) for name in ("x", "y")]
    nodes = [helper.make_node("Exp", ["x"], ["e"]), helper.make_node("Neg", ["e"], ["n"])]
    nodes.append(helper.make_node("Log", ["n"], ["y"]))
    graph = helper.make_graph(nodes, "log", tensors[:1], tensors[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), "log.onnx")
    assert penstock("models", "publish", "log.onnx").code == 0
    manifest = penstock("models", "show", "log", "--json").json()["manifest"]
    assert manifest["golden"] is None
    assert manifest["lineage"]["golden_samples"].startswith("none")


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (["nowhere.onnx"], ["nowhere.onnx", "no such file"]),
        (["broken.onnx"], ["broken.onnx"]),
        (["weights.pt"], ["weights.pt", "state dict"]),
        (["empty"], ["manifest.json"]),
        (["linear.onnx", "--task", "fortune"], ["'fortune'", "vector-classification"]),
        (["linear.onnx", "--labels", "two.txt"], ["labels holds 2 names", "3"]),
        (["linear.onnx", "--labels", "none.txt"], ["none.txt cannot be read"]),
        (["linear.onnx", "--name", "../x"], ["name"]),
        (["linear.onnx", "--version", "a b"], ["version"]),
    ],
)
def test_a_faulty_file_is_refused_and_leaves_no_model(
    penstock: Penstock, onnx_file: Path, args: list[str], parts: list[str]
) -> None:
    onnx_file.with_name("broken.onnx").write_bytes(b"not a model")
    onnx_file.with_name("weights.pt").write_bytes(b"")
    onnx_file.with_name("two.txt").write_text("a\nb\n")
    Path("empty").mkdir()
    refused(penstock("models", "publish", *args), *parts)
    assert penstock("models", "list", "--json").json()["models"] == []


@pytest.mark.parametrize("args", [["--bundled", "--name", "x"], ["folder", "--version", "v2"], ["folder", "--bundled"]])
def test_options_for_files_are_refused_for_artifacts(penstock: Penstock, args: list[str]) -> None:
    Path("folder").mkdir()
    assert penstock("models", "publish", *args).code == 2


def test_bundled_models_are_published_by_name(penstock: Penstock) -> None:
    names = [model["name"] for model in penstock("models", "publish", "--bundled", "--json").json()["models"]]
    assert names == ["digits", "digits-image", "hydraulics"]


def test_the_list_shows_versions_from_low_to_high_with_their_aliases(penstock: Penstock, published: str) -> None:
    models = penstock("models", "list", "--json").json()["models"]
    assert [(m["name"], m["version"], m["aliases"]) for m in models] == [
        (published, "v1.0", ["champion"]),
        (published, "v2.0", []),
    ]
    table = penstock("models", "list").out
    assert "champion" in table
    assert "onnx-fp32" in table


def test_a_damaged_artifact_is_named_and_the_others_are_listed(penstock: Penstock, published: str) -> None:
    manifest = Path("registry", published, "v1.0", "manifest.json")
    manifest.write_text(manifest.read_text().replace("linear", "broken"))
    done = penstock("models", "list", "--json")
    assert done.code == 1
    assert [model["version"] for model in done.json()["models"]] == ["v2.0"]
    assert str(manifest) in done.err
    refused(penstock("models", "show", f"{published}:v1.0"), str(manifest))


def test_a_model_is_shown_with_the_digest_and_size_of_its_files(penstock: Penstock, published: str) -> None:
    table = penstock("models", "show", f"{published}@champion").out
    shown = penstock("models", "show", f"{published}@champion", "--json").json()
    (variant,) = shown["manifest"]["variants"]
    (file,) = variant["files"]
    assert shown["version"] == "v1.0"
    assert file["size"] == Path("linear.onnx").stat().st_size
    for text in (file["sha256"], shown["digest"], "[-1, 4]", "logits", "v1.0", "champion", "self-reference"):
        assert text in table


def test_the_card_is_printed_as_markdown_or_html(penstock: Penstock, published: str) -> None:
    assert penstock("models", "card", published).out.startswith("---\nlicense:")
    assert "<h1>linear v1.0</h1>" in penstock("models", "card", published, "--html").out


def test_an_alias_is_moved_and_removed(penstock: Penstock, published: str) -> None:
    done = penstock("models", "alias", published, "champion")
    assert (done.code, done.out) == (0, "linear@champion is linear:v2.0\n")
    assert penstock("models", "show", "linear@champion", "--json").json()["version"] == "v2.0"
    assert penstock("models", "alias", published, "champion", "v1.0").code == 0
    assert penstock("models", "show", "linear@champion", "--json").json()["version"] == "v1.0"
    assert penstock("models", "alias", published, "champion", "v1.0", "--remove").code == 2
    assert penstock("models", "alias", published, "champion", "--remove").code == 0
    refused(penstock("models", "show", "linear@champion"), "champion")
    refused(penstock("models", "alias", published, "champion", "--remove"), "champion")


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (["linear", "champion", "v9"], ["v9", "v1.0"]),
        (["lineal", "champion"], ["lineal", "linear"]),
        (["linear:v1.0", "champion"], ["linear:v1.0"]),
        (["linear", "a b"], ["alias"]),
    ],
)
def test_an_alias_of_an_unknown_version_is_refused(
    penstock: Penstock, published: str, args: list[str], parts: list[str]
) -> None:
    refused(penstock("models", "alias", *args), *parts)
    assert penstock("models", "list", "--json").json()["models"][0]["aliases"] == ["champion"]


def test_a_version_is_removed_once_no_alias_points_at_it(penstock: Penstock, published: str) -> None:
    refused(penstock("models", "remove", f"{published}:v1.0", "--yes"), "champion")
    assert penstock("models", "alias", published, "champion", "--remove").code == 0
    assert penstock("models", "remove", f"{published}:v1.0", "--yes").code == 0
    assert not Path("registry", published, "v1.0").exists()
    refused(penstock("models", "show", f"{published}:v1.0"), "v1.0", "v2.0")


def test_removing_asks_first_and_names_a_version(penstock: Penstock, published: str) -> None:
    assert penstock("models", "remove", f"{published}:v2.0", stdin=b"n\n").code == 1
    assert Path("registry", published, "v2.0").exists()
    assert penstock("models", "remove", f"{published}:v2.0", stdin=b"y\n").code == 0
    assert not Path("registry", published, "v2.0").exists()
    refused(penstock("models", "remove", published, "--yes"), "version")


@pytest.mark.parametrize(
    ("ref", "parts"),
    [
        ("lineal", ["lineal", "linear"]),
        ("linear:v9", ["v9", "v1.0", "v2.0"]),
        ("linear@missing", ["missing", "champion"]),
        ("../linear", ["../linear"]),
    ],
)
def test_an_unknown_reference_is_answered_with_the_existing_ones(
    penstock: Penstock, published: str, ref: str, parts: list[str]
) -> None:
    refused(penstock("models", "show", ref), *parts)


def test_an_unwritable_registry_is_one_sentence(penstock: Penstock, onnx_file: Path) -> None:
    Path("registry").write_text("a file where the directory should be")
    refused(penstock("models", "publish", onnx_file), "registry")
    assert Path("registry").is_file()


def test_external_weights_are_published_with_the_model(penstock: Penstock, tmp_path: Path) -> None:
    model = onnx.load(linear(tmp_path / "inside.onnx"))
    onnx.save(model, "outside.onnx", save_as_external_data=True, location="outside.onnx.data", size_threshold=0)
    assert penstock("models", "publish", "outside.onnx").code == 0
    (variant,) = penstock("models", "show", "outside", "--json").json()["manifest"]["variants"]
    assert [Path(file["path"]).name for file in variant["files"]] == ["model.onnx", "outside.onnx.data"]
    done = penstock("predict", "outside", "-", stdin=str(np.ones(4).tolist()).encode())
    assert done.code == 0, done.err


def test_an_artifact_that_fails_its_golden_samples_is_refused_before_it_is_published(
    penstock: Penstock, onnx_file: Path, tmp_path: Path
) -> None:
    x = np.ones((2, FEATURES), np.float32)
    liar = write_artifact(
        tmp_path / "liar",
        name="liar",
        version="1",
        task=TaskEntry(kind="vector-classification", config={}),
        signature=SIGNATURE,
        variants=[VariantSource("onnx", "fp32", onnx_file)],
        golden=Golden({"x": x}, {"logits": x @ weights(0) + 1}, 1e-3, 1e-3),
        card="",
    )
    refused(penstock("models", "publish", liar.path), "liar:1/onnx-fp32", "golden samples")
    assert "liar" not in penstock("models", "list").out
    assert penstock("models", "publish", liar.path, "--no-prove").code == 0
    assert "liar" in penstock("models", "list").out


def test_fields_of_a_newer_manifest_are_shown_as_ignored(penstock: Penstock, published: str, tmp_path: Path) -> None:
    source = tmp_path / "newer"
    shutil.copytree(f"registry/{published}/v2.0", source)
    manifest = source / "manifest.json"
    document = json.loads(manifest.read_text()) | {"schema_version": "1.9", "version": "v3.0", "signatures": [1]}
    manifest.write_text(json.dumps(document))
    assert penstock("models", "publish", source).code == 0
    shown = penstock("models", "show", f"{published}:v3.0", "--json").json()
    assert shown["unknown_fields"] == ["signatures"]
    assert shown["manifest"]["signatures"] == [1]
    assert [sentence for sentence in shown["warnings"] if "schema version 1.9" not in sentence] == []
    table = penstock("models", "show", f"{published}:v3.0").out
    assert table.count("warning: ") == 1
    assert f"warning: {shown['warnings'][0]}" in table
    assert penstock("models", "show", f"{published}:v2.0", "--json").json()["warnings"] == []
    other = penstock("models", "diff", f"{published}:v2.0", f"{published}:v3.0", "--no-run", "--json").json()["changes"]
    assert [(change["part"], change["field"], change["b"]) for change in other] == [("other", "signatures", [1])]


def test_an_artifact_of_int8_variants_only_is_verified_and_published(penstock: Penstock, tmp_path: Path) -> None:
    source = write_quantized(tmp_path / "int8", "1", int8_variants(tmp_path)).path
    assert penstock("models", "publish", source).code == 0
    (model,) = penstock("models", "list", "--json").json()["models"]
    assert model["variants"] == ["onnx-int8", "onnx-int8-per-channel"]
    assert "onnx-int8-per-channel" in penstock("models", "show", "mlp").out


def test_an_invalid_alias_is_refused_before_anything_is_published(penstock: Penstock, onnx_file: Path) -> None:
    refused(penstock("models", "publish", onnx_file, "--alias", "x y"), "alias", "'x y'")
    assert penstock("models", "list", "--json").json()["models"] == []


@pytest.mark.parametrize("place", ["linear.onnx", "linear.onnx/below"])
def test_a_registry_at_or_below_a_file_is_refused(penstock: Penstock, onnx_file: Path, place: str) -> None:
    assert onnx_file.name == "linear.onnx"
    refused(penstock("models", "list", "--registry", place), "linear.onnx", "not a directory")


def test_alias_remove_and_card_print_json(penstock: Penstock, published: str) -> None:
    moved = penstock("models", "alias", published, "newest", "v2.0", "--json")
    assert moved.json() == {"name": "linear", "alias": "newest", "version": "v2.0"}
    assert penstock("models", "alias", published, "newest", "--remove", "--json").json()["version"] is None
    card = penstock("models", "card", f"{published}:v2.0", "--json").json()
    assert (card["ref"], card["format"]) == ("linear:v2.0", "markdown")
    assert card["card"].startswith("---\nlicense:")
    html = penstock("models", "card", f"{published}:v2.0", "--html", "--json").json()
    assert html["format"] == "html"
    assert "<h1>linear v2.0</h1>" in html["card"]
    asked = penstock("models", "remove", f"{published}:v2.0", "--json", stdin=b"y\n")
    assert (asked.code, asked.json()) == (0, {"removed": "linear:v2.0"})
    refused(penstock("models", "remove", f"{published}:v2.0", "--json", "--yes"), "v2.0")
