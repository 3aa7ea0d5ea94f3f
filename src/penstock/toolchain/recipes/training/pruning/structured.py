"""Removes channels and heads, so that the module is smaller and faster; which depend on which, torch-pruning finds."""

from __future__ import annotations

import copy
import fnmatch
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from penstock.backends.torch.base import named_outputs
from penstock.errors import InvalidInput, type_and_message
from penstock.libraries import quietly
from penstock.toolchain.recipes.training.pruning.heads import prunable_attention, without_heads
from penstock.toolchain.recipes.training.pruning.sparsity import Schedule, reached

if TYPE_CHECKING:
    import torch

Forward = Callable[["torch.nn.Module"], Any]
"""Runs a module on the example inputs."""

Shapes = dict[str, list[int]]


@dataclass(frozen=True)
class Amounts:
    """The share of channels or heads to remove: `amount`, or that of a layer by name or pattern; 0 for ignored ones.

    With `together` the channels of all layers without an own amount are ranked together. Of each layer a multiple of
    `round_to` channels stays.
    """

    amount: float
    layers: Mapping[str, float]
    ignore: tuple[str, ...]
    together: bool
    round_to: int

    def of(self, name: str) -> float:
        """The amount of a layer."""
        own = self.own(name)
        return self.amount if own is None else own

    def own(self, name: str) -> float | None:
        """The amount that a recipe names for this layer or a module that holds it; None for the general one."""
        outer = [".".join(name.split(".")[: depth + 1]) for depth in range(name.count(".") + 1)]
        if any(fnmatch.fnmatchcase(one, pattern) for one in outer for pattern in self.ignore):
            return 0.0
        named = [
            amount for pattern, amount in self.layers.items() for one in outer if fnmatch.fnmatchcase(one, pattern)
        ]
        return named[-1] if named else None


class Structured:
    """A pruning of one module in place, in steps. `kept` are layers that are left alone, with the reason."""

    def __init__(
        self, module: torch.nn.Module, forward: Forward, amounts: Amounts, schedule: Schedule, steps: int
    ) -> None:
        """Raises InvalidInput when there is nothing that can be removed, with the reason."""
        self._module, self._forward = module, forward
        self._frozen = {name for name, one in module.named_parameters() if not one.requires_grad}
        _let_all_learn(module)
        self._before = _shapes(module, forward)
        self._gone = partial(_reached, schedule, steps)
        self._step, self._steps = 0, steps
        self._heads = {
            name: (_heads(layer), amounts.of(name))
            for name, layer in prunable_attention(module).items()
            if amounts.of(name) > 0
        }
        self._channels, self._together, self.kept = _channels(module, forward, amounts)
        self._drop_what_breaks(amounts)
        if not self._channels and not self._heads:
            raise InvalidInput(f"prune: {_why_nothing(module, self.kept)}", field="recipe")
        self._frozen = self._frozen if len(self._frozen) < len(list(module.parameters())) else set()
        self._pruner = _pruner(module, forward, self._channels, self._together, amounts, self._gone, steps)

    def step(self) -> None:
        """Remove what is gone after one more step. Raises InvalidInput when the model does not run any more."""
        self._step += 1
        _let_all_learn(self._module)
        if self._pruner is not None:
            _prune(self._pruner)
        for name, (heads, amount) in self._heads.items():
            layer = self._module.get_submodule(name)
            keep = max(1, heads - round(heads * self._gone(amount)[self._step]))
            if keep < _heads(layer):
                self._module.set_submodule(name, without_heads(layer, keep))
        for name, parameter in self._module.named_parameters():
            parameter.requires_grad_(parameter.is_floating_point() and name not in self._frozen)
        fault = _fault(self._module, self._forward, self._before)
        if fault:
            raise InvalidInput(f"prune: without the removed channels {fault}", field="recipe")

    def _drop_what_breaks(self, amounts: Amounts) -> None:
        """Leave alone what the model does not run without: it may have sizes in its code, as in a `reshape`."""
        if not self._breaks(self._channels, amounts):
            return
        for name, amount in list(self._channels.items()):
            fault = self._breaks({name: amount}, amounts)
            if fault:
                self.kept[name] = f"without some of its channels {fault}"
                del self._channels[name]
        fault = self._breaks(self._channels, amounts)
        if fault:
            raise InvalidInput(f"prune: without the removed channels {fault}; name layers to `ignore`", field="ignore")

    def _breaks(self, channels: dict[str, float], amounts: Amounts) -> str:
        """What is wrong with a copy without those channels; an empty text when it runs."""
        trial = copy.deepcopy(self._module)
        try:
            pruner = _pruner(trial, self._forward, channels, self._together, amounts, self._gone, self._steps)
            for _ in range(self._steps if pruner is not None else 0):
                _prune(pruner)
                fault = _fault(trial, self._forward, self._before)
                if fault:
                    return fault
        except Exception as error:  # torch-pruning's own, for graphs that it does not understand
            return f"torch-pruning fails: {type_and_message(error, 200)}"
        return ""


def _heads(layer: Any) -> int:
    return int(layer.num_heads)


def _let_all_learn(module: torch.nn.Module) -> None:
    """Dependencies are found in the graph of the gradients."""
    for parameter in module.parameters():
        parameter.requires_grad_(parameter.is_floating_point())


