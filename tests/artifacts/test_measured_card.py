"""The card that is written from a manifest."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from penstock.artifacts.artifact import Artifact, DeclaredCard, VariantErrors, VariantSource
from penstock.artifacts.card import card_html
from penstock.artifacts.measured_card import card_of, updated_card

Write = Callable[..., Artifact]
ERRORS = VariantErrors(max_abs=0.125, max_rel=0.25, cosine=0.75, top1=0.5, samples=8)
BENCHMARK = {
    "p50_ms": {"1": 0.5, "32": 4.0},
    "p99_ms": {"1": 0.625, "32": 5.0},
    "environment": {"cpu": "Xeon | 2 cores", "torch": "2.13.0"},
}


@pytest.fixture
def derived(write: Write) -> Artifact:
    """An int8 variant beside an exact one, made from another version, with everything measured."""
    model = write().variant_path(write().variants[0])
    exact = VariantSource("onnx", "fp32", model, max_abs_error=0.0, num_parameters=10, exporter="torch 2.13.0")
    small = VariantSource(
        "onnx", "int8", model, max_abs_error=0.125, errors=ERRORS, batch_invariant=False, benchmark=BENCHMARK
    )
    return write(
        name="small",
        version="v2",
        variants=[exact, small],
        metrics={"accuracy": 0.97, "note": "by hand"},
        lineage={"parent": "small:v1", "recipe": [{"kind": "quantize"}]},
        batchable=True,
        card=DeclaredCard(
            summary="Reads digits.", license="apache-2.0", datasets=["optdigits"], dataset_name="the held-out fifth",
            limits="One digit.", sections={"Confusion": "| a |\n|---|\n| 1 |"},
        ),
    )  # fmt: skip


def front(text: str) -> dict[str, Any]:
    data = yaml.safe_load(text.split("---\n", 2)[1])
    assert isinstance(data, dict)
    return data


def part(text: str, title: str) -> str:
    found = re.search(rf"^## {re.escape(title)}\n\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return found[1] if found else ""


def test_the_front_matter_names_the_base_model_and_how_it_was_made(derived: Artifact) -> None:
    fields = front(derived.card_text())
    assert (fields["base_model"], fields["base_model_relation"]) == ("small:v1", "quantized")
    assert (fields["license"], fields["library_name"], fields["metrics"]) == ("apache-2.0", "onnx", ["accuracy"])
    assert {"onnx", "int8", "penstock"} <= set(fields["tags"])
    assert "license" in fields["penstock"]["declared"]
    assert fields["penstock"]["measured"] == ["model-index"]


def test_the_results_of_the_card_are_read_by_hugging_face(derived: Artifact) -> None:
    hub = pytest.importorskip("huggingface_hub")
    data = hub.ModelCard(derived.card_text()).data
    found = {(result.dataset_name, result.metric_type, result.metric_name): result.metric_value
             for result in data.eval_results}  # fmt: skip
    assert found == {
        ("the held-out fifth", "accuracy", None): 0.97,
        ("golden samples", "max_abs_error", "max_abs_error of onnx-fp32"): 0.0,
        ("golden samples", "max_abs_error", "max_abs_error of onnx-int8"): 0.125,
        ("golden samples", "top1_agreement", "top1_agreement of onnx-int8"): 0.5,
    }


def test_each_section_says_whether_it_is_declared_measured_or_recorded(derived: Artifact) -> None:
    titles = re.findall(r"^## (.*)$", derived.card_text(), re.MULTILINE)
    assert titles == [
        "Intended use (declared)", "Inputs and outputs (recorded)", "Training data (declared)", "Metrics (declared)",
        "Variants (measured)", "Latency (measured)", "Environment (measured)", "Batches (measured)",
        "Golden samples (recorded)", "Lineage (recorded)", "Confusion (declared)", "Limits (declared)",
    ]  # fmt: skip


def test_the_figures_of_every_variant_are_in_the_card(derived: Artifact) -> None:
    text = derived.card_text()
    size = derived.variants[0].size_bytes
    variants = part(text, "Variants (measured)")
    assert f"| onnx-fp32 | onnx | fp32 | {size} | 10 | 0 |  |  |  |  | torch 2.13.0 |" in variants
    assert f"| onnx-int8 | onnx | int8 | {size} |  | 0.125 | 0.25 | 0.75 | 0.5 | no |  |" in variants
    assert part(text, "Latency (measured)").splitlines()[2:4] == [
        "| onnx-int8 | 1 | 0.5 | 0.625 |", "| onnx-int8 | 32 | 4 | 5 |",
    ]  # fmt: skip
    assert "| cpu | Xeon \\| 2 cores |" in part(text, "Environment (measured)")
    assert "| made from | small:v1 |" in part(text, "Lineage (recorded)")
    assert "share a run" in part(text, "Batches (measured)")
    assert "3 rows" in part(text, "Golden samples (recorded)")


def test_what_was_not_measured_is_not_in_the_card(write: Write) -> None:
    text = write(card=DeclaredCard(), golden=None).card_text()
    assert "Latency" not in text
    assert "Environment" not in text
    assert "Batches" not in text
    assert "None: a load cannot compare" in part(text, "Golden samples (recorded)")
    fields = front(text)
    assert set(fields) == {"license", "library_name", "pipeline_tag", "tags", "penstock"}
    assert fields["license"] == "other"


def test_a_card_that_its_author_wrote_stays_as_it_is(write: Write) -> None:
    assert write(card="# Mine\n").card_text() == "# Mine\n"
    assert write(card="").manifest.card is None


def test_metrics_that_penstock_measured_are_marked_so(write: Write) -> None:
    text = write(metrics={"accuracy": 0.9}, card=DeclaredCard(metrics_measured=True)).card_text()
    assert "## Metrics (measured)" in text
    assert front(text)["penstock"]["measured"] == ["metrics", "model-index"]


@pytest.mark.parametrize("value", ["a\n---\nlicense: mit", "| cell |\n| --- |", "<script>alert(1)</script>"])
def test_no_recorded_value_breaks_out_of_its_place(write: Write, value: str) -> None:
    artifact = write(lineage={"note": value, "parent": value}, card=DeclaredCard(license=value, tags=[value]))
    text = artifact.card_text()
    fields = front(text)
    assert fields["license"] == fields["base_model"] == fields["tags"][0] == value
    assert "<script>" not in card_html(text)
    rows = [line for line in part(text, "Lineage (recorded)").splitlines() if line.startswith("| note")]
    assert len(rows) == 1


def test_the_card_of_a_manifest_is_the_same_each_time(derived: Artifact) -> None:
    assert card_of(derived.manifest) == card_of(derived.manifest)


def test_the_card_of_a_version_made_from_another_keeps_what_is_declared(derived: Artifact) -> None:
    changes = {"version": "v3", "lineage": {"parent": "small:v2"}, "variants": derived.manifest.variants[:1]}
    manifest = derived.manifest.model_copy(update=changes)
    text = updated_card(derived.card_text(), manifest, "v2")
    assert "# small v3\n" in text
    assert part(text, "Limits (declared)").strip() == "One digit."
    assert part(text, "Confusion (declared)") == part(derived.card_text(), "Confusion (declared)")
    assert "int8" in part(derived.card_text(), "Variants (measured)")
    assert "int8" not in part(text, "Variants (measured)")
    fields = front(text)
    assert (fields["base_model"], fields["license"]) == ("small:v2", "apache-2.0")


def test_a_card_that_penstock_did_not_write_stays_as_it_is(derived: Artifact) -> None:
    text = "# My model\n\nProse.\n\n## Limits\n\nNone.\n"
    assert updated_card(text, derived.manifest, "v1") == text
