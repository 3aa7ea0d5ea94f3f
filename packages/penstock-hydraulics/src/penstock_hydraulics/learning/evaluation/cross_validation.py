"""Out-of-fold answers of every model, stored on disk so that an evaluation can resume.

A file of answers is identified by recordings, model settings and fold; a file with another identity is recomputed.
"""

from __future__ import annotations

import os
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import combinations
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from penstock.errors import InvalidInput
from penstock_hydraulics.learning.data.recordings import SENSORS, Recordings
from penstock_hydraulics.learning.data.splits import Fold, leave_one_level_out, random_folds, run_grouped_folds
from penstock_hydraulics.learning.models.baselines import FEW_SENSORS, SOME_SENSORS, Learner
from penstock_hydraulics.machine.states import HEADS, LEVELS
from penstock_hydraulics.signals.evidence import MEANS

RANDOM: Final = "random"
GROUPED: Final = "run_grouped"
COOLER: Final = "leave_one_cooler_out"
TITLES: Final[Mapping[str, str]] = {
    RANDOM: "random (leaks neighbouring cycles; only for comparison with the literature)",
    GROUPED: "run-grouped (whole runs held out; the main result)",
    COOLER: "leave one cooler level out (an oil temperature unseen in training)",
}
ALL: Final = "all"
FEW: Final = "few"
SOME: Final = "some"
DRAWS: Final = 3
"""Number of random sensor sets per size."""
KEPT: Final = (12, 10, 8, 6, 4, 2)
ANSWERS: Final = "answers"
_COOLING: Final = ("_tank", "_circ_pump", "_filter_main", "_cooler_main")
"""Components of the cooling circuit."""

Echo = Callable[[str], None]
SensorSets = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Protocol:
    """A split, and the sensor sets with which the held-out cycles are answered."""

    name: str
    folds: tuple[Fold, ...]
    sensors: SensorSets


@dataclass(frozen=True)
class OutOfFold:
    """A model's answers to held-out cycles: probabilities [n, LEVELS] by sensor set.

    `fold` [n] is the index of the fold that holds a cycle out, -1 for none.
    """

    learner: str
    protocol: str
    probabilities: Mapping[str, NDArray[np.float64]]
    fold: NDArray[np.int64]
    seconds: float

    def of(self, place: int, sensors: str = ALL) -> NDArray[np.float64]:
        """[n, levels] of the state `HEADS[place]`."""
        return self.probabilities[sensors][:, HEADS[place].columns]


def protocols(
    recordings: Recordings,
    *,
    random: int = 3,
    grouped: int = 5,
    leave_cooler: bool = True,
    seed: int = 0,
    coverage: bool = True,
) -> list[Protocol]:
    """The protocols with more than 0 folds; only the run-grouped one covers missing sensors.

    `coverage` adds the sensor sets of the coverage table.
    """
    whole = {ALL: tuple(SENSORS.values())}
    found = []
    if grouped:
        folds = run_grouped_folds(recordings.runs, grouped, seed)
        sets = whole | sensor_sets(seed) | (coverage_sets() if coverage else {})
        found.append(Protocol(GROUPED, tuple(folds), sets))
    if leave_cooler:
        names = tuple(f"{level:g}" for level in HEADS[0].levels)
        found.append(Protocol(COOLER, tuple(leave_one_level_out(recordings.labels[:, 0], names)), whole))
    if random:
        found.append(Protocol(RANDOM, tuple(random_folds(len(recordings), random, seed)), whole))
    return found


def sensor_sets(seed: int = 0) -> dict[str, tuple[str, ...]]:
    """`few` (three sensors), `some` (five), and random sets `<size>_<draw>`."""
    rng = np.random.default_rng(seed)
    names = list(SENSORS.values())
    found = {FEW: FEW_SENSORS, SOME: SOME_SENSORS}
    for count in KEPT:
        for draw in range(DRAWS):
            chosen = sorted(rng.choice(len(names), count, replace=False).tolist())
            found[f"{count}_{draw}"] = tuple(names[place] for place in chosen)
    return found


def coverage_sets() -> dict[str, tuple[str, ...]]:
    """The sensor sets of the coverage table by key, those with a flow twice: with its extremes, and at 1 Hz without."""
    found = {}
    for sensors in MEASURED_SETS:
        for variant in (sensors, at_1hz(sensors)):
            found["+".join(variant)] = variant
    return found


