from __future__ import annotations

import pytest

from penstock.errors import ConfigError
from penstock_hydraulics.fleet.retention import Retention


def test_the_environment_sets_the_retention(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_HYDRAULICS_KEEP_DAYS", "30")
    monkeypatch.setenv("PENSTOCK_HYDRAULICS_DATA", "recordings.npz")
    assert Retention.load() == Retention(keep_days=30.0)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"keep_days": "many"}, "PENSTOCK_HYDRAULICS_KEEP_DAYS is 'many'; it must be a number above 0"),
        ({"keep_results": "1.5"}, "PENSTOCK_HYDRAULICS_KEEP_RESULTS is '1.5'; it must be a whole number above 0"),
        ({"keep_results": "0"}, "PENSTOCK_HYDRAULICS_KEEP_RESULTS is '0'"),
        ({"keep_readings": "no"}, "PENSTOCK_HYDRAULICS_KEEP_READINGS is 'no'; it must be true or false"),
        ({"keep_days": "inf"}, "PENSTOCK_HYDRAULICS_KEEP_DAYS is 'inf'"),
        (
            {"kep_days": "3"},
            "PENSTOCK_HYDRAULICS_KEP_DAYS is not a setting; known settings: PENSTOCK_HYDRAULICS_CMAPSS",
        ),
    ],
)
def test_a_bad_setting_is_named(given: dict[str, str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        Retention.load(given)
