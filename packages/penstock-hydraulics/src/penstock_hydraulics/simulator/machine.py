"""A machine: a topology with ratings and faults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from penstock_hydraulics.machine.topology import Topology
from penstock_hydraulics.simulator.circuit import Consumer, Supply, supplies_of
from penstock_hydraulics.simulator.faults import fan_duty, opening_delay, wear_bypass
from penstock_hydraulics.simulator.oil import thickness
from penstock_hydraulics.simulator.ratings import Phase, Ratings, cycle_of
from penstock_hydraulics.simulator.supply import Array, Branch, Gas, Line, Pump, Relief, spool

_CAVITATION_LOSS = 0.25
"""Share of its flow that a pump loses at an almost closed inlet with foaming oil."""
_SEAL = {"pump": 0.10, "cylinder": 0.20, "motor": 0.20}
"""Leakage of a failed seal as a share of the rated flow, at rated pressure and 38 °C (laminar gap, Merritt ch. 3)."""
_RESTRICTED = 5.0
"""Pressure drop added by a restriction of severity 1, as a multiple of the valve's rated drop."""
_SPRING = 0.35
"""Share of its setting that a relief valve loses with a fully relaxed spring."""
COOLER_UA, COOLER_DRAUGHT, COOLER_EXPONENT = 0.17, 0.474, 0.68
"""NTU of a cooler at its rated flow: still air, plus the fan's part as duty to the power 0.68. Fitted to the cooling
efficiencies 47, 28 and 19 % of the recordings at duties 100, 20 and 3 %; forced convection over tubes has Re^0.6."""


@dataclass(frozen=True)
class Machine:
    """`severities` are component id → fault → 0..1."""

    topology: Topology
    ratings: Ratings
    severities: Mapping[str, Mapping[str, float]]
    supplies: tuple[Supply, ...]

    @classmethod
    def of(cls, topology: Topology, ratings: Ratings, severities: Mapping[str, Mapping[str, float]]) -> Machine:
        """The machine of a topology."""
        return cls(topology, ratings, severities, supplies_of(topology))

    def severity(self, component_id: str | None, fault: str) -> float:
        """Severity of a fault, 0 if absent."""
        return self.severities.get(component_id or "", {}).get(fault, 0.0)

    def line(self, supply: Supply, oil_c: float) -> Line:
        """The pressure line of one pump at an oil temperature."""
        consumers = tuple(self.branch(consumer, oil_c) for consumer in supply.consumers)
        return Line(
            self._pump(supply.pump, oil_c),
            self._relief(supply, oil_c),
            self._gas(supply),
            self.ratings.line * self.ratings.flow,
            consumers,
        )

    def _pump(self, pump: str, oil_c: float) -> Pump:
        rated, flow = self.ratings, self.ratings.flow
        starved = 1 - _CAVITATION_LOSS * self.severity(pump, "cavitation") ** 2
        gaps = rated.leak + _SEAL["pump"] * self.severity(pump, "seal_degradation")
        linear = flow * (rated.slip + gaps / thickness(oil_c)) / rated.pressure
        bypass = flow * rated.bypass * wear_bypass(self.severity(pump, "leakage")) / rated.pressure**0.5
        return Pump(flow * starved, linear, bypass)

    def _relief(self, supply: Supply, oil_c: float) -> Relief:
        spent = max((self.severity(valve, "pressure_drop") for valve in supply.reliefs), default=0.0)
        rated = self.ratings
        rise = rated.relief_rise * (0.75 + 0.25 * thickness(oil_c)) / rated.flow
        return Relief(rated.relief * (1 - _SPRING * spent), rise)

    def _gas(self, supply: Supply) -> Gas | None:
        if not supply.accumulators:
            return None
        lost = [1 - self.severity(part, "pressure_drop") * (1 - self.ratings.spent) for part in supply.accumulators]
        precharge = self.ratings.precharge * self.ratings.pressure * float(np.mean(lost))
        return Gas(self.ratings.gas * self.ratings.flow, precharge)

    def phases(self, consumer: Consumer) -> tuple[Phase, ...]:
        """The work cycle of a consumer."""
        count = sum(len(supply.consumers) for supply in self.supplies)
        return cycle_of(self.ratings, consumer.place, count)

    def branch(self, consumer: Consumer, oil_c: float) -> Branch:
        """The hydraulic resistance and load of a consumer."""
        rated = self.ratings
        delay = opening_delay(self.severity(consumer.valve, "valve_stiction"))
        opened, load = spool(self.phases(consumer), delay)
        valve = self.valve_square(consumer) / np.maximum(opened, 0.02) ** 2
        linear = rated.load_drop * thickness(oil_c) / rated.flow
        return Branch(opened, load + rated.preload, valve + self.restriction(consumer), linear)

    def valve_square(self, consumer: Consumer) -> float:
        """Bar per (l/min)² of the fully open valve; a restriction adds to its drop."""
        clean = self.ratings.valve_drop / self.ratings.flow**2
        return clean * (1 + _RESTRICTED * self.severity(consumer.valve, "flow_restriction"))

    def restriction(self, consumer: Consumer) -> float:
        """Bar per (l/min)² of a restriction behind the valve."""
        worst = max((self.severity(part.id, "flow_restriction") for part in consumer.actuators), default=0.0)
        return _RESTRICTED * worst * self.ratings.valve_drop / self.ratings.flow**2

    def seal_leak(self, component_id: str, kind: str, pressure: Array, oil_c: float) -> Array:
        """[...] leakage past an actuator in l/min."""
        share = _SEAL.get(kind, 0.0) * self.severity(component_id, "seal_degradation")
        return share * self.ratings.flow * pressure / self.ratings.pressure / thickness(oil_c)

    def effectiveness(self, cooler: str, flow: float, rated_flow: float) -> float:
        """Effectiveness of a cooler, 0..1: (oil in - oil out) / (oil in - air), ε = 1 - exp(-NTU) (Kays, London 1984).

        The air flow is assumed large, so the air side does not saturate. `flow` and `rated_flow` are l/min.
        """
        duty = fan_duty(self.severity(cooler, "overheating"))
        transfer = COOLER_UA + COOLER_DRAUGHT * duty**COOLER_EXPONENT
        return float(1 - np.exp(-transfer * rated_flow / max(flow, 0.05 * rated_flow)))
