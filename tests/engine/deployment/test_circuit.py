"""The circuit of a version: when it opens, how it probes, and when it closes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from penstock.engine.deployment.circuit import (
    FAILURES,
    FIRST_WAIT_S,
    LONGEST_WAIT_S,
    PROBE_S,
    PROOF_S,
    RETRY_S,
    Circuit,
    Circuits,
)
from penstock.engine.observation import Observation
from penstock.errors import OutOfRange


def _unasked(ref: str, circuit: Circuit) -> None:
    raise AssertionError(ref)


def _proved(circuit: Circuit, now: float) -> Circuit:
    """After a golden sample that was answered right."""
    assert circuit.begin_proof(now)
    circuit.proved(True, now)
    return circuit


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
    assert not circuit.allows(FIRST_WAIT_S, "r2")  # nothing has proven it
    assert _proved(circuit, FIRST_WAIT_S).allows(FIRST_WAIT_S, "r2")
    assert circuit.state(FIRST_WAIT_S)["state"] == "probing"
    assert not circuit.allows(FIRST_WAIT_S + 1, "r3")
    assert circuit.allows(FIRST_WAIT_S + PROBE_S, "r4")  # the probe got no answer


def test_a_probe_that_is_answered_closes_it() -> None:
    circuit = _opened()
    circuit.succeeded()  # of a request from before
    assert not circuit.closed
    assert _proved(circuit, FIRST_WAIT_S).allows(FIRST_WAIT_S, "r5")
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
        assert _proved(circuit, now).allows(now, "r6")
        circuit.failed(now)
    assert waits[:3] == [FIRST_WAIT_S, 2 * FIRST_WAIT_S, 4 * FIRST_WAIT_S]
    assert waits[-1] == LONGEST_WAIT_S
    assert circuit.state(now)["trips"] == 9


def test_a_proof_that_fails_opens_it_for_longer_and_no_request_was_the_probe() -> None:
    circuit = _opened()
    assert not circuit.begin_proof(FIRST_WAIT_S - 0.1)
    assert circuit.begin_proof(FIRST_WAIT_S)
    assert circuit.state(FIRST_WAIT_S)["state"] == "proving"
    assert not circuit.begin_proof(FIRST_WAIT_S)
    assert not circuit.allows(FIRST_WAIT_S, "r7")
    circuit.proved(False, FIRST_WAIT_S + 1)
    assert circuit.state(FIRST_WAIT_S + 1) == {"state": "open", "trips": 2, "next_probe_s": 2 * FIRST_WAIT_S}


def test_a_proof_that_says_nothing_is_repeated_soon_and_not_counted() -> None:
    circuit = _opened()
    assert circuit.begin_proof(FIRST_WAIT_S)
    circuit.proved(None, FIRST_WAIT_S)
    assert circuit.state(FIRST_WAIT_S) == {"state": "open", "trips": 1, "next_probe_s": RETRY_S}
    assert _proved(circuit, FIRST_WAIT_S + RETRY_S).allows(FIRST_WAIT_S + RETRY_S, "r8")


def test_a_proof_that_ends_without_a_result_is_repeated() -> None:
    circuit = _opened()
    assert circuit.begin_proof(FIRST_WAIT_S)
    assert not circuit.begin_proof(FIRST_WAIT_S + PROOF_S - 0.1)
    assert circuit.begin_proof(FIRST_WAIT_S + PROOF_S)


class Machine(RuleBasedStateMachine):
    """Requests, proofs and their results in any order, beside a plain account of what is allowed."""

    def __init__(self) -> None:
        super().__init__()
        self.circuit, self.now = Circuit(), 0.0
        self.failures, self.closed, self.trips = 0, True, 0
        self.wait_s, self.until = FIRST_WAIT_S, 0.0
        self.proof: float | None = None
        self.probe: float | None = None
        self.proven = False

    def _reopen(self, *, longer: bool) -> None:
        self.wait_s = min(2 * self.wait_s, LONGEST_WAIT_S) if longer else self.wait_s
        self.closed, self.proven, self.probe = False, False, None
        self.until, self.trips = self.now + self.wait_s, self.trips + 1

    @rule(seconds=st.sampled_from((0.1, RETRY_S, FIRST_WAIT_S, PROBE_S, LONGEST_WAIT_S)))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(request=st.sampled_from(("a", "b")))
    def a_request_comes(self, request: str) -> None:
        due = not self.closed and not self.proven and self.now >= self.until
        due = due and (self.proof is None or self.now - self.proof >= PROOF_S)
        assert self.circuit.begin_proof(self.now) == due
        if due:
            self.proof = self.now
        allowed = self.circuit.allows(self.now, request)
        if self.closed:
            assert allowed
        elif self.now < self.until or not self.proven:
            assert not allowed
        elif self.probe is None or self.now - self.probe >= PROBE_S:
            assert allowed
            self.probe, self.prober = self.now, request
        else:
            assert allowed == (request == self.prober)

    @rule(right=st.sampled_from((True, False, None)))
    def a_proof_ends(self, right: bool | None) -> None:
        self.circuit.proved(right, self.now)
        if self.proof is None:  # one that was given up, or none at all
            return
        self.proof = None
        if right is None:
            self.until = self.now + RETRY_S
        elif right:
            self.proven = True
        else:
            self._reopen(longer=True)

    @rule(times=st.sampled_from((1, FAILURES)))
    def requests_fail(self, times: int) -> None:
        for _ in range(times):
            self.circuit.failed(self.now)
            self.failures += 1
            if self.closed and self.failures >= FAILURES:
                self._reopen(longer=False)
            elif not self.closed and self.probe is not None:
                self._reopen(longer=True)

    @rule()
    def a_request_is_answered(self) -> None:
        self.circuit.succeeded()
        if self.closed:
            self.failures = 0
        elif self.probe is not None:
            self.closed, self.failures, self.probe, self.wait_s = True, 0, None, FIRST_WAIT_S

    @invariant()
    def the_state_is_shown(self) -> None:
        shown = self.circuit.state(self.now)
        assert shown["trips"] == self.trips
        assert (shown["state"] == "closed") == self.circuit.closed == self.closed
        if not self.closed:
            expected = "proving" if self.proof is not None else "probing" if self.proven else "open"
            assert shown["state"] == expected
            assert shown["next_probe_s"] == round(max(0.0, self.until - self.now), 1)


TestAnyOrder = Machine.TestCase
TestAnyOrder.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


def _seen(outcome: Any, arm: str = "v2", **more: Any) -> Observation:
    return Observation(model="m", version=arm, variant="", outcome=outcome, total_ms=1.0, route="m", arm=arm, **more)


@pytest.mark.parametrize("outcome", ["error", "load_error", "not_ready", "deadline"])
def test_faults_of_the_version_count(outcome: Any) -> None:
    circuits = Circuits(lambda: 0.0, _unasked)
    circuits.keep({("m", "v2"): None})
    for _ in range(FAILURES):
        circuits(_seen(outcome))
    assert not circuits.of["m", "v2"].closed


def test_faults_of_callers_and_full_queues_do_not_count_and_outputs_out_of_range_do() -> None:
    circuits = Circuits(lambda: 0.0, _unasked)
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
    circuits = Circuits(lambda: 0.0, _unasked)
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
    assert _proved(circuit, FIRST_WAIT_S).allows(FIRST_WAIT_S, "probe")  # with its head
    assert not circuit.allows(FIRST_WAIT_S, "other")
    assert circuit.allows(FIRST_WAIT_S, "probe")  # with its body
    circuit.failed(FIRST_WAIT_S)
    assert not circuit.allows(FIRST_WAIT_S, "probe")
