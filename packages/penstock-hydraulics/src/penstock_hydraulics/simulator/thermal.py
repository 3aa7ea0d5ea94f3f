"""Heat balance of the oil: input by the drives, losses through cooler and tank."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from penstock_hydraulics.simulator.faults import wear_bypass
from penstock_hydraulics.simulator.machine import Machine
from penstock_hydraulics.simulator.oil import HEAT_CAPACITY, thickness
from penstock_hydraulics.simulator.ratings import PERIOD_S
from penstock_hydraulics.simulator.supply import STEPS, Array

PER_LPM = HEAT_CAPACITY / 60
"""Heat capacity flow of 1 l/min of oil, in W/K."""
_THIN = 0.04
"""Exponent of a drive's power over viscosity, from EPS1 of the recordings at 36 to 54 °C."""
_ROTOR_S = 0.28
"""Lag of a drive's electrical power behind its load, from EPS1 of the recordings when the valve opens and closes."""
_WEAR_FRICTION = 0.018
"""Relative increase in power of a fully worn pump at equal pressure, from EPS1 of the recordings."""
_LAG_S = 6.0
"""Transport time of heated oil back to the tank, in seconds."""
_LOOP_WEAR_LOSS = 0.25
"""Share of its flow that a fully worn circulation pump loses."""


@dataclass(frozen=True, slots=True)
class Loop:
    """Flow through filters and coolers in l/min: a separate loop, or the return line."""

    flow: float
    rated: float


def drive_power(machine: Machine, pump: str, delivered: float, pressure: Array, oil_c: float) -> Array:
    """[...] power of one pump's drive in W: idle power plus torque times speed; `delivered` is the theoretical flow."""
    rated = machine.ratings
    idle = rated.idle_power * rated.flow * rated.pressure / 0.6
    friction = 1 + _WEAR_FRICTION * wear_bypass(machine.severity(pump, "leakage"))
    steady = (idle + delivered * pressure / 0.6) * friction * thickness(oil_c) ** _THIN
    return _lagged(np.asarray(steady))


def _lagged(power: Array) -> Array:
    """[...] Electrical power: the rotor's inertia delays it, with zero balance over a whole cycle."""
    kernel = np.exp(-np.arange(40) * PERIOD_S / STEPS / _ROTOR_S)
    before = power[-(len(kernel) - 1) :]
    return np.convolve(np.concatenate([before, power]), kernel / kernel.sum(), mode="valid")


def loop_of(machine: Machine, returned: float, oil_c: float) -> Loop:
    """The loop at this temperature: circulation pumps slip more with thin oil. Without one, the return flow."""
    rated = machine.ratings
    own = machine.topology.of_kind("circulation_pump")
    if not own:
        return Loop(returned, max(0.8 * rated.flow * len(machine.supplies), 1.0))
    nominal = rated.loop_flow * rated.flow
    slip = 0.83 + 0.175 * min(thickness(oil_c), 1.6)
    flow_shares = [1 - _LOOP_WEAR_LOSS * machine.severity(pump.id, "leakage") for pump in own]
    return Loop(nominal * slip * sum(flow_shares), nominal * len(own))


def conductance(machine: Machine, loop: Loop) -> tuple[float, float]:
    """Thermal conductance to the surroundings in W/K: of the coolers in series, and of the tank."""
    kept = 1.0
    for cooler in machine.topology.of_kind("heat_exchanger"):
        kept *= 1 - machine.effectiveness(cooler.id, loop.flow, loop.rated)
    pumps = max(len(machine.supplies), 1)
    return PER_LPM * loop.flow * (1 - kept), machine.ratings.tank_loss * machine.ratings.flow * pumps


def balance(machine: Machine, power: float, returned: float, oil_c: float) -> float:
    """Equilibrium temperature of the tank in °C; `oil_c` is the previous estimate."""
    through_cooler, from_tank = conductance(machine, loop_of(machine, returned, oil_c))
    rise = machine.ratings.heat * power / (through_cooler + from_tank)
    return machine.ratings.ambient + min(rise, 110.0 - machine.ratings.ambient)


def ripple(machine: Machine, power: Array) -> Array:
    """[STEPS] deviation of the tank temperature from its mean over the cycle, in K."""
    pumps = max(len(machine.supplies), 1)
    capacity = machine.ratings.tank_volume * machine.ratings.flow * pumps * HEAT_CAPACITY
    swing = machine.ratings.heat * (power - power.mean())
    stored = np.cumsum(swing) * (PERIOD_S / STEPS) / capacity
    return np.roll(stored - stored.mean(), round(_LAG_S * STEPS / PERIOD_S))
