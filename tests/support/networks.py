"""The networks of the tests, written like users' models; `zoo.py` defines their inputs and outputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Mlp(nn.Module):
    def __init__(self, features: int = 12, classes: int = 5) -> None:
        super().__init__()
        self.hidden = nn.Linear(features, 16)
        self.out = nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.hidden(x)))


class Wide(Mlp):
    """A hundred thousand parameters, 400 kB."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(12, 5600), nn.Linear(5600, 5)


class TwoInputs(nn.Module):
    """Not symmetric in its inputs, so that swapping them shows."""

    def __init__(self) -> None:
        super().__init__()
        self.left_in = nn.Linear(4, 6)
        self.right_in = nn.Linear(4, 6)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return torch.tanh(self.left_in(left)) - 2 * self.right_in(right)


class Heads(nn.Module):
    """Returns a dict with keys in another order than the signature."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        logits = self.body(x)
        return {"logits": logits, "probabilities": torch.softmax(logits, dim=-1)}


class Pair(nn.Module):
    """Returns a tuple of integers and booleans; has no parameters."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.argmax(dim=1), x > 0


class Tokens(nn.Module):
    """Takes rows of integers with free length."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 8)
        self.out = nn.Linear(8, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(self.embedding(tokens).mean(dim=1))


class Flags(nn.Module):
    """Takes numbers and booleans: a number counts if its flag is set."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(5, 3)

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        return self.out(torch.where(keep, x, torch.zeros_like(x)))


class Cnn(nn.Module):
    """Its `reshape` fails in every runtime for a batch without rows."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 3, stride=2)
        self.out = nn.Linear(8 * 3 * 3, 4)

    def forward(self, image: Tensor) -> Tensor:
        maps = self.second(torch.relu(self.norm(self.first(image))))
        return self.out(torch.relu(maps).reshape(image.shape[0], -1))


class Gru(nn.Module):
    """Takes rows of free length and returns scores for every step, which depend only on earlier steps."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 12, batch_first=True)
        self.out = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.gru(x)[0])


class Encoder(nn.Module):
    """A transformer: token ids of free length and a mask that is True for real tokens.

    `states` has one row per token, `logits` one per text. Masked tokens affect neither, so a padded text has the
    outputs of the text.
    """

    def __init__(self, tokens: int = 50, width: int = 16, layers: int = 2, heads: int = 2, longest: int = 64) -> None:
        super().__init__()
        self.embedding = nn.Embedding(tokens, width)
        self.position = nn.Parameter(torch.randn(longest, width) / 8)
        self.layers = nn.ModuleList(_Layer(width, heads) for _ in range(layers))
        self.out = nn.Linear(width, 3)

    def forward(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        states = self.embedding(tokens) + self.position[: tokens.shape[1]]
        for layer in self.layers:
            states = layer(states, mask)
        real = mask.unsqueeze(-1).to(states.dtype)
        pooled = (states * real).sum(dim=1) / real.sum(dim=1).clamp(min=1)
        return self.out(pooled), states


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.project, self.join = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        rows, length, width = states.shape
        heads = self.project(self.before(states)).reshape(rows, length, 3, self.heads, width // self.heads)
        query, key, value = heads.permute(2, 0, 3, 1, 4).unbind(0)
        scores = query @ key.transpose(-1, -2) / (width // self.heads) ** 0.5
        scores = scores.masked_fill(~mask[:, None, None, :], -1e9)
        seen = (torch.softmax(scores, dim=-1) @ value).transpose(1, 2).reshape(rows, length, width)
        states = states + self.join(seen)
        return states + self.narrow(torch.relu(self.wide(self.after(states))))


class Detector(nn.Module):
    """Four outputs of different ranks and types from one image."""

    def __init__(self, anchors: int = 6, classes: int = 3) -> None:
        super().__init__()
        self.anchors, self.classes = anchors, classes
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2), nn.ReLU())
        self.place = nn.Linear(8 * 9, anchors * 4)
        self.kind = nn.Linear(8 * 9, anchors * classes)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        maps = self.body(image).flatten(1)
        scores, labels = torch.softmax(self.kind(maps).reshape(-1, self.anchors, self.classes), dim=-1).max(dim=-1)
        return {
            "boxes": torch.sigmoid(self.place(maps).reshape(-1, self.anchors, 4)),
            "scores": scores,
            "labels": labels,
            "count": (scores > 0.5).sum(dim=1),
        }


class ResNet18(nn.Module):
    """As large as the well-known one (11 million parameters), for images of 32x32."""

    def __init__(self, width: int = 64, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        blocks: list[nn.Module] = []
        channels = width
        for stage in range(4):
            for step in range(2):
                wide = width << stage
                blocks.append(_Block(channels, wide, stride=2 if stage and not step else 1))
                channels = wide
        self.blocks = nn.Sequential(*blocks)
        self.out = nn.Linear(channels, classes)

    def forward(self, image: Tensor) -> Tensor:
        maps = nn.functional.max_pool2d(self.stem(image), 3, 2, 1)
        return self.out(self.blocks(maps).mean(dim=(2, 3)))


class _Block(nn.Module):
    def __init__(self, channels: int, wide: int, stride: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(channels, wide, 3, stride, 1, bias=False), nn.Conv2d(wide, wide, 3, 1, 1)
        self.norm, self.again = nn.BatchNorm2d(wide), nn.BatchNorm2d(wide)
        same = stride == 1 and channels == wide
        self.skip = nn.Identity() if same else nn.Conv2d(channels, wide, 1, stride, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        inner = torch.relu(self.norm(self.first(maps)))
        return torch.relu(self.again(self.second(inner)) + self.skip(maps))
