from __future__ import annotations

import gc
import json
import tracemalloc
from types import SimpleNamespace

from hydraulic_models import SIGNATURE, task_config

from penstock_hydraulics.diagnosis.request_plans import RequestPlanCache
from penstock_hydraulics.diagnosis.schemas import PredictionRequest
from penstock_hydraulics.task import HydraulicDiagnostics


def plan(weight=10, equipment=None):
    return SimpleNamespace(weight=weight, equipment=equipment)


def test_a_plan_is_cached_and_rebuilt_for_other_equipment():
    plans, created = RequestPlanCache(), []

    def make(equipment=None):
        created.append(plan(equipment=equipment))
        return created[-1]

    press = object()
    assert plans.find("a", None, make) is plans.find("a", None, make)
    assert len(created) == 1
    assert plans.find("a", press, lambda: make(press)).equipment is press
    assert plans.find("a", press, lambda: make(press)) is created[-1]
    assert len(created) == 2
    assert len(plans) == 1


def test_the_least_recently_used_plans_are_evicted_beyond_the_row_limit():
    plans = RequestPlanCache(max_rows=30)
    first = plans.find("a", None, plan)
    for name in "bc":
        plans.find(name, None, plan)
    assert plans.find("a", None, plan) is first
    plans.find("d", None, plan)
    assert len(plans) == 3
    assert plans.find("a", None, plan) is first


def test_a_single_plan_beyond_the_limit_is_still_cached():
    plans = RequestPlanCache(max_rows=5)
    large = plans.find("a", None, lambda: plan(weight=100))
    assert plans.find("a", None, plan) is large


def test_the_number_of_plans_is_bounded():
    plans = RequestPlanCache(max_plans=4)
    for k in range(20):
        plans.find(k, None, plan)
    assert len(plans) == 4


def test_the_memory_of_the_cache_is_bounded():
    HydraulicDiagnostics(task_config(), SIGNATURE).preprocess(_dense(0))  # what is imported and cached once
    task = HydraulicDiagnostics(task_config(), SIGNATURE)
    gc.collect()
    tracemalloc.start()
    for k in range(40):
        task.preprocess(_dense(k))
    gc.collect()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held / 40 < 200_000
    assert 800 * task._plans._rows > held / 2


def _dense(number: int) -> PredictionRequest:
    """A request with 64 fully connected components and long ids."""
    ids = [f"c{number}_{k}_".ljust(64, "x") for k in range(64)]
    components = [{"component_id": each, "type": "other", "sensors": ["pressure"] * 50} for each in ids]
    edges = [[first, second] for k, first in enumerate(ids) for second in ids[:k]]
    body = {
        "equipment_id": "a",
        "sensor_data": {f"pressure_{ids[0]}": [1, 2, 3]},
        "sampling_rate_hz": {f"{number}_{k}": 1.0 for k in range(40)},
        "topology": {"name": "dense", "components": components, "edges": edges},
    }
    return PredictionRequest.model_validate_json(json.dumps(body))