def _reached(schedule: Schedule, steps: int, amount: float) -> list[float]:
    """The share that is gone before the first step and after each."""
    return [0.0, *(reached(schedule, amount, step, steps) for step in range(1, steps + 1))]


def _shapes(module: torch.nn.Module, forward: Forward) -> Shapes:
    import torch

    with torch.no_grad():
        return {name: list(value.shape) for name, value in named_outputs(forward(module)).items()}


def _fault(module: torch.nn.Module, forward: Forward, before: Shapes) -> str:
    try:
        shapes = _shapes(module, forward)
    except Exception as error:
        return f"the model does not run: {type_and_message(error, 200)}"
    return "" if shapes == before else f"the outputs have the shapes {shapes} and not {before}"


def _channels(
    module: torch.nn.Module, forward: Forward, amounts: Amounts
) -> tuple[dict[str, float], dict[str, list[str]], dict[str, str]]:
    """Groups of layers that lose channels together, by their first layer: the amount, the layers, why it stays."""
    from torch import nn

    names = {layer: name for name, layer in module.named_modules()}
    graph = _graph(module, forward)
    found: dict[str, float] = {}
    together: dict[str, list[str]] = {}
    kept: dict[str, str] = {}
    for group in graph.get_all_groups(root_module_types=[nn.modules.conv._ConvNd, nn.Linear]):
        root = names.get(group[0].dep.target.module)
        if root is None:
            continue
        members = [one.dep.target for one in group if graph.is_out_channel_pruning_fn(one.dep.handler)]
        reason = _why_kept(members)
        if reason:
            kept[root] = reason
            continue
        layers = together[root] = [names[one.module] for one in members if one.module in names]
        own = [amount for amount in map(amounts.own, layers) if amount is not None]
        amount = min(own) if 0.0 in own else next(iter(own), amounts.amount)
        least = max(1, amounts.round_to)
        channels = graph.get_out_channels(group[0].dep.target.module)
        if amount > 0 and channels <= least:
            kept[root] = f"it has {channels} channels, and at least {least} must stay"
        elif amount > 0:
            found[root] = min(amount, 1 - least / channels)
    return found, together, kept


def _why_kept(members: list[Any]) -> str:
    """Why a group of graph nodes that lose channels together must keep them."""
    from torch import nn

    if any(not one.outputs for one in members):
        return "its channels are outputs of the model"
    for one in members:
        if isinstance(one.module, nn.MultiheadAttention):
            return "its channels are the width of the attention, of which heads are removed"
        if isinstance(one.module, nn.RNNBase):
            return f"its channels are the state of {_a(one.module)}"
    return ""


def _a(module: torch.nn.Module) -> str:
    name = type(module).__name__
    return f"an {name}" if name.startswith(("LSTM", "RNN")) else f"a {name}"


def _graph(module: torch.nn.Module, forward: Forward) -> Any:
    import torch_pruning

    try:
        with quietly():
            return torch_pruning.DependencyGraph().build_dependency(
                module, None, forward_fn=lambda model, _: forward(model), output_transform=_leaves
            )
    except Exception as error:
        raise InvalidInput(
            f"prune: torch-pruning cannot follow the model's computation: {type_and_message(error, 200)}",
            field="recipe",
        ) from None


def _leaves(result: Any) -> list[Any]:
    """The outputs that depend on weights, each as a node of its own, so that one that is also used inside is seen."""
    return [value * 1 for value in named_outputs(result).values() if value.grad_fn is not None]


def _pruner(
    module: torch.nn.Module,
    forward: Forward,
    channels: Mapping[str, float],
    together: Mapping[str, list[str]],
    amounts: Amounts,
    gone: Callable[[float], list[float]],
    steps: int,
) -> Any:
    """torch-pruning's pruner of those layers; None when there are none. It changes `module` at each of its steps."""
    import torch_pruning
    from torch import nn

    if not channels:
        return None
    kinds = [nn.modules.conv._ConvNd, nn.Linear]
    roots = {name: layer for name, layer in module.named_modules() if isinstance(layer, tuple(kinds))}
    alone = {
        roots[name]: amount for name, amount in channels.items() if not amounts.together or amount != amounts.amount
    }
    losing = {layer for name in channels for layer in together[name]}
    with quietly():
        return torch_pruning.pruner.BasePruner(
            module,
            None,
            importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
            global_pruning=amounts.together,
            pruning_ratio=amounts.amount,
            pruning_ratio_dict=alone,
            iterative_steps=steps,
            iterative_pruning_ratio_scheduler=lambda amount, _: gone(amount),
            ignored_layers=[layer for name, layer in roots.items() if name not in losing],
            round_to=amounts.round_to if amounts.round_to > 1 else None,
            root_module_types=kinds,
            forward_fn=lambda model, _: forward(model),
            output_transform=_leaves,
        )


def _prune(pruner: Any) -> None:
    with quietly():
        pruner.step()


def _why_nothing(module: torch.nn.Module, kept: Mapping[str, str]) -> str:
    from torch import nn

    rnn = next((layer for layer in module.modules() if isinstance(layer, nn.RNNBase)), None)
    if kept:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(kept.items())[:3])
        also = ", and structured pruning of recurrent layers is not supported" if rnn is not None else ""
        return f"no layer can lose channels ({reasons}){also}"
    if rnn is not None:
        return f"structured pruning of {_a(rnn)} is not supported, and the model has no other layers to prune"
    return "the model has no convolutions, linear layers or attention heads to prune, or all are ignored"
