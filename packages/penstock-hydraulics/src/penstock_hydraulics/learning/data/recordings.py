"""The recordings of the ZeMA test rig as windows at 1 Hz, from the raw text files or an npz file.

The data set is "Condition monitoring of hydraulic systems", UCI Machine Learning Repository 447, CC BY 4.0,
doi:10.24432/C5CW21 (Helwig, Pignanelli and Schütze, I2MTC 2015, doi:10.1109/I2MTC.2015.7151267). Download the archive
from https://archive.ics.uci.edu/dataset/447 and unpack it; `load` reads its directory of text files.
Adaptation: every channel is averaged over each second; flows also yield their highest and lowest value.
"""

from __future__ import annotations

import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penstock.errors import InvalidInput
from penstock_hydraulics.machine.states import HEADS, Head
from penstock_hydraulics.machine.templates import TEMPLATES
from penstock_hydraulics.signals.evidence import MEANS
from penstock_hydraulics.signals.features import STEPS, Float, Row

Integers = NDArray[np.int64]
Table = Callable[[str], NDArray[np.float64]]

RIG: Final = TEMPLATES["zema_rig"]
"""The machine of the recordings: UCI Machine Learning Repository, dataset 447, doi:10.24432/C5CW21, CC BY 4.0."""
# The rig's sensors and their components; the positions of TS1 and TS2 are not documented. The virtual sensors CE, CP
# and SE are omitted, since they are computed from these.
SENSORS: Final[Mapping[str, str]] = {
    "PS1": "pressure_pump_main",
    "FS1": "flow_pump_main",
    "TS1": "temperature_pump_main",
    "VS1": "vibration_pump_main",
    "EPS1": "power_pump_main",
    "PS2": "pressure_valve_main",
    "TS2": "temperature_valve_main",
    "PS3": "pressure_load_valve",
    "PS4": "pressure_accumulator_main",
    "TS3": "temperature_tank",
    "FS2": "flow_circ_pump",
    "PS5": "pressure_filter_main",
    "PS6": "pressure_cooler_main",
    "TS4": "temperature_cooler_main",
}
_PROFILE: Final = ("cooler", "valve", "pump_leak", "accumulator", "stable")  # columns of profile.txt


def _rows() -> tuple[Row, ...]:
    rows: list[Row] = []
    for name in SENSORS.values():
        place = RIG.sensor(name)
        if place is None:
            raise InvalidInput(f"{name}: unknown sensor of the template {RIG.name}")
        rows += [place] + [(place[0], end) for end in ("flow_max", "flow_min") if place[1] == "flow"]
    return tuple(rows)


ROWS: Final = _rows()
"""The rows of `Recordings.readings`: the sensors in the order of `SENSORS`, each flow followed by its extremes."""


@dataclass(frozen=True)
class Recordings:
    """Cycles of 60 s: `readings` [cycles, ROWS, STEPS], `labels` [cycles, HEADS] (0 = best level) and `runs` [cycles].

    A run is a series of consecutive cycles in one state; a split must not cut a run apart. `settled` [cycles] is false
    while the rig's temperatures were still changing.
    """

    readings: Float
    labels: Integers
    runs: Integers
    settled: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.readings)

    def take(self, indices: Integers) -> Recordings:
        """The cycles at `indices`."""
        return Recordings(self.readings[indices], self.labels[indices], self.runs[indices], self.settled[indices])

    @property
    def in_settled_runs(self) -> NDArray[np.bool_]:
        """[cycles] Whether the cycle belongs to a run of exactly ten cycles, all settled."""
        counts = np.bincount(self.runs)
        moving = np.bincount(self.runs, weights=~self.settled)
        return np.asarray((counts[self.runs] == 10) & (moving[self.runs] == 0))

    def window(self, cycle: int) -> dict[str, list[float]]:
        """One cycle as the `sensor_data` of a request, 60 values per sensor."""
        means = [place for place, row in enumerate(ROWS) if not row[1].startswith("flow_")]
        return {
            name: [round(float(value), 5) for value in self.readings[cycle, place]]
            for name, place in zip(SENSORS.values(), means, strict=True)
        }


def rows_of(sensors: tuple[str, ...]) -> NDArray[np.bool_]:
    """[ROWS] The rows of these sensors; a flow has its extremes unless its name ends with `MEANS`.

    Raises `InvalidInput` for an unknown name.
    """
    names = [name.removesuffix(MEANS) for name in sensors]
    if unknown := sorted({*names} - {*SENSORS.values()}):
        raise InvalidInput(f"{unknown[0]}: unknown sensor; the recordings have {', '.join(SENSORS.values())}")
    known = {RIG.sensor(name) for name in names}
    fast = {RIG.sensor(name) for name in sensors if not name.endswith(MEANS)}
    return np.array(
        [row in known or (row[0], row[1].removesuffix("_max").removesuffix("_min")) in fast for row in ROWS]
    )


