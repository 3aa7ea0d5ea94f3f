"""`penstock.bench`: every variant measured in a process of its own, and two references in turn."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from linear_models import FEATURES, SIGNATURE, linear, weights

import penstock
from penstock.artifacts.artifact import Artifact, Golden, TaskEntry, VariantSource, write_artifact
from penstock.errors import (
    IntegrityError,
    InvalidInput,
    ModelLoadError,
    ModelNotFound,
    PenstockError,
    UnsupportedFormat,
)
from penstock.registry.registry import Registry
from penstock.toolchain.bench.latency import BatchSpeed
from penstock.toolchain.bench.sandbox import Limits, Sandbox

FIGURES = ("mean_ms", "std_ms", "min_ms", "max_ms", "p50_ms", "p95_ms", "p99_ms")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """`m` with an ONNX variant that runs here and one for another machine."""
    place = tmp_path_factory.mktemp("bench")
    with Registry(place / "registry") as registry:
        registry.publish(artifact(place / "source").path, prove=False)
        yield registry


def artifact(place: Path) -> Artifact:
    place.mkdir()
    x = np.random.default_rng(0).random((3, FEATURES), np.float32)
    return write_artifact(
        place / "m",
        name="m",
        version="v1",
        task=TaskEntry(kind="tensor"),
        signature=SIGNATURE,
        variants=[
            VariantSource("onnx", "fp32", linear(place / "linear.onnx", 0)),
            VariantSource("onnx", "fp32", linear(place / "other.onnx", 0), name="elsewhere", requires=("avx9000",)),
        ],
        golden=Golden({"x": x}, {"logits": x @ weights(0)}),
        card="",
    )


def check(speed: BatchSpeed) -> None:
    ms = speed.latency
    assert 0 < ms.min_ms <= ms.p50_ms <= ms.p95_ms <= ms.p99_ms <= ms.max_ms
    assert ms.min_ms <= ms.mean_ms <= ms.max_ms
    assert speed.throughput_per_second == pytest.approx(speed.rows * 1000 / ms.mean_ms, rel=1e-6)
    assert speed.cpu_ms_per_row >= 0


def test_a_version_is_measured_by_batch_size_with_its_golden_samples(published: Registry) -> None:
    result = penstock.bench("m", registry=published, batches=[1, 4], seconds=0.05)
    assert (result.ref, result.chosen, result.other) == ("m:v1", "onnx-fp32", None)
    best = result.best
    assert list(best.batches) == [1, 4]
    for rows, speed in best.batches.items():
        assert speed.rows == rows
        check(speed)
    assert best.inputs == "3 golden samples"
    assert best.usage is not None
    assert best.usage.peak_bytes > 1e6
    assert best.size_bytes == published.get("m").manifest.variant("onnx-fp32").size_bytes
    assert best.throughput_per_second == max(speed.throughput_per_second for speed in best.batches.values())


def test_the_document_has_what_the_contract_names(published: Registry) -> None:
    document = json.loads(json.dumps(penstock.bench("m", registry=published, seconds=0.05).to_json()))
    assert document["ref"] == "m:v1"
    assert list(document["batches"]) == ["1", "8", "32"]
    assert all(name in figures for figures in document["batches"].values() for name in FIGURES)
    assert document["throughput_per_second"] > 0
    assert document["memory"]["peak_bytes"] > 0
    assert document["memory"]["gpu_peak_bytes"] is None
    assert {"parameters", "size_bytes", "variant", "threads", "inputs"} <= set(document)
    assert "ratio" not in document


def test_a_variant_that_does_not_run_has_its_reason(published: Registry) -> None:
    _, other = penstock.bench("m", registry=published, batches=[1], seconds=0.01).variants
    assert (other.name, other.batches) == ("elsewhere", {})
    why = "m:v1/elsewhere: it needs avx9000, which this machine does not have"
    assert other.why == why
    with pytest.raises(UnsupportedFormat, match=f"^{why}$"):
        penstock.bench("m", registry=published, seconds=0.01, variant="elsewhere")


def test_a_variant_is_chosen_by_name(published: Registry) -> None:
    result = penstock.bench("m", registry=published, batches=[2], seconds=0.01, variant="onnx-fp32")
    assert [variant.name for variant in result.variants] == ["onnx-fp32"]
    with pytest.raises(InvalidInput, match="onnx-fp32, elsewhere"):
        penstock.bench("m", registry=published, variant="nothing")


def test_two_references_are_compared_in_turn(published: Registry, tmp_path: Path) -> None:
    model = linear(tmp_path / "other.onnx", 0)
    result = penstock.bench("m", model, registry=published, batches=[1, 4], seconds=0.1)
    assert result.other is not None
    assert result.other.ref == str(model)
    for ratio in result.ratios.values():
        assert ratio.low <= ratio.median <= ratio.high
        assert ratio.rounds >= 6
    document = result.to_json()
    assert document["ratio"]["batch"] == 1
    assert document["ratio"]["median"] == document["ratio"]["batches"]["1"]["median"]
    assert document["ratio"]["low"] <= document["ratio"]["high"]
    assert document["other"]["ref"] == str(model)


def test_a_file_is_measured_with_inputs_that_are_made_up(tmp_path: Path) -> None:
    model = linear(tmp_path / "m.onnx", 0)
    result = penstock.bench(model, registry=tmp_path / "none", seconds=0.01)
    assert result.chosen == "onnx"
    assert result.best.inputs == "made-up inputs"
    assert result.best.size_bytes == model.stat().st_size
    assert not (tmp_path / "none").exists()


def test_a_model_of_fixed_rows_is_measured_with_those(tmp_path: Path) -> None:
    from onnx import TensorProto, helper, save

    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, 3]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", ports[:1], ports[1:])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "f.onnx")
    result = penstock.bench(tmp_path / "f.onnx", seconds=0.01)
    assert list(result.best.batches) == [4]
    with pytest.raises(InvalidInput, match=r"^batch: .*f\.onnx takes batches of 4 only; 8 rows cannot be measured$"):
        penstock.bench(tmp_path / "f.onnx", seconds=0.01, batches=[4, 8])
    with pytest.raises(InvalidInput, match="nothing to compare"):
        penstock.bench(tmp_path / "f.onnx", linear(tmp_path / "l.onnx", 0), seconds=0.01)


def test_rows_on_another_axis_are_measured(tmp_path: Path) -> None:
    """As for a sequence model whose batch is axis 1, as its samples are."""
    from penstock.backends.base import ModelFile
    from penstock.tensors import Signature, TensorSpec

    specs = [TensorSpec(name, "FP32", (5, -1, 3)) for name in ("x", "y")]
    signature = Signature((specs[0],), (specs[1],), batch_axes={"x": 1, "y": 1})
    from onnx import TensorProto, helper, save

    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [5, None, 3]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", ports[:1], ports[1:])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "s.onnx")
    x = np.random.default_rng(0).random((5, 2, 3), np.float32)
    file = ModelFile(tmp_path / "s.onnx", signature, batch_axes={"x": 1, "y": 1})
    with Sandbox.open("onnx", file, inputs={"x": x}) as sandbox:
        assert np.array_equal(sandbox.inputs(3)["x"], x[:, [0, 1, 0]])
        assert len(sandbox.time(7, 2)) == 2
        assert sandbox.run(sandbox.inputs(3))["y"].shape == (5, 3, 3)


def test_a_crash_of_one_variant_leaves_the_others(published: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    result = penstock.bench("m", registry=published, seconds=0.01, limits=Limits(memory_bytes=2**40))
    assert result.best.batches
    with pytest.raises(PenstockError, match="it took more than 1 MiB of memory while it was opened"):
        penstock.bench("m", registry=published, variant="onnx-fp32", limits=Limits(memory_bytes=2**20))


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"batches": [0]}, "^batch: 0 is not a number of rows"),
        ({"batches": [-3]}, "^batch: -3 is not a number of rows"),
        ({"seconds": 0}, "^seconds: 0 is not between"),
        ({"seconds": float("nan")}, "^seconds: nan is not between"),
    ],
)
def test_figures_that_make_no_sense_are_refused(published: Registry, keywords: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        penstock.bench("m", registry=published, **{"variant": "onnx-fp32", "seconds": 0.01, **keywords})


def test_what_does_not_exist_is_an_error(published: Registry, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound):
        penstock.bench("nothing", registry=published)
    with pytest.raises(ModelLoadError, match="no such"):
        penstock.bench(tmp_path / "gone.onnx", registry=published)


def test_an_altered_file_is_not_measured(tmp_path: Path) -> None:
    altered = artifact(tmp_path / "source")
    file = altered.variant_path(altered.manifest.variant("onnx-fp32"))
    file.chmod(0o644)
    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(IntegrityError, match=r"model\.onnx"):
        penstock.bench(altered, seconds=0.01, variant="onnx-fp32")
