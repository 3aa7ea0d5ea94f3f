"""Bring-up of a model: variant, number of threads, and closing of unused backends."""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from linear_models import FEATURES, SIGNATURE, Publish, linear, weights

from penstock.artifacts.artifact import Artifact, Golden, TaskEntry, VariantSource, write_artifact
from penstock.backends.base import BackendOptions
from penstock.backends.catalog import open_backend
from penstock.backends.onnx.backend import OnnxBackend
from penstock.backends.verification import INTERPRETER_S, verify
from penstock.engine.loading import bring_up as bring_up_module
from penstock.engine.loading import variant_selection
from penstock.engine.loading.load import load_artifact, load_file
from penstock.errors import GoldenMismatch, InferenceError, ModelLoadError, UnsupportedFormat
from penstock.options import EngineOptions
from penstock.tensors import Arrays, Signature, TensorSpec


class Scripted:
    """A minimal backend, to check which of two is kept and which is closed."""

    format, device, own_threads = "onnx", "cpu", True
    num_parameters, num_bytes, lowered_to, warnings, metadata = 0, None, None, (), {}
    signature = SIGNATURE
    parallel_runs = example = None

    def __init__(self, threads: int | None) -> None:
        self.threads = threads
        self.closed = False

    def run(self, inputs: Arrays) -> Arrays:
        rows = len(next(iter(inputs.values())))
        return {spec.name: np.zeros((rows, *spec.shape[1:]), spec.numpy) for spec in self.signature.outputs}

    def cost_depends_on_rows_only(self) -> bool:
        return False

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize(
    ("all_threads_s", "one_thread_s", "kept"),
    [
        ((0.0001, 0.001), (0.0001, 0.0018), 1),  # two runs at once carry more than one with both threads
        ((0.0010, 0.010), (0.0025, 0.0100), None),  # a single request would take too long
    ],
)
def test_a_fast_model_runs_with_one_thread_a_run(
    onnx_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    all_threads_s: tuple[float, float],
    one_thread_s: tuple[float, float],
    kept: int | None,
) -> None:
    opened: list[Scripted] = []

    def scripted(trial: bring_up_module._Trial) -> Any:
        threads = trial.options.threads
        opened.append(Scripted(threads))
        row, full = one_thread_s if threads == 1 else all_threads_s
        runners = 2 if threads == 1 else 1
        if row > trial.at_most_s:
            opened[-1].close()
            raise bring_up_module._Slow
        timings = {1: row, 32: full}
        return bring_up_module.ReadyBackend(opened[-1], trial.limits, timings, runners)  # type: ignore[arg-type]

    monkeypatch.setattr(bring_up_module, "_open", scripted)
    model = load_file(onnx_file, EngineOptions())
    assert model.backend.threads == kept  # type: ignore[attr-defined]
    assert [each.closed for each in opened] == [each is not model.backend for each in opened]


@pytest.mark.parametrize(("threads", "runners"), [(None, 1), (1, 4), (2, 2), (3, 1), (8, 1)])
def test_parallel_runs_fill_the_cores(monkeypatch: pytest.MonkeyPatch, threads: int | None, runners: int) -> None:
    monkeypatch.setattr(bring_up_module, "usable_cores", lambda: 4)
    assert bring_up_module._runners(Scripted(threads), BackendOptions(threads=threads)) == runners  # type: ignore[arg-type]


def test_the_configured_number_of_threads_is_used(onnx_file: Path) -> None:
    model = load_file(onnx_file, EngineOptions(threads=1))
    model.close()


