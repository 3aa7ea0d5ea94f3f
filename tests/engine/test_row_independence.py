"""Rows share a run only where they were shown to be independent; else each request is one run."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import quantized_models
from dependent_models import MODELS, DependentModel, dynamically_quantized
from linear_models import linear
from row_models import DEPENDENT, FEATURES, INDEPENDENT, write

from penstock.artifacts.artifact import Artifact, Golden, TaskEntry, VariantSource, write_artifact
from penstock.engine.config import InferenceConfig
from penstock.engine.engine import InferenceEngine
from penstock.engine.loading.manager import ModelManager
from penstock.engine.predictor.predictor import Predictor
from penstock.errors import ModelLoadError
from penstock.registry.registry import Registry

Engine = Callable[..., Any]


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> DependentModel:
    return MODELS[request.param](tmp_path_factory.mktemp("dependent"))


def requests(row: tuple[int, ...], count: int = 64) -> list[np.ndarray]:
    """Requests of one to three rows, some of them large, some small."""
    random = np.random.default_rng(5)
    return [
        (random.standard_normal((n % 3 + 1, *row)) * 10.0 ** (n % 5 - 2) - n % 2).astype(np.float32)
        for n in range(count)
    ]


def same(got: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


async def test_concurrent_requests_get_the_answers_of_the_runtime(model: DependentModel, tmp_path: Path) -> None:
    engine = InferenceEngine(InferenceConfig(batch_size=32, max_wait_ms=5), registry=tmp_path / "registry")
    engine.manager.load_model(model.path, **model.options)
    await engine.start()
    try:
        items = requests(model.row)
        answers = await asyncio.gather(*(engine.infer(model.path.stem, {"x": x}) for x in items))
    finally:
        await engine.close()
    for x, answer in zip(items, answers, strict=True):
        same(next(iter(answer.outputs.values())), model.answer(x))


async def test_one_request_of_more_rows_than_a_batch_is_not_cut(model: DependentModel, tmp_path: Path) -> None:
    engine = InferenceEngine(InferenceConfig(batch_size=32), registry=tmp_path / "registry")
    engine.manager.load_model(model.path, **model.options)
    await engine.start()
    try:
        x = np.random.default_rng(7).standard_normal((50, *model.row)).astype(np.float32)
        answer = await engine.infer(model.path.stem, {"x": x})
    finally:
        await engine.close()
    same(next(iter(answer.outputs.values())), model.answer(x))


def test_a_predictor_answers_each_item_alone_and_whole(model: DependentModel, tmp_path: Path) -> None:
    with Predictor(model.path, registry=tmp_path, batch_size=8, task="tensor", **model.options) as predictor:
        items = requests(model.row, 20)
        for x, answer in zip(items, predictor.predict_batch([{"x": x} for x in items], batch_size=8), strict=True):
            same(_values(answer), model.answer(x))
        x = np.random.default_rng(7).standard_normal((50, *model.row)).astype(np.float32)
        same(_values(predictor.predict({"x": x})), model.answer(x))


def _values(answer: Any) -> np.ndarray:
    (values,) = answer.outputs.values()
    return np.asarray(values, np.float32)


def test_what_was_measured_is_in_the_facts_and_in_the_log(
    model: DependentModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        info = ModelManager(tmp_path).load_model(model.path, **model.options).info
    assert not info.batchable
    assert info.batch_difference is not None
    assert info.batch_difference > 1e-4
    (warning,) = [each for each in info.warnings if "batchable" in each]
    assert f"{info.batch_difference:.2g}" in warning
    assert [record.getMessage() for record in caplog.records].count(f"{model.path.stem}:{info.version}: {warning}") == 1


def test_the_strict_setting_refuses_such_a_model(model: DependentModel, tmp_path: Path) -> None:
    manager = ModelManager(tmp_path, not_batchable="refuse")
    with pytest.raises(ModelLoadError, match=r"it is not batchable: .* \(by [\d.e-]+ of the outputs' range\)"):
        manager.load_model(model.path, **model.options)


@pytest.mark.parametrize("name", ["two layers", "a convolution", "an LSTM over each row", "an embedding"])
async def test_requests_of_a_model_of_independent_rows_share_runs(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "independent.onnx", INDEPENDENT[name])
    engine = InferenceEngine(
        InferenceConfig(batch_size=32, max_wait_ms=50, not_batchable="refuse"), registry=tmp_path / "registry"
    )
    model = engine.manager.load_model(path)
    await engine.start()
    try:
        shape = [n if n > 0 else 1 for n in model.signature.inputs[0].shape]
        x = np.ones(shape, model.signature.inputs[0].numpy)
        answers = await asyncio.gather(*(engine.infer("independent", {"x": x}) for _ in range(32)))
    finally:
        await engine.close()
    assert model.info.batchable
    assert model.info.batch_difference == 0
    assert max(answer.batch_rows for answer in answers) > 1


async def test_cached_answers_of_a_dependent_model_are_those_of_the_whole_request(tmp_path: Path) -> None:
    model = MODELS["running_sum"](tmp_path)
    engine = InferenceEngine(InferenceConfig(batch_size=4, cache_size=100), registry=tmp_path / "registry")
    engine.manager.load_model(model.path)
    await engine.start()
    try:
        x = np.ones((10, *model.row), np.float32)
        for part in (x, x[:3], x, x[:1], x[:3]):
            answer = await engine.infer(model.path.stem, {"x": part})
            same(answer.outputs["y"], model.answer(part))
    finally:
        await engine.close()


# What a manifest says


def artifact_of(root: Path, model: DependentModel, **fields: Any) -> Artifact:
    x = np.random.default_rng(1).standard_normal((8, *model.row)).astype(np.float32)
    signature = quantized_models.SIGNATURE
    return write_artifact(
        root / "source",
        name="m",
        version="1",
        task=TaskEntry(kind="tensor"),
        signature=signature,
        card="",
        **{
            "golden": Golden({"x": x}, {"logits": model.answer(x)}, 1e-4, 1e-4),
            "variants": [VariantSource("onnx", "fp32", model.path)],
            **fields,
        },
    )


@pytest.mark.parametrize("rows_alone", [False, True])
def test_golden_samples_are_one_request_or_one_request_a_row(tmp_path: Path, rows_alone: bool) -> None:
    model = dynamically_quantized(tmp_path)
    x = np.random.default_rng(1).standard_normal((40, *model.row)).astype(np.float32) * 3
    y = np.concatenate([model.answer(row[None]) for row in x]) if rows_alone else model.answer(x)
    artifact = artifact_of(tmp_path, model, golden=Golden({"x": x}, {"logits": y}, 1e-4, 1e-4))
    with Registry(tmp_path / "registry") as registry:
        registry.publish(artifact.path)
        assert not ModelManager(registry, batch_size=8).load_model("m").info.batchable


def test_a_manifest_may_say_that_a_model_is_not_batchable(tmp_path: Path) -> None:
    model = dynamically_quantized(tmp_path)
    plain = model._replace(path=quantized_models.fp32(tmp_path / "plain.onnx"))
    artifact = artifact_of(tmp_path, plain, batchable=False, golden=None)
    assert json.loads((artifact.path / "manifest.json").read_bytes())["batchable"] is False
    with Registry(tmp_path / "registry") as registry:
        registry.publish(artifact.path)
        info = ModelManager(registry).load_model("m").info
    assert (info.batchable, info.batch_difference, info.batch_reason) == (False, None, "its manifest says so")


def test_a_manifest_that_says_true_does_not_decide(tmp_path: Path) -> None:
    artifact = artifact_of(tmp_path, dynamically_quantized(tmp_path), batchable=True)
    with Registry(tmp_path / "registry") as registry:
        registry.publish(artifact.path, prove=False)
        model = ModelManager(registry).load_model("m")
    assert not model.info.batchable
    assert model.batcher.limits.whole
    assert any("its manifest says that it is batchable, but" in warning for warning in model.info.warnings)


def test_a_manifest_that_says_nothing_has_no_such_field(tmp_path: Path) -> None:
    artifact = artifact_of(tmp_path, dynamically_quantized(tmp_path))
    assert "batchable" not in json.loads((artifact.path / "manifest.json").read_bytes())


def test_each_variant_is_measured(tmp_path: Path) -> None:
    model = dynamically_quantized(tmp_path)
    plain = VariantSource("onnx", "fp32", quantized_models.fp32(tmp_path / "plain.onnx"))
    int8 = VariantSource("onnx", "int8", model.path)
    x = quantized_models.samples()
    golden = Golden({"x": x}, {"logits": quantized_models.reference(x)}, atol=quantized_models.INT8_ATOL, rtol=0.0)
    artifact = artifact_of(tmp_path, model, variants=[plain, int8], golden=golden)
    with Registry(tmp_path / "registry") as registry:
        registry.publish(artifact.path)
        found = {
            variant: ModelManager(registry).load_model("m", variant=variant).info.batchable
            for variant in ("onnx-fp32", "onnx-int8")
        }
    assert found == {"onnx-fp32": True, "onnx-int8": False}


# The proof is remembered


def proofs(root: Path) -> list[Path]:
    return sorted((root / ".cache" / "proofs").glob("*.json"))


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The backends whose rows were measured. There is a registry, which keeps the proofs."""
    (tmp_path / "registry").mkdir()
    from penstock.engine.loading import bring_up

    real, seen = bring_up.prove_rows, []

    def prove(backend: Any, *args: Any, **more: Any) -> Any:
        seen.append(backend)
        return real(backend, *args, **more)

    monkeypatch.setattr(bring_up, "prove_rows", prove)
    return seen


