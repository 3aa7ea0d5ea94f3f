"""A loaded model answers one of its golden samples again, beside the requests."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import numpy as np
import pytest
from linear_models import Publish

from penstock.engine.deployment.golden_proof import GoldenProof
from penstock.engine.loading.loaded_model import LoadedModel
from penstock.engine.loading.manager import ModelManager
from penstock.registry.registry import Registry

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


@pytest.fixture
def manager(registry: Registry) -> Iterator[ModelManager]:
    manager = ModelManager(registry)
    yield manager
    manager.close()


@pytest.fixture(params=["on the event loop", "in threads"])
def model(request: pytest.FixtureRequest, manager: ModelManager, publish: Publish) -> LoadedModel:
    """One that is right, of either way to run."""
    publish()
    model = manager.load_model("m")
    assert model.batcher.inline
    if request.param == "in threads":
        model.batcher._leave_loop()
    return model


def prove(manager: ModelManager, model: LoadedModel) -> bool | None:
    return asyncio.run(GoldenProof(manager.cache)(model))


def test_a_model_that_answers_as_recorded_is_proven(manager: ModelManager, model: LoadedModel) -> None:
    assert model.has_golden
    assert prove(manager, model) is True
    assert model.leases == 0


def test_a_model_that_answers_otherwise_is_not(
    manager: ModelManager, model: LoadedModel, publish: Publish, caplog: pytest.LogCaptureFixture
) -> None:
    model.artifact = publish("other", golden_seed=4)  # what it answers is what another model should
    assert prove(manager, model) is False
    assert "m:1.0.0 still fails" in caplog.text
    assert "differs from its golden samples by up to" in caplog.text


def test_a_model_that_fails_its_sample_is_not(manager: ModelManager, model: LoadedModel) -> None:
    model.backend.close()
    assert prove(manager, model) is False


def test_a_model_that_was_unloaded_is_not_asked(manager: ModelManager, model: LoadedModel) -> None:
    manager.unload(model.key)
    assert prove(manager, model) is None


def test_it_is_closed_once_its_proof_has_ended(manager: ModelManager, model: LoadedModel) -> None:
    with manager.cache.leased(model):
        manager.unload(model.key)
        assert model.retired
        model.backend.run({"x": np.zeros((1, 4), np.float32)})
    assert model.leases == 0


def test_samples_that_cannot_be_read_leave_it_to_a_request(
    manager: ModelManager, model: LoadedModel, caplog: pytest.LogCaptureFixture
) -> None:
    assert model.artifact is not None
    assert model.artifact.manifest.golden is not None
    (model.artifact.path / model.artifact.manifest.golden.file.path).unlink()
    assert prove(manager, model) is True
    assert "its golden samples cannot be read" in caplog.text
