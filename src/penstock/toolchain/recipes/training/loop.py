"""The training loop: epochs or steps, early stop, the same result after a kill and a restart."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.backends.torch.eager import takes_names
from penstock.errors import InvalidInput, PenstockError, type_and_message
from penstock.tensors import Signature
from penstock.toolchain.recipes.subject import no_progress
from penstock.toolchain.recipes.training.batches import Batch, Data
from penstock.toolchain.recipes.training.checkpoint import (
    Checkpoint,
    Progress,
    flattened,
    random_state,
    seed_all,
    set_random_state,
    tensor_bytes,
    unflattened,
    weights_digest,
)
from penstock.toolchain.recipes.training.losses import Loss
from penstock.toolchain.recipes.training.options import Training

if TYPE_CHECKING:
    import torch

SAVED_EVERY_S = 30.0
"""A training saves its state after each epoch, and within one when this time has passed."""


@dataclass(frozen=True)
class Fitted:
    """What a training did. `losses` and `scores` (of the validation data) are those of each epoch.

    `data_sha256` and `weights_sha256` identify the batches and the result: the same seed, threads, PyTorch and kind of
    processor give the same ones.
    """

    epochs: int
    steps: int
    losses: tuple[float, ...]
    scores: tuple[float, ...]
    best_epoch: int
    stopped_early: bool
    data_sha256: str
    weights_sha256: str
    circumstances: Mapping[str, Any]
    resumed_at: int | None = None

    def to_json(self) -> dict[str, Any]:
        """The figures of a report; a resumed training has the same ones as an uninterrupted one."""
        figures = asdict(self)
        del figures["resumed_at"]
        return {**figures, "losses": list(self.losses), "scores": list(self.scores)}


@dataclass(frozen=True, eq=False)
class Run:
    """A training that is ready to start: its data, what it makes small, and where its state is kept.

    `name` is what `progress` is called with. Without `checkpoints` nothing is written, and a killed run starts again.
    `settings` are what else a checkpoint depends on. Inputs are passed in `order`, else by name where `forward` has it.
    """

    name: str
    training: Training
    epochs: int
    signature: Signature
    data: Data
    loss: Loss
    seed: int = 0
    validation: Data | None = None
    metric: Loss | None = None
    progress: Callable[[str, float], None] = no_progress
    checkpoints: Path | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    order: tuple[str, ...] = ()

    def fit(self, module: torch.nn.Module, after_step: Callable[[], None] | None = None) -> Fitted:
        """Train `module` in place and leave it in evaluation mode; `after_step` is called after each step.

        Raises InvalidInput, with the name of the user's function where one is at fault, or when the loss is not finite.
        """
        with deterministic(self.training.threads):
            return _Fit(self, module, after_step).run()


class _Fit:
    def __init__(self, run: Run, module: torch.nn.Module, after_step: Callable[[], None] | None) -> None:
        _require_trainable(module, run.name)
        self._run, self._module = run, module
        self._after_step = after_step
        self._by_name = not run.order and takes_names(module, run.signature)
        self._optimizer = _optimizer(run.training, module)
        self._now = Progress()
        self._best: dict[str, torch.Tensor] = {}
        self._random: dict[str, torch.Tensor] | None = None
        self._saved_at = time.monotonic()
        self._checkpoint = self._find_checkpoint()

    def run(self) -> Fitted:
        now, run = self._now, self._run
        resumed_at = self._resume()
        now = self._now
        while not now.finished and now.epoch < run.epochs:
            self._epoch()
            now.finished = self._over()
            self._save()
        if self._best and now.best_epoch != now.epoch:
            self._module.load_state_dict(self._best)
        set_mode(self._module, training=False)
        run.progress(run.name, 1.0)
        return self._fitted(resumed_at)

    def _epoch(self) -> None:
        """One epoch, or the rest of one; then the validation."""
        now = self._now
        seed_all(self._run.seed, now.epoch)
        set_mode(self._module, training=True)
        skipped = now.batches
        for number, batch in enumerate(self._run.data.epoch(), 1):
            if number <= skipped:
                if number == skipped and self._random is not None:
                    set_random_state(self._random)
                continue
            self._step(batch)
            if self._enough_steps():
                break
            self._save(every_s=SAVED_EVERY_S)
        now.epoch, now.batches = now.epoch + 1, 0
        now.losses.append(now.total / max(now.rows, 1))
        now.total, now.rows = 0.0, 0
        self._validate()

    def _step(self, batch: Batch) -> None:
        now, run = self._now, self._run
        for group in self._optimizer.param_groups:
            group["lr"] = run.training.learning_rate * self._rate()
        loss = run.loss(self._call(batch), batch)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise InvalidInput(
                f"{run.name}: the loss became {value} in epoch {now.epoch + 1}, batch {now.batches + 1}; use a smaller "
                f"learning_rate than {run.training.learning_rate:g}",
                field="learning_rate",
            )
        self._optimizer.zero_grad()
        if loss.requires_grad:  # a batch without labels may have none
            loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        if self._after_step is not None:
            self._after_step()
        now.batches, now.step = now.batches + 1, now.step + 1
        now.total, now.rows = now.total + value * batch.rows, now.rows + batch.rows
        now.data_sha256 = _chained(now.data_sha256, batch)
        run.progress(run.name, min(self._share(), 1.0))

    def _call(self, batch: Batch) -> Any:
        order = self._run.order or batch.inputs
        try:
            return (
                self._module(**batch.inputs) if self._by_name else self._module(*(batch.inputs[name] for name in order))
            )
        except PenstockError:
            raise
        except Exception as error:
            shapes = {name: list(tensor.shape) for name, tensor in batch.inputs.items()}
            raise InvalidInput(
                f"{self._run.name}: the model does not run on a batch of {self._run.data.name} with the shapes "
                f"{shapes}: {type_and_message(error, 300)}",
                field="data",
            ) from error

    def _validate(self) -> None:
        import torch

        now, run = self._now, self._run
        if run.validation is None:
            now.best_epoch = now.epoch
            return
        set_mode(self._module, training=False)
        total, rows = 0.0, 0
        with torch.no_grad():
            for batch in run.validation.epoch():
                score = run.metric or run.loss
                total += float(score(self._call(batch), batch)) * batch.rows
                rows += batch.rows
        now.scores.append(total / rows)
        better = max(now.scores) if run.metric else min(now.scores)
        if now.scores.index(better) == len(now.scores) - 1:
            now.best_epoch = now.epoch
            self._best = {name: tensor.clone() for name, tensor in self._module.state_dict().items()}

    def _enough_steps(self) -> bool:
        return 0 < self._run.training.steps <= self._now.step

    def _over(self) -> bool:
        patience = self._run.training.patience
        return self._now.epoch >= self._run.epochs or self._enough_steps() or 0 < patience <= self._now.waited

    def _rate(self) -> float:
        """The share of the learning rate now: 1, or half a cosine from 1 to 0 (SGDR, arXiv 1608.03983, one cycle)."""
        if self._run.training.rate_schedule == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * min(self._share(), 1.0)))

    def _share(self) -> float:
        """The share of the training that is done."""
        now, run = self._now, self._run
        length = run.data.length or 0
        in_epoch = now.batches / length if length else 0.0
        by_epochs = (now.epoch + min(in_epoch, 1.0)) / run.epochs
        return max(by_epochs, now.step / run.training.steps if run.training.steps else 0.0)

    def _find_checkpoint(self) -> Checkpoint | None:
        """The file of exactly this training: other settings, data or first weights have another one."""
        run = self._run
        if run.checkpoints is None:
            return None
        facts = {
            "name": run.name,
            "training": asdict(run.training),
            "epochs": run.epochs,
            "seed": run.seed,
            "settings": dict(run.settings),
            "data": run.data.identity,
            "weights": weights_digest(self._module.state_dict().items()),
        }
        key = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()
        return Checkpoint(run.checkpoints, key)

    def _save(self, every_s: float = 0.0) -> None:
        if self._checkpoint is None or time.monotonic() - self._saved_at < every_s:
            return
        optimizer, settings = flattened(self._optimizer.state_dict())
        groups = {
            "model": self._module.state_dict(),
            "optimizer": optimizer,
            "best": self._best,
            "random": random_state(),
        }
        self._checkpoint.save(self._now, groups, settings)
        self._saved_at = time.monotonic()

    def _resume(self) -> int | None:
        """Continue from the checkpoint; the step it was at, or None."""
        found = self._checkpoint.read() if self._checkpoint is not None else None
        if found is None:
            return None
        progress, groups, settings = found
        try:
            self._module.load_state_dict(groups["model"])
            self._optimizer.load_state_dict(unflattened(groups.get("optimizer", {}), settings))
        except (RuntimeError, ValueError, KeyError):  # of another release of this loop
            return None
        self._now, self._best, self._random = progress, groups.get("best", {}), groups["random"]
        return progress.step

    def _fitted(self, resumed_at: int | None) -> Fitted:
        now = self._now
        return Fitted(
            epochs=now.epoch,
            steps=now.step,
            losses=tuple(now.losses),
            scores=tuple(now.scores),
            best_epoch=now.best_epoch,
            stopped_early=now.epoch < self._run.epochs and not self._enough_steps(),
            data_sha256=now.data_sha256,
            weights_sha256=weights_digest(self._module.state_dict().items()),
            circumstances=circumstances(self._run.seed, self._run.training.threads),
            resumed_at=resumed_at,
        )


def circumstances(seed: int, threads: int) -> dict[str, Any]:
    """What the last bits of a training depend on besides its recipe and data."""
    import torch

    return {
        "seed": seed,
        "threads": threads,
        "torch": torch.__version__,
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }


def why_different(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Why two trainings of one recipe gave different weights; None where they are the same. Both as of `to_json`."""
    if before["weights_sha256"] == now["weights_sha256"]:
        return None
    if before["data_sha256"] != now["data_sha256"] and before["circumstances"].get("seed") == now["circumstances"].get(
        "seed"
    ):
        return "the training data differs"
    for name, word in (("seed", "seed"), ("threads", "number of threads"), ("torch", "PyTorch"), ("cpu", "processor")):
        one, other = before["circumstances"].get(name), now["circumstances"].get(name)
        if one != other:
            return f"the {word} was {one} and is {other}"
    return "the model or a function of the user gives other numbers each time, or the model differed before"


