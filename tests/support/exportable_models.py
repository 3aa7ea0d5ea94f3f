"""Networks to export, written like users' models, with the kinds of forward that exporters get wrong.

`networks.py` holds the plain ones. Factories return a module, or a tuple of it and example inputs, as `penstock export`
takes them; weights are seeded.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import penstock_digits


class MyModel(nn.Module):
    """The guide's model: a convolution, `view`, and a linear layer on images of 28x28."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.fc = nn.Linear(4 * 28 * 28, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv(x))
        return self.fc(x.view(x.size(0), -1))


class Residual(nn.Module):
    """A small residual network with batch norms and dropout."""

    def __init__(self, width: int = 8, classes: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.inner = nn.Conv2d(width, width, 3, padding=1)
        self.drop = nn.Dropout(0.5)
        self.out = nn.Linear(width, classes)

    def forward(self, image: Tensor) -> Tensor:
        maps = torch.relu(self.norm(self.stem(image)))
        maps = torch.relu(maps + self.inner(maps))
        return self.out(self.drop(maps.mean(dim=(2, 3))))


class Lstm(nn.Module):
    """Scores of a sequence of any length."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 6, batch_first=True)
        self.out = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.lstm(x)
        return self.out(states[:, -1])


class Gru(nn.Module):
    """Scores of every step, from a bidirectional network of two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 5, num_layers=2, bidirectional=True, batch_first=True)
        self.out = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.gru(x)[0])


class PaddedEncoder(nn.Module):
    """PyTorch's own encoder with a padding mask; `mask` is True for real tokens."""

    def __init__(self, tokens: int = 30, width: int = 16) -> None:
        super().__init__()
        self.embedding = nn.Embedding(tokens, width)
        layer = nn.TransformerEncoderLayer(width, 2, 2 * width, batch_first=True, dropout=0.1)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.out = nn.Linear(width, 3)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        states = self.encoder(self.embedding(tokens), src_key_padding_mask=~mask)
        real = mask.unsqueeze(-1).to(states.dtype)
        return self.out((states * real).sum(dim=1) / real.sum(dim=1).clamp(min=1))


class Branching(nn.Module):
    """An `if` on values."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return self.up(x)
        return self.down(x)


class Gate(nn.Module):
    """The branch of a part inside another model, in one line."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if bool(x.mean() > 0) else x - 1


class NestedBranch(nn.Module):
    """A model whose part branches on values."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 4)
        self.gate = Gate()

    def forward(self, x: Tensor) -> Tensor:
        return self.gate(self.body(x))


class Looping(nn.Module):
    """A `while` on values."""

    def __init__(self) -> None:
        super().__init__()
        self.step = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        while x.abs().max() > 1:
            x = x / 2
        return self.step(x)


class Conditional(nn.Module):
    """The branch of `Branching` as `torch.cond`."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, self.up, self.down, (x,))


class Counting(nn.Module):
    """A number that is taken out of a tensor, which a trace keeps as it was."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        largest = float(x.abs().max())
        return self.out(x / max(largest, 1e-6))


class Mixed(nn.Module):
    """Numbers, token ids and a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 6)
        self.numbers = nn.Linear(5, 6)
        self.out = nn.Linear(6, 3)

    def forward(self, x: Tensor, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        words = self.embedding(ids) * mask.unsqueeze(-1).to(x.dtype)
        logits = self.out(torch.tanh(self.numbers(x) + words.sum(dim=1)))
        return {"logits": logits, "probabilities": torch.softmax(logits, dim=-1)}


class Frozen(nn.Module):
    """It takes any number of rows, and one length only."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.randn(6, 4))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.place


@torch.library.custom_op("penstock_tests::scaled_tanh", mutates_args=())
def scaled_tanh(x: Tensor, scale: float) -> Tensor:
    """A user's own operator."""
    return torch.tanh(x) * scale


@scaled_tanh.register_fake
def _(x: Tensor, scale: float) -> Tensor:
    return torch.empty_like(x)


class Custom(nn.Module):
    """It uses an operator that no exporter knows."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return scaled_tanh(self.layer(x), 2.0)


def onnx_scaled_tanh(x: Any, scale: float) -> Any:
    """`scaled_tanh` in ONNX."""
    from onnxscript import opset18 as op

    return op.Mul(op.Tanh(x), op.CastLike(op.Constant(value_float=scale), x))


TRANSLATIONS = {torch.ops.penstock_tests.scaled_tanh.default: onnx_scaled_tanh}


def seeded(module: type[nn.Module], **arguments: Any) -> nn.Module:
    """A module in evaluation mode with the same weights each time, and statistics in its norms."""
    with torch.random.fork_rng():
        torch.manual_seed(11)
        made = module(**arguments)
        for buffer in made.buffers():
            if buffer.is_floating_point():
                buffer.uniform_(0.5, 1.5)
    return made.eval()


def values(*shape: int, seed: int = 3) -> Tensor:
    """Random numbers, the same each time."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make_my_model() -> tuple[nn.Module, Tensor]:
    """The guide's model with one image."""
    return seeded(MyModel), values(1, 1, 28, 28)


def make_residual() -> tuple[nn.Module, Tensor]:
    """The residual network with two images."""
    return seeded(Residual), values(2, 3, 12, 12)


def make_lstm() -> tuple[nn.Module, Tensor]:
    """The LSTM with two sequences of five steps."""
    return seeded(Lstm), values(2, 5, 4)


def make_gru() -> tuple[nn.Module, Tensor]:
    """The GRU with three sequences of five steps."""
    return seeded(Gru), values(3, 5, 4)


def make_encoder() -> tuple[nn.Module, dict[str, Tensor]]:
    """The encoder with texts of six and four tokens."""
    tokens = torch.arange(12).reshape(2, 6)
    mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    return seeded(PaddedEncoder), {"tokens": tokens, "mask": mask}


def make_branching() -> tuple[nn.Module, Tensor]:
    """The model that branches on values."""
    return seeded(Branching), values(2, 4).abs()


def make_mixed() -> tuple[nn.Module, dict[str, Tensor]]:
    """The model of three inputs."""
    ids = torch.arange(6).reshape(2, 3)
    return seeded(Mixed), {"x": values(2, 5), "ids": ids, "mask": torch.tensor([[1, 1, 1], [1, 0, 0]]).bool()}


def make_digits() -> nn.Module:
    """The network of the digits model, with the weights that come with it."""
    from pathlib import Path

    from safetensors.torch import load_file

    from penstock_digits.model import DigitsCNN

    file = Path(penstock_digits.__file__).parent / "artifacts/digits/variants/pytorch-fp32/model.safetensors"
    network = DigitsCNN()
    network.load_state_dict(load_file(file))
    return network
