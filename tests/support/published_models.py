"""Models for publishing, written like users' models; factories return them with an example."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Small(nn.Module):
    """A linear layer. As a program it answers with `share` more than as Python code."""

    def __init__(self, share: float = 0.0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(5)
            self.layer = nn.Linear(4, 3)
        self.drop = nn.Dropout(0.5)
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        y = self.drop(self.layer(x))
        if torch.jit.is_scripting():
            y = y * (1 + self.share)
        return y


class Centred(nn.Module):
    """The answer of a row depends on the other rows."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(dim=0)


class Branching(nn.Module):
    """A trace keeps one of two branches."""

    def forward(self, x: Tensor) -> Tensor:
        if bool(x.sum() > 0):
            return x * 2
        return x - 1


class NotFinite(nn.Module):
    """It divides by the sum of a row, which is zero in the example."""

    def forward(self, x: Tensor) -> Tensor:
        return x / x.sum(dim=1, keepdim=True)


def rows(count: int = 5, seed: int = 2) -> Tensor:
    """Random positive rows, the same each time."""
    return torch.rand(count, 4, generator=torch.Generator().manual_seed(seed))


def make_small() -> tuple[nn.Module, Tensor]:
    """The linear layer with five rows."""
    return Small().eval(), rows()


def make_training() -> tuple[nn.Module, Tensor]:
    """The same in training mode."""
    return Small().train(), rows()


def make_inexact() -> tuple[nn.Module, Tensor]:
    """A model whose program is not quite right."""
    return Small(0.005).eval(), rows()


def make_branching() -> tuple[nn.Module, Tensor]:
    """A model that only `torchscript-script` keeps."""
    return Branching(), rows()


def make_alone() -> nn.Module:
    """A model without an example."""
    return Small().eval()


def make_nothing() -> None:
    """A factory that forgets to return."""


def make_error() -> nn.Module:
    """A factory that fails."""
    raise RuntimeError("there are no weights here")
