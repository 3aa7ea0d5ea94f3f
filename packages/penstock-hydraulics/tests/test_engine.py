from __future__ import annotations

import asyncio
import copy
import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from hydraulic_models import hydraulic_model, hydraulic_registry, readings
from served_models import build_registry

from penstock.errors import ConfigError, InvalidInput, ModelLoadError, ModelNotFound, PenstockError
from penstock_hydraulics.engine import (
    FeatureConfig,
    HydraulicPredictor,
    InferenceConfig,
    InferenceEngine,
    PredictionRequest,
    PredictionResponse,
)
from penstock_hydraulics.learning.training import saved_model
from penstock_hydraulics.machine.templates import TEMPLATES
from penstock_hydraulics.simulator.traffic import Plan, traffic

RIG = TEMPLATES["zema_rig"]


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    return hydraulic_registry(tmp_path_factory.mktemp("engine"))


@pytest.fixture
def predictor(registry):
    with HydraulicPredictor(InferenceConfig(registry=registry, threads=1)) as predictor:
        yield predictor


def _config(registry: Path, **options: object) -> InferenceConfig:
    options = {
        "model_path": "hydraulics:1.0",
        "device": "auto",
        "batch_size": 32,
        "max_queue_size": 100,
        "max_wait_ms": 50.0,
        "use_dynamic_batching": True,
        "pin_memory": True,
        "registry": registry,
        "threads": 1,
        **options,
    }
    return InferenceConfig(**options)  # type: ignore[arg-type]


async def test_the_engine_answers_one_request_many_and_its_figures(registry):
    engine = InferenceEngine(config=_config(registry), feature_config=FeatureConfig())
    request = PredictionRequest(equipment_id="exc_001", sensor_data=readings(RIG))
    answer = await engine.predict(request=request, topology="zema_rig")
    assert isinstance(answer, PredictionResponse)
    assert (answer.equipment_id, answer.model_version, answer.topology) == ("exc_001", "1.0", "zema_rig")
    assert request.topology is None
    several = [request, {"equipment_id": "bad"}, *[request] * 40]
    answers = await engine.predict_batch(requests=several, topology=RIG)
    assert isinstance(answers[1], InvalidInput)
    assert {each.components == answer.components for each in answers if isinstance(each, PredictionResponse)} == {True}
    stats = engine.get_stats()
    assert (stats["model_path"], stats["batch_size"], stats["queue_size"]) == ("hydraulics:1.0", 32, 0)
    assert stats["model_device"] == "cpu"
    (figures,) = stats["models"].values()
    assert figures["requests"] == 42
    await engine.close()
    with pytest.raises(PenstockError):
        await engine.predict(request)


async def test_concurrent_requests_of_the_engine_share_runs_and_keep_their_answers(registry):
    requests = [PredictionRequest(equipment_id=f"m{k}", sensor_data=readings(RIG, seed=k)) for k in range(24)]
    async with InferenceEngine(_config(registry)) as engine:
        alone = [await engine.predict(request, "zema_rig") for request in requests]
        together = await asyncio.gather(*(engine.predict(request, "zema_rig") for request in requests))
        (figures,) = engine.get_stats()["models"].values()
    assert [each.equipment_id for each in together] == [f"m{k}" for k in range(24)]
    for one, other in zip(alone, together, strict=True):
        assert one.anomaly.predictions == pytest.approx(other.anomaly.predictions, abs=1e-5)
    assert any(int(rows) > 1 for rows in figures["batch_size_histogram"])


