"""Wraps a module so that its inputs and outputs keep the types of the signature while it computes in others."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from penstock.backends.torch.eager import takes_names
from penstock.errors import InvalidInput, type_and_message
from penstock.libraries import quietly
from penstock.toolchain.export.source import ModuleSource

if TYPE_CHECKING:
    import torch

Change = Callable[["torch.Tensor"], "torch.Tensor"]


def own_copy(source: ModuleSource) -> torch.nn.Module:
    """A copy of the module that a technique may change."""
    with quietly():  # PyTorch warns of its own class when a program is copied
        return copy.deepcopy(source.module)


def wrapped(
    source: ModuleSource, module: torch.nn.Module, before: Change, around: Callable[[], Any] | None = None
) -> ModuleSource:
    """The source with `module` in its place, called with inputs changed by `before`, within the context of `around`.

    Floating-point outputs get the type that the original module gives them.
    """
    import torch
    from torch.utils import _pytree

    names = [spec.name for spec in source.signature.inputs] if takes_names(source.module, source.signature) else None
    types = {str(spec.name): spec.dtype for spec in source.signature.outputs}
    wide = torch.float64 if set(types.values()) == {"FP64"} else torch.float32

    def widened(value: torch.Tensor) -> torch.Tensor:
        return value.to(wide) if value.is_floating_point() and value.dtype != wide else value

    class Wrapped(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, *inputs: torch.Tensor) -> Any:
            changed = [before(one) for one in inputs]
            result = self._called(changed) if around is None else self._within(changed)
            return _pytree.tree_map_only(torch.Tensor, widened, result)

        def _called(self, inputs: list[torch.Tensor]) -> Any:
            return self.inner(*inputs) if names is None else self.inner(**dict(zip(names, inputs, strict=True)))

        def _within(self, inputs: list[torch.Tensor]) -> Any:
            assert around is not None
            with around():
                return self._called(inputs)

    return replace(source, module=Wrapped().eval(), architecture=None, architecture_args={})


def require_runs(source: ModuleSource, kind: str, remedy: str) -> ModuleSource:
    """The source, if it runs its example; raises InvalidInput with the reason and `remedy`."""
    import torch

    example = [torch.from_numpy(source.example[spec.name].copy()) for spec in source.signature.inputs]
    try:
        with torch.inference_mode():
            source.module(*example)
    except Exception as error:  # of the user's module
        raise InvalidInput(
            f"recipe: {kind}: {source.name} does not run so: {type_and_message(error, 200)}; {remedy}", field="recipe"
        ) from None
    return source