@contextmanager
def deterministic(threads: int) -> Iterator[None]:
    """Fixed threads and deterministic kernels; the random numbers of the process are as before afterwards."""
    import torch

    kept, threads_before = random_state(), torch.get_num_threads()
    strict, only_warned = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        torch.use_deterministic_algorithms(strict, warn_only=only_warned)
        torch.set_num_threads(threads_before)
        set_random_state(kept)


def set_mode(module: torch.nn.Module, *, training: bool) -> None:
    """Training or evaluation mode; a captured program has none and stays as it is."""
    with suppress(NotImplementedError):
        module.train(training)


def _require_trainable(module: torch.nn.Module, name: str) -> None:
    """Let the weights learn when none can; some that are frozen while others are not stay so."""
    parameters = [one for one in module.parameters() if one.is_floating_point()]
    if not parameters:
        raise InvalidInput(f"{name}: the model has no weights to train", field="recipe")
    if not any(one.requires_grad for one in parameters):
        for one in parameters:
            one.requires_grad_(True)


def _optimizer(training: Training, module: torch.nn.Module) -> torch.optim.Optimizer:
    import torch

    parameters = [one for one in module.parameters() if one.requires_grad]
    rate, decay = training.learning_rate, training.weight_decay
    if training.optimizer == "sgd":
        return torch.optim.SGD(parameters, rate, momentum=training.momentum, weight_decay=decay)
    if training.optimizer == "rmsprop":
        return torch.optim.RMSprop(parameters, rate, momentum=training.momentum, weight_decay=decay)
    kind = torch.optim.Adam if training.optimizer == "adam" else torch.optim.AdamW
    return kind(parameters, rate, weight_decay=decay)


def _chained(before: str, batch: Batch) -> str:
    """The digest of all batches up to this one."""
    digest = hashlib.sha256(before.encode())
    for tensor in batch.inputs.values():
        digest.update(tensor_bytes(tensor))
    with suppress(AttributeError):  # several targets
        digest.update(tensor_bytes(batch.targets))
    return digest.hexdigest()
