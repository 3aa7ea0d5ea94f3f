"""One pump's line: continuity, and the law of each element."""

from __future__ import annotations

import numpy as np
import pytest

from penstock_hydraulics.simulator.supply import (
    STEP_S,
    STEPS,
    TIMES,
    Branch,
    Gas,
    Line,
    Pump,
    Relief,
    pressures,
    spool,
)

PUMP = Pump(flow=40.0, linear=0.01, bypass=0.05)
RELIEF = Relief(crack=200.0, rise=0.25)
GAS = Gas(volume=2.0, precharge=90.0)
CYCLE = ((0.0, 0.0, 100.0), (20.0, 1.0, 100.0), (40.0, 0.5, 140.0))


def _line(gas: Gas | None = GAS, opened: float | None = None) -> Line:
    way, load = spool(CYCLE, 0.0)
    if opened is not None:
        way = np.full(STEPS, opened)
    branch = Branch(way, load, 0.005 / np.maximum(way, 0.02) ** 2, 0.15)
    return Line(PUMP, RELIEF, gas, 4.0, (branch,))


@pytest.mark.parametrize("gas", [GAS, None])
def test_oil_is_conserved(gas: Gas | None) -> None:
    line = _line(gas)
    pressure = pressures(line)
    net = line.pump.delivery(pressure) - line.relief.flow(pressure) - line.branches[0].flow(pressure)

    stored = np.diff(line.oil(pressure))

    assert stored == pytest.approx(net[1:] * STEP_S / 60, abs=1e-5)


def test_a_cycle_ends_as_it_begins() -> None:
    line = _line()
    pressure = pressures(line)

    first = line.oil(pressure[:1]) - line.oil(pressure[-1:])
    net = line.pump.delivery(pressure) - line.relief.flow(pressure) - line.branches[0].flow(pressure)

    assert first == pytest.approx(net[:1] * STEP_S / 60, abs=1e-4)


def test_a_closed_valve_sends_all_flow_through_the_relief_valve() -> None:
    line = _line(opened=0.0)
    pressure = pressures(line)

    assert line.relief.flow(pressure)[-1] == pytest.approx(line.pump.delivery(pressure)[-1], rel=1e-3)
    assert RELIEF.crack < pressure[-1] < RELIEF.crack + RELIEF.rise * PUMP.flow


def test_an_accumulator_slows_the_rise_and_one_without_gas_does_not() -> None:
    at = round(0.5 / STEP_S)

    assert pressures(_line(GAS))[at] < pressures(_line(None))[at]


def test_a_larger_stride_agrees_with_the_fine_one() -> None:
    assert pressures(_line(), stride=8).mean() == pytest.approx(pressures(_line()).mean(), rel=5e-3)


def test_gas_follows_the_polytropic_law() -> None:
    gas = GAS.volume - GAS.oil(np.array([90.0, 180.0]))

    assert (np.array([90.0, 180.0]) * gas**1.4) == pytest.approx(90.0 * 2.0**1.4)
    assert GAS.oil(np.array([50.0])) == 0.0


def test_the_flow_of_a_branch_balances_its_pressure_drops() -> None:
    branch = Branch(np.ones(STEPS), np.full(STEPS, 100.0), np.full(STEPS, 0.005), 0.15)
    flow = branch.flow(np.full(STEPS, 120.0))

    assert 100.0 + 0.15 * flow + 0.005 * flow**2 == pytest.approx(120.0)
    assert (branch.flow(np.full(STEPS, 90.0)) == 0).all()


def test_an_orifice_passes_twice_the_flow_at_four_times_the_drop() -> None:
    branch = Branch(np.ones(STEPS), np.zeros(STEPS), np.full(STEPS, 0.01), 0.0)

    assert branch.flow(np.full(STEPS, 40.0)) == pytest.approx(2 * branch.flow(np.full(STEPS, 10.0)))


def test_a_sticking_spool_opens_late_and_closes_on_time() -> None:
    sound, _ = spool(CYCLE, 0.0)
    sticking, _ = spool(CYCLE, 0.3)

    late = TIMES[np.argmax(sticking > 0.5)] - TIMES[np.argmax(sound > 0.5)]
    assert late == pytest.approx(0.3, abs=STEP_S + 1e-9)
    assert sticking[: round(20 / STEP_S)] == pytest.approx(sound[: round(20 / STEP_S)])


def test_a_spool_begins_where_its_last_phase_ends() -> None:
    opened, load = spool(((1.0, 0.0, 100.0), (20.0, 1.0, 130.0)), 0.0)

    assert opened[0] == pytest.approx(1.0)
    assert load[0] == pytest.approx(130.0)
