"""The technique `prune`: fewer channels and heads, or fewer weights that are not zero."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from penstock.backends.torch.eager import takes_names
from penstock.errors import InvalidInput
from penstock.toolchain.export.source import ModuleSource
from penstock.toolchain.recipes.forms import need_module
from penstock.toolchain.recipes.recipe import Technique
from penstock.toolchain.recipes.subject import Materials, Subject
from penstock.toolchain.recipes.training.loop import Fitted, deterministic, set_mode
from penstock.toolchain.recipes.training.options import Count, Share, Training, checked
from penstock.toolchain.recipes.training.pruning.layers import Size, named, size_of
from penstock.toolchain.recipes.training.pruning.sparsity import Schedule, reached
from penstock.toolchain.recipes.training.pruning.structured import Amounts, Structured
from penstock.toolchain.recipes.training.pruning.unstructured import Masks, weights_of
from penstock.toolchain.recipes.training.runs import run_for

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Prune(Technique):
    """Remove channels and heads (`structured`), or set single weights to zero (`unstructured`), the smallest first.

    `amount` is the share of each layer's channels or weights, ranked in each layer or (`scope="global"`) in all
    together; `layers` gives other amounts by the names of layers or patterns, `ignore` names those that stay. It is
    reached in `steps`, by `schedule` (see `reached`), with `finetune_epochs` of training after each. Structured pruning
    leaves a multiple of `round_to` channels, and layers that give the model's outputs alone.

    Unstructured pruning makes files that compress well; nothing becomes faster, because kernels multiply by zeros too.
    """

    kind = "prune"

    how: Literal["structured", "unstructured"] = "structured"
    amount: Share = 0.5
    scope: Literal["layer", "global"] = "layer"
    steps: Annotated[int, Field(ge=1)] = 1
    schedule: Schedule = "linear"
    finetune_epochs: Count = 2
    layers: Mapping[str, Share] = field(default_factory=dict)
    ignore: tuple[str, ...] = ()
    round_to: Count = 0
    training: Training = field(default_factory=Training)

    def apply(self, subject: Subject, materials: Materials) -> Subject:
        """The pruned module; its class is not known any more, since its layers have other sizes.

        Raises InvalidInput when there is nothing to prune, the model does not run without its channels, a layer is
        named that it does not have, or training fails.
        """
        technique = checked(self, self.kind)
        source = need_module(subject, self.kind)
        with deterministic(technique.training.threads):
            return _Pruning(technique, source, subject, materials).run()


class _Pruning:
    def __init__(self, technique: Prune, source: ModuleSource, subject: Subject, materials: Materials) -> None:
        self._technique, self._source, self._subject, self._materials = technique, source, subject, materials
        self._module = copy.deepcopy(source.module)
        self._forward, self._rows = forward_of(source)
        for names, setting in ((technique.layers, "layers"), (technique.ignore, "ignore")):
            named(names, self._module, setting)

    def run(self) -> Subject:
        before = size_of(self._module, self._forward, self._rows)
        steps = self._structured() if self._technique.how == "structured" else self._unstructured()
        trainings = [self._fit(number, steps) for number in range(1, self._technique.steps + 1)]
        set_mode(self._module, training=False)
        after = size_of(self._module, self._forward, self._rows)
        return self._result(before, after, steps, [one for one in trainings if one is not None])

    def _structured(self) -> _Steps:
        settings = self._technique
        amounts = Amounts(
            settings.amount, settings.layers, settings.ignore, settings.scope == "global", settings.round_to
        )
        pruning = Structured(self._module, self._forward, amounts, settings.schedule, settings.steps)
        return _Steps(lambda _: pruning.step(), None, pruning.kept)

    def _unstructured(self) -> _Steps:
        masks = self._masks()

        def prune(number: int) -> None:
            settings = self._technique
            masks.prune(
                {amount: reached(settings.schedule, amount, number, settings.steps) for amount in masks.amounts}
            )

        return _Steps(prune, masks.apply, {})

    def _masks(self) -> Masks:
        settings = self._technique
        amounts = Amounts(settings.amount, settings.layers, settings.ignore, settings.scope == "global", 0)
        names = {layer: name for name, layer in self._module.named_modules()}
        together: list[torch.nn.Parameter] = []
        groups: list[tuple[float, list[torch.nn.Parameter]]] = []
        for layer, parameters in weights_of(self._module).items():
            amount = amounts.of(names[layer])
            if amount > 0 and amounts.together and amounts.own(names[layer]) is None:
                together.extend(parameters)
            elif amount > 0:
                groups.extend((amount, [parameter]) for parameter in parameters)
        if together:
            groups.append((settings.amount, together))
        if not groups:
            raise InvalidInput("prune: the model has no weights to prune, or all layers are ignored", field="recipe")
        return Masks(groups)

    def _fit(self, number: int, steps: _Steps) -> Fitted | None:
        settings, materials = self._technique, self._materials
        steps.prune(number)
        if not settings.finetune_epochs:
            return None
        part = "" if settings.steps == 1 else f", step {number} of {settings.steps}"

        def progress(_: str, share: float) -> None:
            materials.progress(f"prune{part}", (number - 1 + share) / settings.steps)

        run = run_for(
            self.kind_of_step(number),
            settings.training,
            settings.finetune_epochs,
            self._subject,
            replace(materials, progress=progress),
            teacher=self._source.module,
        )
        return run.fit(self._module, steps.after)

    @staticmethod
    def kind_of_step(number: int) -> str:
        """The name of a step in messages and of its checkpoint."""
        return f"prune: step {number}"

    def _result(self, before: Size, after: Size, steps: _Steps, trainings: list[Fitted]) -> Subject:
        settings = self._technique
        if settings.how == "structured" and after.parameters == before.parameters:
            raise InvalidInput(
                f"prune: an amount of {settings.amount:g} removes no channel of any layer; use a larger one",
                field="amount",
            )
        source = self._source
        if settings.how == "structured":
            source = replace(source, architecture=None, architecture_args={})
        source = replace(source, module=self._module)
        facts = {
            "before": before.to_json(),
            "after": after.to_json(),
            "kept": dict(steps.kept),
            "training": [one.to_json() for one in trainings],
        }
        by = "torch-pruning" if settings.how == "structured" else "torch"
        subject = self._subject.changed(f"{by} {version(by).partition('+')[0]}", module=source)
        return subject.noted(_note(settings, before, after), prune=facts)


@dataclass(frozen=True, eq=False)
class _Steps:
    """One way of pruning: what one step does, what follows each step of the optimizer, and layers left alone."""

    prune: Callable[[int], None]
    after: Callable[[], None] | None
    kept: Mapping[str, str]


def forward_of(source: ModuleSource) -> tuple[Callable[[torch.nn.Module], Any], int]:
    """What runs a module on the example of `source`, and the number of its rows."""
    import torch

    inputs = {spec.name: torch.from_numpy(source.example[spec.name].copy()) for spec in source.signature.inputs}
    by_name = takes_names(source.module, source.signature)

    def forward(module: torch.nn.Module) -> Any:
        given = {name: tensor.clone() for name, tensor in inputs.items()}
        return module(**given) if by_name else module(*given.values())

    first = next(iter(inputs.values()))
    return forward, int(first.shape[0]) if first.ndim and first.shape[0] else 1


def _note(settings: Prune, before: Size, after: Size) -> str:
    if settings.how == "structured":
        count = _change("multiply-adds", before.multiply_adds, after.multiply_adds)
        return f"pruned: {_change('parameters', before.parameters, after.parameters)}{', ' if count else ''}{count}"
    zero = 1 - after.nonzero / max(after.parameters, 1)
    return (
        f"pruned: {zero:.0%} of the weights are zero, so that the file compresses from {before.compressed_bytes:,} to "
        f"{after.compressed_bytes:,} bytes; nothing becomes faster, because kernels multiply by zeros too"
    )


def _change(what: str, before: int | None, after: int | None) -> str:
    return f"{before:,} to {after:,} {what} ({after / before:.0%})" if before and after else ""
