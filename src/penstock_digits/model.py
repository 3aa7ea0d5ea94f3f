"""The network of the starter models."""

from __future__ import annotations

from torch import Tensor, nn

PIXELS = 28
CLASSES = 10


class DigitsCNN(nn.Module):
    """Three convolutions and a linear layer: 784 features from 0 (paper) to 1 (ink) to the logits of 10 digits.

    Input [batch, 784], a 28×28 image row by row; output [batch, 10].
    """

    def __init__(self, width: int = 16, dropout: float = 0.3) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_convolution(1, width, kernel=5, stride=2),
            *_convolution(width, 2 * width, kernel=3, stride=2),
            *_convolution(2 * width, 4 * width, kernel=3, stride=1),
            nn.MaxPool2d(2, ceil_mode=True),
        )
        self.classifier = nn.Sequential(nn.Flatten(), nn.Dropout(dropout), nn.Linear(4 * width * 16, CLASSES))

    def forward(self, input: Tensor) -> Tensor:
        """Logits."""
        maps: Tensor = self.features(input.view(-1, 1, PIXELS, PIXELS))
        logits: Tensor = self.classifier(maps)
        return logits


def _convolution(channels_in: int, channels_out: int, *, kernel: int, stride: int) -> list[nn.Module]:
    convolution = nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, bias=False)
    return [convolution, nn.BatchNorm2d(channels_out), nn.ReLU()]
