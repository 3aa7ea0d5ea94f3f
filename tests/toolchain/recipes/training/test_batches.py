from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from penstock.errors import InvalidInput
from penstock.tensors import Signature, TensorSpec
from penstock.toolchain.recipes.training.batches import ArrayData, UserData, checked_batch, rows_of

ONE = Signature((TensorSpec("x", "FP32", (-1, 3)),), (TensorSpec("y", "FP32", (-1, 2)),))
TWO = Signature((TensorSpec("x", "FP32", (-1, 3)), TensorSpec("mask", "BOOL", (-1, -1))), ONE.outputs)


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that makes `UserData` of what its argument returns."""

    def of(function: Any) -> UserData:
        module = types.ModuleType("own_batches")
        module.f = function  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "own_batches", module)
        return UserData("own_batches:f", "data", ONE, 2)

    return of


def test_inputs_are_taken_alone_in_order_and_by_name() -> None:
    x, mask, labels = np.ones((2, 3)), np.ones((2, 5), bool), [0, 1]
    alone = checked_batch((x, labels), ONE, "batch", "data")
    assert alone.inputs["x"].dtype == torch.float32
    assert alone.targets.tolist() == labels
    for inputs in ((x, mask), [torch.ones(2, 3), torch.ones(2, 5, dtype=torch.bool)], {"mask": mask, "x": x}):
        batch = checked_batch((inputs, labels), TWO, "batch", "data")
        assert [*batch.inputs] == ["x", "mask"]
        assert batch.rows == 2


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (np.ones((2, 3)), "batch is a ndarray, not (inputs, targets)"),
        ((1, 2, 3), "batch is a tuple of 3, not (inputs, targets)"),
        ((np.ones((2, 4)), [0, 1]), "batch: x has the shape [2, 4], the model takes [-1, 3]"),
        ((np.ones((2, 3), int), [0, 1]), "batch: x has the type int64, the model takes float32"),
        ((np.full((2, 3), np.nan), [0, 1]), "batch: x holds values that are not finite"),
        ((np.ones((2, 3)), [0, 1, 1]), "batch has 2 rows of inputs and 3 targets"),
        ((np.ones((2, 3)), 1), "batch has 2 rows of inputs and one target"),
        ((np.ones((0, 3)), []), "batch has no rows"),
        (({"z": np.ones((2, 3))}, [0, 1]), "batch does not have the inputs of the model: x"),
        ((np.ones((2, 3)), ["a", "b"]), "batch: the targets cannot be read as numbers"),
        (([[1, 2], [3]], [0, 1]), "batch: x cannot be read as numbers"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(item: Any, message: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        checked_batch(item, ONE, "batch", "data")
    assert str(raised.value).startswith(message)


def test_inputs_with_different_numbers_of_rows_are_refused() -> None:
    with pytest.raises(InvalidInput, match="different numbers of rows"):
        checked_batch(({"x": np.ones((2, 3)), "mask": np.ones((3, 3), bool)}, [0, 1]), TWO, "batch", "data")


def test_a_function_that_returns_a_generator_is_called_for_each_epoch(data: Any) -> None:
    def batches() -> Iterator[Any]:
        yield np.ones((2, 3)), [0, 1]

    found = data(batches)
    assert found.length is None
    assert [len([*found.epoch()]) for _ in range(3)] == [1, 1, 1]


def test_a_loader_and_a_data_set_are_taken(data: Any) -> None:
    rows = TensorDataset(torch.ones(5, 3), torch.zeros(5))
    assert [batch.rows for batch in data(lambda: DataLoader(rows, 3)).epoch()] == [3, 2]
    found = data(lambda: rows)
    assert found.length == 3
    assert sum(batch.rows for batch in found.epoch()) == 5


def test_a_loader_with_its_own_generator_has_the_order_of_the_epoch(data: Any) -> None:
    rows = TensorDataset(torch.arange(24.0).reshape(8, 3), torch.zeros(8))
    orders = []
    for earlier in (0, 2):
        loader = DataLoader(rows, 8, shuffle=True, generator=torch.Generator().manual_seed(1))
        found = data(lambda loader=loader: loader)
        for _ in range(earlier):
            [*found.epoch()]
        torch.manual_seed(5)
        orders.append(next(found.epoch()).inputs["x"].tolist())
    assert orders[0] == orders[1]


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (list, "data: own_batches:f returned no batches"),
        (lambda: None, "data: own_batches:f returned None, not an iterable"),
        (lambda: 1 / 0, "data: own_batches:f raised ZeroDivisionError: division by zero"),
        (lambda: (1 / 0 for _ in range(2)), "data: own_batches:f raised ZeroDivisionError"),
        (lambda: [(np.ones((2, 3)), [0, 1]), (np.ones((2, 4)), [0, 1])], "data: batch 2 of own_batches:f: x has"),
        (lambda needed: [needed], "data: own_batches:f raised TypeError"),
    ],
)
def test_a_fault_of_a_users_data_names_the_function(data: Any, made: Any, message: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        [*data(made).epoch()]
    assert str(raised.value).startswith(message)


def test_rows_are_shuffled_and_no_batch_has_one_row() -> None:
    data = ArrayData("rows", {"x": torch.arange(9.0).reshape(9, 1)}, torch.arange(9), 4)
    torch.manual_seed(0)
    first, second = ([batch.inputs["x"].flatten().tolist() for batch in data.epoch()] for _ in range(2))
    assert [len(batch) for batch in first] == [4, 4] == [len(batch) for batch in second]
    assert first != second
    assert data.length == 2


def test_a_split_holds_out_every_row_once() -> None:
    data = ArrayData("rows", {"x": torch.arange(10.0).reshape(10, 1)}, None, 4)
    train, held = data.split(0.3, seed=1)
    values = [value for part in (train, held) for batch in part.epoch() for value in batch.inputs["x"].flatten()]
    assert (train.rows, held.rows) == (7, 3)
    assert sorted(values) == [*range(10)]
    with pytest.raises(InvalidInput, match=r"validation_share: 0.01 of 10 rows"):
        data.split(0.01, seed=1)


def test_calibration_data_without_rows_is_refused() -> None:
    with pytest.raises(InvalidInput, match="data has no rows"):
        rows_of({"x": np.ones((0, 3), np.float32)}, ONE, None, "data")
