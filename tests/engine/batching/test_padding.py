"""Requests of many lengths in one run: the outputs are those of a run alone."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sequence_models import CLASSES, POLICY, SIGNATURE, VOCABULARY, answer, token_artifact, token_model

from penstock.artifacts.policies import BatchingPolicy, PaddingPolicy
from penstock.backends.base import Backend, BackendOptions, ModelFile
from penstock.backends.catalog import open_backend
from penstock.engine.batching.padding import PaddedBackend, Padding, padded
from penstock.engine.config import InferenceConfig
from penstock.engine.engine import InferenceEngine
from penstock.engine.observation import Observation, Prediction
from penstock.engine.predictor.predictor import Predictor
from penstock.errors import GoldenMismatch, InferenceError, InvalidInput, ModelLoadError
from penstock.options import ModelOptions
from penstock.registry.registry import Registry
from penstock.tensors import Arrays, Signature, TensorSpec

PADDING = Padding([POLICY], SIGNATURE)


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    path = token_model(tmp_path_factory.mktemp("padding") / "tokens.onnx")
    backend = open_backend("onnx", ModelFile(path, SIGNATURE), BackendOptions(device="cpu"))
    yield backend
    backend.close()


def tokens(rows: int, length: int, seed: int = 0) -> Arrays:
    return {"tokens": np.random.default_rng(seed).integers(0, VOCABULARY, (rows, length))}


def same(got: Arrays, expected: Arrays) -> None:
    assert got.keys() == expected.keys()
    for name, array in expected.items():
        assert got[name].shape == array.shape
        np.testing.assert_allclose(got[name], array, rtol=1e-5, atol=1e-5)


# Padding and cutting back


@given(requests=st.lists(st.tuples(st.integers(1, 3), st.integers(1, 20)), min_size=1, max_size=12))
def test_in_any_batch_a_request_gets_the_outputs_of_a_run_alone(
    backend: Backend, requests: list[tuple[int, int]]
) -> None:
    items = [tokens(rows, length, seed) for seed, (rows, length) in enumerate(requests)]
    groups: dict[object, list[Arrays]] = {}
    for item in items:
        groups.setdefault(PADDING.measure(item)[0], []).append(item)
    for group in groups.values():
        parts = PADDING.split(backend.run(PADDING.stack(group)), group)
        for item, part in zip(group, parts, strict=True):
            same(part, answer(item["tokens"]))
            assert all(array.flags.c_contiguous for array in part.values())


def test_requests_share_a_run_when_one_bucket_holds_them() -> None:
    keys = [PADDING.measure(tokens(1, length))[0] for length in (1, 4, 5, 8, 16, 17, 18)]
    assert (keys[0], keys[2]) == (keys[1], keys[3])
    assert len(set(keys)) == 5  # beyond the longest bucket each length is its own


def test_padding_is_masked_and_filled_with_the_value_of_the_policy() -> None:
    padding = Padding([POLICY.model_copy(update={"values": {"tokens": 7.0}})], SIGNATURE)
    batch = padding.stack([{"tokens": np.array([[1, 2, 3]])}, {"tokens": np.array([[4], [5]])}])
    assert batch["tokens"].tolist() == [[1, 2, 3, 7], [4, 7, 7, 7], [5, 7, 7, 7]]
    assert batch["mask"].tolist() == [[1, 1, 1, 0], [1, 0, 0, 0], [1, 0, 0, 0]]
    assert {name: array.dtype for name, array in batch.items()} == {"tokens": np.int64, "mask": np.int64}


def test_a_mask_in_a_request_is_refused_by_name() -> None:
    assert [spec.name for spec in PADDING.signature.inputs] == ["tokens"]
    with pytest.raises(InvalidInput, match="mask: the model has no such input"):
        PADDING.signature.validate({**tokens(1, 3), "mask": np.ones((1, 3), np.int64)})


def test_inputs_of_one_policy_have_one_length_of_at_least_1() -> None:
    signature = Signature(
        (TensorSpec("a", "FP32", (-1, -1)), TensorSpec("b", "FP32", (-1, 2, -1))), (TensorSpec("y", "FP32", (-1,)),)
    )
    padding = Padding([PaddingPolicy(axes={"a": 1, "b": 2}, buckets=(4,))], signature)
    with pytest.raises(InvalidInput, match="b: axis 2 has the length 5, axis 1 of a has 3"):
        padding.signature.validate({"a": np.zeros((1, 3)), "b": np.zeros((1, 2, 5))})
    arrays, _ = padding.signature.validate({"a": np.zeros((1, 0)), "b": np.zeros((1, 2, 0))})
    with pytest.raises(InvalidInput, match="a: axis 1 has the length 0; give at least 1"):
        padding.measure(arrays)


def test_two_axes_of_one_input_are_padded_by_two_policies() -> None:
    signature = Signature((TensorSpec("x", "FP32", (-1, -1, -1)),), (TensorSpec("y", "FP32", (-1, -1, -1)),))
    padding = Padding(
        [
            PaddingPolicy(axes={"x": 1}, buckets=(2, 4), outputs={"y": 1}),
            PaddingPolicy(axes={"x": 2}, buckets=(3,), outputs={"y": 2}),
        ],
        signature,
    )
    items = [{"x": np.full((1, 3, 2), 1.0, np.float32)}, {"x": np.full((2, 4, 1), 2.0, np.float32)}]
    batch = padding.stack(items)
    assert batch["x"].shape == (3, 4, 3)
    parts = padding.split({"y": batch["x"]}, items)
    assert [part["y"].tolist() for part in parts] == [item["x"].tolist() for item in items]


def test_text_is_padded_with_empty_text() -> None:
    signature = Signature((TensorSpec("words", "BYTES", (-1, -1)),), (TensorSpec("y", "FP32", (-1,)),))
    padding = Padding([PaddingPolicy(axes={"words": 1}, buckets=(3,))], signature)
    batch = padding.stack([{"words": np.array([["a", "b"]], object)}])
    assert batch["words"].tolist() == [["a", "b", ""]]


def test_an_output_that_does_not_keep_the_padded_length_is_an_error_that_names_it() -> None:
    item = tokens(1, 3)
    with pytest.raises(InferenceError, match=r"output 'scores' has the shape \[1, 9\] for inputs padded to 4"):
        PADDING.split({"logits": np.zeros((1, CLASSES)), "scores": np.zeros((1, 9))}, [item])


def test_a_padded_backend_takes_any_length_and_empty_batches(backend: Backend) -> None:
    wrapped = padded(backend, [POLICY])
    assert isinstance(wrapped, PaddedBackend)
    for length in (1, 4, 7, 30):
        item = tokens(2, length, length)
        same(wrapped.run(item), answer(item["tokens"]))
    assert wrapped.run(tokens(0, 3))["logits"].shape == (0, CLASSES)
    assert padded(backend, []) is backend


# Loaded and served


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with Registry(tmp_path / "registry") as registry:
        yield registry


async def ask(registry: Registry, requests: list[Arrays], **settings: object) -> tuple[list[Prediction], list[int]]:
    batches: list[int] = []

    def observe(seen: Observation) -> None:
        batches.append(seen.batch_rows)

    config = InferenceConfig(**settings)  # type: ignore[arg-type]
    engine = InferenceEngine(config, registry=registry, observers=[observe])
    await engine.start(["tokens"])
    try:
        return await asyncio.gather(*(engine.predict(request, ref="tokens") for request in requests)), batches
    finally:
        await engine.close()


async def test_a_served_model_runs_many_lengths_together_with_the_outputs_of_runs_alone(
    registry: Registry, tmp_path: Path
) -> None:
    registry.publish(token_artifact(tmp_path).path)
    requests = [tokens(1, 1 + number % 20, number) for number in range(60)]
    predictions, batches = await ask(registry, requests)
    for request, prediction in zip(requests, predictions, strict=True):
        outputs = {name: np.asarray(value) for name, value in prediction.response.outputs.items()}
        same(outputs, answer(request["tokens"]))
    assert max(batches) > 4  # 60 requests of 20 lengths, 3 a length: without buckets no run has more


def test_a_predictor_pads_as_well(registry: Registry, tmp_path: Path) -> None:
    registry.publish(token_artifact(tmp_path).path)
    requests = [tokens(1, 1 + number % 20, number) for number in range(30)]
    with Predictor("tokens", registry=registry) as predictor:
        for request, response in zip(requests, predictor.predict_batch(requests), strict=True):
            same({name: np.asarray(v) for name, v in response.outputs.items()}, answer(request["tokens"]))


def load(registry: Registry) -> None:
    Predictor("tokens", registry=registry).close()


def test_a_model_whose_outputs_change_with_padding_is_not_served(registry: Registry, tmp_path: Path) -> None:
    registry.publish(token_artifact(tmp_path, careless=True).path, prove=False)
    with pytest.raises(GoldenMismatch, match="logits"):
        load(registry)


def test_a_model_whose_outputs_change_with_padding_is_refused_even_if_its_samples_fill_a_bucket(
    registry: Registry, tmp_path: Path
) -> None:
    policy = POLICY.model_copy(update={"buckets": (6, 12)})  # the golden samples are of length 6: they need no padding
    registry.publish(token_artifact(tmp_path, careless=True, policy=policy).path, prove=False)
    with pytest.raises(GoldenMismatch, match=r"padding from \(3,\) to \(6,\) changes the output 'logits'"):
        load(registry)


def test_an_output_left_at_the_padded_length_is_refused(registry: Registry, tmp_path: Path) -> None:
    registry.publish(token_artifact(tmp_path, policy=POLICY.model_copy(update={"outputs": {}})).path, prove=False)
    with pytest.raises(GoldenMismatch, match="scores"):
        load(registry)


async def test_the_operators_batching_policy_takes_precedence_over_that_of_the_manifest(
    registry: Registry, tmp_path: Path
) -> None:
    registry.publish(token_artifact(tmp_path, batching=BatchingPolicy(max_batch_rows=3)).path)
    requests = [tokens(1, 4, number) for number in range(12)]
    _, batches = await ask(registry, requests)
    assert max(batches) == 3
    _, batches = await ask(registry, requests, models={"tokens": ModelOptions(batch_size=5)})
    assert max(batches) == 5


def test_a_bucket_at_which_the_model_fails_stops_the_load(registry: Registry, tmp_path: Path) -> None:
    registry.publish(token_artifact(tmp_path, longest=10).path, prove=False)
    with pytest.raises(ModelLoadError, match=r"tokens:1.0/onnx-fp32: the model fails at the padded length \(16,\)"):
        load(registry)


async def test_lengths_of_other_rows_that_change_an_answer_are_found(registry: Registry, tmp_path: Path) -> None:
    """Rows of one length do not influence each other in this model, rows of several lengths do."""
    registry.publish(token_artifact(tmp_path, one_count=True).path)
    engine = InferenceEngine(InferenceConfig(max_wait_ms=20), registry=registry)
    info = engine.manager.load_model("tokens").info
    assert (info.batchable, info.batch_reason) == (False, "rows of another length in the run change a row's answer")
    await engine.start()
    try:
        requests = [tokens(1, length) for length in (3, 6, 7, 8, 2, 5)]
        answers = await asyncio.gather(*(engine.infer("tokens", request) for request in requests))
    finally:
        await engine.close()
    for request, got in zip(requests, answers, strict=True):
        same(dict(got.outputs), answer(request["tokens"]))


def test_a_model_that_minds_its_mask_is_batchable(registry: Registry, tmp_path: Path) -> None:
    registry.publish(token_artifact(tmp_path).path)
    with Predictor("tokens", registry=registry) as predictor:
        assert (predictor.info.batchable, predictor.info.batch_difference) == (True, 0.0)