def test_a_quick_model_runs_on_the_loop_though_it_was_loaded_beside_a_busy_one(
    onnx_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the thread of a load, each run waits up to 5 ms for the interpreter, which says nothing of the model."""
    run, over = OnnxBackend.run, threading.Event()

    def without_the_interpreter(self: OnnxBackend, inputs: Arrays) -> Arrays:
        outputs = run(self, inputs)
        time.sleep(0)  # as a run of 0.1 ms in native code, during which the other thread surely takes it
        return outputs

    def keep_the_interpreter() -> None:
        while not over.is_set():
            pass

    monkeypatch.setattr(OnnxBackend, "run", without_the_interpreter)
    busy = threading.Thread(target=keep_the_interpreter)
    busy.start()
    try:
        model = load_file(onnx_file, EngineOptions())
    finally:
        over.set()
        busy.join()
    assert model.batcher.inline
    assert max(model.info.batch_ms.values()) < 1000 * sys.getswitchinterval()
    model.close()


def test_a_model_that_waits_for_something_else_does_not_run_on_the_loop(
    onnx_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = OnnxBackend.run

    def waiting(self: OnnxBackend, inputs: Arrays) -> Arrays:
        time.sleep(INTERPRETER_S)
        return run(self, inputs)

    monkeypatch.setattr(OnnxBackend, "run", waiting)
    model = load_file(onnx_file, EngineOptions())
    assert not model.batcher.inline
    model.close()


@pytest.fixture
def two_variants(tmp_path: Path) -> Artifact:
    """A variant labelled int8 that does not match its golden samples, and a valid fp32 one."""
    x = np.random.default_rng(1).standard_normal((5, FEATURES)).astype(np.float32)
    return write_artifact(
        tmp_path / "two",
        name="two",
        version="1",
        task=TaskEntry(kind="vector-classification", config={}),
        signature=SIGNATURE,
        variants=[
            VariantSource("onnx", "int8", linear(tmp_path / "int8.onnx", seed=7)),
            VariantSource("onnx", "fp32", linear(tmp_path / "fp32.onnx", seed=0)),
        ],
        golden=Golden({"x": x}, {"logits": x @ weights(0)}, 1e-5, 1e-5),
        card="",
    )


def test_a_variant_that_fails_its_golden_samples_is_replaced_by_the_next_with_a_warning(two_variants: Artifact) -> None:
    model = load_artifact(two_variants, EngineOptions(precision="int8"))
    assert model.variant == "onnx-fp32"
    golden, unmet = model.info.warnings
    assert "golden samples" in golden
    assert unmet == "int8 was requested, two:1 has no int8 variant that runs here; it runs in fp32"
    model.close()


def test_a_variant_of_another_precision_is_not_tried_unless_requested(two_variants: Artifact) -> None:
    model = load_artifact(two_variants, EngineOptions())
    assert (model.variant, model.info.warnings) == ("onnx-fp32", ())
    model.close()


def test_a_load_warns_once_of_unknown_fields_of_a_newer_manifest(
    two_variants: Artifact, caplog: pytest.LogCaptureFixture
) -> None:
    path = two_variants.path / "manifest.json"
    document = json.loads(path.read_bytes()) | {"schema_version": "1.7", "signatures": []}
    document["variants"][1]["ancestry"] = {"steps": []}
    path.write_text(json.dumps(document))
    artifact = Artifact.open(two_variants.path)
    model = load_artifact(artifact, EngineOptions())
    model.close()
    (warning,) = model.info.warnings
    assert "schema version 1.7" in warning
    assert "signatures" in warning
    assert "variants.1.ancestry" in warning
    assert [record.getMessage() for record in caplog.records if "schema version" in record.message] == [
        f"two:1: {warning}"
    ]


def test_an_artifact_this_machine_cannot_run_is_refused_with_its_variants(
    publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = publish()
    monkeypatch.setattr(variant_selection, "runnable", lambda _format: False)
    with pytest.raises(
        UnsupportedFormat, match=r"m:1\.0\.0: this machine runs none .* \(onnx-fp32: this machine cannot run onnx"
    ):
        load_artifact(artifact, EngineOptions())


def answers(outputs: Arrays) -> Any:
    class Fixed:
        def run(self, inputs: Arrays) -> Arrays:
            rows = len(inputs["x"])
            return {name: array[:rows] for name, array in outputs.items()}

    return Fixed()


@pytest.mark.parametrize(
    ("outputs", "sentence"),
    [
        ({"other": np.zeros((2, 3), np.float32)}, "no output 'logits'"),
        ({"logits": np.zeros((2, 2), np.float32)}, r"shape \[2, 2\], its golden samples \[2, 3\]"),
        ({"logits": np.full((2, 3), np.nan, np.float32)}, "by up to nan"),
        ({"logits": np.full((2, 3), 0.5, np.float32)}, "by up to 0.5"),
        ({"logits": np.ones((2, 3), np.int64)}, "differs from its golden samples"),
    ],
)
def test_every_kind_of_golden_mismatch_is_reported(outputs: Arrays, sentence: str) -> None:
    golden = Golden({"x": np.zeros((2, FEATURES), np.float32)}, {"logits": np.zeros((2, 3), np.float32)}, 1e-3, 1e-3)
    with pytest.raises(GoldenMismatch, match=sentence):
        verify(answers(outputs), golden, 32, "m")


def test_golden_samples_are_run_in_batches_of_the_size_that_is_served() -> None:
    sizes: list[int] = []

    class Counting:
        def run(self, inputs: Arrays) -> Arrays:
            sizes.append(len(inputs["x"]))
            return {"y": inputs["x"]}

    x = np.arange(10, dtype=np.float32)[:, None]
    verify(Counting(), Golden({"x": x}, {"y": x}, 0.0, 0.0), 4, "m")  # type: ignore[arg-type]
    assert sizes == [4, 4, 2]


def test_a_model_that_fails_when_it_is_run_is_a_load_error_and_is_closed(
    publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = publish()
    closed: list[str] = []
    monkeypatch.setattr(OnnxBackend, "run", lambda *_: (_ for _ in ()).throw(InferenceError("no such kernel")))
    monkeypatch.setattr(OnnxBackend, "close", lambda _: closed.append("closed"))
    with pytest.raises(ModelLoadError, match="the model fails when it runs: no such kernel"):
        load_artifact(artifact, EngineOptions())
    assert closed == ["closed"]


def test_the_real_backend_passes_its_own_golden_samples(publish: Publish) -> None:
    artifact = publish()
    from penstock.backends.base import ModelFile

    backend = open_backend("onnx", ModelFile(artifact.variant_path(artifact.variants[0]), SIGNATURE), BackendOptions())
    golden = artifact.golden()
    assert golden is not None
    verify(backend, golden, 4, "m")
    backend.close()


@pytest.mark.parametrize("shape", [(-1, 5), (-1,), (-1, 3, 1)])
def test_outputs_of_another_shape_than_the_manifest_says_are_found_without_golden_samples(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    artifact = write_artifact(
        tmp_path / "other",
        name="other",
        version="1",
        task=TaskEntry(kind="tensor", config={}),
        signature=Signature(SIGNATURE.inputs, (TensorSpec("logits", "FP32", shape),)),
        variants=[VariantSource("onnx", "fp32", linear(tmp_path / "m.onnx"))],
        golden=None,
        card="",
    )
    with pytest.raises(ModelLoadError, match=r"output 'logits' has the shape \[1, 3\], its signature says") as refused:
        load_artifact(artifact, EngineOptions())
    assert "\n" not in str(refused.value)


def test_a_length_that_an_exporter_noted_wrongly_does_not_stop_a_bare_file(tmp_path: Path) -> None:
    model = onnx.load(linear(tmp_path / "m.onnx"))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 5
    onnx.save(model, tmp_path / "noted.onnx")
    load_file(tmp_path / "noted.onnx", EngineOptions()).close()
