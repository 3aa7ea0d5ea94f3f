from __future__ import annotations

import json
import tracemalloc
from types import SimpleNamespace

from hydraulic_models import SIGNATURE, task_config

from penstock_hydraulics.diagnosis.request_plans import Cases
from penstock_hydraulics.diagnosis.schemas import PredictionRequest
from penstock_hydraulics.task import HydraulicDiagnostics


def case(weight=10, equipment=None):
    return SimpleNamespace(weight=weight, equipment=equipment)


def test_a_case_is_made_once_and_again_for_other_equipment():
    cases, made = Cases(), []

    def make(equipment=None):
        made.append(case(equipment=equipment))
        return made[-1]

    press = object()
    assert cases.find("a", None, make) is cases.find("a", None, make)
    assert len(made) == 1
    assert cases.find("a", press, lambda: make(press)).equipment is press
    assert cases.find("a", press, lambda: make(press)) is made[-1]
    assert len(made) == 2
    assert len(cases) == 1


def test_the_least_recently_used_cases_leave_when_there_are_too_many_rows():
    cases = Cases(most_rows=30)
    first = cases.find("a", None, case)
    for name in "bc":
        cases.find(name, None, case)
    assert cases.find("a", None, case) is first
    cases.find("d", None, case)
    assert len(cases) == 3
    assert cases.find("a", None, case) is first


def test_one_case_that_is_too_large_is_still_kept():
    cases = Cases(most_rows=5)
    large = cases.find("a", None, lambda: case(weight=100))
    assert cases.find("a", None, case) is large


def test_the_number_of_cases_is_bounded_too():
    cases = Cases(most_cases=4)
    for k in range(20):
        cases.find(k, None, case)
    assert len(cases) == 4


def test_what_many_topologies_hold_in_memory_is_bounded():
    task = HydraulicDiagnostics(task_config(), SIGNATURE)
    tracemalloc.start()
    for k in range(150):
        task.preprocess(_dense(k))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held / 150 < 200_000
    assert 800 * task._cases._rows > held / 2


def _dense(number: int) -> PredictionRequest:
    """Of a machine of 64 components, each with a line to each, and four names of every component's sensor."""
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
