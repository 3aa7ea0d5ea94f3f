from __future__ import annotations

import numpy as np
import pytest
import torch

from penstock.backends.devices import CPU, Device
from penstock.backends.torch import precision
from penstock.backends.torch.precision import close_enough, gains, half_type
from penstock.tensors import Arrays

BATCH: Arrays = {"x": np.ones((1, 1), np.float32)}


def flags(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr(precision, "cpu_flags", lambda: frozenset(names))


@pytest.mark.parametrize(
    ("asked", "has", "given"),
    [
        ("bf16", "amx_bf16", torch.bfloat16),
        ("bf16", "avx512_bf16", torch.bfloat16),
        ("fp16", "amx_fp16", torch.float16),
        ("bf16", "avx512f", None),
        ("fp16", "avx512_bf16", None),
    ],
)
def test_a_cpu_gains_only_from_a_type_it_multiplies_in(
    monkeypatch: pytest.MonkeyPatch, asked: str, has: str, given: torch.dtype | None
) -> None:
    flags(monkeypatch, has)
    half = half_type(asked, CPU)
    assert half.dtype is given
    assert bool(half.warnings) is (given is None)
    assert all(f"{asked} was requested, but cpu has no hardware" in warning for warning in half.warnings)


def test_full_precision_needs_no_check() -> None:
    assert half_type("fp32", CPU) == (None, ())


def test_a_torch_model_is_not_converted_to_int8() -> None:
    half = half_type("int8", CPU)
    assert half.dtype is None
    assert half.warnings == ("int8 was requested, but a PyTorch model keeps the precision of its training",)


@pytest.mark.parametrize(("capability", "given"), [((7, 5), None), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)])
def test_bf16_needs_a_gpu_of_its_generation(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], given: torch.dtype | None
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert half_type("bf16", Device("cuda")).dtype is given
    assert half_type("fp16", Device("cuda")).dtype is torch.float16


def measured(before: list[float], after: list[float]) -> bool:
    """Whether runs that take so many seconds, turn by turn, are a gain."""
    now = [0.0]

    def taking(turns: list[float]) -> precision.Run:
        left = iter(turns)

        def run(batch: Arrays) -> Arrays:
            now[0] += next(left)
            return batch

        return run

    return gains(taking(before), taking(after), [BATCH], lambda: now[0])


def test_noise_is_not_measured_as_a_gain() -> None:
    assert measured([10.0] * 5, [1.0] * 5)
    assert not measured([1.0] * 5, [10.0] * 5)
    assert not measured([3.0] * 5, [3.0] * 5)
    assert not measured([3.0, 90.0, 3.0, 70.0, 3.0], [2.8] * 5), "two slow turns, and less than a tenth"
    assert measured([3.0] * 5, [2.0, 90.0, 2.0, 70.0, 2.0])


@pytest.mark.parametrize(
    ("rounded", "fits"),
    [([[100.0, 1.0]], True), ([[95.0, 5.0]], True), ([[80.0, 1.0]], False), ([[np.inf, 1.0]], False)],
)
def test_outputs_may_differ_only_by_rounding(rounded: list[list[float]], fits: bool) -> None:
    exact = {"y": np.array([[100.0, 1.0]], np.float32)}
    assert close_enough(exact, {"y": np.array(rounded, np.float32)}) is fits


def test_whole_numbers_and_no_numbers_are_not_compared() -> None:
    whole, none = np.array([1, 2]), np.zeros((0, 2), np.float32)
    assert close_enough({"label": whole, "none": none}, {"label": whole + 1, "none": none})
