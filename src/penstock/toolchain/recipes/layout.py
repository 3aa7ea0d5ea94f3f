"""The layout in which convolutions of PyTorch are faster."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, ClassVar

from penstock.backends.torch.eager import has_2d_convolution, lay_out
from penstock.errors import InvalidInput
from penstock.toolchain.recipes.forms import need_module
from penstock.toolchain.recipes.recipe import Technique
from penstock.toolchain.recipes.subject import Materials, Subject
from penstock.toolchain.recipes.wrapping import own_copy, require_runs, wrapped

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class ChannelsLast(Technique):
    """Weights and images with their channels as the last axis in memory; for TorchScript, .pt2 and AOTInductor.

    Shapes stay as they are. ONNX Runtime and OpenVINO choose their layout themselves.
    """

    kind: ClassVar[str] = "channels-last"
    lossy: ClassVar[bool] = False

    def apply(self, subject: Subject, materials: Materials) -> Subject:  # noqa: ARG002
        """The subject with another module and no other form. Raises InvalidInput for one without 2-d convolutions."""
        import torch

        source = need_module(subject, self.kind)
        if not has_2d_convolution(source.module):
            raise InvalidInput(
                f"recipe: {self.kind}: {subject.name} has no 2-d convolution, and only these gain from the layout",
                field="recipe",
            )
        module = own_copy(source)
        lay_out(module, torch.channels_last)

        def laid_out(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor

        remedy = "it may rely on the usual layout, as `view` after a convolution does: use `reshape`"
        changed = require_runs(wrapped(source, module, laid_out), self.kind, remedy)
        return subject.changed(f"torch {version('torch').partition('+')[0]}, channels-last", module=changed)
