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
    inputs, targets = (torch.split(torch.from_numpy(one), 32) for one in (points, labels))
    return list(zip(inputs, targets, strict=True))


def subject(
    module: nn.Module | None = None, signature: Signature = SIGNATURE, example: Arrays | None = None
) -> Subject:
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
    train(found.module.module, points, labels, 60)
    return found


def train(module: nn.Module, points: Tensor, labels: Tensor, steps: int) -> None:
    """All rows in each step."""
    module.requires_grad_(True)
    optimizer = torch.optim.AdamW(module.parameters(), 1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(points), labels).backward()
        optimizer.step()
    module.requires_grad_(False)


class Pictures(nn.Module):
    """Convolutions with a batch norm, and a dropout: in which quarter of the picture is the bright spot?"""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, stride=2)
        self.norm, self.dropout = nn.BatchNorm2d(8), nn.Dropout(0.1)
        self.out = nn.Linear(8 * 3 * 3, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        maps = torch.relu(self.second(torch.relu(self.norm(self.first(image)))))
        return self.out(self.dropout(maps.flatten(1)))


PICTURES = Signature((TensorSpec("image", "FP32", (-1, 1, 8, 8)),), (TensorSpec("output", "FP32", (-1, CLASSES)),))


def pictures(count: int = 256, seed: int = 0) -> tuple[Array, Array]:
    """Noise with a bright spot in one quarter, and the number of that quarter."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, count)
    images = random.standard_normal((count, 1, 8, 8)).astype(np.float32)
    for image, label in zip(images, labels, strict=True):
        row, column = random.integers(0, 3, 2)
        image[0, row + 4 * (label // 2), column + 4 * (label % 2)] += 5
    return images, labels


def trained_pictures() -> Subject:
    """A trained model of pictures."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        module = Pictures()
        images, labels = map(torch.from_numpy, pictures())
        train(module, images, labels, 60)
    return subject(module, PICTURES, {"image": pictures(4)[0]})


def materials(folder: Path, *, labelled: bool = True, count: int = 256) -> Materials:
    """Calibration data and labels for the model."""
    points, labels = rows(count)
    return Materials(folder, {"x": points}, labels if labelled else None)


def accuracy(module: nn.Module) -> float:
    """The share of new rows that are right."""
    points, labels = rows(512, seed=1)
    with torch.no_grad():
        return float((module(torch.from_numpy(points)).argmax(dim=1).numpy() == labels).mean())
