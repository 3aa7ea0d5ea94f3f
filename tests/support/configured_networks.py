"""Classes with the interface of Hugging Face: a module from a configuration, and one that chooses the module."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class Config:
    def __init__(self, hidden_size: int = 8, num_labels: int = 2, **more: Any) -> None:
        self.hidden_size, self.num_labels, self.more = hidden_size, num_labels, more

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Config:
        return cls(**values)


class AutoConfig:
    @staticmethod
    def for_model(model_type: str, **values: Any) -> Config:
        assert model_type == "tiny"
        return Config(**values)


class TinyForClassification(nn.Module):
    config_class = Config

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.hidden = nn.Linear(4, config.hidden_size)
        self.head = nn.Linear(config.hidden_size, config.num_labels)

    def forward(self, values: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": self.head(torch.relu(self.hidden(values * mask)))}


class AutoModelForClassification:
    @classmethod
    def from_config(cls, config: Config) -> TinyForClassification:
        return TinyForClassification(config)
