"""The training loss: states at their components, health of components, and the heads of the machine."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from penstock_hydraulics.learning.data.dataset import UNKNOWN, Windows
from penstock_hydraulics.learning.models.gnn import Logits
from penstock_hydraulics.machine.states import HEADS
from penstock_hydraulics.machine.topology import KINDS

_HEALTH: Final = 0.1  # small weights: the states already determine the health of most components
_MACHINE: Final = 0.1


def loss_of(logits: Logits, windows: Windows, smoothing: float) -> Tensor:
    """The loss of a batch; unlabelled values are ignored."""
    total = sum((_state_loss(logits, windows, place, smoothing) for place in range(len(HEADS))), torch.zeros(()))
    weights = windows.weights
    return (
        total
        + _HEALTH * _probability_loss(logits.health, windows.health, weights[:, None])
        + _MACHINE * _probability_loss(logits.degradation, windows.degradation, weights)
        + _MACHINE * _probability_loss(logits.anomalies, windows.anomalies, weights[:, None])
    )


def _state_loss(logits: Logits, windows: Windows, place: int, smoothing: float) -> Tensor:
    """Cross-entropy of one state over the components that have it."""
    head = HEADS[place]
    nodes = (windows.kinds[0] == KINDS.index(head.kind) + 1).nonzero()[:, 0]
    labels = windows.levels[:, nodes].flatten()
    weights = windows.weights[:, None].expand(-1, len(nodes)).flatten() * (labels != UNKNOWN)
    own = logits.levels[:, nodes, head.columns].flatten(0, 1)
    losses = functional.cross_entropy(own, labels.clamp(min=0), reduction="none", label_smoothing=smoothing)
    return (losses * weights).sum() / weights.sum().clamp(min=1e-6)


def _probability_loss(logits: Tensor, wanted: Tensor, weights: Tensor) -> Tensor:
    """Binary cross-entropy against probabilities; NaN labels are ignored."""
    known = weights * ~wanted.isnan()
    losses = functional.binary_cross_entropy_with_logits(logits, wanted.nan_to_num(), reduction="none")
    return (losses * known).sum() / known.sum().clamp(min=1e-6)
