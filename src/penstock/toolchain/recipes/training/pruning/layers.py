"""Which layers of a module a recipe names, and the figures of a module."""

from __future__ import annotations

import fnmatch
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from penstock.errors import InvalidInput, shortened

if TYPE_CHECKING:
    import torch


def named(names: Iterable[str], module: torch.nn.Module, field: str) -> dict[str, torch.nn.Module]:
    """The submodules that names or patterns such as `features.*` name. Raises InvalidInput for one that names none."""
    known = {name: layer for name, layer in module.named_modules() if name}
    found: dict[str, torch.nn.Module] = {}
    for name in names:
        matching = {other: layer for other, layer in known.items() if fnmatch.fnmatchcase(other, name)}
        if not matching:
            prunable = [other for other, layer in known.items() if any(True for _ in layer.parameters(recurse=False))]
            raise InvalidInput(
                f"prune: {field}: the model has no layer {name!r}; it has {shortened(', '.join(prunable))}", field=field
            )
        found.update(matching)
    return found


def ratios(layers: Mapping[str, float], module: torch.nn.Module) -> dict[torch.nn.Module, float]:
    """The amount of each layer that has its own; later patterns count more."""
    found: dict[torch.nn.Module, float] = {}
    for name, amount in layers.items():
        for layer in named([name], module, "layers").values():
            found.update(dict.fromkeys(layer.modules(), amount))
    return found


@dataclass(frozen=True)
class Size:
    """Figures of a module: `multiply_adds` are for one row, None where they cannot be counted."""

    parameters: int
    nonzero: int
    bytes: int
    compressed_bytes: int
    multiply_adds: int | None

    def to_json(self) -> dict[str, Any]:
        """As in a report."""
        return dict(vars(self))


def size_of(module: torch.nn.Module, run: Callable[[torch.nn.Module], Any], rows: int) -> Size:
    """The figures of `module`; `run` runs it on a batch of `rows` rows."""
    parameters = list(module.parameters())
    raw = b"".join(one.detach().contiguous().numpy().tobytes() for one in parameters)
    return Size(
        parameters=sum(one.numel() for one in parameters),
        nonzero=sum(int(one.count_nonzero()) for one in parameters),
        bytes=len(raw),
        compressed_bytes=len(zlib.compress(raw, 1)),
        multiply_adds=_multiply_adds(module, run, rows),
    )


def _multiply_adds(module: torch.nn.Module, run: Callable[[torch.nn.Module], Any], rows: int) -> int | None:
    from torch.utils.flop_counter import FlopCounterMode

    try:
        with FlopCounterMode(display=False) as counter:
            run(module)
    except Exception:  # an operation that does not run under a dispatch mode
        return None
    return int(counter.get_total_flops()) // 2 // rows
