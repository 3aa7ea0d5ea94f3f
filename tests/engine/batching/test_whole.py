"""A model that is not batchable runs each request alone: whole, uncut and unpadded."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import numpy as np
import pytest
from sequence_models import POLICY, SIGNATURE, answer, token_model

from penstock.backends.base import Backend, BackendOptions, ModelFile
from penstock.backends.catalog import open_backend
from penstock.engine.batching.batcher import Batcher
from penstock.engine.batching.collation import WholeCollator
from penstock.engine.batching.limits import BatchLimits
from penstock.engine.batching.padding import ArrayBatcher, batcher_for, padded
from penstock.errors import OutOfMemory
from penstock.tensors import Arrays

LIMITS = BatchLimits(batch_rows=8).for_whole_requests()


class Centred:
    """Subtracts the mean of all rows, records the rows of each run, and fails on more than `most` rows."""

    def __init__(self) -> None:
        self.runs: list[int] = []
        self.most = 10**9

    def __call__(self, inputs: Arrays) -> Arrays:
        x = inputs["x"]
        self.runs.append(len(x))
        if len(x) > self.most:
            raise OutOfMemory("too many rows")
        return {"y": x - x.mean(axis=0), "mean": x.mean()}


@pytest.fixture
def model() -> Centred:
    return Centred()


@pytest.fixture(params=[1e-6, 0.01], ids=["inline", "threaded"])
def batcher(request: pytest.FixtureRequest, model: Centred) -> Iterator[ArrayBatcher]:
    batcher = Batcher(model, WholeCollator(), LIMITS, full_batch_s=request.param)
    yield batcher
    batcher.close()


async def test_requests_that_wait_together_run_one_by_one(batcher: ArrayBatcher, model: Centred) -> None:
    requests = [np.random.default_rng(n).standard_normal((n % 3 + 1, 4)) for n in range(40)]
    answers = await asyncio.gather(*(batcher.submit({"x": x}) for x in requests))
    assert sorted(model.runs) == sorted(map(len, requests))
    for x, got in zip(requests, answers, strict=True):
        np.testing.assert_array_equal(got.outputs["y"], x - x.mean(axis=0))
        assert got.outputs["mean"] == x.mean()


async def test_a_request_of_more_rows_than_a_batch_is_one_run(batcher: ArrayBatcher, model: Centred) -> None:
    x = np.arange(200.0).reshape(50, 4)
    assert (await batcher.submit({"x": x})).outputs["y"].tolist() == (x - x.mean(axis=0)).tolist()
    assert model.runs == [50]


async def test_a_request_that_does_not_fit_into_memory_is_not_run_in_parts(
    batcher: ArrayBatcher, model: Centred
) -> None:
    model.most = 4
    with pytest.raises(OutOfMemory):
        await batcher.submit({"x": np.ones((6, 4))})
    assert model.runs == [6]


async def test_tensors_without_any_axis_are_answered(batcher: ArrayBatcher) -> None:
    got = await batcher.submit({"x": np.ones((2, 4)), "scale": np.array(3.0)})
    assert got.outputs["mean"] == 1


@pytest.fixture(scope="module")
def tokens_backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    path = token_model(tmp_path_factory.mktemp("whole") / "tokens.onnx")
    backend = open_backend("onnx", ModelFile(path, SIGNATURE), BackendOptions(device="cpu"))
    yield backend
    backend.close()


async def test_a_padded_model_runs_at_the_length_of_the_request_and_still_gets_its_mask(
    tokens_backend: Backend,
) -> None:
    lengths: list[int] = []

    class Recording(type(tokens_backend)):  # type: ignore[misc]
        def __init__(self) -> None:
            self.__dict__.update(tokens_backend.__dict__)

        def run(self, inputs: Arrays) -> Arrays:
            lengths.append(inputs["tokens"].shape[1])
            assert inputs["mask"].shape == inputs["tokens"].shape
            return tokens_backend.run(inputs)

    batcher = batcher_for(padded(Recording(), [POLICY]), LIMITS, full_batch_s=1.0)
    try:
        requests = [np.random.default_rng(n).integers(0, 50, (2, n)) for n in (3, 5, 9)]
        answers = await asyncio.gather(*(batcher.submit({"tokens": tokens}) for tokens in requests))
    finally:
        batcher.close()
    assert sorted(lengths) == [3, 5, 9]
    for tokens, got in zip(requests, answers, strict=True):
        for name, expected in answer(tokens).items():
            np.testing.assert_allclose(got.outputs[name], expected, rtol=1e-5, atol=1e-5)


def test_such_a_model_never_runs_on_the_event_loop(tokens_backend: Backend) -> None:
    batcher = batcher_for(tokens_backend, LIMITS, full_batch_s=1e-6)
    assert not batcher.inline
    batcher.close()
