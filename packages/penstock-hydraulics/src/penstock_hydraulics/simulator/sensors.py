"""What the sensors of each kind of component read during a cycle, before noise: [STEPS] each."""

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
"""Share of tank oil in what the pump draws, the rest being cooled oil: TS1 between TS3 and TS4 of the recordings."""
_THROTTLED = 0.55
"""Share of the throttling heat that the valve's sensor shows: TS2 over TS1."""
_LEAD_STEPS = 1
"""Steps by which pressure is behind an opening spool before its overlap lets a flow pass: PS2 before FS1 and PS1."""
_FILLED = 0.5
"""How far a valve is open when the port behind it has its full pressure."""
_HELD_S = 240.0
"""Seconds in which a load held by a sound cylinder sinks to 1/e."""
_GAUGE_OFFSET, _GAUGE_FLOOR = 0.23, 9.5
"""PS4 of the recordings follows PS5 with this offset and reads 0 where the loop has less than this, in bar."""
_BEARING_FAULT = 5.0
"""How many times its sound vibration a failing bearing or an imbalance adds (ISO 20816-1: from zone A into D)."""
_NARROWED = 3.0
"""How many times a cooler's laminar drop a restriction of severity 1 adds."""

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
    """At a valve's port or an actuator: the load with its drops while oil flows; held, or let go, when shut."""
    found = cycle.of_consumer(component.id)
    if found is None:
        return _flat(0.0)
    flow, place, consumer = found
    branch, taken = flow.line.branches[place], flow.consumed[place]
    load = branch.load - cycle.machine.ratings.preload
    behind = 0.0 if component.id != consumer.valve else cycle.machine.restriction(consumer)
    moving = load + branch.linear * taken + behind * taken**2
    worst = max((cycle.machine.severity(part.id, "seal_degradation") for part in consumer.actuators), default=0.0)
    held = load * _sinking(taken > 0, _HELD_S * (1 - 0.97 * worst)) if consumer.holds else _flat(0.0)
    reached = np.minimum(moving, flow.pressure)
    return np.asarray(held + (reached - held) * _filled(branch.opened))


def _filled(opened: Array) -> Array:
    """How much of its pressure the port behind a valve has, 0..1: it comes just before the flow, and goes with it."""
    ahead = np.roll(opened, -_LEAD_STEPS)
    return np.asarray(np.minimum(np.maximum(opened, ahead) / _FILLED, 1.0))


def _sinking(moving: NDArray[np.bool_], time_s: float) -> Array:
    """1 while moving, then an exponential fall since the motion ended; the cycle repeats itself."""
    if not moving.any():
        return _flat(0.0)
    twice = np.concatenate([moving, moving])
    last = np.maximum.accumulate(np.where(twice, np.arange(2 * STEPS), -1))[STEPS:]
    gone = (np.arange(STEPS, 2 * STEPS) - last) * (TIMES[1] - TIMES[0])
    return np.asarray(np.exp(-gone / time_s))


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
    """Before the filter. A clogging element keeps 1 - 0.9·severity of its pores (Darcy's law)."""
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
    """A pump's meter sits behind relief valve and accumulator, as FS1 of the recordings does."""
    if component.kind == "pump":
        return cycle.of_pump(component.id).used
    if component.kind in ("directional_valve", "cylinder", "motor", "load_valve"):
        return _batch(cycle, component)
    if component.kind == "relief_valve":
        return next((flow.relieved for flow in cycle.flows if component.id in flow.supply.reliefs), _flat(0.0))
    if component.kind in ("circulation_pump", "filter", "heat_exchanger"):
        return _flat(cycle.loop.flow)
    return cycle.returned if component.kind == "reservoir" else _flat(0.0)


def _batch(cycle: Cycle, component: Component) -> Array:
    """What a valve passes, or what of it moves an actuator: a leaking seal lets the rest by."""
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
    result, room = tank, cycle.machine.ratings.ambient
    for cooler in cycle.machine.topology.of_kind("heat_exchanger"):
        share = cycle.machine.effectiveness(cooler.id, cycle.loop.flow, cycle.loop.rated)
        result = result - share * (result - room)
    return result


def _throttling(cycle: Cycle, component: Component) -> float:
    """K by which oil warms as it loses its pressure: Δp / (ρ·c)."""
    found = cycle.of_consumer(component.id)
    pressure = found[0].pressure if found is not None else _line_pressure(cycle, component)
    return _THROTTLED * float(pressure.mean()) * 100.0 / HEAT_CAPACITY


# --- Vibration, mm/s r.m.s. ---


def _vibration(cycle: Cycle, component: Component) -> Array:
    """Grows with the pressure's pulses and with thin oil; imbalance and foam add as squares, being independent."""
    sound = cycle.machine.ratings.vibration * _loudness(cycle, component)
    shaken = _BEARING_FAULT * cycle.machine.severity(component.id, "vibration_anomaly")
    foaming = 0.6 * _BEARING_FAULT * cycle.machine.severity(component.id, "cavitation")
    return np.asarray(sound * np.sqrt(1 + shaken**2 + foaming**2))


def _loudness(cycle: Cycle, component: Component) -> Array:
    """Relative to a sound pump at rated pressure; VS1 of the recordings: 0.53 to 0.59 mm/s over 147 to 191 bar."""
    rated = cycle.machine.ratings
    warm = 1 + 0.0105 * (cycle.tank_c - 38.0)
    if component.kind == "pump":
        return (1 + 0.4 * (cycle.of_pump(component.id).pressure / rated.pressure - 1)) * warm
    if component.kind == "motor":
        return (0.4 + 0.6 * _batch(cycle, component) / rated.flow) * warm
    return _flat(0.5 * warm)


# --- Power, W ---


def _power(cycle: Cycle, component: Component) -> Array:
    """Electrical for pumps; for the others what the oil hands over."""
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
