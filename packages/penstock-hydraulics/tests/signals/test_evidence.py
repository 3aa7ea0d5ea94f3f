from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_hydraulics.signals.evidence import Evidence, EvidenceTable, StateEvidence, weakest

NAMES = ("a", "b", "c", "d", "e")
FIGURES = st.builds(StateEvidence, *[st.floats(1, 5), st.floats(0.5, 1), st.floats(0.5, 1), st.floats(0.97, 1)])
SETS = st.dictionaries(
    st.frozensets(st.sampled_from(range(len(NAMES))), min_size=1),
    st.dictionaries(st.sampled_from(["x", "y"]), FIGURES),
    max_size=12,
)


def evidence_of(sets):
    rows = [{"sensors": [*sensors], "states": states} for sensors, states in sets.items()]
    return Evidence(EvidenceTable.model_validate({"sensors": NAMES, "sets": rows}))


def names(indices):
    return frozenset(NAMES[index] for index in indices)


@given(SETS, st.frozensets(st.sampled_from(range(len(NAMES)))))
def test_a_set_tells_what_it_was_measured_to_or_what_the_sets_around_it_do(sets, seen):
    found = evidence_of(sets).states(names(seen))
    if seen in sets:
        assert found == sets[seen]
        return
    inside = [states for one, states in sets.items() if one < seen]
    around = [states for one, states in sets.items() if one > seen]
    for state in ("x", "y"):
        told = any(state in each for each in inside) and all(state in each for each in around)
        assert (state in found) == told
        if told:
            every = [each[state] for each in (*inside, *around) if state in each]
            assert found[state].temperature == max(one.temperature for one in every)
            assert found[state].threshold == max(one.threshold for one in every)
            assert found[state].sure == min(one.sure for one in every)


def test_sensors_outside_the_table_change_nothing():
    one = StateEvidence(1.0, 0.5, 0.9, 1.0)
    evidence = evidence_of({frozenset({0}): {"x": one}, frozenset({1}): {}})
    assert evidence.states({"a", "z"}) == {"x": one}
    assert evidence.states({"b", "z"}) == evidence.states({"z"}) == {}


def test_numbers_of_a_manifest_are_strings():
    row = {"sensors": "0 2", "states": {"x": "1.5 0.6 0.75 0.99"}}
    table = EvidenceTable.model_validate({"sensors": NAMES, "sets": [row]})
    assert Evidence(table).states({"a", "c"}) == {"x": StateEvidence(1.5, 0.6, 0.75, 0.99)}


@pytest.mark.parametrize("row", [{"sensors": "0 b"}, {"sensors": "0", "states": {"x": "1 2 3"}}])
def test_a_damaged_table_is_refused(row):
    with pytest.raises(ValueError, match=r"sensors|states"):
        EvidenceTable.model_validate({"sensors": NAMES, "sets": [row]})


def test_the_weakest_figures_are_the_most_cautious():
    one, other = StateEvidence(1.0, 0.7, 0.9, 0.99), StateEvidence(2.0, 0.5, 0.8, 1.0)
    assert weakest([one, other]) == StateEvidence(2.0, 0.7, 0.8, 0.99)
