"""Viscosity compared with the data sheet."""

from __future__ import annotations

import pytest

from penstock_hydraulics.simulator.oil import REFERENCE_C, thickness, viscosity


@pytest.mark.parametrize(("temperature", "expected"), [(40.0, 46.0), (100.0, 6.8)])
def test_the_viscosity_matches_the_data_sheet_at_two_points(temperature: float, expected: float) -> None:
    assert viscosity(temperature) == pytest.approx(expected)


def test_the_viscosity_matches_tables_of_vg_46_oils_at_other_points() -> None:
    assert viscosity(20.0) == pytest.approx(130, rel=0.1)
    assert viscosity(60.0) == pytest.approx(20.5, rel=0.05)
    assert viscosity(0.0) == pytest.approx(580, rel=0.2)


def test_viscosity_falls_with_temperature_and_is_one_at_the_reference() -> None:
    assert thickness(REFERENCE_C) == 1.0
    assert thickness(60.0) < 1.0 < thickness(20.0)
