"""One work cycle of a whole machine, at the temperature at which it has settled."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from penstock_hydraulics.simulator.circuit import Consumer, Supply
from penstock_hydraulics.simulator.machine import Machine
from penstock_hydraulics.simulator.supply import STEPS, Array, Line, pressures
from penstock_hydraulics.simulator.thermal import Loop, balance, drive_power, loop_of

_COARSE = 8
"""Steps at once when the cycle is run only to find its temperature."""


@dataclass(frozen=True)
class Flow:
    """One pump's line over the cycle: everything [STEPS], bar, l/min and W."""

    supply: Supply
    line: Line
    pressure: Array
    delivered: Array
    """What the pump gives."""
    relieved: Array
    """What goes over the relief valve."""
    consumed: tuple[Array, ...]
    """What each consumer takes."""
    power: Array

    @property
    def used(self) -> Array:
        """[STEPS] what all consumers take together."""
        return np.sum(self.consumed, axis=0) if self.consumed else np.zeros(STEPS)


@dataclass(frozen=True)
class Cycle:
    """A whole machine over one cycle; `tank_c` is the mean temperature of its tank."""

    machine: Machine
    flows: tuple[Flow, ...]
    tank_c: float
    loop: Loop

    @property
    def power(self) -> Array:
        """[STEPS] W of all drives."""
        return _sum([flow.power for flow in self.flows])

    @property
    def returned(self) -> Array:
        """[STEPS] l/min back to the tank."""
        return _sum([flow.used + flow.relieved for flow in self.flows])

    def of_pump(self, pump: str) -> Flow:
        """The line of this pump."""
        return next(flow for flow in self.flows if flow.supply.pump == pump)

    def of_consumer(self, component_id: str) -> tuple[Flow, int, Consumer] | None:
        """The line, the place in it and the consumer that a valve or an actuator belongs to; None if none feeds it."""
        for flow in self.flows:
            for place, consumer in enumerate(flow.supply.consumers):
                if component_id == consumer.valve or component_id in {part.id for part in consumer.actuators}:
                    return flow, place, consumer
        return None


def _sum(parts: list[Array]) -> Array:
    return np.sum(parts, axis=0) if parts else np.zeros(STEPS)


def settled(machine: Machine, oil_c: float = 45.0) -> Cycle:
    """The cycle when the oil has come to rest between heat and cooling; `oil_c` is where the search starts."""
    tank = _balanced(_at(machine, oil_c, _COARSE))
    return _at(machine, tank)


def _balanced(cycle: Cycle) -> float:
    """The tank's temperature at which the heat of a cycle run at another one would leave."""
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
