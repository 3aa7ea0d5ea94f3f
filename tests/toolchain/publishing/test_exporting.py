from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from published_models import Branching, Centred, NotFinite, Small, rows

import penstock
from penstock.artifacts.artifact import Artifact
from penstock.errors import PenstockError
from penstock.registry.registry import Registry
from penstock.toolchain.export.exported import ExportFailed
from penstock.toolchain.publishing.checking import check_variant
from penstock.toolchain.publishing.exporting import ExportReport

SCRIPT = ("torchscript-script",)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> ExportReport:
    """One export that the tests share, with one good form and one that does not apply to the model."""
    registry = tmp_path_factory.mktemp("shared") / "registry"
    return penstock.export(
        Small().train(), rows(), name="small", version="1.0.0", formats="torchscript-script,pytorch", registry=registry,
        labels=["a", "b", "c"],
    )  # fmt: skip


@pytest.fixture
def artifact(report: ExportReport) -> Artifact:
    assert report.artifact is not None
    return report.artifact


def tree(directory: Path) -> list[tuple[str, bytes]]:
    """Every published file of a registry."""
    files = (path for path in directory.rglob("*") if path.is_file() and path.parent != directory)
    return sorted((str(path), path.read_bytes()) for path in files)


def test_every_good_form_is_published_with_its_measured_errors(report, artifact):
    assert report.ref == artifact.ref == "small:1.0.0"
    assert [variant.name for variant in artifact.variants] == ["torchscript-script-fp32", "pytorch-fp32"]
    for variant in artifact.variants:
        assert variant.errors is not None
        assert variant.max_abs_error == variant.errors.max_abs
        assert variant.errors.max_abs < 1e-6
        assert variant.errors.samples is not None
        assert variant.errors.samples > 80
        assert variant.errors.top1 == 1.0
        assert variant.batch_invariant is True
        assert variant.exporter
        assert "torch" in variant.exporter
        assert variant.num_parameters == 15
    assert artifact.manifest.batchable is True


def test_the_report_is_that_of_the_contract(report):
    document = report.to_json()
    assert list(document) == ["ref", "variants", "batchable"]
    assert document["batchable"] is True
    assert [list(one) for one in document["variants"]] == [
        ["name", "format", "precision", "status", "why", "max_abs", "max_rel", "top1"]
    ] * 2
    assert {one["status"] for one in document["variants"]} == {"published"}


def test_golden_samples_are_rows_of_the_example_with_the_answers_of_eager_pytorch(artifact):
    golden = artifact.golden()
    assert golden is not None
    assert np.array_equal(golden.inputs["x"], rows().numpy())
    with torch.no_grad():
        assert np.allclose(golden.outputs["output"], Small().eval()(rows()).numpy(), atol=1e-6)
    assert artifact.manifest.lineage["golden_samples"] == "the answers of eager PyTorch to 5 rows of the example"


def test_training_mode_is_switched_off_and_said(report, artifact):
    assert any("training mode" in note for note in report.notes)
    assert artifact.manifest.lineage["notes"] == [*report.notes]


def test_labels_and_task_are_recorded(artifact):
    assert artifact.manifest.task.kind == "vector-classification"
    assert artifact.manifest.task.config["labels"] == ["a", "b", "c"]


def test_the_first_version_is_champion_and_trusted_as_made_here(artifact):
    with Registry(artifact.path.parents[1]) as registry:
        assert registry.aliases("small") == {"champion": "1.0.0"}
        assert registry.trusted(artifact.digest) == "code"
        assert registry.get("small").digest == artifact.digest


def test_the_published_version_is_served_with_the_answers_of_the_module(artifact):
    with penstock.Predictor("small", registry=artifact.path.parents[1]) as predictor:
        answer = predictor.predict(rows(1).numpy()[0].tolist())
    with torch.no_grad():
        expected = torch.softmax(Small().eval()(rows(1)), dim=1)[0]
    assert answer.confidence_scores[0] == pytest.approx(float(expected.max()), abs=1e-5)


def test_the_card_holds_what_was_measured(artifact):
    card = artifact.card_text()
    assert "torchscript-script-fp32" in card
    assert "Exported from `Small`" in card


