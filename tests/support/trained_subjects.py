"""Small models with data that they can learn, as techniques take them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from penstock.tensors import Array, Arrays, Signature, TensorSpec
from penstock.toolchain.export.source import ModuleSource
from penstock.toolchain.recipes.subject import Materials, Subject

CLASSES = 4
FEATURES = 8
SIGNATURE = Signature(
    (TensorSpec("x", "FP32", (-1, FEATURES)),),
    (TensorSpec("output", "FP32", (-1, CLASSES)),),
)


class Wide(nn.Module):
    """Two hidden layers and a dropout, so that training uses random numbers."""

    def __init__(self, width: int = 32, dropout: float = 0.1) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(FEATURES, width), nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.dropout(torch.relu(self.first(x)))
        return self.out(torch.relu(self.second(hidden)))


class Narrow(Wide):
    """A student."""

    def __init__(self, width: int = 6) -> None:
        super().__init__(width, 0.0)


class OtherName(Wide):
    """A student whose output has another name."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return {"scores": super().forward(x)}


def narrow(width: int = 6) -> nn.Module:
    """A factory."""
    return Narrow(width)


def rows(count: int = 256, seed: int = 0) -> tuple[Array, Array]:
    """Points around one centre for each class, and their classes."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((CLASSES, FEATURES)) * 2
    labels = random.integers(0, CLASSES, count)
    points = centres[labels] + random.standard_normal((count, FEATURES))
    return points.astype(np.float32), labels


def batches() -> list[tuple[Tensor, Tensor]]:
    """What a user's data function returns."""
    points, labels = rows()
    return list(zip(torch.from_numpy(points).split(32), torch.from_numpy(labels).split(32), strict=True))


def subject(module: nn.Module | None = None, signature: Signature = SIGNATURE, example: Arrays | None = None) -> Subject:
    """A model with seeded weights in evaluation mode."""
    if module is None:
        with torch.random.fork_rng():
            torch.manual_seed(3)
            module = Wide()
    example = {"x": rows(2)[0]} if example is None else example
    return Subject("model", signature, ModuleSource("model", module.eval().requires_grad_(False), signature, example))


def trained() -> Subject:
    """The same model, trained to an accuracy of about 95 %."""
    found = subject()
    assert found.module is not None
    points, labels = map(torch.from_numpy, rows())
    module = found.module.module.requires_grad_(True)
    optimizer = torch.optim.AdamW(module.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(points), labels).backward()
        optimizer.step()
    module.requires_grad_(False)
    return found


def materials(folder: Path, *, labelled: bool = True, count: int = 256) -> Materials:
    """Calibration data and labels for the model."""
    points, labels = rows(count)
    return Materials(folder, {"x": points}, labels if labelled else None)


def accuracy(module: nn.Module) -> float:
    """The share of new rows that are right."""
    points, labels = rows(512, seed=1)
    with torch.no_grad():
        return float((module(torch.from_numpy(points)).argmax(dim=1).numpy() == labels).mean())