async def test_the_options_of_the_queue_are_in_force(registry):
    async with InferenceEngine(_config(registry, batch_size=8, use_dynamic_batching=False)) as engine:
        (model,) = engine._engine.loaded()
        limits = model.batcher.limits
        assert (limits.batch_rows, limits.queue_rows, limits.max_wait_ms, limits.join) == (8, 100, 50.0, False)
        request = PredictionRequest(equipment_id="a", sensor_data=readings(RIG))
        several = await engine.predict_batch([request] * 130)  # more than the queue holds
        assert all(isinstance(each, PredictionResponse) for each in several)


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"batch_size": 0}, ConfigError, "batch_size: 0"),
        ({"device": "tpu"}, ConfigError, "device: 'tpu'"),
        ({"max_wait_ms": -1}, ConfigError, "max_wait_ms: -1"),
        ({"history": "yes"}, ConfigError, "history: 'yes'"),
        ({"max_batch": 3}, TypeError, "InferenceConfig() has no option 'max_batch'"),
        ({"model_path": "pumps"}, ModelNotFound, "pumps"),
        ({"model_path": "nowhere.onnx"}, ModelLoadError, "nowhere.onnx: there is no such model file"),
    ],
)
@pytest.mark.parametrize("kind", [InferenceEngine, HydraulicPredictor])
def test_a_wrong_option_is_refused_in_one_sentence(kind, options, error, sentence, registry):
    with pytest.raises(error) as refused:
        kind(_config(registry, **options))
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"config": "hydraulics"}, "config: str is no configuration"),
        ({"feature_config": {"min_window_s": 10}}, "feature_config: dict is no FeatureConfig"),
    ],
)
def test_an_argument_of_another_type_is_named(arguments, sentence):
    with pytest.raises(InvalidInput, match=sentence):
        InferenceEngine(**arguments)


def test_a_single_request_is_no_batch(predictor):
    with pytest.raises(InvalidInput, match="requests: must be a list"):
        predictor.predict_batch(PredictionRequest(equipment_id="a", sensor_data=readings(RIG)))


# What model_path may be


def _states(answer: PredictionResponse) -> dict[str, object]:
    return {part.component_id: part.state for part in answer.components if part.state is not None}


async def test_every_output_of_a_training_serves_and_answers_alike(training, tmp_path):
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in (saved_model.MODEL, saved_model.FINISHED):
        (moved / name).write_bytes((training.out / name).read_bytes())
    request = {"equipment_id": "a", "sensor_data": readings(RIG), "topology": "zema_rig"}
    places = [training.out, moved / saved_model.MODEL, moved / saved_model.FINISHED]
    answers = []
    for place in places:
        with HydraulicPredictor(InferenceConfig(model_path=place, registry=tmp_path / "registry", threads=1)) as one:
            answers.append(one.predict(request))
    async with InferenceEngine({"model_path": training.out, "registry": tmp_path / "registry", "threads": 1}) as engine:
        answers.append(await engine.predict(request))
    for answer in answers[1:]:
        assert _states(answer).keys() == _states(answers[0]).keys() != set()
        assert answer.anomaly.predictions == pytest.approx(answers[0].anomaly.predictions, abs=1e-4)
    assert not (tmp_path / "registry").exists()


def test_an_artifact_serves_from_its_directory_and_the_registry_stays_as_it_is(registry, tmp_path):
    directory = registry / "hydraulics" / "1.0"
    request = {"equipment_id": "a", "sensor_data": readings(RIG), "topology": "zema_rig"}
    config = InferenceConfig(model_path=directory, registry=tmp_path / "registry", threads=1, history=True)
    with HydraulicPredictor(config) as predictor:
        assert predictor.predict(request).model_version == "1.0"
    assert [path.name for path in (tmp_path / "registry").iterdir() if path.name.endswith(".db")] == ["hydraulics.db"]


