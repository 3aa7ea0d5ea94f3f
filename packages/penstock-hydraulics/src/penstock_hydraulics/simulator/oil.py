"""Mineral hydraulic oil HM 46 (ISO 11158), with temperature-dependent viscosity."""

from __future__ import annotations

import math

KELVIN = 273.15
VISCOSITY_40, VISCOSITY_100 = 46.0, 6.8
"""Kinematic viscosity in mm²/s at 40 and 100 °C of ISO VG 46 (ISO 3448) with a viscosity index near 100."""
HEAT_CAPACITY = 1617.0
"""J/(l·K): 870 kg/m³ times 1.86 kJ/(kg·K); the recordings' cooling power of 0.02695 kW per l/min and K agrees."""
BULK_MODULUS = 14_000.0
"""Effective bulk modulus in bar of oil with a little air in hoses (Merritt 1967, ch. 2, gives 7,000 to 17,000)."""
REFERENCE_C = 38.0
"""Temperature in °C of the laminar losses in a machine's ratings."""


def _double_log(viscosity: float) -> float:
    return math.log10(math.log10(viscosity + 0.7))


_SLOPE = (_double_log(VISCOSITY_40) - _double_log(VISCOSITY_100)) / math.log10((100 + KELVIN) / (40 + KELVIN))
_OFFSET = _double_log(VISCOSITY_40) + _SLOPE * math.log10(40 + KELVIN)


def viscosity(temperature: float) -> float:
    """mm²/s at °C, by Walther's equation (ASTM D341): log log(ν + 0.7) = A - B log T."""
    return float(10 ** (10 ** (_OFFSET - _SLOPE * math.log10(temperature + KELVIN))) - 0.7)


def thickness(temperature: float) -> float:
    """Viscosity relative to that at `REFERENCE_C`: factor of laminar pressure drops, divisor of laminar leakage."""
    return viscosity(temperature) / viscosity(REFERENCE_C)
