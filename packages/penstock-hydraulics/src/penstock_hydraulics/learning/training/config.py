"""Configuration and progress of a training."""

from __future__ import annotations

from dataclasses import dataclass, field

from penstock.errors import InvalidInput
from penstock_hydraulics.learning.data.dataset import Variation
from penstock_hydraulics.learning.models.gnn import Architecture


@dataclass(frozen=True)
class TrainingConfig:
    """The same config and the same data give the same weights.

    `validation` is the share of runs held out in a first training to find the number of epochs; a second one then uses
    all runs for that many epochs (Goodfellow, Bengio and Courville, Deep Learning, 2016, algorithm 7.2). With 0 there
    is one training over all epochs. `averaging` is the decay of the exponential moving average of the weights, which
    is the result. `unsettled` is the weight of cycles during warm-up of the rig, `others` that of simulated machines.
    `members` networks with different seeds form an ensemble.
    """

    architecture: Architecture = field(default_factory=Architecture)
    variation: Variation = field(default_factory=Variation)
    epochs: int = 40
    batch: int = 96
    peak_rate: float = 4e-3
    weight_decay: float = 1e-2
    smoothing: float = 0.02
    averaging: float = 0.98
    unsettled: float = 0.2
    others: float = 0.3
    validation: float = 0.1
    patience: int = 8
    members: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "patience", "members"):
            if getattr(self, name) < 1:
                raise InvalidInput(f"{name} must be at least 1, not {getattr(self, name)}", field=name)
        if not 0 <= self.validation < 1:
            raise InvalidInput(f"validation must lie in [0, 1), not {self.validation:g}", field="validation")


@dataclass(frozen=True, slots=True)
class Epoch:
    """Progress: the training loss and, with held-out runs, the validation loss.

    `member` is the network in training; 0 is the first training, which only finds the number of epochs.
    """

    member: int
    epoch: int
    epochs: int
    loss: float
    validation: float | None
