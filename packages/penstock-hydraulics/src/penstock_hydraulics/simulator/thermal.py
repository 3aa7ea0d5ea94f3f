"""Heat: what the drives put into the oil, and what cooler and tank take out of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from penstock_hydraulics.simulator.faults import wear_bypass
from penstock_hydraulics.simulator.machine import Machine
from penstock_hydraulics.simulator.oil import HEAT_CAPACITY, thickness
from penstock_hydraulics.simulator.ratings import PERIOD_S
from penstock_hydraulics.simulator.supply import STEPS, Array

PER_LPM = HEAT_CAPACITY / 60
"""W/K that one l/min of oil carries."""
_THIN = 0.04
"""How a drive's power follows the viscosity: its exponent, from EPS1 of the recordings at 36 to 54 °C."""
_ROTOR_S = 0.28
"""Lag of a drive's electrical power behind its load, from EPS1 of the recordings as the valve opens and shuts."""
_RUBBING = 0.018
"""Share by which a wholly worn pump takes more power at the same pressure, from EPS1 of the recordings."""
_LAG_S = 6.0
"""Seconds that the oil needs from where it is heated back into the tank."""
_LOOP_WEAR_LOSS = 0.25
"""Share of its flow that a wholly worn circulation pump loses."""


@dataclass(frozen=True, slots=True)
class Loop:
    """What flows through filters and coolers: a loop of its own, or the return line. l/min."""

    flow: float
    rated: float


def drive_power(machine: Machine, pump: str, delivered: float, pressure: Array, oil_c: float) -> Array:
    """[...] W of one pump's drive: idling, and torque times speed, `delivered` being its theoretical flow."""
    rated = machine.ratings
    idle = rated.idle_power * rated.flow * rated.pressure / 0.6
    rubbing = 1 + _RUBBING * wear_bypass(machine.severity(pump, "leakage"))
    steady = (idle + delivered * pressure / 0.6) * rubbing * thickness(oil_c) ** _THIN
    return _lagged(np.asarray(steady))


def _lagged(power: Array) -> Array:
    """[...] What the mains give: the rotor's inertia stores and returns a little, and nothing over a whole cycle."""
    kernel = np.exp(-np.arange(40) * PERIOD_S / STEPS / _ROTOR_S)
    before = power[-(len(kernel) - 1) :]
    return np.convolve(np.concatenate([before, power]), kernel / kernel.sum(), mode="valid")


def loop_of(machine: Machine, returned: float, oil_c: float) -> Loop:
    """The loop at this temperature: circulation pumps slip more with thin oil; without one, all that returns."""
    rated = machine.ratings
    own = machine.topology.of_kind("circulation_pump")
    if not own:
        return Loop(returned, max(0.8 * rated.flow * len(machine.supplies), 1.0))
    nominal = rated.loop_flow * rated.flow
    slip = 0.83 + 0.175 * min(thickness(oil_c), 1.6)
    sound = [1 - _LOOP_WEAR_LOSS * machine.severity(pump.id, "leakage") for pump in own]
    return Loop(nominal * slip * sum(sound), nominal * len(own))


def conductance(machine: Machine, loop: Loop) -> tuple[float, float]:
    """W/K to the room: through the coolers, which are in series, and from the tank."""
    kept = 1.0
    for cooler in machine.topology.of_kind("heat_exchanger"):
        kept *= 1 - machine.effectiveness(cooler.id, loop.flow, loop.rated)
    pumps = max(len(machine.supplies), 1)
    return PER_LPM * loop.flow * (1 - kept), machine.ratings.tank_loss * machine.ratings.flow * pumps


def balance(machine: Machine, power: float, returned: float, oil_c: float) -> float:
    """The tank's °C at which the room takes what the drives give; `oil_c` is the last estimate of it."""
    through_cooler, from_tank = conductance(machine, loop_of(machine, returned, oil_c))
    rise = machine.ratings.heat * power / (through_cooler + from_tank)
    return machine.ratings.ambient + min(rise, 110.0 - machine.ratings.ambient)


def ripple(machine: Machine, power: Array) -> Array:
    """[STEPS] K: how the tank's temperature swings around its mean as the load goes through its cycle."""
    pumps = max(len(machine.supplies), 1)
    capacity = machine.ratings.tank_volume * machine.ratings.flow * pumps * HEAT_CAPACITY
    swing = machine.ratings.heat * (power - power.mean())
    stored = np.cumsum(swing) * (PERIOD_S / STEPS) / capacity
    return np.roll(stored - stored.mean(), round(_LAG_S * STEPS / PERIOD_S))
