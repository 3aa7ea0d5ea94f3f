"""Exact sensor readings of each kind of component over a cycle, before noise: [STEPS] each."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from penstock_hydraulics.machine.topology import Component
from penstock_hydraulics.simulator.cycle import Cycle
from penstock_hydraulics.simulator.oil import HEAT_CAPACITY, thickness
from penstock_hydraulics.simulator.supply import STEPS, TIMES, Array
from penstock_hydraulics.simulator.thermal import PER_LPM, ripple

_INLET = 0.63
"""Share of tank oil at the pump inlet, the rest is cooled oil: TS1 between TS3 and TS4 of the recordings."""
_THROTTLED = 0.55
"""Share of the throttling heat at the valve's sensor, from TS2 and TS1."""
_LEAD_STEPS = 1
"""Steps by which the pressure behind an opening spool rises before the flow (overlap): PS2 before FS1 and PS1."""
_FILLED = 0.5
"""Valve opening at which the port behind it has full pressure."""
_HELD_S = 240.0
"""Time constant of the pressure of a load held by a healthy cylinder."""
_GAUGE_OFFSET, _GAUGE_FLOOR = 0.23, 9.5
"""PS4 of the recordings is PS5 plus this offset, and 0 below this floor, in bar."""
_BEARING_FAULT = 5.0
"""Vibration added by a failing bearing or an imbalance, relative to healthy (ISO 20816-1: zone A to D)."""
_NARROWED = 3.0
"""Pressure drop added by a restriction of severity 1, as a multiple of the cooler's laminar drop."""

Reading = Callable[[Cycle, Component], Array]


def reading(cycle: Cycle, component: Component, quantity: str) -> Array:
    """[STEPS] in the quantity's unit."""
    return np.maximum(_READINGS[quantity](cycle, component), 0.0)


def _flat(value: float) -> Array:
    return np.full(STEPS, value)


# --- Pressure, bar ---


def _pressure(cycle: Cycle, component: Component) -> Array:
    kind = component.kind
    if kind in ("pump", "relief_valve", "accumulator"):
        return _line_pressure(cycle, component)
    if kind in ("directional_valve", "cylinder", "motor"):
        return _load_pressure(cycle, component)
    if kind == "load_valve":
        return _behind_load(cycle, component)
    return _loop_pressure(cycle, component)


def _line_pressure(cycle: Cycle, component: Component) -> Array:
    if component.kind == "accumulator" and cycle.machine.ratings.loop_gauges:
        seen = _filter_pressure(cycle) + _GAUGE_OFFSET
        return _flat(seen if seen > _GAUGE_FLOOR else 0.0)
    for flow in cycle.flows:
        if component.id in (flow.supply.pump, *flow.supply.accumulators, *flow.supply.reliefs):
            return flow.pressure
    return _flat(0.0)


def _load_pressure(cycle: Cycle, component: Component) -> Array:
    """Pressure at a valve's port or an actuator: load plus drops with flow; held or released when closed."""
    found = cycle.of_consumer(component.id)
    if found is None:
        return _flat(0.0)
    flow, place, consumer = found
    branch, taken = flow.line.branches[place], flow.consumed[place]
    load = branch.load - cycle.machine.ratings.preload
    behind = 0.0 if component.id != consumer.valve else cycle.machine.restriction(consumer)
    moving = load + branch.linear * taken + behind * taken**2
    worst = max((cycle.machine.severity(part.id, "seal_degradation") for part in consumer.actuators), default=0.0)
    held = load * _decay(taken > 0, _HELD_S * (1 - 0.97 * worst)) if consumer.holds else _flat(0.0)
    reached = np.minimum(moving, flow.pressure)
    return np.asarray(held + (reached - held) * _port_share(branch.opened))


def _port_share(opened: Array) -> Array:
    """Relative pressure at the port behind a valve, 0..1: it rises just before the flow and falls with it."""
    ahead = np.roll(opened, -_LEAD_STEPS)
    return np.asarray(np.minimum(np.maximum(opened, ahead) / _FILLED, 1.0))


def _decay(moving: NDArray[np.bool_], time_s: float) -> Array:
    """1 while moving, then an exponential decay; the cycle is periodic."""
    if not moving.any():
        return _flat(0.0)
    twice = np.concatenate([moving, moving])
    last = np.maximum.accumulate(np.where(twice, np.arange(2 * STEPS), -1))[STEPS:]
    elapsed = (np.arange(STEPS, 2 * STEPS) - last) * (TIMES[1] - TIMES[0])
    return np.asarray(np.exp(-elapsed / time_s))


def _behind_load(cycle: Cycle, component: Component) -> Array:
    """The return line behind a load valve; PS3 of the recordings: 2.33 bar at 7.85 l/min, a quarter laminar."""
    found = cycle.of_consumer(component.id)
    if found is None:
        return _flat(0.0)
    flow, place, _ = found
    share = flow.consumed[place] / (0.945 * cycle.machine.ratings.flow)
    return np.asarray(0.56 * thickness(cycle.tank_c) * share + 1.77 * share**2)


def _cooler_pressure(cycle: Cycle) -> float:
    rated, loop = cycle.machine.ratings, cycle.loop
    share = loop.flow / loop.rated
    narrowed = [
        cycle.machine.severity(cooler.id, "flow_restriction")
        for cooler in cycle.machine.topology.of_kind("heat_exchanger")
    ]
    return (
        rated.back_pressure
        + rated.loop_drop * thickness(cycle.tank_c) * share
        + _NARROWED * max(narrowed, default=0.0) * rated.loop_drop * share**2
    )


