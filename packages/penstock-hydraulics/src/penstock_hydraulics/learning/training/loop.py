"""Training of one network: batches of several machines, one-cycle learning rate, averaged weights, early stopping."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from penstock_hydraulics.learning.data.dataset import Windows
from penstock_hydraulics.learning.data.recordings import Integers
from penstock_hydraulics.learning.models.gnn import UniversalTemporalGNN
from penstock_hydraulics.learning.training.config import Epoch, TrainingConfig
from penstock_hydraulics.learning.training.losses import loss_of
from penstock_hydraulics.signals.features import NODES


class Training:
    """The training of one network, which can stop after any epoch and resume from its `state`.

    With held-out `validation` windows it keeps the weights of the lowest validation loss and stops early.
    """

    def __init__(
        self,
        sets: Sequence[Windows],
        config: TrainingConfig,
        member: int,
        epochs: int,
        validation: Windows | None = None,
    ) -> None:
        self.config, self.member, self._epochs = config, member, epochs
        self._sets, self._watched = list(sets), validation
        seed = config.seed + 1000 * member
        self._random = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._network = UniversalTemporalGNN(config.architecture)
            self._noise = torch.get_rng_state()  # state for dropout, which takes no generator
        self._averaged = deepcopy(self._network).eval()
        self._kept = deepcopy(self._averaged.state_dict())
        self._optimizer = torch.optim.AdamW(self._network.parameters(), weight_decay=config.weight_decay)
        steps = config.epochs * len(self._steps(torch.Generator()))
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(self._optimizer, config.peak_rate, total_steps=steps)
        self._epoch, self._best, self._best_epoch = 0, float("inf"), 0

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or the validation loss stopped improving."""
        return self._epoch >= self._epochs or self._epoch - self._best_epoch >= self.config.patience

    @property
    def best_epoch(self) -> int:
        """The epoch whose weights are kept."""
        return self._best_epoch

    def epochs(self) -> Iterator[Epoch]:
        """Run the remaining epochs."""
        while not self.finished:
            with torch.random.fork_rng(devices=[]):
                torch.set_rng_state(self._noise)
                loss = self._train_epoch()
                self._noise = torch.get_rng_state()
            self._epoch += 1
            yield Epoch(self.member, self._epoch, self._epochs, loss, self._validate())

    def result(self) -> UniversalTemporalGNN:
        """The network with the weights to keep."""
        network = UniversalTemporalGNN(self.config.architecture)
        network.load_state_dict(self._kept)
        return network.eval()

    def state(self) -> dict[str, Any]:
        """Tensors and plain values for `restore`."""
        return {
            "network": self._network.state_dict(),
            "averaged": self._averaged.state_dict(),
            "kept": self._kept,
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "random": self._random.get_state(),
            "noise": self._noise,
            "counts": [self._epoch, self._best, self._best_epoch],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self._network.load_state_dict(state["network"])
        self._averaged.load_state_dict(state["averaged"])
        self._kept = state["kept"]
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        self._random.set_state(state["random"])
        self._noise = state["noise"]
        self._epoch, self._best, self._best_epoch = state["counts"]

    def _train_epoch(self) -> float:
        """One pass over the data; the mean loss."""
        self._network.train()
        losses = []
        for recorded, other in self._steps(self._random):
            loss = self._loss(0, recorded)
            if other is not None:
                loss = loss + self.config.others * self._loss(*other)
            self._optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self._network.parameters(), 1.0)
            self._optimizer.step()
            self._schedule.step()
            self._average()
            losses.append(loss.item())
        return sum(losses) / len(losses)

    def _loss(self, place: int, rows: Tensor) -> Tensor:
        windows = self.config.variation.of(self._sets[place].take(rows), self._random)
        return loss_of(self._network(*windows.inputs()), windows, self.config.smoothing)

    def _steps(self, random: torch.Generator) -> list[tuple[Tensor, tuple[int, Tensor] | None]]:
        """Batches of all recordings, each paired with one of another machine: alternating steps would diverge."""
        recorded = _shuffled(self._sets[0], self.config.batch, random)
        others = [
            (place, rows)
            for place, windows in enumerate(self._sets[1:], 1)
            for rows in _shuffled(windows, _fewer(self.config.batch, windows), random)
        ]
        order = torch.randperm(len(others), generator=random).tolist()
        return [(rows, others[order[step % len(order)]] if order else None) for step, rows in enumerate(recorded)]

    def _average(self) -> None:
        """Move the averaged weights towards the network's."""
        with torch.no_grad():
            pairs = zip(self._averaged.parameters(), self._network.parameters(), strict=True)
            for mean, value in pairs:
                mean.lerp_(value, 1.0 - self.config.averaging)

    def _validate(self) -> float | None:
        """The validation loss; keeps the averaged weights if it is the lowest so far, or without validation windows."""
        loss = None
        if self._watched is not None:
            with torch.inference_mode():
                loss = loss_of(self._averaged(*self._watched.inputs()), self._watched, 0.0).item()
        if loss is None or loss < self._best:
            self._best, self._best_epoch = self._best if loss is None else loss, self._epoch
            self._kept = deepcopy(self._averaged.state_dict())
        return loss


def _shuffled(windows: Windows, batch: int, random: torch.Generator) -> tuple[Tensor, ...]:
    return torch.split(torch.randperm(len(windows), generator=random), batch)


def _fewer(batch: int, windows: Windows) -> int:
    """Half a batch, and less for larger graphs, so that each takes about the same time."""
    return max(1, batch * NODES[0] // (2 * windows.kinds.shape[1]))


@contextmanager
def one_thread() -> Iterator[None]:
    """Use one thread: small tensors are slower on several, and far slower on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def held_out(runs: Integers, share: float, seed: int) -> NDArray[np.bool_]:
    """[n] Mask of validation cycles: whole runs, at least one, so that their states are unseen in training."""
    names = np.unique(runs)
    validation = np.random.default_rng(seed).permutation(names)[: max(1, round(share * len(names)))]
    return np.isin(runs, validation)
