"""The networks of the benchmark of `penstock.optimize`, importable by the name of their class, and rows for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


class Block(nn.Module):
    def __init__(self, before: int, channels: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(before, channels, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm, self.again = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        same = stride == 1 and before == channels
        self.skip = nn.Identity() if same else nn.Conv2d(before, channels, 1, stride, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        inner = torch.relu(self.norm(self.first(maps)))
        return torch.relu(self.again(self.second(inner)) + self.skip(maps))


class ResNet18(nn.Module):
    """Eleven million parameters on images of 64×64."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU())
        blocks, before = [], 64
        for channels in (64, 128, 256, 512):
            blocks += [Block(before, channels, 1 if channels == 64 else 2), Block(channels, channels, 1)]
            before = channels
        self.blocks, self.out = nn.Sequential(*blocks), nn.Linear(512, 10)

    def forward(self, image: Tensor) -> Tensor:
        return self.out(self.blocks(self.stem(image)).mean(dim=(2, 3)))


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.layer: Any = kind(16, 64, num_layers=2, batch_first=True)
        self.out = nn.Linear(64, 5)

    def forward(self, steps: Tensor) -> Tensor:
        return self.out(self.layer(steps)[0][:, -1])


class Lstm(Recurrent):
    def __init__(self) -> None:
        super().__init__(nn.LSTM)


class Gru(Recurrent):
    def __init__(self) -> None:
        super().__init__(nn.GRU)


class Encoder(nn.Module):
    """Tokens with a padding mask, of any length."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(500, 64)
        layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, dropout=0.0)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.out = nn.Linear(64, 4)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        hidden = self.encoder(self.embedding(tokens), src_key_padding_mask=~mask)
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        return self.out((hidden * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1.0))


class Heads(nn.Module):
    """Two inputs, a dict of outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.out = nn.Linear(32, 256), nn.Linear(16, 256), nn.Linear(256, 6)

    def forward(self, left: Tensor, right: Tensor) -> dict[str, Tensor]:
        logits = self.out(torch.relu(self.left(left) + self.right(right)))
        return {"logits": logits, "probabilities": torch.softmax(logits, dim=-1)}


class Detector(nn.Module):
    """Boxes and scores for a grid of places."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU(), nn.Conv2d(64, 64, 3, 2, 1)
        )
        self.boxes, self.scores = nn.Conv2d(64, 4, 1), nn.Conv2d(64, 3, 1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        maps = torch.relu(self.body(image))
        return self.boxes(maps).flatten(2).transpose(1, 2), self.scores(maps).flatten(2).transpose(1, 2)


class MyModel(nn.Module):
    """The model of the usual guide: convolution, view, linear on 28×28."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 32, 3, padding=1), nn.Linear(32 * 28 * 28, 10)

    def forward(self, image: Tensor) -> Tensor:
        return self.fc(torch.relu(self.conv(image)).view(image.size(0), -1))


def _floats(rows: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((rows, *shape)).astype(np.float32)


def _tokens(rows: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    lengths = random.integers(4, 33, rows)
    mask = np.arange(32)[None, :] < lengths[:, None]
    return {"tokens": random.integers(0, 500, (rows, 32)), "mask": mask}


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], dict[str, np.ndarray]]]] = {
    "resnet": (ResNet18, lambda rows: {"image": _floats(rows, 3, 64, 64)}),
    "lstm": (Lstm, lambda rows: {"steps": _floats(rows, 32, 16)}),
    "gru": (Gru, lambda rows: {"steps": _floats(rows, 32, 16)}),
    "encoder": (Encoder, _tokens),
    "heads": (Heads, lambda rows: {"left": _floats(rows, 32), "right": _floats(rows, 16)}),
    "detector": (Detector, lambda rows: {"image": _floats(rows, 3, 64, 64)}),
    "mymodel": (MyModel, lambda rows: {"image": _floats(rows, 1, 28, 28)}),
}