def test_publish_returns_the_published_artifact(tmp_path):
    artifact = penstock.publish(
        Small().eval(), example_input=rows(), name="fraud", version="1.0.0", formats=SCRIPT, registry=tmp_path
    )
    assert artifact.ref == "fraud:1.0.0"
    assert artifact.path == tmp_path / "fraud" / "1.0.0"


def test_a_form_over_the_tolerance_is_refused_with_output_sample_and_distance(tmp_path):
    found = penstock.export(Small(0.005).eval(), rows(), name="m", formats=SCRIPT, registry=tmp_path / "registry")
    (one,) = found.attempts
    assert found.artifact is None
    assert one.status == "refused"
    assert one.why.startswith("output 'output', sample ")
    assert "of the example is " in one.why
    assert "allowed are " in one.why
    assert one.to_json()["max_abs"] > 0
    assert not (tmp_path / "registry").exists()


def test_a_wider_tolerance_publishes_it_and_is_recorded_for_later_checks(tmp_path):
    found = penstock.export(
        Small(0.005).eval(), rows(), name="m", formats=SCRIPT, registry=tmp_path, atol=0.01, rtol=0.01
    )
    assert found.artifact is not None
    assert found.artifact.manifest.lineage["tolerance"] == {"atol": 0.01, "rtol": 0.01}
    assert check_variant(found.artifact, "torchscript-script-fp32", "code").ok


def test_a_tolerance_of_zero_still_publishes_what_is_equal(tmp_path):
    found = penstock.export(Small().eval(), rows(), name="m", formats=SCRIPT, registry=tmp_path, atol=0, rtol=0)
    assert found.artifact is not None


def test_good_forms_are_published_without_those_that_are_not(tmp_path):
    formats = ["torchscript-trace", "torchscript-script"]
    found = penstock.export(Branching(), rows(), name="m", formats=formats, registry=tmp_path)
    trace, script = found.attempts
    assert (trace.status, script.status) == ("refused", "published")
    assert "branch" in trace.why
    assert found.artifact is not None
    assert [variant.name for variant in found.artifact.variants] == ["torchscript-script-fp32"]


def test_a_model_whose_rows_influence_each_other_is_published_and_verified_as_such(tmp_path):
    found = penstock.export(Centred(), rows(), name="m", formats=SCRIPT, registry=tmp_path)
    assert found.artifact is not None
    assert found.batchable is False
    assert found.artifact.manifest.batchable is False
    assert found.artifact.variants[0].batch_invariant is False
    checked = check_variant(found.artifact, "torchscript-script-fp32", "code")
    assert checked.ok, checked.why
    assert checked.batch_invariant is False


def test_when_no_form_is_good_publish_says_why_of_each(tmp_path):
    with pytest.raises(ExportFailed, match=r"nothing was published, since no form is good \(torchscript-trace-fp32: "):
        penstock.publish(Branching(), rows(), name="m", formats=["torchscript-trace"], registry=tmp_path / "registry")
    assert not (tmp_path / "registry").exists()


def test_without_an_example_values_are_made_up_for_the_inputs(tmp_path):
    found = penstock.export(Small().eval(), name="m", inputs=["x:FP32:-1x4"], formats=SCRIPT, registry=tmp_path)
    assert found.artifact is not None
    assert "made-up inputs" in found.artifact.manifest.lineage["golden_samples"]


def test_weights_of_a_file_are_those_of_the_artifact(tmp_path):
    from safetensors.torch import save_file

    other = Small()
    with torch.no_grad():
        other.layer.bias.fill_(3.0)
    save_file(other.state_dict(), tmp_path / "w.safetensors")
    found = penstock.export(
        "published_models:make_small", name="m", weights=tmp_path / "w.safetensors", formats=SCRIPT, registry=tmp_path
    )
    assert found.artifact is not None
    golden = found.artifact.golden()
    assert golden is not None
    with torch.no_grad():
        assert np.allclose(golden.outputs["output"], other.eval()(rows()).numpy(), atol=1e-6)
    assert found.artifact.manifest.lineage["source"] == "published_models:make_small"


def test_weights_beside_the_graph_and_custom_operators_are_published(tmp_path):
    import exportable_models

    found = penstock.export(
        exportable_models.seeded(exportable_models.Custom), rows(), name="m", formats="onnx", registry=tmp_path,
        translations="exportable_models:TRANSLATIONS", external_data=True,
    )  # fmt: skip
    assert found.artifact is not None, found.attempts
    assert found.attempts[0].status == "published"


