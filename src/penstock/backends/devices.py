"""The hardware of this machine: usable cores, CPU features, and the device that an option names."""

from __future__ import annotations

import functools
import importlib.util
import os
import platform
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from penstock.errors import ConfigError, UnsupportedFormat
from penstock.option_types import MOST_WORKERS

_DEVICE = re.compile(r"(auto|cpu|mps|cuda)|cuda:(\d{1,3})")


class Device(NamedTuple):
    """`kind` is auto, cpu, cuda or mps; `number` picks one of several GPUs."""

    kind: str
    number: int = 0

    def __str__(self) -> str:
        return f"cuda:{self.number}" if self.kind == "cuda" else self.kind


class Placement(NamedTuple):
    """The device of a model, and one sentence for each option that could not be met."""

    device: Device
    warnings: tuple[str, ...] = ()


CPU = Device("cpu")


def parse_device(text: str) -> Device:
    """`auto`, `cpu`, `mps`, `cuda` or `cuda:N` as a Device; raises ConfigError for anything else."""
    match = _DEVICE.fullmatch(text)
    if match is None:
        raise ConfigError(f"device: {text!r} is not a device; use auto, cpu, cuda, cuda:N or mps")
    return Device(match[1]) if match[1] else Device("cuda", int(match[2]))


def torch_placement(requested: str) -> Placement:
    """The device that PyTorch runs on; `auto` is the CPU where there is no other. Raises UnsupportedFormat."""
    device = parse_device(requested)
    gpus, has_mps = _torch_accelerators()
    if device.kind == "auto":
        return Placement(Device("cuda") if gpus else Device("mps") if has_mps else CPU)
    present = {"cpu": True, "cuda": device.number < gpus, "mps": has_mps}
    if present[device.kind]:
        return Placement(device)
    raise no_device(device, "PyTorch finds no such device")


def no_device(device: Device, why: str) -> UnsupportedFormat:
    """The error for a device that was asked for by name; a model that ran elsewhere would be a surprise."""
    return UnsupportedFormat(f'device="{device}" cannot be used: {why}; device="auto" takes what is there')


def require_hardware(requested: str) -> None:
    """Raises ConfigError for a device that this machine certainly lacks; loads no runtime."""
    device = parse_device(requested)
    if (device.kind == "cuda" and not _has_cuda()) or (device.kind == "mps" and sys.platform != "darwin"):
        raise ConfigError(f'device="{device}" cannot be used: this machine has none; device="auto" takes what is there')


def _torch_accelerators() -> tuple[int, bool]:
    """The number of CUDA devices that PyTorch finds, and whether it supports Metal."""
    import torch

    return (torch.cuda.device_count() if torch.cuda.is_available() else 0), torch.backends.mps.is_available()


def usable_cores(proc: Path = Path("/proc/self/cgroup"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Cores that this process may use: its CPU affinity, limited by its cgroup's quota rounded down; at least 1.

    Runtimes count the cores of the host; in a container with a quota their threads then compete for fewer cores.
    """
    quotas = (quota for quota in _quotas(proc, cgroups) if quota is not None)
    return max(1, int(min((_affinity(), *quotas))))


def worker_count(workers: int | str) -> int:
    """The server processes that the setting `workers` means; `auto` is one for each usable core."""
    return min(usable_cores(), MOST_WORKERS) if workers == "auto" else int(workers)


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quotas(proc: Path, cgroups: Path) -> Iterator[float | None]:
    """The quota in cores of every cgroup this process is in, from its own up to the root, versions 1 and 2."""
    for line in _text(proc).splitlines():
        controllers, _, own = line.partition(":")[2].partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = cgroups / "cpu" if controllers else cgroups
        path = Path(own.lstrip("/"))
        for group in (root / path, *(root / parent for parent in path.parents)):
            yield _quota_v1(group) if controllers else _quota_v2(group)


def _quota_v2(group: Path) -> float | None:
    quota, _, period = _text(group / "cpu.max").partition(" ")
    return _cores(quota, period)


def _quota_v1(group: Path) -> float | None:
    return _cores(_text(group / "cpu.cfs_quota_us"), _text(group / "cpu.cfs_period_us"))


def _cores(quota: str, period: str) -> float | None:
    """None without a limit (`max`, -1), and for a file that is missing or unreadable."""
    try:
        limit, window = int(quota), int(period)
    except ValueError:
        return None
    return limit / window if limit > 0 and window > 0 else None


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, ValueError):  # missing, or not text
        return ""


@functools.cache
def cpu_flags(info: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """The features of the CPU (`avx2`, `avx512f`, …); empty where the system does not list them."""
    for line in _text(info).splitlines():
        key, _, value = line.partition(":")
        if key.strip().lower() in ("flags", "features"):
            return frozenset(value.split())
    return frozenset()


@functools.cache
def cpu_model(info: Path = Path("/proc/cpuinfo")) -> str:
    """The name of the CPU; what Python knows of it where the system does not say."""
    for line in _text(info).splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


def this_cpu() -> tuple[str, int]:
    """The name of the CPU, and the usable cores: what a recorded benchmark must be of to count here."""
    return cpu_model(), usable_cores()


def missing_features(requires: Iterable[str]) -> list[str]:
    """The ones of `requires` (CPU flags, `cuda`) that this machine lacks; loads no runtime."""
    return sorted(need for need in requires if need not in cpu_flags() and not _PRESENT.get(need, _absent)())


def _has_cuda() -> bool:
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists()


def _absent() -> bool:
    return False


_PRESENT = {"cuda": _has_cuda}


def onnx_providers() -> list[str]:
    """The execution providers of the installed ONNX Runtime."""
    import onnxruntime as ort

    return list(ort.get_available_providers())


def torch_devices() -> list[str]:
    """Every device that PyTorch finds, the CPU first; empty when PyTorch is not installed."""
    if importlib.util.find_spec("torch") is None:
        return []
    gpus, has_mps = _torch_accelerators()
    return ["cpu", *(f"cuda:{number}" for number in range(gpus)), *(["mps"] if has_mps else [])]
