"""The circuit of a version: when it opens, how it probes, and when it closes."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.engine.deployment.circuit import FAILURES, FIRST_WAIT_S, LONGEST_WAIT_S, PROBE_S, Circuit, Circuits
from penstock.engine.observation import Observation
from penstock.errors import OutOfRange


def _opened(now: float = 0.0) -> Circuit:
    circuit = Circuit()
    for _ in range(FAILURES):
        circuit.failed(now)
    assert not circuit.closed
    return circuit


def test_only_failures_in_a_row_open_it() -> None:
    circuit = Circuit()
    for _ in range(100):
        for _ in range(FAILURES - 1):
            circuit.failed(0.0)
        circuit.succeeded()
    assert circuit.closed
    assert circuit.state(0.0) == {"state": "closed", "trips": 0}


def test_an_open_circuit_lets_one_probe_through_after_its_wait() -> None:
    circuit = _opened()
    assert not circuit.allows(FIRST_WAIT_S - 0.1, "r1")
    assert circuit.state(1.0) == {"state": "open", "trips": 1, "next_probe_s": FIRST_WAIT_S - 1}
    assert circuit.allows(FIRST_WAIT_S, "r2")
    assert circuit.state(FIRST_WAIT_S)["state"] == "probing"
    assert not circuit.allows(FIRST_WAIT_S + 1, "r3")
    assert circuit.allows(FIRST_WAIT_S + PROBE_S, "r4")  # the probe got no answer


def test_a_probe_that_is_answered_closes_it() -> None:
    circuit = _opened()
    circuit.succeeded()  # of a request from before
    assert not circuit.closed
    assert circuit.allows(FIRST_WAIT_S, "r5")
    circuit.succeeded()
    assert circuit.closed
    for _ in range(FAILURES - 1):
        circuit.failed(20.0)
    assert circuit.closed


def test_probes_that_fail_wait_longer_each_time_up_to_a_limit() -> None:
    circuit, now, waits = _opened(), 0.0, []
    for _ in range(8):
        left = circuit.state(now)["next_probe_s"]
        waits.append(left)
        now += left
        assert circuit.allows(now, "r6")
        circuit.failed(now)
    assert waits[:3] == [FIRST_WAIT_S, 2 * FIRST_WAIT_S, 4 * FIRST_WAIT_S]
    assert waits[-1] == LONGEST_WAIT_S
    assert circuit.state(now)["trips"] == 9


def _seen(outcome: Any, arm: str = "v2", **more: Any) -> Observation:
    return Observation(model="m", version=arm, variant="", outcome=outcome, total_ms=1.0, route="m", arm=arm, **more)


@pytest.mark.parametrize("outcome", ["error", "load_error", "not_ready", "deadline"])
def test_faults_of_the_version_count(outcome: Any) -> None:
    circuits = Circuits(lambda: 0.0)
    circuits.keep({("m", "v2"): None})
    for _ in range(FAILURES):
        circuits(_seen(outcome))
    assert not circuits.of["m", "v2"].closed


def test_faults_of_callers_and_full_queues_do_not_count_and_outputs_out_of_range_do() -> None:
    circuits = Circuits(lambda: 0.0)
    circuits.keep({("m", "v2"): None})
    for outcome in ("invalid", "not_found", "cancelled", "overloaded"):
        for _ in range(2 * FAILURES):
            circuits(_seen(outcome))
    for _ in range(2 * FAILURES):
        circuits(_seen("out_of_range", error=OutOfRange("x", side="input")))
        circuits(_seen("error", arm="v1"))  # has no circuit
    assert circuits.of["m", "v2"].closed
    for _ in range(FAILURES):
        circuits(_seen("out_of_range", error=OutOfRange("y is NaN", side="output")))
    assert not circuits.of["m", "v2"].closed


def test_a_circuit_survives_changes_of_other_routes() -> None:
    circuits = Circuits(lambda: 0.0)
    circuits.keep({("m", "v2"): None})
    kept = circuits.of["m", "v2"]
    circuits.keep({("m", "v2"): None, ("n", "v1"): None})
    assert circuits.of["m", "v2"] is kept
    circuits.keep({})
    assert circuits.of == {}


def test_a_probe_may_ask_again_and_nobody_else() -> None:
    circuit = Circuit()
    for _ in range(FAILURES):
        circuit.failed(0.0)
    assert circuit.allows(FIRST_WAIT_S, "probe")  # with its head
    assert not circuit.allows(FIRST_WAIT_S, "other")
    assert circuit.allows(FIRST_WAIT_S, "probe")  # with its body
    circuit.failed(FIRST_WAIT_S)
    assert not circuit.allows(FIRST_WAIT_S, "probe")