def _filter_pressure(cycle: Cycle) -> float:
    """Pressure upstream of the filter. A clogged element keeps 1 - 0.9·severity of its pores (Darcy's law)."""
    drop = 0.0
    for element in cycle.machine.topology.of_kind("filter"):
        pores = 1 - 0.9 * cycle.machine.severity(element.id, "contamination")
        drop += cycle.machine.ratings.filter_drop * thickness(cycle.tank_c) / pores
    return _cooler_pressure(cycle) + drop * cycle.loop.flow / cycle.loop.rated


def _loop_pressure(cycle: Cycle, component: Component) -> Array:
    if component.kind == "heat_exchanger":
        return _flat(_cooler_pressure(cycle))
    if component.kind in ("filter", "circulation_pump"):
        return _flat(_filter_pressure(cycle))
    return _flat(0.0)


# --- Flow, l/min ---


def _flow(cycle: Cycle, component: Component) -> Array:
    """The flow meter of a pump is downstream of relief valve and accumulator, like FS1 of the recordings."""
    if component.kind == "pump":
        return cycle.of_pump(component.id).used
    if component.kind in ("directional_valve", "cylinder", "motor", "load_valve"):
        return _consumed_flow(cycle, component)
    if component.kind == "relief_valve":
        return next((flow.relieved for flow in cycle.flows if component.id in flow.supply.reliefs), _flat(0.0))
    if component.kind in ("circulation_pump", "filter", "heat_exchanger"):
        return _flat(cycle.loop.flow)
    return cycle.returned if component.kind == "reservoir" else _flat(0.0)


def _consumed_flow(cycle: Cycle, component: Component) -> Array:
    """Flow through a valve, or the part that moves an actuator; a leaking seal bypasses the rest."""
    found = cycle.of_consumer(component.id)
    if found is None:
        return _flat(0.0)
    flow, place, consumer = found
    taken = flow.consumed[place]
    if component.id == consumer.valve:
        return taken
    share = taken / max(len(consumer.actuators), 1)
    pressure = _load_pressure(cycle, component)
    leak = cycle.machine.seal_leak(component.id, component.kind, pressure, cycle.tank_c)
    return np.where(taken > 0, np.maximum(share - leak, 0.0), 0.0)


# --- Temperature, °C ---


def _temperature(cycle: Cycle, component: Component) -> Array:
    tank = cycle.tank_c + ripple(cycle.machine, cycle.power)
    if component.kind in ("reservoir", "circulation_pump", "filter"):
        return tank
    cooled = _cooled(cycle, tank)
    if component.kind == "heat_exchanger":
        return cooled
    inlet = _INLET * tank + (1 - _INLET) * cooled
    return inlet if component.kind == "pump" else inlet + _throttling(cycle, component)


def _cooled(cycle: Cycle, tank: Array) -> Array:
    result, ambient = tank, cycle.machine.ratings.ambient
    for cooler in cycle.machine.topology.of_kind("heat_exchanger"):
        share = cycle.machine.effectiveness(cooler.id, cycle.loop.flow, cycle.loop.rated)
        result = result - share * (result - ambient)
    return result


def _throttling(cycle: Cycle, component: Component) -> float:
    """Temperature rise by throttling in K: Δp / (ρ·c)."""
    found = cycle.of_consumer(component.id)
    pressure = found[0].pressure if found is not None else _line_pressure(cycle, component)
    return _THROTTLED * float(pressure.mean()) * 100.0 / HEAT_CAPACITY


# --- Vibration, mm/s r.m.s. ---


def _vibration(cycle: Cycle, component: Component) -> Array:
    """Increases with pressure and temperature; imbalance and foam are independent and add as squares."""
    healthy = cycle.machine.ratings.vibration * _relative_vibration(cycle, component)
    imbalance = _BEARING_FAULT * cycle.machine.severity(component.id, "vibration_anomaly")
    foam = 0.6 * _BEARING_FAULT * cycle.machine.severity(component.id, "cavitation")
    return np.asarray(healthy * np.sqrt(1 + imbalance**2 + foam**2))


def _relative_vibration(cycle: Cycle, component: Component) -> Array:
    """Relative to a healthy pump at rated pressure; VS1 of the recordings: 0.53 to 0.59 mm/s over 147 to 191 bar."""
    rated = cycle.machine.ratings
    warm = 1 + 0.0105 * (cycle.tank_c - 38.0)
    if component.kind == "pump":
        return (1 + 0.4 * (cycle.of_pump(component.id).pressure / rated.pressure - 1)) * warm
    if component.kind == "motor":
        return (0.4 + 0.6 * _consumed_flow(cycle, component) / rated.flow) * warm
    return _flat(0.5 * warm)


# --- Power, W ---


def _power(cycle: Cycle, component: Component) -> Array:
    """Electrical power for pumps, hydraulic or thermal power for others."""
    if component.kind == "pump":
        return cycle.of_pump(component.id).power
    if component.kind == "circulation_pump":
        return _flat(cycle.loop.flow * _filter_pressure(cycle) / 0.6 / 0.6)
    if component.kind == "heat_exchanger":
        tank = _flat(cycle.tank_c)
        return PER_LPM * cycle.loop.flow * (tank - _cooled(cycle, tank))
    return _pressure(cycle, component) * _flow(cycle, component) / 0.6


_READINGS: Mapping[str, Reading] = {
    "pressure": _pressure,
    "flow": _flow,
    "temperature": _temperature,
    "vibration": _vibration,
    "power": _power,
}
