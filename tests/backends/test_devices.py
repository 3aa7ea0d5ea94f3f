from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from penstock.backends import devices
from penstock.backends.devices import (
    CPU,
    Device,
    parse_device,
    require_hardware,
    torch_placement,
    usable_cores,
    worker_count,
)
from penstock.errors import ConfigError, UnsupportedFormat

AFFINITY = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


@pytest.mark.parametrize(
    ("text", "device"),
    [
        ("auto", Device("auto")),
        ("cpu", Device("cpu")),
        ("mps", Device("mps")),
        ("cuda", Device("cuda", 0)),
        ("cuda:3", Device("cuda", 3)),
    ],
)
def test_a_device_is_read_from_its_name(text: str, device: Device) -> None:
    assert parse_device(text) == device


@pytest.mark.parametrize("text", ["", "gpu", "cpu:1", "mps:0", "auto:0", "cuda:", "cuda:-1", "cuda:x", "CPU", "cpu\n"])
def test_an_unknown_device_is_refused_with_the_names_there_are(text: str) -> None:
    with pytest.raises(ConfigError, match="use auto, cpu, cuda, cuda:N or mps"):
        parse_device(text)


@pytest.mark.parametrize("text", ["cpu", "mps", "cuda:0", "cuda:12"])
def test_a_device_is_written_as_it_is_read(text: str) -> None:
    assert str(parse_device(text)) == text


def test_a_device_that_torch_does_not_see_is_refused() -> None:
    with pytest.raises(UnsupportedFormat) as refused:
        torch_placement("cuda:99")
    assert str(refused.value) == (
        'device="cuda:99" cannot be used: PyTorch finds no such device; device="auto" takes what is there'
    )


def test_hardware_that_is_certainly_missing_is_refused_before_any_model_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for device in ("auto", "cpu"):
        require_hardware(device)
    monkeypatch.setattr(devices, "_has_cuda", lambda: True)
    require_hardware("cuda:1")
    monkeypatch.setattr(devices, "_has_cuda", lambda: False)
    with pytest.raises(ConfigError, match='device="cuda:1" cannot be used: this machine has none'):
        require_hardware("cuda:1")


def test_the_cpu_is_always_there() -> None:
    assert torch_placement("cpu") == (CPU, ())


@pytest.mark.skipif(torch.cuda.is_available() or torch.backends.mps.is_available(), reason="has an accelerator")
def test_auto_is_the_cpu_where_nothing_else_is() -> None:
    assert torch_placement("auto") == (CPU, ())


def cgroup(tmp_path: Path, lines: str, files: dict[str, str]) -> tuple[Path, Path]:
    proc, root = tmp_path / "cgroup", tmp_path / "fs"
    proc.write_text(lines)
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return proc, root


@pytest.mark.parametrize(
    ("lines", "files", "cores"),
    [
        ("0::/\n", {"cpu.max": "max 100000\n"}, AFFINITY),
        ("0::/\n", {"cpu.max": "100000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "20000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "199999 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "99900000 100000\n"}, AFFINITY),
        ("0::/app.slice/api\n", {"app.slice/api/cpu.max": "max 100000", "app.slice/cpu.max": "100000 100000"}, 1),
        ("3:cpu,cpuacct:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, AFFINITY),
        ("3:cpu,cpuacct:/\n", {"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
        ("3:cpuset:/\n", {"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, AFFINITY),
        (
            "2:cpu:/docker/ab\n0::/docker/ab\n",
            {"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"},
            1,
        ),
        ("", {}, AFFINITY),
    ],
    ids=[
        "v2-no-limit",
        "v2-one",
        "v2-a-part",
        "v2-rounded-down",
        "v2-more-than-there-are",
        "v2-limit-of-a-parent",
        "v1-no-limit",
        "v1-half",
        "v1-other-controller",
        "v1-seen-from-inside-a-container",
        "no-cgroups",
    ],
)
def test_cores_are_those_of_the_affinity_and_the_quota(
    tmp_path: Path, lines: str, files: dict[str, str], cores: int
) -> None:
    assert usable_cores(*cgroup(tmp_path, lines, files)) == cores


def test_two_cores_of_quota_are_two_cores(tmp_path: Path) -> None:
    proc, root = cgroup(tmp_path, "0::/\n", {"cpu.max": "200000 100000\n"})
    assert usable_cores(proc, root) == min(2, AFFINITY or 1)


def test_affinity_limits_the_cores() -> None:
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system has no affinity")
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)


@given(lines=st.text(alphabet="0123:cpu,/.\n\0x", max_size=40), quota=st.text(max_size=12))
def test_with_any_quota_file_at_least_one_core_is_usable(
    tmp_path_factory: pytest.TempPathFactory, lines: str, quota: str
) -> None:
    directory = tmp_path_factory.getbasetemp() / "cgroups"
    directory.mkdir(exist_ok=True)
    proc, root = cgroup(directory, lines, {})
    root.mkdir(exist_ok=True)
    (root / "cpu.max").write_text(quota, errors="ignore")
    assert 1 <= usable_cores(proc, root) <= (AFFINITY or 1)


def test_auto_workers_are_one_for_each_usable_core(monkeypatch: pytest.MonkeyPatch) -> None:
    assert worker_count("auto") == usable_cores()
    assert worker_count(3) == 3
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(1000))
    monkeypatch.setattr(devices, "_quotas", lambda *_: ())
    assert worker_count("auto") == 256
