"""The oil: a mineral hydraulic oil HM 46 (ISO 11158), whose viscosity follows its temperature."""

from __future__ import annotations

import math

KELVIN = 273.15
VISCOSITY_40, VISCOSITY_100 = 46.0, 6.8
"""Kinematic viscosity in mm²/s at 40 and 100 °C of ISO VG 46 (ISO 3448) with a viscosity index near 100."""
HEAT_CAPACITY = 1617.0
"""J/(l·K): 870 kg/m³ times 1.86 kJ/(kg·K); the recordings' cooling power is 0.02695 kW per l/min and K, the same."""
BULK_MODULUS = 14_000.0
"""Effective bulk modulus in bar of oil with a little air in hoses (Merritt 1967, ch. 2, gives 7,000 to 17,000)."""
REFERENCE_C = 38.0
"""°C at which every laminar loss of a machine's ratings is given."""


def _double_log(viscosity: float) -> float:
    return math.log10(math.log10(viscosity + 0.7))


_SLOPE = (_double_log(VISCOSITY_40) - _double_log(VISCOSITY_100)) / math.log10((100 + KELVIN) / (40 + KELVIN))
_OFFSET = _double_log(VISCOSITY_40) + _SLOPE * math.log10(40 + KELVIN)


def viscosity(temperature: float) -> float:
    """mm²/s at °C, by Walther's equation as ASTM D341 has it: log log(ν + 0.7) = A - B log T."""
    return float(10 ** (10 ** (_OFFSET - _SLOPE * math.log10(temperature + KELVIN))) - 0.7)


def thickness(temperature: float) -> float:
    """Viscosity relative to that at `REFERENCE_C`: the factor of laminar drops, and the divisor of laminar leaks."""
    return viscosity(temperature) / viscosity(REFERENCE_C)