def at_1hz(sensors: Sequence[str]) -> tuple[str, ...]:
    """The same sensors, with flows without extremes."""
    return tuple(name + MEANS if name.startswith("flow_") else name for name in sensors)


def _measured_sets() -> tuple[tuple[str, ...], ...]:
    """Every sensor, every pair, and the usual sets, each in the order of `SENSORS`.

    Usual are: the sets of the figures, one or two quantities, all but one quantity, one circuit, all but one sensor.
    """
    names = tuple(SENSORS.values())
    quantities = tuple(dict.fromkeys(name.partition("_")[0] for name in names))
    kept = [*combinations(quantities, 1), *combinations(quantities, 2), *combinations(quantities, len(quantities) - 1)]
    usual = [
        FEW_SENSORS,
        SOME_SENSORS,
        *([name for name in names if name.partition("_")[0] in chosen] for chosen in kept),
        [name for name in names if name.endswith(_COOLING)],
        [name for name in names if not name.endswith(_COOLING)],
        *combinations(names, len(names) - 1),
        names,
    ]
    ordered = (tuple(name for name in names if name in chosen) for chosen in usual)
    return tuple(dict.fromkeys((*combinations(names, 1), *combinations(names, 2), *ordered)))


MEASURED_SETS: Final = _measured_sets()


def measure(
    learner: Learner, protocol: Protocol, recordings: Recordings, directory: Path, *, seed: int = 0, echo: Echo = print
) -> None:
    """Train on each fold, answer its held-out cycles and store the answers; existing answers are reused."""
    for fold in protocol.folds:
        path = _place(directory, learner.name, protocol, fold)
        identity = _identity(protocol, fold, recordings)
        if _read(path, identity, learner.settings) is None:
            answers = _measured(learner, protocol, fold, recordings, seed)
            _write(path, answers | {"identity": np.array(identity), "settings": np.array(learner.settings)})
            echo(f"{learner.name}, {protocol.name}, {fold.name}: {float(answers['seconds']):.0f} s")


def collect(name: str, protocol: Protocol, recordings: Recordings, directory: Path) -> OutOfFold | None:
    """The stored answers of the model `name`; None unless all folds of the protocol exist."""
    fold_of = np.full(len(recordings), -1, dtype=np.int64)
    found = {sensors: np.full((len(recordings), LEVELS), np.nan) for sensors in protocol.sensors}
    seconds = 0.0
    for place, fold in enumerate(protocol.folds):
        answers = _read(_place(directory, name, protocol, fold), _identity(protocol, fold, recordings))
        if answers is None:
            return None
        fold_of[fold.test] = place
        seconds += float(answers["seconds"])
        for sensors in protocol.sensors:
            found[sensors][fold.test] = answers[sensors]
    return OutOfFold(name, protocol.name, found, fold_of, seconds)


def _measured(
    learner: Learner, protocol: Protocol, fold: Fold, recordings: Recordings, seed: int
) -> dict[str, NDArray[Any]]:
    started = time.monotonic()
    fitted = learner.fit(recordings.take(fold.train), seed)
    seconds = time.monotonic() - started
    held_out = recordings.take(fold.test)
    answers: dict[str, NDArray[Any]] = {
        name: fitted.levels(held_out, sensors).astype(np.float32) for name, sensors in protocol.sensors.items()
    }
    return answers | {"seconds": np.array(seconds)}


def _place(directory: Path, learner: str, protocol: Protocol, fold: Fold) -> Path:
    return directory / ANSWERS / f"{learner}.{protocol.name}.{fold.name}.npz"


def _identity(protocol: Protocol, fold: Fold, recordings: Recordings) -> str:
    """Digest of everything but the model that the answers depend on."""
    digest = blake2b(repr((protocol.name, fold.name, sorted(protocol.sensors.items()))).encode(), digest_size=16)
    for array in (recordings.readings, recordings.labels, fold.train, fold.test):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _write(path: Path, answers: Mapping[str, NDArray[Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}.tmp.npz")
    np.savez_compressed(draft, allow_pickle=False, **answers)
    draft.replace(path)


def _read(path: Path, identity: str, settings: str | None = None) -> dict[str, NDArray[Any]] | None:
    """The answers in `path`; None if missing or of another identity. Raises InvalidInput for a damaged file."""
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            answers = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InvalidInput(f"{path}: the file of answers is damaged ({error}); remove it to evaluate again") from None
    same = str(answers.get("identity")) == identity and settings in (None, str(answers.get("settings")))
    return answers if same else None
