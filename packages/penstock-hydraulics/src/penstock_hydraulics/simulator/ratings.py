"""Ratings of machines: sizes and settings of the templates, and defaults for other circuits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from penstock_hydraulics.machine.topology import Topology

Phase = tuple[float, float, float]
"""Start [s], valve opening [0..1], and load [bar, or a share of the working pressure]."""

PERIOD_S = 60.0
"""One window is one work cycle."""


@dataclass(frozen=True, slots=True)
class Ratings:
    """Sizes of one machine; pressures in bar, flows in l/min, laminar losses at 38 °C and rated flow."""

    flow: float
    """Theoretical flow of each pump: displacement times speed."""
    pressure: float
    """Rated pressure of the losses, near the middle of the work cycle."""
    relief: float
    """Cracking pressure of the relief valve."""
    cycles: tuple[tuple[Phase, ...], ...] = ()
    """Work cycle of each valve in order, in bar; default: a generic cycle."""
    slip: float = 0.04
    """Speed loss of the drive from idle to the rated pressure, as a share of the flow (asynchronous motor)."""
    leak: float = 0.02
    """Gap leakage of a healthy pump at the rated pressure, as a share of the flow (laminar, Wilson 1950)."""
    bypass: float = 0.15
    """Leakage of a fully worn pump at the rated pressure, as a share of the flow."""
    relief_rise: float = 9.4
    """Pressure above cracking at which the relief valve passes the rated flow; a quarter of it is laminar."""
    valve_drop: float = 8.0
    """Pressure drop of the fully open valve."""
    preload: float = 0.0
    """Flow-independent pressure drop of the valve block."""
    load_drop: float = 6.0
    """Laminar pressure drop in lines and load."""
    precharge: float = 0.62
    """Pre-charge pressure of a healthy accumulator, as a share of the rated pressure."""
    spent: float = 0.69
    """Remaining share of the pre-charge at severity 1: 90 of 130 bar in the recordings."""
    gas: float = 0.074
    """Gas volume at pre-charge, in litres per l/min of pump flow."""
    line: float = 0.12
    """Oil under pressure, in litres per l/min."""
    idle_power: float = 0.15
    """Power of the idling drive, as a share of the hydraulic power at rated flow and pressure."""
    loop_flow: float = 1.22
    """Flow of a circulation pump, relative to the main pump's."""
    back_pressure: float = 1.5
    """Pressure downstream of filter and cooler."""
    loop_drop: float = 1.0
    """Laminar pressure drop of the cooler."""
    filter_drop: float = 0.4
    """Laminar pressure drop of a clean filter element (Darcy)."""
    tank_loss: float = 2.4
    """Heat loss of tank and pipes to the surroundings, in W/K per l/min."""
    tank_volume: float = 5.0
    """Oil in the tank, in litres per l/min."""
    ambient: float = 23.4
    """°C; the recordings' cooling efficiency gives 23.4 ± 1.5."""
    vibration: float = 1.8
    """Vibration velocity of a healthy pump at rated pressure, mm/s r.m.s. (zone A or B of ISO 20816-1)."""
    heat: float = 0.75
    """Share of the drive's power that heats the oil; the rest is work, or heat of the motor."""
    loop_gauges: bool = False
    """Whether the accumulator's pressure sensor is in the cooling loop, like PS4 of the recordings."""


_RIG_CYCLE: tuple[Phase, ...] = (
    (0.1, 0.0, 120.2),
    (9.38, 1.0, 115.2),
    (19.0, 1.0, 125.2),
    (29.0, 1.0, 135.0),
    (39.05, 1.0, 125.2),
    (49.05, 1.0, 120.2),
)
"""From PS1 and PS2: ten seconds with the valve closed, then five load steps of ten seconds."""

_RIG = Ratings(
    flow=8.28,
    pressure=156.0,
    relief=182.8,
    cycles=(_RIG_CYCLE,),
    slip=0.03,
    leak=0.022,
    bypass=0.041,
    valve_drop=4.0,
    preload=22.5,
    load_drop=5.6,
    precharge=130.0 / 156.0,
    idle_power=0.150,
    back_pressure=7.45,
    loop_drop=2.4,
    filter_drop=0.118,
    vibration=0.54,
    heat=0.955,
    loop_gauges=True,
)
"""Fitted by hand to settled cycles of the UCI recordings (doi:10.24432/C5CW21), fault by fault."""

_SIZES: Mapping[str, Ratings] = {
    "zema_rig": _RIG,
    "standard_pump_system": Ratings(flow=40.0, pressure=160.0, relief=200.0),
    "dual_pump_system": Ratings(flow=63.0, pressure=180.0, relief=230.0, vibration=2.0),
    "excavator": Ratings(flow=180.0, pressure=250.0, relief=330.0, vibration=2.6, tank_volume=1.5, gas=0.02),
}
_ANY = Ratings(flow=40.0, pressure=160.0, relief=200.0)


def ratings_of(topology: Topology) -> Ratings:
    """The ratings of a template; any other circuit has those of the standard pump system."""
    return _SIZES.get(topology.name, _ANY)


def individual_ratings(ratings: Ratings, rng: np.random.Generator) -> Ratings:
    """One individual machine: ratings vary by a few tenths of a percent, the ambient temperature by a degree."""
    spread = 1 + 0.003 * rng.standard_normal(5).clip(-2, 2)
    return replace(
        ratings,
        flow=ratings.flow * spread[0],
        relief=ratings.relief * (1 + (spread[1] - 1) / 3),
        gas=ratings.gas * spread[2],
        idle_power=ratings.idle_power * spread[3],
        vibration=ratings.vibration * (1 + 10 * (spread[4] - 1)),
        ambient=ratings.ambient + 0.8 * float(rng.standard_normal()),
    )


_GENERIC: tuple[Phase, ...] = (
    (0.0, 0.0, 0.40),
    (5.0, 0.9, 0.65),
    (20.0, 0.0, 0.65),
    (25.0, 0.8, 0.45),
    (38.0, 0.0, 0.45),
    (43.0, 1.0, 0.85),
    (57.0, 0.0, 0.85),
)
"""Advance against a load, hold, return, hold, advance against a heavier load."""


def cycle_of(ratings: Ratings, place: int, valves: int) -> tuple[Phase, ...]:
    """The phases of valve number `place` of a machine's `valves`, sorted by time, loads in bar."""
    if place < len(ratings.cycles):
        return ratings.cycles[place]
    shift = PERIOD_S * place / max(valves, 1)
    lighter = 1.0 - 0.08 * (place % 3)
    phases = [
        ((start + shift) % PERIOD_S, opening, load * lighter * ratings.pressure) for start, opening, load in _GENERIC
    ]
    return tuple(sorted(phases))
