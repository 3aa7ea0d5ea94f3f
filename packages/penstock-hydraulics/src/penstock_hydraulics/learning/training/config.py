"""What a training depends on besides its data, and what it tells of its progress."""

from __future__ import annotations

from dataclasses import dataclass, field

from penstock.errors import InvalidInput
from penstock_hydraulics.learning.data.dataset import Variation
from penstock_hydraulics.learning.models.gnn import Architecture


@dataclass(frozen=True)
class TrainingConfig:
    """The same config and the same data give the same weights.

    `validation` is the share of the runs that a first training leaves out, to find the epoch to stop at; then all runs
    are trained on for as many (Goodfellow, Bengio and Courville, Deep Learning, 2016, algorithm 7.2). With 0 all
    epochs are run at once. `averaging` is the decay of the running mean of the weights, which is what is kept.
    `unsettled` is the weight of cycles in which the rig was still warming up, `others` that of machines beside it.
    `members` networks are trained from
    different seeds, and answer together.
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
    """Progress: the loss of the training and, where runs were left out for it, of the validation.

    `member` is the network in training; 0 is the first training, which only finds the epoch to stop at.
    """

    member: int
    epoch: int
    epochs: int
    loss: float
    validation: float | None
