"""Sets the smallest weights to zero, and keeps them there while the others learn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class Masks:
    """Which weights of which parameters are zero, by magnitude.

    Amounts are shares of the original number of weights, so that several steps add up to the amount of the last one:
    weights that are zero already have the smallest magnitude and are chosen first.
    """

    def __init__(self, groups: list[tuple[float, list[torch.nn.Parameter]]]) -> None:
        """`groups` of parameters are ranked together; each has its final amount."""
        self._groups = groups
        self._masks: dict[torch.nn.Parameter, torch.Tensor] = {}

    def prune(self, share: Mapping[float, float]) -> None:
        """Set to zero what `share` gives for the amount of each group."""
        import torch

        for amount, parameters in self._groups:
            sizes = torch.cat([one.detach().abs().reshape(-1) for one in parameters])
            count = round(share[amount] * sizes.numel())
            keep = torch.ones(sizes.numel(), dtype=torch.bool)
            keep[torch.argsort(sizes, stable=True)[:count]] = False
            parts = torch.split(keep, [one.numel() for one in parameters])
            for parameter, part in zip(parameters, parts, strict=True):
                self._masks[parameter] = part.reshape(parameter.shape)
        self.apply()

    def apply(self) -> None:
        """Set pruned weights to zero again, after a step of an optimizer."""
        import torch

        with torch.no_grad():
            for parameter, mask in self._masks.items():
                parameter.mul_(mask)

    @property
    def amounts(self) -> set[float]:
        """The final amounts that occur."""
        return {amount for amount, _ in self._groups}


def weights_of(module: torch.nn.Module) -> dict[torch.nn.Module, list[torch.nn.Parameter]]:
    """The weight matrices of layers that multiply by them, by layer; a shared one belongs to its first layer."""
    from torch import nn

    found: dict[torch.nn.Module, list[torch.nn.Parameter]] = {}
    seen: set[torch.nn.Parameter] = set()
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.modules.conv._ConvNd | nn.RNNBase | nn.RNNCellBase | nn.MultiheadAttention):
            own = [
                parameter
                for name, parameter in layer.named_parameters(recurse=False)
                if "weight" in name and parameter.ndim > 1 and parameter.is_floating_point() and parameter not in seen
            ]
            seen.update(own)
            if own:
                found[layer] = own
    return found
