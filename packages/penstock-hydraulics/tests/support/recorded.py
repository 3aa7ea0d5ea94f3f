"""The recordings at PENSTOCK_HYDRAULICS_DATA: cycles by labels, in the form of requests."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import numpy as np

from penstock_hydraulics.learning.data import recordings as data

SENSORS = {sensor: name for name, sensor in data.SENSORS.items()}
LABELS = ("cooler", "valve", "leak", "accumulator", "stable")
"""The columns of profile.txt."""


@functools.cache
def _arrays() -> dict[str, np.ndarray]:
    """Readings [cycles, samples] by sensor name of the data set, and labels [cycles]."""
    path = Path(os.environ["PENSTOCK_HYDRAULICS_DATA"])
    if path.is_dir():
        found = {name: np.loadtxt(path / f"{name}.txt") for name in SENSORS.values()}
        return found | dict(zip(LABELS, np.loadtxt(path / "profile.txt", dtype=int).T, strict=True))
    with np.load(path) as file:
        found = {name: file[name if name in file else f"{name}_1hz"] for name in SENSORS.values()}
        columns = ("y_cooler", "y_valve", "y_pump_leak", "y_accumulator", "y_stable")
        return found | {label: file[column] for label, column in zip(LABELS, columns, strict=True)}


def cycles(**labels: int) -> np.ndarray:
    """Indices of the settled cycles with these labels."""
    arrays = _arrays()
    fits = arrays["stable"] == 0
    for label, value in labels.items():
        fits &= arrays[label] == value
    return np.flatnonzero(fits)


def readings_of(cycle: int, *only: str) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Readings and rates of a cycle, for some or all sensors."""
    found = {name: _arrays()[SENSORS[name]][cycle].astype(float) for name in only or tuple(SENSORS)}
    rates = {name: len(values) / 60 for name, values in found.items()}
    return {name: values.tolist() for name, values in found.items()}, rates