def load(path: Path) -> Recordings:
    """Read an npz file of the recordings or the directory of UCI's text files.

    Raises `InvalidInput` that names the file and the missing part.
    """
    if path.is_dir():
        return _recordings(_text_files(path), path)
    if not path.is_file():
        raise InvalidInput(
            f"{path}: no such file or directory; pass an npz file or the directory of the UCI text files"
        )
    try:
        with np.load(path, allow_pickle=False) as archive:
            return _recordings(_archive(archive, path), path)
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InvalidInput(
            f"{path}: not an npz file of the recordings ({error}); see `penstock-hydraulics train --help`"
        ) from error


def _recordings(table: Table, path: Path) -> Recordings:
    profile = table("profile")
    if profile.ndim != 2 or profile.shape[1] != len(_PROFILE) or not len(profile):
        raise InvalidInput(f"{path}: the profile must hold {len(_PROFILE)} columns, not an array of {profile.shape}")
    channels: list[Float] = []
    for column in SENSORS:
        values = table(column)
        if values.ndim != 2 or len(values) != len(profile) or not values.shape[1] or values.shape[1] % STEPS:
            raise InvalidInput(
                f"{path}: {column} must hold {len(profile)} cycles of 60 s, not an array of {values.shape}"
            )
        channels += _seconds(values, extremes=column.startswith("FS"))
    readings = np.stack(channels, axis=1)
    if not np.isfinite(readings).all() or not np.isfinite(profile).all():
        raise InvalidInput(f"{path}: the recordings contain NaN or infinite values; download them again")
    labels = _labels(profile, path)
    return Recordings(readings, labels, _runs(labels), profile[:, 4] == 0)


def _seconds(values: NDArray[np.float64], *, extremes: bool) -> list[Float]:
    """[cycles, STEPS] mean of each second, and with `extremes` its highest and lowest value."""
    blocks = values.reshape(len(values), STEPS, -1)
    found = [blocks.mean(axis=2)] + ([blocks.max(axis=2), blocks.min(axis=2)] if extremes else [])
    with np.errstate(over="ignore"):  # infinite values are refused later
        return [block.astype(np.float32) for block in found]


def _labels(profile: NDArray[np.float64], path: Path) -> Integers:
    columns = []
    for column, head in enumerate(HEADS):
        levels = list(head.levels)
        unknown = sorted(set(profile[:, column].tolist()) - set(levels))
        if unknown:
            raise InvalidInput(f"{path}: unknown level {unknown[0]:g} of {head.name}; known levels: {_levels(head)}")
        columns.append([levels.index(value) for value in profile[:, column]])
    return np.array(columns, np.int64).T


def _levels(head: Head) -> str:
    return ", ".join(f"{level:g}" for level in head.levels)


def _runs(labels: Integers) -> Integers:
    """A new run starts where any of the four states changes."""
    changes = (labels[1:] != labels[:-1]).any(axis=1)
    return np.concatenate([[0], np.cumsum(changes)]).astype(np.int64)


def _archive(archive: Mapping[str, NDArray[np.float64]], path: Path) -> Table:
    """Arrays are named like UCI's files, with the suffix `_1hz` for means of a second; profile columns are `y_…`."""

    def table(name: str) -> NDArray[np.float64]:
        if name == "profile":
            return np.stack([_member(archive, (f"y_{column}",), path) for column in _PROFILE], axis=1)
        return _member(archive, (name, f"{name}_1hz"), path)

    return table


def _member(archive: Mapping[str, NDArray[np.float64]], names: tuple[str, ...], path: Path) -> NDArray[np.float64]:
    found = next((name for name in names if name in archive), None)
    if found is None:
        raise InvalidInput(f"{path}: the array {names[0]} is missing; this is not an npz file of the recordings")
    return np.asarray(archive[found], np.float64)


def _text_files(directory: Path) -> Table:
    def table(name: str) -> NDArray[np.float64]:
        file = next((at for at in (directory / f"{name}.txt", directory / f"{name}.txt.gz") if at.is_file()), None)
        if file is None:
            raise InvalidInput(f"{directory}: {name}.txt is missing; unpack the whole UCI archive there")
        try:
            with warnings.catch_warnings(action="ignore"):  # an empty file is refused later
                return np.loadtxt(file, ndmin=2)
        except (ValueError, EOFError, zlib.error) as error:
            raise InvalidInput(f"{file}: not a table of numbers ({error}); unpack the UCI archive again") from error

    return table
