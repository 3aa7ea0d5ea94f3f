"""Training of `UniversalTemporalGNN`: `fit` on recordings, `predict` for evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from penstock.errors import InvalidInput
from penstock_hydraulics.learning.data.dataset import Machine, Windows, recorded_machine, scales_of
from penstock_hydraulics.learning.data.recordings import RIG, ROWS, Integers, Recordings, rows_of
from penstock_hydraulics.learning.models.gnn import Diagnosis, UniversalTemporalGNN
from penstock_hydraulics.learning.training import checkpoint
from penstock_hydraulics.learning.training.config import Epoch, TrainingConfig
from penstock_hydraulics.learning.training.loop import Training, held_out, one_thread
from penstock_hydraulics.machine.states import HEADS
from penstock_hydraulics.signals.features import CHANNELS, Float, Scales

Progress = Callable[[Epoch], None]
_AT_ONCE: Final = 256  # batch size of prediction, which bounds the memory


@dataclass(frozen=True)
class Fitted:
    """A trained ensemble and its scales."""

    networks: tuple[UniversalTemporalGNN, ...]
    scales: Scales
    config: TrainingConfig
    history: tuple[Epoch, ...] = ()

    def diagnosis(self, temperatures: Sequence[float] | None = None) -> Diagnosis:
        """The graph to export; `temperatures` in the order of `HEADS`."""
        chosen = tuple(float(value) for value in temperatures) if temperatures is not None else None
        return Diagnosis(list(self.networks), chosen).eval()


@dataclass(frozen=True)
class Levels:
    """Probabilities [n, LEVELS] of the four states of the rig, each taken from the component that has it."""

    probabilities: Float

    def of(self, place: int) -> Float:
        """[n, levels] of the state `HEADS[place]`."""
        return self.probabilities[:, HEADS[place].columns]

    @property
    def best(self) -> Integers:
        """[n, HEADS] The most probable level of each state."""
        return np.stack([self.of(place).argmax(axis=1) for place in range(len(HEADS))], axis=1)


def fit(
    recordings: Recordings,
    indices: Integers,
    config: TrainingConfig | None = None,
    *,
    machines: Sequence[Machine] = (),
    progress: Progress | None = None,
    checkpoints: Path | None = None,
) -> Fitted:
    """Train on the cycles at `indices` and on `machines`; the scales are computed from the same data.

    `checkpoints` is a file written after every epoch; a training resumes from its own checkpoint. Uses one thread and
    restores torch's random state.
    """
    config = config or TrainingConfig()
    chosen = recordings.take(np.asarray(indices, np.int64))
    everything = [recorded_machine(chosen, config.unsettled), *machines]
    scales = scales_of(everything)
    windows = _windows(everything, scales)
    arguments = {"config": asdict(config), "scales": scales.to_mapping()}
    session = _TrainingSession(checkpoints, _identity(everything, config), arguments, progress)
    with one_thread(), torch.random.fork_rng(devices=[]):
        epochs = _epochs(session, windows, chosen.runs, config)
        members = [session.run(Training(windows, config, member, epochs)) for member in range(1, config.members + 1)]
        networks = tuple(member.result() for member in members)
    return Fitted(networks, scales, config, tuple(session.history))


def _windows(machines: Sequence[Machine], scales: Scales) -> list[Windows]:
    """The recordings, then the other machines: half with scales of their own, half with scales by kind."""
    recorded, *others = (machine.windows(scales) for machine in machines)
    by_kind = [machine.windows(scales.of_kinds()) for machine in machines[1:]]
    halves = [
        part.take(torch.arange(half, len(part), 2)) for half, sets in ((0, others), (1, by_kind)) for part in sets
    ]
    return [recorded, *(part for part in halves if len(part))]


def _epochs(session: _TrainingSession, windows: Sequence[Windows], runs: Integers, config: TrainingConfig) -> int:
    """The number of epochs, found on held-out runs of a first training if `validation` is set."""
    if not config.validation:
        return config.epochs
    validation = held_out(runs, config.validation, config.seed)
    learn, watch = (torch.from_numpy(np.flatnonzero(part)) for part in (~validation, validation))
    if not len(learn):
        raise InvalidInput("validation: too few runs to hold one out; set validation to 0")
    sets = [windows[0].take(learn), *windows[1:]]
    return session.run(Training(sets, config, 0, config.epochs, windows[0].take(watch))).best_epoch


def predict(
    fitted: Fitted,
    recordings: Recordings,
    indices: Integers,
    drop: Sequence[str] = (),
    rows: NDArray[np.bool_] | None = None,
    temperatures: Sequence[float] | None = None,
) -> Levels:
    """Predict the cycles at `indices` without the sensors in `drop`.

    `rows` [ROWS] or [indices, ROWS] masks the visible rows of the recordings.
    """
    machine = recorded_machine(recordings.take(np.asarray(indices, np.int64)))
    windows = machine.windows(fitted.scales)
    kept = _kept(windows.present.shape[1], _seen(len(windows), drop, rows))
    diagnosis = fitted.diagnosis(temperatures)
    nodes = [next(n for n, part in enumerate(RIG.components) if part.kind == head.kind) for head in HEADS]
    answers = []
    with one_thread(), torch.inference_mode():
        for chosen in torch.split(torch.arange(len(windows)), _AT_ONCE):
            levels = diagnosis(*windows.take(chosen).without(kept[chosen]).inputs())[0]
            parts = [levels[:, node, head.columns] for node, head in zip(nodes, HEADS, strict=True)]
            answers.append(torch.cat(parts, dim=-1).numpy())
    return Levels(np.concatenate(answers))


def _seen(count: int, drop: Sequence[str], rows: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
    """[count, ROWS] The visible rows."""
    seen = ~rows_of(tuple(drop))
    return np.broadcast_to(seen if rows is None else seen & rows, (count, len(ROWS)))


def _kept(nodes: int, seen: NDArray[np.bool_]) -> torch.Tensor:
    """[n, P, C] 1 for the channels of the rows in `seen` [n, ROWS]."""
    kept = torch.zeros(len(seen), nodes, len(CHANNELS))
    for place, (node, channel) in enumerate(ROWS):
        kept[:, node, CHANNELS.index(channel)] = torch.from_numpy(seen[:, place].astype(np.float32))
    return kept


def _identity(machines: Sequence[Machine], config: TrainingConfig) -> str:
    """Digest of config and data; a checkpoint must match it."""
    digest = blake2b(repr(sorted(asdict(config).items())).encode(), digest_size=16)
    for machine in machines:
        digest.update(machine.topology.fingerprint.encode())
        digest.update(machine.readings.tobytes())
        digest.update(machine.levels.tobytes())
    return digest.hexdigest()


class _TrainingSession:
    """The consecutive trainings of one `fit`, with their checkpoint."""

    def __init__(
        self, path: Path | None, identity: str, arguments: Mapping[str, Any], progress: Progress | None
    ) -> None:
        found = checkpoint.read(path, identity) if path is not None else None
        self._path, self._identity, self._progress = path, identity, progress
        self._arguments = dict(arguments)
        self._states: list[dict[str, Any]] = found["trainings"] if found else []
        self._started = 0
        self.history = [Epoch(*epoch) for epoch in found["history"]] if found else []

    def run(self, training: Training) -> Training:
        """Run the next training to its end, resuming from the checkpoint."""
        place, self._started = self._started, self._started + 1
        if place < len(self._states):
            training.restore(self._states[place])
        for epoch in training.epochs():
            self.history.append(epoch)
            self._write(place, training)
            if self._progress is not None:
                self._progress(epoch)
        return training

    def _write(self, place: int, training: Training) -> None:
        if self._path is None:
            return
        self._states[place:] = [training.state()]
        history = [[getattr(epoch, part.name) for part in fields(epoch)] for epoch in self.history]
        state = {"identity": self._identity, "history": history, "trainings": self._states}
        checkpoint.write(self._path, state | {"hyper_parameters": self._arguments})
