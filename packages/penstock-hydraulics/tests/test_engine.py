from __future__ import annotations

import copy
import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hydraulic_models import hydraulic_registry, readings
from served_models import build_registry

from penstock.errors import InvalidInput, ModelLoadError
from penstock_hydraulics.engine import (
    FeatureConfig,
    InferenceConfig,
    InferenceEngine,
    PredictionRequest,
    PredictionResponse,
)
from penstock_hydraulics.machine.templates import TEMPLATES
from penstock_hydraulics.simulator.traffic import Plan, traffic

RIG = TEMPLATES["zema_rig"]


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    return hydraulic_registry(tmp_path_factory.mktemp("engine"))


@pytest.fixture
def engine(registry):
    with InferenceEngine(InferenceConfig(registry=registry, threads=1)) as engine:
        yield engine


def test_a_request_and_a_topology_give_a_response(engine):
    request = PredictionRequest(equipment_id="exc_001", sensor_data=readings(RIG))
    answer = engine.predict(request=request, topology=RIG)
    assert isinstance(answer, PredictionResponse)
    assert answer.coverage == 1.0
    assert answer.model_version == "1.0"
    assert answer.topology == "zema_rig"
    assert request.topology is None


@pytest.mark.parametrize("topology", [RIG, RIG.document(), "zema_rig"])
def test_a_topology_is_a_name_a_graph_or_an_object(engine, topology):
    data = {name: np.array(values) for name, values in readings(RIG).items()}
    answer = engine.predict({"equipment_id": "a", "sensor_data": data}, topology)
    assert answer.components == engine.predict({"equipment_id": "a", "sensor_data": data}, RIG).components


def test_a_batch_gives_answers_and_errors_in_order_and_equals_single_answers(engine):
    good = [{"equipment_id": f"m{k}", "sensor_data": readings(RIG, seed=k), "topology": "zema_rig"} for k in range(5)]
    answers = engine.predict_batch([good[0], {"equipment_id": "bad"}, *good[1:]])
    assert isinstance(answers[1], InvalidInput)
    for request, answer in zip(good, [answers[0], *answers[2:]], strict=True):
        single = engine.predict(request)
        assert answer.equipment_id == request["equipment_id"]
        assert answer.health.score == pytest.approx(single.health.score, abs=1e-5)


def test_the_minimum_window_can_be_configured(registry):
    config = InferenceConfig(registry=registry, threads=1, features=FeatureConfig(min_window_s=10.0))
    request = {"equipment_id": "a", "sensor_data": readings(RIG, seconds=12), "topology": "zema_rig"}
    with InferenceEngine(config) as engine:
        assert any(part.state for part in engine.predict(request).components)


def test_history_enables_the_trend(registry):
    start = datetime(2024, 1, 1, tzinfo=UTC)
    request = {"equipment_id": "b", "sensor_data": readings(RIG), "topology": "zema_rig"}
    with InferenceEngine(InferenceConfig(registry=registry, threads=1, history=True)) as engine:
        answers = [engine.predict({**request, "timestamp": start + timedelta(hours=hour)}) for hour in range(10)]
    assert [answer.degradation.basis for answer in answers] == ["nominal"] * 7 + ["history"] * 3
    assert answers[-1].degradation.rate == 0.0
    assert answers[-1].degradation.time_to_failure_hours is None


def test_a_model_of_another_task_is_refused(tmp_path):
    with pytest.raises(ModelLoadError, match="vec has the task vector-classification"):
        InferenceEngine(InferenceConfig(model="vec", registry=build_registry(tmp_path), threads=1))


def test_a_request_is_unchanged_by_its_prediction(engine):
    fields = {"equipment_id": "a", "sensor_data": readings(RIG), "topology": "zema_rig"}
    request = PredictionRequest(**fields)
    first = engine.predict(request)
    assert request == PredictionRequest(**fields)
    assert pickle.loads(pickle.dumps(copy.deepcopy(request))) == request
    assert engine.predict(request).components == first.components


def test_threads_can_share_an_engine_and_a_request(engine):
    requests = [
        PredictionRequest(equipment_id=f"m{k}", sensor_data=readings(TEMPLATES[name], seed=k), topology=name)
        for k, name in enumerate([*TEMPLATES] * 2)
    ]
    alone = [engine.predict(request) for request in requests]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(engine.predict, requests * 12))
    for answer, single in zip(answers, alone * 12, strict=True):
        assert answer.equipment_id == single.equipment_id
        assert answer.topology == single.topology
        assert answer.health.score == pytest.approx(single.health.score, abs=1e-5)


def test_simulated_requests_can_be_diagnosed_directly(engine):
    request, _labels = next(traffic(Plan(RIG, windows=1)))
    assert engine.predict(json.loads(json.dumps(request))).coverage == 1.0
