"""Searches of a small model from the call to the published version, its report, and the check of that report."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from searched_models import published, reference, rows

import penstock
from penstock.engine.predictor.predictor import Predictor
from penstock.errors import InvalidInput, ModelNotFound
from penstock.registry.registry import Registry
from penstock.toolchain.recipes.recipe import Recipe
from penstock.toolchain.report.terminal import Progress
from penstock.toolchain.search import plan
from penstock.toolchain.search.machine import fingerprint
from penstock.toolchain.search.optimize import Optimization, seconds_of
from penstock.toolchain.search.outcome.check import check_report
from penstock.toolchain.search.trying import making

STATIC = {"format": "onnx", "techniques": [{"kind": "quantize-static"}]}
SAME = {"format": "onnx", "techniques": []}


@dataclass
class Searched:
    """A finished search with all that it left behind."""

    registry: Path
    found: Optimization
    report: Path
    data: Path


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Searched:
    """The whole plan, for the smallest size: the one target that no noise can reach."""
    home = tmp_path_factory.mktemp("search")
    x = rows()
    np.savez(home / "calib.npz", x=x, right=reference(x).argmax(axis=1))
    with Registry(home / "registry") as registry:
        published(registry, home / "source")
    found = penstock.optimize(
        "mlp",
        data=home / "calib.npz",
        labels="right",
        max_accuracy_drop=0.05,
        target="size",
        time_budget="10m",
        registry=home / "registry",
        report=home / "report",
    )
    return Searched(home / "registry", found, home / "report" / "report.json", home / "calib.npz")


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with Registry(tmp_path / "registry") as registry:
        published(registry, tmp_path / "source")
        yield registry


def _versions(registry: Registry) -> list[str]:
    return registry.versions("mlp")


def test_the_chosen_form_is_published_with_its_recipe_and_where_it_comes_from(searched: Searched) -> None:
    found = searched.found
    assert found.exit_code == 0
    assert found.chosen is not None
    assert found.artifact is not None
    assert found.artifact.ref == "mlp:v1.1"
    variants = {variant.name: variant for variant in found.artifact.variants}
    chosen = variants[found.chosen.name]
    assert (chosen.precision, chosen.accepted, chosen.batch_invariant) == ("int8", True, True)
    assert chosen.recipe is not None
    recipe = json.loads((found.artifact.path / chosen.recipe).read_text())
    assert Recipe.from_json(recipe) == found.chosen.planned.recipe
    assert "onnx-fp32" in variants, "the baseline stays, for machines that run nothing else"
    lineage = found.artifact.manifest.lineage
    assert lineage["optimized_from"] == "mlp:v1.0"
    assert lineage["optimization"]["chosen"] == found.chosen.name
    assert lineage["seed"] == 3


def test_the_variants_record_their_speed_by_batch_size_on_this_machine(searched: Searched) -> None:
    assert searched.found.artifact is not None
    for variant in searched.found.artifact.variants:
        assert variant.benchmark is not None
        assert {"1", "32"} <= set(variant.benchmark["p50_ms"])
        assert variant.benchmark["environment"]["id"] == fingerprint()["id"]


def test_the_card_has_a_section_about_the_optimization_and_keeps_the_others(searched: Searched) -> None:
    assert searched.found.artifact is not None
    card = searched.found.artifact.card_text()
    assert card.count("## Optimization") == 1
    assert "## Limits" in card
    assert f"{searched.found.chosen.name} was chosen" in card  # type: ignore[union-attr]


def test_every_candidate_that_was_not_chosen_says_why(searched: Searched) -> None:
    candidates = {one.name: one for one in searched.found.candidates}
    assert all(one.why for one in candidates.values())
    assert {one.status for one in candidates.values()} >= {"chosen", "skipped"}
    assert candidates["torchscript-fp32"].status == "skipped"


def test_a_server_runs_the_new_version_and_answers_as_before(searched: Searched) -> None:
    x = rows(4, seed=11)
    with Predictor("mlp:v1.1", registry=searched.registry) as predictor:
        np.testing.assert_allclose(_logits(predictor.predict_batch(x)), reference(x), atol=0.5)


def _logits(results: Any) -> Any:
    return np.stack([np.asarray(result.outputs["logits"]).reshape(-1) for result in results])


def test_the_report_is_the_contract_s_document(searched: Searched) -> None:
    document = json.loads(searched.report.read_text())
    assert document == json.loads(json.dumps(searched.found.report))
    assert {"ref", "baseline", "eager", "chosen", "candidates", "environment", "hashes", "command"} <= set(document)
    assert document["schema_version"] == "1.0"
    assert document["eager"] is None, "the model has no PyTorch variant"
    for one in document["candidates"]:
        assert {"name", "recipe", "accuracy", "agreement", "p50_ms", "size_bytes", "status", "why"} <= set(one)
        assert json.loads(json.dumps(Recipe.from_json(one["recipe"]).to_json())) == one["recipe"]
    page = (searched.report.parent / "report.html").read_text()
    assert document["chosen"] in page
    assert "<script src" not in page


def test_the_check_of_the_report_passes_on_the_machine_that_wrote_it(searched: Searched) -> None:
    found = check_report("mlp:v1.1", searched.report, data=searched.data, labels="right", registry=searched.registry)
    assert found["ok"], found["findings"]
    assert {"files", "answers", "accuracy", "size"} <= {finding["what"] for finding in found["findings"]}


def test_the_check_finds_an_altered_file(searched: Searched, tmp_path: Path) -> None:
    shutil.copytree(searched.registry, tmp_path / "registry")
    model = next((tmp_path / "registry" / "mlp" / "v1.1").rglob("onnx-int8*/model.onnx"))
    model.write_bytes(model.read_bytes() + b"\0")
    found = check_report("mlp:v1.1", searched.report, registry=tmp_path / "registry")
    assert not found["ok"]
    assert any("model.onnx" in finding["found"] for finding in found["findings"] if not finding["ok"])


def test_the_check_finds_another_version_missing_instructions_lost_accuracy_and_lost_speed(
    searched: Searched, tmp_path: Path
) -> None:
    document = json.loads(searched.report.read_text())
    name = document["chosen"]
    document["max_accuracy_drop"] = -0.5
    next(one for one in document["candidates"] if one["name"] == name)["ratio"]["median"] *= 3
    altered = tmp_path / "report.json"
    altered.write_text(json.dumps(document))
    found = check_report("mlp:v1.1", altered, data=searched.data, labels="right", registry=searched.registry)
    wrong = {(finding["variant"], finding["what"]) for finding in found["findings"] if not finding["ok"]}
    assert {(name, "accuracy"), (name, "size")} <= wrong
    other = check_report("mlp:v1.0", searched.report, registry=searched.registry)
    assert any(finding["what"] == "digest" and not finding["ok"] for finding in other["findings"])


@pytest.mark.parametrize("content", ["{}", "[]", "no json", '{"schema_version": "2.0", "candidates": []}'])
def test_what_is_no_report_is_refused(registry: Registry, tmp_path: Path, content: str) -> None:
    (tmp_path / "report.json").write_text(content)
    with pytest.raises(InvalidInput, match=r"check: .*report\.json"):
        check_report("mlp", tmp_path / "report.json", registry=registry)


def test_nothing_is_published_when_nothing_is_better(registry: Registry) -> None:
    found = penstock.optimize("mlp", data={"x": rows()}, recipe=SAME, time_budget=300, registry=registry)
    assert (found.exit_code, found.chosen, found.artifact) == (3, None, None)
    (only,) = found.candidates
    assert (only.status, only.why) == ("dominated", "its file is the same as that of onnx-fp32")
    assert _versions(registry) == ["v1.0"]


def test_what_is_better_but_breaks_the_budget_is_not_published(registry: Registry) -> None:
    found = penstock.optimize(
        "mlp",
        data={"x": rows(800)},
        recipe=STATIC,
        max_accuracy_drop=0,
        target="size",
        time_budget=300,
        registry=registry,
    )
    assert (found.exit_code, found.chosen, found.artifact) == (4, None, None)
    (only,) = found.candidates
    assert only.status == "rejected"
    assert "of the rows get another answer than from the reference; allowed are 0.00%" in only.why
    assert _versions(registry) == ["v1.0"]


class _Interrupting:
    """Raises what Ctrl-C raises when the second candidate begins."""

    def __init__(self) -> None:
        self.rows: list[tuple[object, ...]] = []

    def step(self, what: str, done: int | None = None, total: int | None = None) -> None:
        if done == 1:
            raise KeyboardInterrupt

    def row(self, *cells: object) -> None:
        self.rows.append(cells)

    def note(self, sentence: str) -> None:
        pass


def test_an_interrupted_search_goes_on_where_it_was(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    few = [row for row in plan._ROWS if row.name in ("onnx-fp16", "onnx-int8-static")]
    monkeypatch.setattr(plan, "_ROWS", few)
    asked: dict[str, Any] = {"data": {"x": rows()}, "target": "size", "max_accuracy_drop": 0.1, "registry": registry}
    progress: Progress = _Interrupting()
    with pytest.raises(KeyboardInterrupt):
        penstock.optimize("mlp", time_budget="10m", progress=progress, **asked)
    assert _versions(registry) == ["v1.0"]
    found = penstock.optimize("mlp", time_budget="10m", **asked)
    assert any("an earlier search was interrupted; 1 of its candidates" in note for note in found.report["notes"])
    assert found.exit_code == 0
    left = registry.path / ".cache" / "optimize"
    assert list(left.iterdir()) == []


def test_candidates_that_crash_or_hang_are_losers_with_their_reason(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(making, "HOME", "search_calls")
    monkeypatch.setattr("penstock.toolchain.search.run.MOST_MAKING_S", 4.0)
    found = penstock.optimize("mlp", data={"x": rows()}, target="size", time_budget="10m", registry=registry)
    why = {one.name: one.why for one in found.candidates if one.status == "failed"}
    assert "crashed with SIGABRT" in why["openvino-fp32"]
    assert "took longer than 4 s" in why["onnx-int8-static"]
    assert "ended with exit code 3" in why["onnx-int8-dynamic"] or "SystemExit" in why["onnx-int8-dynamic"]
    assert why["onnx-fp16"]
    assert found.exit_code == 3
    assert _versions(registry) == ["v1.0"]


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"target": "speed"}, InvalidInput, "target: 'speed' is not one of p99, throughput, size, memory"),
        ({"time_budget": "soon"}, InvalidInput, "time_budget: 'soon' is no time of at least 10 s"),
        ({"time_budget": 0}, InvalidInput, "time_budget: 0 is no time"),
        ({"max_accuracy_drop": 5}, InvalidInput, "max_accuracy_drop: 5 is no share from 0 to 1"),
        ({"data": {"z": rows()}}, InvalidInput, "data: there is no array for the input 'x'"),
        ({"data": {"x": rows()[:, :3]}}, InvalidInput, "data: x"),
        ({"data": {"x": rows()[:0]}}, InvalidInput, "data: it has no rows"),
        ({"labels": np.zeros(3)}, InvalidInput, "labels: there are 3 for 400 rows of data"),
        ({"data": None, "labels": "y"}, InvalidInput, "labels: they belong to rows of data"),
        ({"recipe": {"format": "onnx", "techniques": [{"kind": "magic"}]}}, InvalidInput, "'magic' is no technique"),
        ({"version": "v1.0"}, InvalidInput, "version: mlp:v1.0 exists already"),
        ({"version": "no version!"}, InvalidInput, "version"),
        ({"trust": "everything"}, Exception, "trust"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_tried(
    registry: Registry, changes: dict[str, Any], error: type[Exception], sentence: str
) -> None:
    asked: dict[str, Any] = {"data": {"x": rows()}, "time_budget": 30, "registry": registry} | changes
    with pytest.raises(error, match=sentence):
        penstock.optimize("mlp", **asked)
    assert _versions(registry) == ["v1.0"]
    assert not list((registry.path / ".cache" / "optimize").glob("*"))


def test_an_unknown_model_is_refused(registry: Registry) -> None:
    with pytest.raises(ModelNotFound, match="nothing"):
        penstock.optimize("nothing", registry=registry)


def test_a_recipe_that_does_not_fit_is_refused(registry: Registry) -> None:
    with pytest.raises(InvalidInput):
        penstock.optimize("mlp", recipe=STATIC, time_budget=30, registry=registry)
    assert _versions(registry) == ["v1.0"]


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("2m", 120), ("1.5h", 5400), (45, 45), ("30", 30)])
def test_durations_are_read(text: float | str, seconds: float) -> None:
    assert seconds_of(text) == seconds
