"""Half precision: the types that a device supports in hardware, and whether a model is faster in one."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from penstock.backends.devices import Device, cpu_flags
from penstock.tensors import Arrays

if TYPE_CHECKING:
    import torch

_CPU_FLAGS = {"bf16": frozenset({"amx_bf16", "avx512_bf16"}), "fp16": frozenset({"amx_fp16", "avx512_fp16"})}
"""CPU flags for multiplication in the type; without one a CPU emulates it, at a fraction of the speed of fp32."""
_TYPES = {"fp16": "float16", "bf16": "bfloat16"}
_MAX_TIME_SHARE = 0.9
_TURNS = 5
_MAX_RELATIVE_ERROR = 0.1

Run = Callable[[Arrays], Arrays]


class Half(NamedTuple):
    """The type to try, None for fp32, and a warning when that is not the requested one."""

    dtype: torch.dtype | None
    warnings: tuple[str, ...] = ()


def half_type(precision: str, device: Device) -> Half:
    """The type of `precision` on `device`, if its hardware multiplies in that type."""
    if precision == "fp32":
        return Half(None)
    if precision not in _TYPES:
        return Half(None, (f"{precision} was requested, but a PyTorch model keeps the precision of its training",))
    if not _has_hardware(precision, device):
        what = f"{precision} was requested, but {device} has no hardware support for it; the model runs in fp32"
        return Half(None, (what,))
    import torch

    return Half(getattr(torch, _TYPES[precision]))


def _has_hardware(precision: str, device: Device) -> bool:
    import torch

    if device.kind == "cpu":
        return bool(_CPU_FLAGS[precision] & cpu_flags())
    if device.kind == "cuda" and precision == "bf16":
        return torch.cuda.get_device_capability(device.number) >= (8, 0)
    return device.kind == "cuda" or precision == "fp16"


def gains(before: Run, after: Run, batches: Sequence[Arrays], clock: Callable[[], float] = time.perf_counter) -> bool:
    """True when `after` is faster than `before` by more than noise; they run alternately."""
    spent: dict[Run, list[float]] = {before: [], after: []}
    for _ in range(_TURNS):
        for run, seconds in spent.items():
            start = clock()
            for batch in batches:
                run(batch)
            seconds.append(clock() - start)
    return statistics.median(spent[after]) < _MAX_TIME_SHARE * statistics.median(spent[before])


def close_enough(exact: Arrays, rounded: Arrays) -> bool:
    """True when no output differs by more than a tenth of its range: rounding errors are smaller."""
    return all(_relative_error(exact[name], rounded[name]) <= _MAX_RELATIVE_ERROR for name in exact)


def _relative_error(exact: np.ndarray, rounded: np.ndarray) -> float:
    if not exact.size or exact.dtype.kind != "f":
        return 0.0
    if not np.isfinite(rounded).all() and np.isfinite(exact).all():
        return float("inf")
    scale = float(np.abs(exact).max()) or 1.0
    return float(np.abs(exact - rounded).max()) / scale