def test_a_second_load_does_not_measure_again(tmp_path: Path, measured: list[Any]) -> None:
    path = linear(tmp_path / "linear.onnx")
    first, second = (ModelManager(tmp_path / "registry").load_model(path).info for _ in range(2))
    assert len(measured) == len(proofs(tmp_path / "registry")) == 1
    assert (first.batchable, first.batch_difference) == (second.batchable, second.batch_difference) == (True, 0.0)


def test_another_content_batch_size_or_precision_is_measured(tmp_path: Path, measured: list[Any]) -> None:
    path = linear(tmp_path / "linear.onnx")
    ModelManager(tmp_path / "registry").load_model(path)
    ModelManager(tmp_path / "registry", batch_size=8).load_model(path)
    linear(path, seed=1)
    ModelManager(tmp_path / "registry").load_model(path)
    assert len(measured) == 3


@pytest.mark.parametrize("damage", [b"", b"{}", b"[]", b'{"schema": 1, "proof": {"batchable": "yes"}}', b"\xff"])
def test_a_damaged_proof_is_measured_again(tmp_path: Path, measured: list[Any], damage: bytes) -> None:
    path = linear(tmp_path / "linear.onnx")
    ModelManager(tmp_path / "registry").load_model(path)
    (proof,) = proofs(tmp_path / "registry")
    proof.write_bytes(damage)
    assert ModelManager(tmp_path / "registry").load_model(path).info.batchable
    assert len(measured) == 2
    assert json.loads(proof.read_bytes())["proof"]["batchable"] is True


def test_a_directory_that_cannot_be_written_costs_a_measurement_only(tmp_path: Path, measured: list[Any]) -> None:
    (tmp_path / "file").write_text("no directory")
    manager = ModelManager(tmp_path / "registry", cache_dir=tmp_path / "file")
    assert manager.load_model(linear(tmp_path / "linear.onnx")).info.batchable
    assert len(measured) == 1


async def test_a_model_that_answers_differently_each_time_is_not_cached(tmp_path: Path) -> None:
    path = write(tmp_path / "noisy.onnx", DEPENDENT["random numbers"])
    engine = InferenceEngine(InferenceConfig(cache_size=100), registry=tmp_path / "registry")
    engine.manager.load_model(path)
    await engine.start()
    try:
        x = np.ones((1, FEATURES), np.float32)
        answers = [(await engine.infer("noisy", {"x": x})).outputs["y"] for _ in range(2)]
    finally:
        await engine.close()
    assert (answers[0] != answers[1]).any()
    with Predictor(path, registry=tmp_path, cache_size=100, task="tensor") as predictor:
        assert _values(predictor.predict({"x": x})).tolist() != _values(predictor.predict({"x": x})).tolist()
