"""One work cycle of a machine at its equilibrium temperature."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from penstock_hydraulics.simulator.circuit import Consumer, Supply
from penstock_hydraulics.simulator.machine import Machine
from penstock_hydraulics.simulator.supply import STEPS, Array, Line, pressures
from penstock_hydraulics.simulator.thermal import Loop, balance, drive_power, loop_of

_COARSE = 8
"""Stride of the coarse run that only determines the temperature."""


@dataclass(frozen=True)
class Flow:
    """One pump's line over the cycle; all arrays [STEPS] in bar, l/min or W."""

    supply: Supply
    line: Line
    pressure: Array
    delivered: Array
    """Delivery of the pump."""
    relieved: Array
    """Flow through the relief valve."""
    consumed: tuple[Array, ...]
    """Flow into each consumer."""
    power: Array

    @property
    def used(self) -> Array:
        """[STEPS] total flow into the consumers."""
        return np.sum(self.consumed, axis=0) if self.consumed else np.zeros(STEPS)


@dataclass(frozen=True)
class Cycle:
    """A machine over one cycle; `tank_c` is the mean temperature of its tank."""

    machine: Machine
    flows: tuple[Flow, ...]
    tank_c: float
    loop: Loop

    @property
    def power(self) -> Array:
        """[STEPS] total power of all drives in W."""
        return _sum([flow.power for flow in self.flows])

    @property
    def returned(self) -> Array:
        """[STEPS] return flow to the tank in l/min."""
        return _sum([flow.used + flow.relieved for flow in self.flows])

    def of_pump(self, pump: str) -> Flow:
        """The line of a pump."""
        return next(flow for flow in self.flows if flow.supply.pump == pump)

    def of_consumer(self, component_id: str) -> tuple[Flow, int, Consumer] | None:
        """Line, index and consumer of a valve or an actuator; None if no pump supplies it."""
        for flow in self.flows:
            for place, consumer in enumerate(flow.supply.consumers):
                if component_id == consumer.valve or component_id in {part.id for part in consumer.actuators}:
                    return flow, place, consumer
        return None


def _sum(parts: list[Array]) -> Array:
    return np.sum(parts, axis=0) if parts else np.zeros(STEPS)


def settled(machine: Machine, oil_c: float = 45.0) -> Cycle:
    """The cycle at thermal equilibrium; `oil_c` is the initial estimate."""
    tank = _balanced(_at(machine, oil_c, _COARSE))
    return _at(machine, tank)


def _balanced(cycle: Cycle) -> float:
    """The tank temperature at which the heat of this cycle is in balance with the cooling."""
    power, returned = float(cycle.power.mean()), float(cycle.returned.mean())
    tank = cycle.tank_c
    for _ in range(4):
        tank = balance(cycle.machine, power, returned, tank)
    return tank


def _at(machine: Machine, oil_c: float, stride: int = 1) -> Cycle:
    flows = tuple(_flow(machine, supply, oil_c, stride) for supply in machine.supplies)
    returned = float(_sum([flow.used + flow.relieved for flow in flows]).mean())
    return Cycle(machine, flows, oil_c, loop_of(machine, returned, oil_c))


def _flow(machine: Machine, supply: Supply, oil_c: float, stride: int) -> Flow:
    line = machine.line(supply, oil_c)
    pressure = np.repeat(pressures(line, stride), stride)
    power = drive_power(machine, supply.pump, line.pump.flow, pressure, oil_c)
    consumed = tuple(branch.flow(pressure) for branch in line.branches)
    delivered, relieved = line.pump.delivery(pressure), line.relief.flow(pressure)
    return Flow(supply, line, pressure, delivered, relieved, consumed, power)
