"""The measurement whether rows are independent: right for models of which it is known, and honest about noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from row_models import DEPENDENT, FEATURES, INDEPENDENT, write

from penstock.backends.base import Backend, BackendOptions, ModelFile
from penstock.backends.catalog import open_backend
from penstock.backends.row_independence import (
    COARSE_PLACE_TOLERANCE,
    FIXED_BATCH,
    OTHERS_TOLERANCE,
    PLACE_TOLERANCE,
    RowProof,
    prove_rows,
)
from penstock.backends.unbatched import RowByRow
from penstock.backends.verification import Examples
from penstock.errors import InferenceError, OutOfMemory
from penstock.tensors import Arrays, Signature, TensorSpec

SIGNATURE = Signature((TensorSpec("x", "FP32", (-1, FEATURES)),), (TensorSpec("y", "FP32", (-1, FEATURES)),))


class Scripted(Backend):
    """A model that is a function of numpy arrays."""

    format, device, num_parameters = "scripted", "cpu", None

    def __init__(self, function: Callable[[np.ndarray], np.ndarray], signature: Signature = SIGNATURE) -> None:
        self.signature = signature
        self.function = function
        self.rows: list[int] = []

    @classmethod
    def open(cls, file: ModelFile, options: BackendOptions) -> Backend:
        raise NotImplementedError

    def run(self, inputs: Arrays) -> Arrays:
        self.rows.append(len(inputs["x"]))
        return {"y": self.function(inputs["x"])}


class Rows:
    """Ordinary rows: random numbers, or whole numbers below 20."""

    def __init__(self, dtype: type[np.generic] = np.float32) -> None:
        self.dtype = dtype

    def of(self, rows: int) -> Arrays:
        random = np.random.default_rng(2)
        if issubclass(self.dtype, np.integer):
            return {"x": random.integers(0, 20, (rows, FEATURES)).astype(self.dtype)}
        return {"x": random.standard_normal((rows, FEATURES)).astype(self.dtype)}


def proof_of(function: Callable[[np.ndarray], np.ndarray], rows: int = 32, **kinds: Any) -> RowProof:
    return prove_rows(Scripted(function, **kinds), Rows(), rows)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[[Any], Backend]]:
    backends: list[Backend] = []

    def opened(model: Any) -> Backend:
        file = ModelFile(write(tmp_path / "model.onnx", model))
        backends.append(open_backend("onnx", file, BackendOptions(device="cpu")))
        return backends[-1]

    yield opened
    for backend in backends:
        backend.close()


@pytest.mark.parametrize("batch_rows", [1, 32])
@pytest.mark.parametrize("name", DEPENDENT)
def test_a_model_whose_rows_influence_each_other_is_not_batchable(
    opened: Callable[[Any], Backend], name: str, batch_rows: int
) -> None:
    backend = opened(DEPENDENT[name])
    proof = prove_rows(backend, Examples(backend, backend.signature, None), batch_rows)
    assert not proof.batchable
    assert proof.influenced
    assert proof.difference is not None
    assert proof.difference > OTHERS_TOLERANCE


@pytest.mark.parametrize("batch_rows", [1, 32])
@pytest.mark.parametrize("name", INDEPENDENT)
def test_a_model_whose_rows_are_independent_is_batchable(
    opened: Callable[[Any], Backend], name: str, batch_rows: int
) -> None:
    backend = opened(INDEPENDENT[name])
    proof = prove_rows(backend, Examples(backend, backend.signature, None), batch_rows)
    assert proof.batchable, proof
    assert proof.difference == 0
    assert proof.noise is not None
    assert proof.noise < PLACE_TOLERANCE


@pytest.mark.parametrize("distance", [1, 2, 7, 31])
@pytest.mark.parametrize("direction", [1, -1])
def test_the_influence_of_one_row_at_any_distance_is_seen(distance: int, direction: int) -> None:
    def shifted(x: np.ndarray) -> np.ndarray:
        other = np.zeros_like(x)
        if direction > 0:
            other[distance:] = x[:-distance]
        else:
            other[:-distance] = x[distance:]
        return x + other

    assert not proof_of(shifted).batchable


@pytest.mark.parametrize("size", [1e-10, 1e-7, 1e-5, 1e-3])
def test_the_influence_of_extreme_rows_is_seen_even_if_that_of_ordinary_ones_is_tiny(size: float) -> None:
    assert not proof_of(lambda x: x + size * x.mean(axis=0)).batchable  # of the smallest, NaN is what all rows get


def test_pairs_of_rows_that_are_mixed_are_seen() -> None:
    def mixed(x: np.ndarray) -> np.ndarray:
        other = x.copy()
        whole = len(x) - len(x) % 2
        other[:whole:2], other[1:whole:2] = x[1:whole:2], x[:whole:2]
        return x + other

    assert not proof_of(mixed).batchable


# Noise


def test_a_change_by_the_number_of_rows_that_rounding_explains_is_noise() -> None:
    proof = proof_of(lambda x: x * np.float32(1 + 1e-6 * (len(x) > 1)))
    assert proof.batchable
    assert proof.difference == 0
    assert proof.noise == pytest.approx(1e-6, rel=0.2)


def test_a_quantized_model_may_move_by_a_few_percent_with_the_number_of_rows_but_not_with_other_rows() -> None:
    def quantized(x: np.ndarray) -> np.ndarray:
        """Rounds its inputs; the kernel for one row has another rounding of its sums."""
        steps = np.round(x * 20) / 20
        return np.asarray(steps + (0.04 * np.abs(steps).max(axis=1, keepdims=True) if len(x) == 1 else 0), np.float32)

    proof = proof_of(quantized)
    assert proof.batchable, proof
    assert proof.difference == 0
    assert proof.noise is not None
    assert 0.01 < proof.noise < COARSE_PLACE_TOLERANCE


def test_the_same_change_in_a_model_that_does_not_round_is_none_of_the_kernels() -> None:
    assert not proof_of(lambda x: x + np.float32(0.04 * (len(x) == 1))).batchable


def test_a_model_that_answers_differently_each_time_is_not_deterministic() -> None:
    random = np.random.default_rng(0)
    proof = proof_of(lambda x: np.asarray(x + random.standard_normal(x.shape), np.float32))
    assert not proof.batchable
    assert "another answer each time" in proof.why


def test_a_model_with_a_memory_is_not_batchable() -> None:
    calls: list[int] = []

    def counted(x: np.ndarray) -> np.ndarray:
        calls.append(1)
        return x + np.float32(len(calls))

    assert not proof_of(counted).batchable


# Models that do not take every row


def test_a_model_that_fails_on_extreme_rows_is_tested_with_milder_ones() -> None:
    def strict(x: np.ndarray) -> np.ndarray:
        if np.abs(x).max() > 6:
            raise InferenceError("out of range")
        return x * 2

    def strict_and_mixed(x: np.ndarray) -> np.ndarray:
        return strict(x) - np.asarray(x.mean(axis=0))

    assert proof_of(strict).batchable
    assert not proof_of(strict_and_mixed).batchable


@pytest.mark.parametrize("mixed", [False, True])
def test_ids_outside_of_a_vocabulary_are_left_out(mixed: bool) -> None:
    table = np.random.default_rng(3).standard_normal((20, FEATURES)).astype(np.float32)
    signature = Signature((TensorSpec("x", "INT64", (-1, FEATURES)),), SIGNATURE.outputs)

    def embedded(ids: np.ndarray) -> np.ndarray:
        if ids.max() >= 20:
            raise InferenceError("no such id")
        vectors = table[ids].mean(axis=1)
        return vectors - vectors.mean(axis=0) if mixed else vectors

    proof = prove_rows(Scripted(embedded, signature), Rows(np.int64), 32)
    assert proof.batchable != mixed


def test_a_nan_of_an_extreme_row_that_stays_in_its_row_is_no_influence() -> None:
    def overflowing(x: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            return np.asarray(np.where(np.abs(x) > 1e3, np.nan, x), np.float32)

    def spreading(x: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            return np.asarray(x + 0 * np.exp(np.abs(x)).sum(), np.float32)

    assert proof_of(overflowing).batchable
    assert not proof_of(spreading).batchable


def _kept_apart(x: np.ndarray) -> np.ndarray:
    """Attention over all rows, with a mask that leaves each row only itself."""
    with np.errstate(invalid="ignore"):
        return np.asarray(np.eye(len(x), dtype=np.float32) @ x)


def test_rows_that_a_mask_keeps_apart_are_not_independent_of_nan() -> None:
    assert _kept_apart(np.ones((2, FEATURES), np.float32)).tolist() == np.ones((2, FEATURES)).tolist()
    proof = prove_rows(Scripted(_kept_apart), Rows(), 8)
    assert (proof.batchable, proof.why) == (False, "other rows in the run change a row's answer")


class Masked(Scripted):
    """The mean of a sequence, cut where the longest one of the run ends."""

    def __init__(self, mask: TensorSpec, *, cut: bool, least: int = 0) -> None:
        super().__init__(np.asarray, Signature((SEQUENCE, mask), (TensorSpec("y", "FP32", (-1,)),)))
        self.mask, self.cut, self.least = mask.name, cut, least

    def run(self, inputs: Arrays) -> Arrays:
        x, mask = inputs["x"], np.nan_to_num(inputs[self.mask]).astype(np.int64)
        if mask.min() < self.least:
            raise InferenceError("too short")
        lengths = mask.sum(axis=1) if mask.ndim == 2 else mask
        return {"y": x[:, : int(lengths.max())].mean(axis=1) if self.cut else x.mean(axis=1)}


SEQUENCE = TensorSpec("x", "FP32", (-1, -1))
MASKS = [
    TensorSpec("attention_mask", "INT64", (-1, -1)),
    TensorSpec("attention_mask", "FP32", (-1, -1)),
    TensorSpec("m", "INT64", (-1, -1)),
    TensorSpec("valid", "BOOL", (-1, -1)),
    TensorSpec("lengths", "INT64", (-1,)),
]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("cut", [True, False])
@pytest.mark.parametrize("mask", MASKS, ids=lambda spec: f"{spec.name}-{spec.dtype}")
def test_rows_that_are_cut_at_the_longest_one_are_not_independent(mask: TensorSpec, cut: bool) -> None:
    backend = Masked(mask, cut=cut, least=1 if mask.name == "lengths" else 0)
    assert prove_rows(backend, Examples(backend, backend.signature, None), 8).batchable is not cut


def test_a_model_that_takes_no_rows_but_its_example_cannot_be_proven() -> None:
    only = np.ones((1, FEATURES), np.float32)

    class One:
        def of(self, rows: int) -> Arrays:
            return {"x": np.repeat(only, rows, axis=0)}

    def picky(x: np.ndarray) -> np.ndarray:
        if not (x == only).all():
            raise InferenceError("unknown row")
        return x

    proof = prove_rows(Scripted(picky), One(), 32)
    assert not proof.batchable
    assert "cannot be measured" in proof.why


def test_a_model_that_runs_one_row_only_is_not_batchable() -> None:
    def single(x: np.ndarray) -> np.ndarray:
        if len(x) > 1:
            raise InferenceError("the size of tensor a must match")
        return x

    proof = proof_of(single)
    assert not proof.batchable
    assert "several rows at once do not run" in proof.why


def test_a_model_that_needs_several_rows_is_not_batchable() -> None:
    def statistic(x: np.ndarray) -> np.ndarray:
        if len(x) < 2:
            raise InferenceError("expected more than 1 value per channel")
        return x

    assert not proof_of(statistic).batchable


def test_outputs_without_the_rows_of_the_batch_are_named() -> None:
    proof = proof_of(lambda x: x.sum(axis=0, keepdims=True))
    assert not proof.batchable
    assert "'y' has 1 rows" in proof.why


def test_a_model_that_runs_nothing_is_an_error_of_the_model() -> None:
    def broken(_: np.ndarray) -> np.ndarray:
        raise InferenceError("it is broken")

    with pytest.raises(InferenceError, match="it is broken"):
        proof_of(broken)


def test_rows_that_do_not_fit_into_memory_together_are_fewer() -> None:
    def small(x: np.ndarray) -> np.ndarray:
        if len(x) > 4:
            raise OutOfMemory("too many")
        return x

    assert proof_of(small).batchable


# What needs no measurement, and how long it takes


def test_a_fixed_number_of_rows_shares_no_run() -> None:
    signature = Signature((TensorSpec("x", "FP32", (4, FEATURES)),), SIGNATURE.outputs)
    backend = Scripted(lambda x: x, signature)
    proof = prove_rows(backend, Rows(), 4)
    assert (proof.batchable, proof.why, proof.influenced, backend.rows) == (False, FIXED_BATCH, False, [])


def test_rows_that_run_one_by_one_are_independent() -> None:
    inner = Scripted(lambda x: x, Signature((TensorSpec("x", "FP32", (FEATURES,)),), (TensorSpec("y", "FP32", (3,)),)))
    assert prove_rows(RowByRow(inner), Rows(), 32).batchable
    assert inner.rows == []


def test_a_slow_model_is_measured_with_few_runs_of_few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    from penstock.backends import row_independence

    class Clock:
        now = 0.0

        def perf_counter(self) -> float:
            return self.now

    clock = Clock()
    monkeypatch.setattr(row_independence, "time", clock)

    def slow(x: np.ndarray) -> np.ndarray:
        clock.now += len(x)  # a second a row
        return x

    backend = Scripted(slow)
    assert prove_rows(backend, Rows(), 32).batchable
    assert sum(backend.rows) < 60  # two batches of 32
    assert not proof_of(lambda x: slow(x) - x.mean(axis=0)).batchable


def test_a_quick_model_is_measured_with_full_batches() -> None:
    backend = Scripted(lambda x: x)
    prove_rows(backend, Rows(), 32)
    assert max(backend.rows) == 32
    assert len(backend.rows) < 40


def test_values_that_decide_how_long_a_model_runs_are_not_made_larger_and_larger(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from penstock.backends import row_independence

    class Clock:
        now = 0.0

        def perf_counter(self) -> float:
            return self.now

    clock = Clock()
    monkeypatch.setattr(row_independence, "time", clock)
    largest = [0.0]

    def loop(x: np.ndarray) -> np.ndarray:
        clock.now += float(np.abs(x).max())
        largest[0] = max(largest[0], float(np.abs(x).max()))
        return x

    assert proof_of(loop).batchable
    assert largest[0] < 1000
