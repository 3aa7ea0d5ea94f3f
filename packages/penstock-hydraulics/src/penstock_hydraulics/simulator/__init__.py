"""Lumped-parameter simulation of hydraulic circuits with faults, for demos, golden samples, tests and training data.

`simulate(TEMPLATES["zema_rig"], {"pump_main": {"leakage": 0.5}}, windows=10, seed=0)` yields work cycles.
"""

from penstock_hydraulics.simulator.faults import FAULTS, Faults, Severity
from penstock_hydraulics.simulator.windows import RATES, Labels, SimulatedWindow, simulate

__all__ = ["FAULTS", "RATES", "Faults", "Labels", "Severity", "SimulatedWindow", "simulate"]