def test_what_carries_no_scales_is_refused_by_name(tmp_path):
    bare = hydraulic_model(tmp_path / "bare.onnx")
    with pytest.raises(ModelLoadError, match=r"bare\.onnx: the file carries no scales of its readings"):
        HydraulicPredictor(InferenceConfig(model_path=bare, registry=tmp_path / "r"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelLoadError, match="holds neither manifest"):
        HydraulicPredictor(InferenceConfig(model_path=tmp_path / "empty", registry=tmp_path / "r"))
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(InvalidInput, match=r"other\.ckpt: it is damaged or no checkpoint"):
        HydraulicPredictor(InferenceConfig(model_path=tmp_path / "other.ckpt", registry=tmp_path / "r"))


@pytest.mark.parametrize("kind", [InferenceEngine, HydraulicPredictor])
def test_a_model_of_another_task_is_refused(kind, tmp_path):
    with pytest.raises(ModelLoadError, match="vec is no model of the task hydraulic-diagnostics"):
        kind(InferenceConfig(model_path="vec", registry=build_registry(tmp_path), threads=1))


# Without an event loop


@pytest.mark.parametrize("topology", [RIG, RIG.document(), "zema_rig"])
def test_a_topology_is_a_name_a_graph_or_an_object(predictor, topology):
    data = {name: np.array(values) for name, values in readings(RIG).items()}
    answer = predictor.predict({"equipment_id": "a", "sensor_data": data}, topology)
    assert answer.components == predictor.predict({"equipment_id": "a", "sensor_data": data}, RIG).components


def test_a_batch_gives_answers_and_errors_in_order_and_equals_single_answers(predictor):
    good = [{"equipment_id": f"m{k}", "sensor_data": readings(RIG, seed=k), "topology": "zema_rig"} for k in range(5)]
    answers = predictor.predict_batch([good[0], {"equipment_id": "bad"}, *good[1:]])
    assert isinstance(answers[1], InvalidInput)
    for request, answer in zip(good, [answers[0], *answers[2:]], strict=True):
        single = predictor.predict(request)
        assert answer.equipment_id == request["equipment_id"]
        assert answer.health.score == pytest.approx(single.health.score, abs=1e-5)


def test_the_minimum_window_is_the_models_or_configured(registry):
    request = {"equipment_id": "a", "sensor_data": readings(RIG, seconds=12), "topology": "zema_rig"}
    config = InferenceConfig(registry=registry, threads=1)
    with HydraulicPredictor(config) as predictor:
        assert not any(part.state for part in predictor.predict(request).components)
    with HydraulicPredictor(config, FeatureConfig(min_window_s=10.0)) as predictor:
        assert any(part.state for part in predictor.predict(request).components)


def test_history_enables_the_trend(registry):
    start = datetime(2024, 1, 1, tzinfo=UTC)
    request = {"equipment_id": "b", "sensor_data": readings(RIG), "topology": "zema_rig"}
    with HydraulicPredictor(InferenceConfig(registry=registry, threads=1, history=True)) as predictor:
        answers = [predictor.predict({**request, "timestamp": start + timedelta(hours=hour)}) for hour in range(10)]
    assert [answer.degradation.basis for answer in answers] == ["nominal"] * 7 + ["history"] * 3
    assert answers[-1].degradation.rate == 0.0
    assert answers[-1].degradation.time_to_failure_hours is None


def test_a_request_is_unchanged_by_its_prediction(predictor):
    fields = {"equipment_id": "a", "sensor_data": readings(RIG), "topology": "zema_rig"}
    request = PredictionRequest(**fields)
    first = predictor.predict(request)
    assert request == PredictionRequest(**fields)
    assert pickle.loads(pickle.dumps(copy.deepcopy(request))) == request
    assert predictor.predict(request).components == first.components


def test_threads_can_share_a_predictor_and_a_request(predictor):
    requests = [
        PredictionRequest(equipment_id=f"m{k}", sensor_data=readings(TEMPLATES[name], seed=k), topology=name)
        for k, name in enumerate([*TEMPLATES] * 2)
    ]
    alone = [predictor.predict(request) for request in requests]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(predictor.predict, requests * 12))
    for answer, single in zip(answers, alone * 12, strict=True):
        assert answer.equipment_id == single.equipment_id
        assert answer.topology == single.topology
        assert answer.health.score == pytest.approx(single.health.score, abs=1e-5)


def test_simulated_requests_can_be_diagnosed_directly(predictor):
    request, _labels = next(traffic(Plan(RIG, windows=1)))
    assert predictor.predict(json.loads(json.dumps(request))).coverage == 1.0
