from __future__ import annotations

import re
from typing import Any

import pytest

from penstock.errors import InvalidInput
from penstock_hydraulics.fleet.equipment import parse_equipment
from penstock_hydraulics.machine.templates import TEMPLATES

GRAPH = {
    "name": "press",
    "components": [
        {"component_id": "pump_1", "type": "pump", "sensors": ["pressure"]},
        {"component_id": "tank", "type": "reservoir"},
    ],
    "edges": [["pump_1", "tank"]],
}


def test_a_template_is_stored_by_name() -> None:
    equipment = parse_equipment("exc_001", {"topology": "excavator"})
    assert equipment.topology is TEMPLATES["excavator"]
    assert equipment.document()["topology"] == "excavator"
    assert equipment.failure_health == 0.3


def test_a_graph_is_stored_in_full() -> None:
    document = {
        "topology": GRAPH,
        "nominal": {"pressure_pump_1": 160},
        "limits": {"temperature_tank": {"max": 70}},
        "failure_health": 0.4,
        "note": "hall 3",
        "cycle_s": 75,
    }
    equipment = parse_equipment("press-1", document)
    assert equipment.nominal == {"pressure_pump_1": 160.0}
    assert equipment.limits == {"temperature_tank": (None, 70.0)}
    assert parse_equipment("press-1", equipment.document()) == equipment


def test_a_graph_with_the_name_of_a_template_is_stored_in_full() -> None:
    equipment = parse_equipment("a", {"topology": {**GRAPH, "name": "zema_rig"}})
    assert parse_equipment("a", equipment.document()).topology == equipment.topology


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ({}, "topology: missing; name a template or send a graph"),
        ({"topology": "rig"}, "topology: unknown template 'rig'; known templates: zema_rig"),
        ({"topology": {**GRAPH, "edges": []}}, "disconnected"),
        ({"topology": GRAPH, "nominal": {"pressure_pump": 1}}, "nominal: 'pressure_pump' is not a sensor"),
        ({"topology": GRAPH, "nominal": {"pressure_pump_1": float("nan")}}, "pressure_pump_1 must be a finite number"),
        ({"topology": GRAPH, "nominal": {"pressure_pump_1": True}}, "pressure_pump_1 must be a finite number"),
        ({"topology": GRAPH, "nominal": [1]}, "nominal: must be an object"),
        (
            {"topology": GRAPH, "limits": {"flow_tank": 3}},
            "limits: flow_tank must be an object with `min`, `max` or both",
        ),
        ({"topology": GRAPH, "limits": {"flow_tank": {}}}, "limits: flow_tank must be an object"),
        ({"topology": GRAPH, "limits": {"flow_tank": {"low": 3}}}, "limits: flow_tank must be an object"),
        ({"topology": GRAPH, "limits": {"flow_tank": {"min": "3"}}}, "limits: flow_tank must have finite numbers"),
        ({"topology": GRAPH, "limits": {"flow_tank": {"min": 3, "max": 3}}}, "the `min` of flow_tank, 3, is not below"),
        ({"topology": GRAPH, "failure_health": 0.95}, "failure_health: must be a number from 0 to 0.9"),
        ({"topology": GRAPH, "note": 3}, "note: must be a string"),
        *(
            (
                {"topology": GRAPH, "cycle_s": wrong},
                "cycle_s: must be a number of seconds above 0, at most 86400, or null",
            )
            for wrong in (0, -1, 1e6, "60", True, float("nan"))
        ),
    ],
)
def test_a_bad_document_is_refused_in_one_sentence(document: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidInput, match=re.escape(sentence)):
        parse_equipment("a", document)


@pytest.mark.parametrize("equipment_id", ["", "-a", "a/b", "ä", "a" * 129, "a b", "a\n"])
def test_a_bad_id_is_refused(equipment_id: str) -> None:
    with pytest.raises(InvalidInput, match="equipment_id"):
        parse_equipment(equipment_id, {"topology": "zema_rig"})
