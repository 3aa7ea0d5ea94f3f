"""Inputs that take other branches of a module, and the lines where values decide about its answer."""

from __future__ import annotations

import exportable_models as models
import numpy as np
import torch
from torch import nn

from penstock.toolchain.export.branches import decisions, other_branch_inputs, probes
from penstock.toolchain.export.source import module_source


def test_inputs_that_take_the_other_branch_are_found() -> None:
    found = other_branch_inputs(module_source(*models.make_branching()))
    assert {bool(inputs["x"].sum() > 0) for inputs in found} == {True, False}
    assert {len(inputs["x"]) for inputs in found} >= {1, 2, 3}


def test_a_branch_in_one_line_of_a_part_is_found_with_its_place() -> None:
    nested = module_source(models.seeded(models.NestedBranch), models.values(2, 4))
    places = [str(probe.where) for probe in probes(nested) if probe.where is not None]
    assert any(place.startswith("in gate (Gate), exportable_models.py line") for place in places)


class Guarded(nn.Module):
    """Its test refuses bad values and changes no answer."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not torch.isfinite(x).all():
            raise ValueError("a value is not finite")
        return x * 2


class Rare(nn.Module):
    """No usual values take its other branch."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if 12345.5 < x.sum() < 12345.6:
            return -x
        return x


class Repaired(nn.Module):
    """Only a value that is no number takes its other branch, which gives the same answer for others."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.isnan(x).any():
            return torch.nan_to_num(x, 1.0)
        return x


class Equal(nn.Module):
    """It compares tensors without making one of the result."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 3 if torch.equal(x, x.abs()) else x


class Endless(nn.Module):
    """Its loop does not end on some values."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        while x.abs().max() > 1:
            x = x / 2
        return x


def test_a_guard_against_bad_values_decides_nothing() -> None:
    assert decisions(module_source(Guarded(), models.values(2, 4))) == []


def test_a_branch_counts_although_no_input_was_found_that_takes_it() -> None:
    rare = module_source(Rare(), models.values(2, 4))
    assert [where.code for where in decisions(rare)] == ["if 12345.5 < x.sum() < 12345.6:"]


def test_a_branch_that_bad_values_alone_take_is_found() -> None:
    found = probes(module_source(Repaired(), models.values(2, 4)))
    assert any(np.isnan(probe.inputs["x"]).any() for probe in found if probe.where is not None)


def test_comparisons_that_give_python_a_truth_value_count() -> None:
    assert [where.kind for where in decisions(module_source(Equal(), models.values(2, 4)))] == ["Equal"]


def test_a_loop_that_does_not_end_on_some_values_is_given_up() -> None:
    found = probes(module_source(Endless(), models.values(2, 4)))
    assert not any(np.isinf(probe.inputs["x"]).any() for probe in found)
    assert any(probe.where is not None for probe in found)


def test_whole_numbers_stay_within_those_of_the_example() -> None:
    mixed = module_source(*models.make_mixed(), dynamic={"ids": [0, 1], "mask": [0, 1]})
    assert all(probe.inputs["ids"].max() <= 5 and probe.inputs["ids"].min() >= 0 for probe in probes(mixed))
    assert {probe.inputs["ids"].shape[1] for probe in probes(mixed)} > {3}
