"""The network as a `Learner` of the comparison, with and without edges."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penstock_hydraulics.learning.data.dataset import Machine
from penstock_hydraulics.learning.data.recordings import Recordings, rows_of
from penstock_hydraulics.learning.models.baselines import EVERY_SENSOR
from penstock_hydraulics.learning.training.config import TrainingConfig
from penstock_hydraulics.learning.training.fitting import Fitted, fit, predict

NETWORK: Final = "network"
WITHOUT_EDGES: Final = "network_without_edges"


@dataclass(frozen=True)
class FittedNetwork:
    """A trained network; `fitted` is exported."""

    fitted: Fitted

    def levels(self, recordings: Recordings, sensors: tuple[str, ...] = EVERY_SENSOR) -> NDArray[np.float64]:
        """Uncalibrated probabilities [n, LEVELS] of all cycles, from `sensors` only."""
        answers = predict(self.fitted, recordings, np.arange(len(recordings)), rows=rows_of(sensors))
        return answers.probabilities.astype(np.float64)


@dataclass(frozen=True)
class Network:
    """`UniversalTemporalGNN`, trained on recordings and on the simulated `machines`.

    `machines()` is called once per training and must be deterministic.
    """

    name: str
    config: TrainingConfig
    machines: Callable[[], Sequence[Machine]] = field(default=tuple, repr=False)

    @property
    def settings(self) -> str:
        """The config and the amount of simulated data."""
        simulated = [(machine.topology.name, len(machine.readings)) for machine in self.machines()]
        return f"{self.config!r}, simulated {simulated}"

    def fit(self, recordings: Recordings, seed: int = 0, checkpoints: Path | None = None) -> FittedNetwork:
        """Train on all cycles; resumes from `checkpoints` if that file exists."""
        config = replace(self.config, seed=self.config.seed + seed)
        indices = np.arange(len(recordings))
        return FittedNetwork(fit(recordings, indices, config, machines=self.machines(), checkpoints=checkpoints))


def network(config: TrainingConfig, machines: Callable[[], Sequence[Machine]] = tuple) -> Network:
    """With edges: supports any topology."""
    return Network(NETWORK, config, machines)


def network_without_edges(config: TrainingConfig, machines: Callable[[], Sequence[Machine]] = tuple) -> Network:
    """Without edges: a component attends only to itself and the pooled machine."""
    architecture = replace(config.architecture, edges=False)
    return Network(WITHOUT_EDGES, replace(config, architecture=architecture), machines)