# Bad input


@pytest.fixture(scope="module")
def existing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry with one version, which nothing below changes."""
    with Registry(tmp_path_factory.mktemp("existing")) as registry:
        penstock.publish(Small().eval(), rows(), name="old", version="v1.0", formats=SCRIPT, registry=registry)
        before = tree(registry.path)
        yield registry
        assert tree(registry.path) == before
        assert registry.list() == ["old"]


NAN = rows().index_fill(0, torch.tensor([1]), float("nan"))


@pytest.mark.parametrize(
    ("model", "changes", "sentence"),
    [
        (Small(), {"name": "no/name"}, "name: 'no/name' is not a name"),
        (Small(), {"version": "a b"}, "version: 'a b' is not a version"),
        (Small(), {"name": "old"}, "old:v1.0 already exists"),
        (Small(), {"formats": "onnx,tensorrt"}, "'tensorrt' is not a form to export to; use onnx, "),
        (Small(), {"formats": []}, "formats: name at least one of onnx"),
        (Small(), {"atol": -1.0}, "atol: it is -1.0"),
        (Small(), {"rtol": float("nan")}, "rtol: it is nan"),
        (Small(), {"dynamic": {"z": [0]}}, "z"),
        (Small(), {"dynamic": {"x": [7]}}, "7"),
        (Small(), {"example_input": torch.zeros(2, 5)}, "example_input: the model does not run on it"),
        (Small(), {"example_input": NAN}, "example_input: x holds NaN or infinity"),
        (Small(), {"example_input": torch.zeros(0, 4)}, "example_input: "),
        (Small(), {"example_input": None}, "example_input: give an example input"),
        (Small(), {"example_input": {"y": rows()}}, "the model has no input 'y'"),
        (Small(), {"task": "no-such-task"}, "there is no task of the kind 'no-such-task'"),
        (Small(), {"weights": "w.pt"}, "weights: "),
        (NotFinite(), {"example_input": torch.zeros(2, 4)}, "output 'output' is NaN or infinite"),
        (lambda x: x, {}, "module: "),
        ("published_models:make_error", {}, "there are no weights here"),
        ("published_models:make_nothing", {}, "returned None"),
        ("published_models:make_alone", {"example_input": None}, "example_input: give an example input"),
        ("published_models:no_such", {}, "no_such"),
        ("no_such_module:make", {}, "no_such_module"),
        ("published_models", {}, "module:factory"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence_and_changes_nothing(existing, model: Any, changes: dict, sentence: str):
    options = {"example_input": rows(), "name": "new", "formats": SCRIPT, "registry": existing, **changes}
    with pytest.raises(PenstockError) as caught:
        penstock.export(model, **options)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    assert existing.list() == ["old"]


def test_labels_of_another_number_than_classes_are_refused(existing):
    with pytest.raises(PenstockError, match="label"):
        penstock.export(Small(), rows(), name="new", labels=["a", "b"], formats=SCRIPT, registry=existing)


# Others at the same time, and the end of the process


def test_threads_may_publish_at_the_same_time(tmp_path):
    problems: list[BaseException] = []

    def one(number: int) -> None:
        try:
            penstock.publish(Small().eval(), rows(), name=f"m{number}", formats=SCRIPT, registry=tmp_path)
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    with Registry(tmp_path) as registry:
        assert registry.list() == ["m0", "m1", "m2", "m3"]


def test_a_process_that_is_killed_leaves_the_old_state_or_the_new_one(tmp_path):
    script = (
        "import os, signal, sys, threading, penstock\n"
        "from published_models import make_small\n"
        "def on_step(step):\n"
        "    if step == 'publishing m:v1.0': threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGKILL)).start()\n"
        "module, x = make_small()\n"
        f"penstock.publish(module, x, name='m', formats={SCRIPT!r}, registry={str(tmp_path / 'registry')!r},"
        " on_step=on_step)\n"
    )
    search = ":".join(path for path in sys.path if path)
    done = subprocess.run([sys.executable, "-c", script], env={"PYTHONPATH": search}, capture_output=True, check=False)
    assert done.returncode in (-9, 0), done.stderr
    with Registry(tmp_path / "registry") as registry:
        assert registry.versions("m") in ([], ["v1.0"])
        for artifact in registry.artifacts():
            artifact.verify()
