"""Circuits as graphs: valid and invalid documents, and their errors."""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import InvalidInput
from penstock_hydraulics.machine.templates import TEMPLATES
from penstock_hydraulics.machine.topology import KINDS, MAX_COMPONENTS, Component, Topology, parse_topology


def _part(component_id: str, kind: str = "pump", **more: Any) -> dict[str, Any]:
    return {"component_id": component_id, "type": kind, **more}


def _line(count: int) -> dict[str, Any]:
    ids = [f"c{place}" for place in range(count)]
    edges = [list(pair) for pair in itertools.pairwise(ids)]
    return {"name": "line", "components": [_part(id_) for id_ in ids], "edges": edges}


PAIR = {
    "components": [_part("pump_main", sensors=["pressure"]), _part("pump_main_2", "reservoir")],
    "edges": [["pump_main", "pump_main_2"]],
}


def test_a_document_is_parsed_to_its_circuit() -> None:
    topology = parse_topology(PAIR)

    assert topology.components == (
        Component("pump_main", "pump", ("pressure",)),
        Component("pump_main_2", "reservoir"),
    )
    assert topology.index == {"pump_main": 0, "pump_main_2": 1}
    assert topology.expected_sensors == ("pressure_pump_main",)
    assert parse_topology(topology.document()) == topology


def test_a_sensor_is_matched_exactly_and_never_by_a_part_of_its_name() -> None:
    topology = parse_topology(PAIR)

    assert topology.sensor("pressure_pump_main") == (0, "pressure")
    assert topology.sensor("flow_pump_main_2") == (1, "flow")
    for name in ("pressure_pump", "pressure_pump_main_", "pump_main", "pressure", "torque_pump_main", "", "_pump_main"):
        assert topology.sensor(name) is None


def test_the_adjacency_is_symmetric_and_has_self_loops() -> None:
    matrix = parse_topology(_line(3)).adjacency()

    assert matrix.dtype == np.float32
    assert matrix.tolist() == [[1, 1, 0], [1, 1, 1], [0, 1, 1]]


def test_the_order_of_edges_does_not_change_the_fingerprint_and_any_content_does() -> None:
    document = _line(3)
    mark = parse_topology(document).fingerprint
    turned = {**document, "edges": [["c2", "c1"], ["c1", "c0"]]}
    renamed = {**document, "name": "other"}
    validation = {**document, "components": [_part("c0", sensors=["flow"]), _part("c1"), _part("c2")]}

    assert parse_topology(turned).fingerprint == mark
    assert len({mark, parse_topology(renamed).fingerprint, parse_topology(validation).fingerprint}) == 3


def test_a_cycle_through_several_components_is_accepted() -> None:
    document = _line(4)
    document["edges"].append(["c3", "c0"])

    assert len(parse_topology(document).edges) == 4


def test_the_maximum_number_of_components_is_accepted() -> None:
    assert len(parse_topology(_line(MAX_COMPONENTS)).components) == MAX_COMPONENTS


def test_a_single_component_needs_no_edge() -> None:
    assert parse_topology({"components": [_part("pump_main")]}).name == "custom"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"edges": [["c0", "c0"], ["c0", "c1"], ["c1", "c2"]]}, "'c0' is connected to itself"),
        ({"edges": [["c0", "c1"]]}, "disconnected: no path leads from 'c0' to 'c2'"),
        ({"edges": [["c0", "c1"], ["c1", "c2"], ["c2", "c1"]]}, "edge between 'c2' and 'c1' appears twice"),
        ({"edges": [["c0", "c9"]]}, "names the component 'c9', which the topology does not have"),
        ({"edges": [["c0"]]}, "An edge must be a pair of component ids"),
        ({"edges": {"c0": "c1"}}, "`edges` must be a list"),
        ({"edges": None}, "`edges` must be a list"),
        ({"components": []}, "has 0 components"),
        ({"components": "c0"}, "`components` must be a list"),
        ({"components": [_part("c0"), _part("c0")]}, "'c0' appears twice in the topology"),
        ({"components": [_part("C 0")]}, "'C 0' has an invalid id"),
        ({"components": [_part("c" * 65)]}, "has an invalid id"),
        ({"components": [_part("c0", "turbine")]}, "'c0' has the unknown type 'turbine'"),
        ({"components": [{"component_id": "c0"}]}, "'c0' has no string `type`"),
        ({"components": [{"type": "pump"}]}, "has no string `component_id`"),
        ({"components": [7]}, "not 7"),
        ({"components": [_part("c0", sensors=["torque"])]}, "'c0' has `sensors` other than"),
        ({"components": [_part("c0", sensors=[["flow"]])]}, "'c0' has `sensors` other than"),
        ({"components": [_part("c0", sensors="flow")]}, "'c0' has `sensors` other than"),
        ({"components": [_part("c0", colour="red")]}, "'c0' has an unknown field 'colour'"),
        ({"links": []}, "unknown field 'links'"),
        ({"name": ""}, "`name`"),
        ({"name": 3}, "`name`"),
    ],
)
def test_an_invalid_graph_is_refused_in_one_sentence(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        parse_topology({**_line(3), **change})

    assert sentence in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert refusal.value.errors


def test_too_many_components_are_refused_with_their_number() -> None:
    with pytest.raises(InvalidInput, match=r"has 65 components; the maximum is 64"):
        parse_topology(_line(65))


def test_a_long_id_is_truncated_in_the_error() -> None:
    with pytest.raises(InvalidInput) as refusal:
        parse_topology({"components": [_part("X" * 100_000)]})

    assert len(str(refusal.value)) < 400


def test_a_circuit_built_in_python_is_validated_like_a_document() -> None:
    with pytest.raises(InvalidInput, match="'b'"):
        Topology("t", (Component("a", "pump"), Component("b", "pump")), ())


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["pump", "a", "b"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.fixed_dictionaries({}, optional={"name": _JSON, "components": _JSON, "edges": _JSON, "x": _JSON}))
def test_any_document_gives_a_circuit_or_an_input_error(document: dict[str, Any]) -> None:
    try:
        topology = parse_topology(document)
    except InvalidInput:
        return
    assert parse_topology(topology.document()).fingerprint == topology.fingerprint


@given(st.sets(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=10), st.sampled_from(KINDS))
def test_every_accepted_graph_is_connected(pairs: set[tuple[int, int]], kind: str) -> None:
    document = {
        "components": [_part(f"c{place}", kind) for place in range(6)],
        "edges": [[f"c{first}", f"c{second}"] for first, second in pairs],
    }
    try:
        matrix = parse_topology(document).adjacency()
    except InvalidInput:
        return
    assert (np.linalg.matrix_power(matrix.astype(int), 6) > 0).all()


def test_an_error_quotes_at_most_one_line_of_the_input():
    document = {"components": [{"component_id": "a" * 100_000, "type": "pump", "colour": "red"}]}
    with pytest.raises(InvalidInput) as caught:
        parse_topology(document)
    assert len(str(caught.value)) < 400
    assert len(caught.value.errors[0].field) < 100


def test_edges_share_the_id_strings_of_their_components():
    document = json.loads(json.dumps(TEMPLATES["excavator"].document()))
    topology = parse_topology(document)
    own = {id(component.id) for component in topology.components}
    assert all(id(end) in own for edge in topology.edges for end in edge)
